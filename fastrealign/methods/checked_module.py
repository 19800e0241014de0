"""The torch module that looks at the first rows it maps, and warns of those that are not meant for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fastrealign.core.exact_module import ExactModule
from fastrealign.methods.input_checks import CHECKS, BetweenMeans, FirstInputs
from fastrealign.methods.method import Method
from fastrealign.methods.misfit import FirstRows

if TYPE_CHECKING:
    from typing_extensions import Self


class CheckedModule(ExactModule):
    """Checks the first rows of a training, and those after each switch to eval mode; in eager mode only.

    A check changes nothing, and waits for the device once. So there are at most CHECKS of them, for loops that switch at every
    step.
    """

    _first: FirstRows | None = None
    _first_of_eval: FirstInputs | None = None
    _checks_left = CHECKS

    def _check_first(self, method: Method | None) -> None:
        """Check the next rows of the training; method: what made the map, if that is known."""
        self._first = FirstRows(method, f"the first batches of nn.{type(self).__name__}")

    def train(self, mode: bool = True) -> Self:
        """Switch as every module does. The first rows in eval mode are checked again: they may be images."""
        if not mode and self._checks_left and (self.training or self._first_of_eval is None):
            self._checks_left -= 1
            self._first_of_eval = FirstInputs(f"the first rows of nn.{type(self).__name__} in eval mode")
        return super().train(mode)

    def _look(self, x: torch.Tensor, rows: torch.Tensor, aligned: torch.Tensor) -> None:
        """Look at the rows of a call; not at tensors without values, nor where a device sync is forbidden."""
        first = self._first if self.training else self._first_of_eval
        if first is None:
            return
        plain = type(x) in (torch.Tensor, torch.nn.Parameter) and x.device.type != "meta"
        if not plain or torch.jit.is_tracing() or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        # What lies within one item (the tokens of a text) is not independent.
        items = x.shape[0] if x.ndim > 1 else 1
        if isinstance(first, FirstRows):
            if first.look(aligned, items):
                self._first = None
        elif first.look(self._between_means, rows, items):
            self._first_of_eval = None

    def _between_means(self) -> BetweenMeans | None:
        """The means of the present map; None if it has none."""
        return None

    def _forget(self) -> None:
        """The map is another than the method's, which the rows need not fit."""
        if self._first is not None:
            self._first.method = None

    def _load_from_state_dict(self, *args: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_first": None, "_first_of_eval": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._check_first(None)
