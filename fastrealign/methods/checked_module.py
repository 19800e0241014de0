"""The torch module that looks at some of the rows it maps, and warns of those that are not meant for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fastrealign.core.exact_module import ExactModule
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.input_checks import CHECKS, ENOUGH, BetweenMeans, FirstRows, Looks, Places
from fastrealign.methods.method import Method
from fastrealign.methods.misfit import FIRST, LeftGap

if TYPE_CHECKING:
    from typing_extensions import Self


class CheckedModule(ExactModule):
    """Checks the first rows of a training, those after each switch to eval mode, and in both modes ever fewer of the later
    ones; in eager mode only.

    A check changes nothing, and waits for the device once. So at most CHECKS switches have one, for loops that switch at every
    step.
    """

    _in_training: Looks
    _in_eval: Looks
    _checks_left = CHECKS

    def _check_first(self, method: Method | None) -> None:
        """Check the next rows; method: what made the map, if that is known."""
        name = f"nn.{type(self).__name__}"
        first = FirstRows(
            f"the first batches of {name}", FIRST, LeftGap(method) if isinstance(method, Alignment) else None
        )
        self._in_training = Looks(f"rows of {name} in training mode", first)
        self._in_eval = Looks(f"rows of {name} in eval mode")

    def train(self, mode: bool = True) -> Self:
        """Switch as every module does. The next rows in eval mode are checked again: they may be images."""
        if not mode and self._checks_left and (self.training or self._in_eval.until > 0):
            self._checks_left -= 1
            self._in_eval.restart()
        return super().train(mode)

    def _look(self, x: torch.Tensor, rows: torch.Tensor, aligned: torch.Tensor) -> None:
        """Look at the rows of a call; not at tensors without values, nor where a device sync is forbidden."""
        looks = self._in_training if self.training else self._in_eval
        if looks.until > 0:
            looks.until -= 1
            return
        plain = type(x) in (torch.Tensor, torch.nn.Parameter) and x.device.type != "meta"
        if not plain or torch.jit.is_tracing() or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        first = looks.first
        if first is None:
            between = self._between_means()
            looks.first = first = FirstRows(looks.which, ENOUGH, None if between is None else Places(between))
        # What lies within one item (the tokens of a text) is not independent.
        items = x.shape[0] if x.ndim > 1 else 1
        if first.look(aligned if isinstance(first.measure, LeftGap) else rows, items):
            looks.end(first.misplaced)

    def _between_means(self) -> BetweenMeans | None:
        """The means of the present map; None if it has none."""
        return None

    def _forget(self) -> None:
        """The map is another than the method's, which the rows need not fit."""
        first = self._in_training.first
        if first is not None and isinstance(first.measure, LeftGap):
            first.measure = None

    def _load_from_state_dict(self, *args: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_in_training": None, "_in_eval": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._check_first(None)
