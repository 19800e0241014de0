"""The adapter (`mlp2x_gelu`: Linear, GELU, Linear) from an embedding to visual tokens, and the file layouts of its weights.

    reference   model.mm_projector.{0,2}.{weight,bias}                  a torch file, mm_projector.bin (LLaVA, ReVision)
    hf-llava    multi_modal_projector.linear_{1,2}.{weight,bias}        safetensors (transformers' LLaVA)

Both name the same four tensors. Of a file with a whole model, only these are read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from fastrealign.core.checks import whole
from fastrealign.core.errors import InputError
from fastrealign.core.text import described, one_line
from fastrealign.storage.atomic import AtomicFile

LAYOUTS = {
    "reference": {"0": "model.mm_projector.0", "2": "model.mm_projector.2"},
    "hf-llava": {"0": "multi_modal_projector.linear_1", "2": "multi_modal_projector.linear_2"},
}
# Names that `find` tries in a folder: ours, the reference code's, LLaVA's.
FILES = ("adapter.safetensors", "mm_projector.bin", "mm_projector.safetensors")
_TENSORS = ("0.weight", "0.bias", "2.weight", "2.bias")


class Adapter(torch.nn.Sequential):
    """Linear(dim, width), GELU, Linear(width, width * tokens): (..., dim) to (..., tokens, width).

    Parameters
    ----------
    dim
        Width of the embeddings.
    width
        Hidden size of the language model. With tokens=1 this is LLaVA's projector, weight for weight.
    tokens
        Visual tokens per embedding.

    Examples
    --------
    >>> Adapter(dim=8, width=16, tokens=3)(torch.zeros(2, 8)).shape
    torch.Size([2, 3, 16])
    """

    def __init__(self, dim: int, width: int, tokens: int = 1) -> None:
        for name, value in (("dim", dim), ("width", width), ("tokens", tokens)):
            whole(name, value, 1)
        super().__init__(torch.nn.Linear(dim, width), torch.nn.GELU(), torch.nn.Linear(width, width * tokens))
        self.dim, self.width, self.tokens = dim, width, tokens

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        weight = self[0].weight
        rows = super().forward(embeddings.to(weight.device, weight.dtype))
        return rows.unflatten(-1, (self.tokens, self.width))

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor], name: str) -> Adapter:
        """An adapter of the weights that `read` found in the file `name`; its number of tokens follows from their shapes."""
        first, last = tensors["0.weight"], tensors["2.weight"]
        width = first.shape[0] if first.ndim == 2 else 0
        if width == 0 or last.ndim != 2 or last.shape[1] != width or last.shape[0] % width or not last.shape[0]:
            shapes = {key: tuple(value.shape) for key, value in tensors.items()}
            raise InputError(f"{name}: weights of {shapes} are not those of Linear(d, h), GELU, Linear(h, h * tokens)")
        adapter = cls(first.shape[1], width, last.shape[0] // width)
        for key, parameter in adapter.state_dict().items():
            if tensors[key].shape != parameter.shape:
                raise InputError(
                    f"{name}: {key} is {tuple(tensors[key].shape)}, expected {tuple(parameter.shape)} as of the others"
                )
            if not tensors[key].isfinite().all():
                raise InputError(f"{name}: {key} holds NaN or Inf; its training diverged")
        adapter.load_state_dict(tensors)
        return adapter

    def export(self, path: str | os.PathLike, layout: str = "reference") -> None:
        """Write the weights under a layout's names: safetensors, or a torch file where `path` ends in .bin, .pt or .pth."""
        if layout not in LAYOUTS:
            raise InputError(f"layout={layout!r}: expected one of {', '.join(LAYOUTS)}")
        state = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        named = {f"{LAYOUTS[layout][key[0]]}{key[1:]}": value for key, value in state.items()}
        with AtomicFile(os.fspath(path)) as file:
            if _is_torch_file(path):
                torch.save(named, file.stream())
            else:
                from safetensors.torch import save

                file.append(save(named, {"format": "pt"}))
            file.commit()


def load(path: str | os.PathLike) -> Adapter:
    """The adapter in a file of any layout, or in a folder with one of FILES; float32, on the CPU.

    Raises
    ------
    InputError
        With the file: missing, unreadable, without an adapter, or with weights of other shapes.
    """
    file = find(path)
    return Adapter.from_tensors(read(file), str(file))


def find(path: str | os.PathLike) -> Path:
    """The file itself, or the first of FILES in a folder."""
    path = Path(path)
    if not path.is_dir():
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    raise InputError(f"{path}: has no adapter; expected one of {', '.join(FILES)} in it (a run that did not finish?)")


def read(path: Path) -> dict[str, torch.Tensor]:
    """The four tensors "0.weight", "0.bias", "2.weight" and "2.bias" of a file of any layout."""
    try:
        names = _read_torch(path) if _is_torch_file(path) else _read_safetensors(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected the weights of an adapter") from None
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read as the weights of an adapter: {one_line(error)}") from None
    missing = [key for key in _TENSORS if key not in names]
    other = sorted(set(names) - set(_TENSORS))
    if missing:
        raise InputError(
            f"{path}: has no adapter: lacks {', '.join(missing)} of mm_projector.{{0,2}} or "
            "multi_modal_projector.linear_{1,2}; an adapter is Linear, GELU, Linear"
        )
    if other:
        raise InputError(
            f"{path}: its projector also has {', '.join(other)}; an adapter is Linear, GELU, Linear (mlp2x_gelu)"
        )
    return {key: names[key].float() for key in _TENSORS}


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        keys = {_key(name): name for name in file.keys()}  # noqa: SIM118 (not a dict)
        return {key: file.get_tensor(name) for key, name in keys.items() if key is not None}


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    held: Any = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(held, dict):
        raise InputError(f"{path}: holds {described(held)}, expected a dict of tensors")
    named = {_key(str(name)): value for name, value in held.items() if isinstance(value, torch.Tensor)}
    return {key: value for key, value in named.items() if key is not None}


def _key(name: str) -> str | None:
    """The key of a tensor in an adapter, or None for another tensor.

    >>> _key("model.mm_projector.0.weight"), _key("multi_modal_projector.linear_2.bias"), _key("lm_head.weight")
    ('0.weight', '2.bias', None)
    """
    parts = name.split(".")
    if len(parts) < 3 or parts[-3] not in ("mm_projector", "multi_modal_projector"):
        return None
    layer = {"linear_1": "0", "linear_2": "2"}.get(parts[-2], parts[-2])
    return f"{layer}.{parts[-1]}"


def _is_torch_file(path: str | os.PathLike) -> bool:
    return Path(path).suffix in (".bin", ".pt", ".pth")
