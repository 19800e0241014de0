"""A torch module whose buffers stay exact in float64 under mixed precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastrealign.core.backend import DEVICES, choose
from fastrealign.core.errors import InputError
from fastrealign.core.tensors import is_wrapped
from fastrealign.core.text import described

# What buffers are cast to for mixed precision.
_NARROWER = (torch.bfloat16, torch.float16, torch.float32)


class ExactModule(torch.nn.Module):
    """All state is in buffers, which stay float64 under `.half()`, `.to(dtype)` and FSDP's buffer_dtype.

    FSDP replaces buffers with narrower copies, in place and at any time, and later casts them back. So `_exact` keeps the
    original memory of each, by name: (the buffer, a tensor on its memory).
    """

    dim: int
    _exact: dict[str, tuple[torch.Tensor, torch.Tensor]]

    def _keep(self) -> None:
        """Record the present values of the buffers as exact."""
        floats = {name: b for name, b in self._buffers.items() if b is not None and b.is_floating_point()}
        self._exact = {name: (buffer, buffer.detach()) for name, buffer in floats.items()}

    def _restore(self, *names: str) -> None:
        """Undo the in-place replacement of buffers by rounded copies, for the named buffers or for all."""
        for name in names or self._exact:
            buffer, exact = self._exact.get(name, (None, None))
            # The memory of a subclass, such as the fake tensors of torch.export, cannot be compared.
            if buffer is None or exact is None or self._buffers[name] is not buffer or type(buffer) is not torch.Tensor:
                continue
            if buffer.data_ptr() == exact.data_ptr():
                continue
            here = exact.to(buffer.device)
            casts = (here.to(dtype).to(buffer.dtype) for dtype in (buffer.dtype, *_NARROWER))
            if any(torch.equal(cast.nan_to_num(), buffer.nan_to_num()) for cast in casts):
                buffer.data = here
            self._exact[name] = buffer, buffer.detach()

    def _value(self, name: str) -> torch.Tensor | None:
        """A buffer in float64."""
        if not torch.compiler.is_compiling():
            self._restore(name)
            return self._buffers[name]
        buffer = self._buffers[name]
        return buffer if buffer is None or buffer.dtype == torch.float64 else self._exact[name][1]

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        """x as rows (n, dim).

        InputError for another width, a device without kernels, and transforms that operators drop or cannot take.
        """
        if not isinstance(x, torch.Tensor):
            raise InputError(f"{described(x)}, expected a torch tensor (..., {self.dim})")
        if x.is_nested and x.layout == torch.strided:
            raise InputError("a nested tensor, expected a dense one; pass torch.cat(x.unbind()), the rows of all parts")
        if x.layout != torch.strided:
            raise InputError(f"a tensor of layout {x.layout}, expected a dense one; pass x.to_dense()")
        width = x.shape[-1] if x.ndim else 0
        if width != self.dim:
            raise InputError(f"rows are {width} wide, {self._name()} was fitted on {self.dim}")
        if x.device.type not in (*DEVICES, "meta"):
            choose(x.device.type, x.device.index or 0)  # refuses them, before anything is computed or drawn there
        if torch.compiler.is_compiling():
            return x.reshape(-1, self.dim)
        if torch.autograd.forward_ad.unpack_dual(x).tangent is not None:
            raise InputError(
                f"{self._name()} has no forward-mode derivative; take torch.autograd.grad, or x without tangent"
            )
        if is_wrapped(x):
            raise InputError(
                f"{self._name()} takes no transform of torch.func (vmap, grad, jacrev, ...); pass all rows in one tensor, and "
                "take gradients with torch.autograd.grad"
            )
        return x.reshape(-1, self.dim)

    def _name(self) -> str:
        return "the alignment"

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> ExactModule:
        """Moves between devices, never to another element type: float16 would cost the map its digits."""
        self._restore()
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, kept in before.items():
            moved = self._buffers[name]
            if kept is not None and moved.dtype != kept.dtype:
                self._buffers[name] = kept.to(moved.device)
        self._keep()
        return self

    def _save_to_state_dict(self, *args: Any) -> None:
        self._restore()
        super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, *args: Any) -> None:
        """Values in the module's own element types, also where load_state_dict(assign=True) takes over tensors of others."""
        self._restore()
        kinds = {name: buffer.dtype for name, buffer in self._buffers.items() if buffer is not None}
        super()._load_from_state_dict(*args)
        for name, kind in kinds.items():
            self._buffers[name] = self._buffers[name].to(kind)
        self._keep()

    def __getstate__(self) -> dict[str, Any]:
        self._restore()
        return {name: value for name, value in vars(self).items() if name != "_exact"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._keep()
