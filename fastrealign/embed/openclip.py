"""Encoders of open_clip: by the name of an architecture and its weights, or from a folder that open_clip saved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.libraries import torch
from fastrealign.core.optional import optional
from fastrealign.core.text import meant
from fastrealign.core.wording import either, option
from fastrealign.data.options import check_choice
from fastrealign.embed.encoders import (
    PRECISIONS,
    Encoder,
    allow_hub,
    device_of,
    digest,
    fingerprint,
    loading,
    unit_rows,
)
from fastrealign.storage import hub_models as hub

_CONFIG = "open_clip_config.json"
_WEIGHTS = (".safetensors", ".bin", ".pth")
_HUB = "hf-hub:"


@dataclass(frozen=True)
class OpenClip:
    """An encoder of open_clip.

    Parameters
    ----------
    name : str
        An architecture ("ViT-B-32"), a JSON file that describes one, a folder with open_clip_config.json and the weights,
        "local-dir:FOLDER", or "hf://ORG/NAME" (open_clip's "hf-hub:ORG/NAME"), which may be downloaded.
    pretrained : str, optional
        A file of weights, or one of open_clip's tags; not for a folder or hf://, which have their own.
    device : str
        "auto", "cpu", "cuda" or "cuda:N".
    precision : {"fp32", "fp16", "bf16"}
    hub : bool
        Allow downloads of the weights of a tag and of a tokenizer; else they are read from the cache.

    Examples
    --------
    >>> encoder = OpenClip("ViT-B-32", pretrained="weights.safetensors", device="cuda")
    """

    name: str
    pretrained: str | None = None
    device: str = "auto"
    precision: str = "fp32"
    hub: bool = False

    def check(self) -> None:
        """InputError for an unknown name, weights that cannot be found, and a device that does not exist."""
        self._checked()

    def _checked(self) -> tuple[Any, torch.device, str]:
        """open_clip, the device, and the name as open_clip takes it."""
        device = device_of(self.device)
        check_choice("precision", self.precision, PRECISIONS)
        open_clip = optional("open_clip", "embed", either("--clip", "OpenClip"))
        name, complete = self._model_name(open_clip)
        self._check_pretrained(open_clip, name, complete)
        return open_clip, device, name

    def load(self, side: str) -> Encoder:
        """Its tower for "images" or "text". InputError for an unknown name and weights that cannot be found."""
        open_clip, device, name = self._checked()
        online = self.hub or name.startswith(_HUB)
        with loading(self._asked, self.pretrained and option("pretrained", self.pretrained), online=online):
            model = open_clip.create_model(
                name, pretrained=self.pretrained, precision=self.precision, device=device, require_pretrained=True
            ).eval()
        weights, options = fingerprint(model), {"side": side, "precision": self.precision}
        if side == "images":
            return self._images(open_clip, model, device, weights, options)
        with loading(f"{self._asked}, its tokenizer", online=online):
            tokenizer = open_clip.get_tokenizer(name)
            if hasattr(tokenizer, "tokenizer"):  # one of transformers
                hub.check_words(tokenizer.tokenizer, self._asked)
        options["preparation"] = digest([type(tokenizer).__name__, tokenizer.context_length])

        def encode(captions: Sequence[str]) -> np.ndarray:
            return unit_rows(lambda: model.encode_text(tokenizer(list(captions)).to(device)))

        return Encoder(self._shown(), weights, options, str, encode)

    def _images(
        self, open_clip: Any, model: Any, device: torch.device, weights: str, options: dict[str, str]
    ) -> Encoder:
        transforms = optional("open_clip.transform", "embed", either("--clip", "OpenClip"))
        described = open_clip.get_model_preprocess_cfg(model)
        transform = transforms.image_transform_v2(transforms.PreprocessCfg(**described), is_train=False)
        dtype = open_clip.get_input_dtype(self.precision)

        def encode(pictures: Sequence[torch.Tensor]) -> np.ndarray:
            return unit_rows(lambda: model.encode_image(torch.stack(list(pictures)).to(device, dtype)))

        return Encoder(self._shown(), weights, {**options, "preparation": digest(described)}, transform, encode)

    @property
    def _asked(self) -> str:
        """What the user named, as messages show it."""
        return either(f"--clip {self.name}", f"OpenClip({self.name!r})")

    def _shown(self) -> str:
        name = Path(self.name).stem if os.path.exists(self.name) else self.name.removeprefix(hub.SCHEME)
        return f"open_clip {name}" + (f" {os.path.basename(self.pretrained)}" if self.pretrained else "")

    def _model_name(self, open_clip: Any) -> tuple[str, bool]:
        """(the name as open_clip takes it, whether weights come with it)."""
        if self.name.startswith((hub.SCHEME, _HUB)):
            named = hub.SCHEME + self.name.removeprefix(_HUB).removeprefix(hub.SCHEME)
            return _HUB + hub.find(named, self._asked, self.hub, allow_hub()).name, True
        folder = Path(self.name.removeprefix("local-dir:"))
        if folder.is_dir() or self.name.startswith("local-dir:"):
            if not (folder / _CONFIG).is_file():
                raise InputError(
                    f"{folder}: has no {_CONFIG}; name a folder that open_clip saved, or one of transformers with "
                    f"{either('--model', 'Transformers')}"
                )
            if not any(path.suffix in _WEIGHTS for path in folder.iterdir()):
                raise InputError(f"{folder}: has no weights ({', '.join(_WEIGHTS)}) beside {_CONFIG}")
            return f"local-dir:{folder}", True
        if self.name.endswith(".json"):
            path = Path(self.name)
            if not path.is_file():
                raise InputError(
                    f"{path}: no such file; expected a JSON file that describes an architecture of open_clip"
                )
            with loading(self._asked):
                open_clip.add_model_config(path)
            if path.stem not in open_clip.list_models():
                raise InputError(f"{path}: describes no architecture of open_clip (embed_dim, vision_cfg, text_cfg)")
            return path.stem, False
        if self.name.replace("/", "-") not in open_clip.list_models():
            raise InputError(
                f"{self._asked}: no such file or folder, and open_clip has no such architecture"
                f"{meant(self.name, open_clip.list_models())}"
            )
        return self.name.replace("/", "-"), False

    def _check_pretrained(self, open_clip: Any, name: str, complete: bool) -> None:
        if complete:
            if self.pretrained is not None:
                raise InputError(f"{self._asked} brings its own weights; leave out {option('pretrained')}")
            return
        tags = open_clip.list_pretrained_tags_by_model(name)
        known = f" or a tag of {name} ({', '.join(tags)})" if tags else ""
        if self.pretrained is None:
            raise InputError(f"{self._asked} is without weights: name a file{known} with {option('pretrained')}")
        if os.path.isfile(self.pretrained):
            return
        if self.pretrained not in tags:
            raise InputError(f"{option('pretrained', self.pretrained)}: no such file; expected a file{known}")
        if not self.hub and not _is_cached(open_clip.get_pretrained_cfg(name, self.pretrained)):
            raise InputError(
                f"{option('pretrained', self.pretrained)}: a tag of open_clip, whose weights are not on this machine; "
                f"{allow_hub()} to download them, or name a file of weights"
            )


def _is_cached(tag: dict[str, Any]) -> bool:
    """Whether the weights of a tag are in the hub's cache, where open_clip looks first."""
    repository, file = os.path.split(tag.get("hf_hub", ""))
    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.safetensors")
    return hub.is_cached(repository, *filter(None, (file, file and f"{Path(file).stem}.safetensors")), *names)
