"""torch tensors as rows: checks that they hold values, and NumPy views of them. Imports torch only if given a tensor."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

import fastrealign._core as _core
from fastrealign.core.dtypes import BFLOAT16, EXPECTED
from fastrealign.core.errors import InputError
from fastrealign.core.libraries import torch
from fastrealign.core.text import described

if TYPE_CHECKING:
    from typing_extensions import TypeIs


_LARGE = 4 << 20  # bytes: from where on NumPy asks for large pages


def is_tensor(x: object) -> TypeIs[torch.Tensor]:
    """Whether x is a torch tensor or of a subclass; torch is not imported to find out."""
    if type(x) is np.ndarray:
        return False
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(x, tensor)


def on_device(x: object) -> bool:
    """Whether x is a torch tensor that is not in the CPU's memory."""
    return is_tensor(x) and not x.is_cpu


def is_wrapped(x: torch.Tensor) -> bool:
    """Whether x is an argument within a transform of torch.func (vmap, grad, jacrev, ...)."""
    # Nothing public says so: type, layout and device are those of the tensor inside. Printing a tensor asks this, in torch 2.6
    # as in 2.14.
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


def plain(x: torch.Tensor, name: str) -> torch.Tensor:
    """A dense tensor that holds values, as a torch.Tensor without gradient and negative bit.

    Raises
    ------
    InputError
        The tensor has no such values; the message begins with `name` and says what to pass instead.
    """
    if type(x) is torch.Tensor and not x.is_nested:
        return _plain(x, name)
    # Private, as in torch's own subclasses: a subclass may override the attributes asked for, and only its dispatch keys say
    # that it keeps its rows in other tensors. Both exist in torch 2.6 to 2.14.
    with torch._C.DisableTorchFunctionSubclass():
        if x.is_nested:
            join = "stack" if x.dim() == 2 else "cat"  # of vectors, or of matrices
            raise InputError(f"{name}: a nested tensor, expected (rows, width); pass torch.{join}(x.unbind())")
        if torch._C._dispatch_keys(x).has(torch._C.DispatchKey.Python):
            instead = "; pass x.full_tensor() or x.to_local()" if hasattr(x, "full_tensor") else ""
            raise InputError(f"{name}: {described(x)}, expected a tensor that holds its rows itself{instead}")
        return _plain(x.as_subclass(torch.Tensor), name)


def _plain(x: torch.Tensor, name: str) -> torch.Tensor:
    if x.layout != torch.strided:
        raise InputError(f"{name}: a tensor of layout {x.layout}, expected a dense one; pass x.to_dense()")
    if x.is_quantized:
        raise InputError(f"{name}: a quantized tensor, expected float values; pass x.dequantize()")
    if x.is_meta:
        raise InputError(f"{name}: a tensor on meta, expected one on the CPU or a GPU: it has no values")
    if is_wrapped(x):
        raise InputError(f"{name}: a tensor within a transform of torch.func, which has no values there")
    x = x.detach() if x.requires_grad else x
    return x.resolve_neg() if x.is_neg() else x


def view_of(x: torch.Tensor, name: str) -> np.ndarray:
    """A NumPy view of a tensor that `plain` returned. Raises InputError for a device or an element type that NumPy lacks."""
    if not x.is_cpu:
        raise InputError(f"{name}: a tensor on {x.device}, expected one on the CPU; move it with .cpu()")
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(BFLOAT16)
    try:
        return x.numpy()
    except (TypeError, RuntimeError):
        # NumPy has no such type; or it is a complex tensor that is conjugated, refused as others are.
        if x.is_complex():
            raise InputError(f"{name}: element type {x.dtype}, {EXPECTED}") from None
        raise InputError(f"{name}: element type {x.dtype}, {EXPECTED}; convert with .float()") from None


def as_tensor(x: np.ndarray) -> torch.Tensor:
    """A CPU tensor that shares the memory of `x`; a copy of a read-only array, which torch does not support."""
    if not x.flags.writeable:
        x = x.copy()
    return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) if x.dtype == BFLOAT16 else torch.from_numpy(x)


def in_large_pages(x: torch.Tensor) -> torch.Tensor:
    """A tensor that was just made, in large pages where that is worthwhile, as NumPy has its arrays by itself.

    In pages of 4 KiB the system takes longer to hand out the memory than a kernel to fill it.
    """
    if x.is_cpu and x.nbytes >= _LARGE:
        _core.advise_large_pages(x.data_ptr(), x.nbytes)
    return x


def checked_output(out: torch.Tensor) -> torch.Tensor:
    """A tensor to write to, as a plain tensor. Raises InputError if writing to its memory would not change its values."""
    if out.is_neg():
        raise InputError("out is a negated view of other memory; pass that memory")
    if out.requires_grad:
        raise InputError("out requires a gradient, which is not recorded; pass out.detach()")
    return plain(out, "out")
