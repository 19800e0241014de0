"""What a call and a module check of some of their rows before these are mapped: that they do not lie at the target already, as
images and aligned rows do, and that they are finite."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fastrealign.core.errors import warn
from fastrealign.core.row_argument import Rows
from fastrealign.core.tensors import is_tensor

if TYPE_CHECKING:
    import torch

# Rows that are enough to tell the sides apart: those of one side differ little in the direction of the gap.
ENOUGH = 64
# Checks of calls on fewer than _MANY rows, and of a module's switches to eval mode: so a loop does not pay for them. Between
# long calls, whose rows take the place of its code in the caches, a check takes up to 0.5 ms.
CHECKS = 100
_MANY = 65536
# Calls between the first two looks of a module.
_PAUSE = 16
# Rows within this share of the way from the target to the source lie at the target. Where the gap is small, sampling decides
# nothing, and no rows do.
_MIDDLE = 0.5
_STANDARD_ERRORS = 4.0


class BetweenMeans:
    """Where rows lie between the means of both sides: 0 at the target's, 1 at the source's.

    Rows of one topic lie apart from the mean of their side, but hardly in the direction of the gap.
    """

    def __init__(self, mean_source: np.ndarray, mean_target: np.ndarray) -> None:
        gap = mean_source - mean_target
        square = float(gap @ gap)
        # Without a gap there is no direction, and every place is NaN.
        self._direction = gap / (square if square > 0.0 else np.nan)
        self._start = float(mean_target @ self._direction)
        self._checks_left = CHECKS

    def places(self, rows: Any) -> Any:
        """float64 (n,), of an array or a tensor (n, d), on its device; NaN of a row without a direction."""
        if is_tensor(rows):
            rows = rows.detach().double()
            return rows @ rows.new_tensor(self._direction) / rows.norm(dim=-1) - self._start
        with np.errstate(all="ignore"):
            rows = rows.astype(np.float64)
            return rows @ self._direction / np.sqrt(np.einsum("nd,nd->n", rows, rows)) - self._start

    def check_call(self, rows: Rows) -> None:
        """A FitWarning where a call maps rows that lie at the target; a look at ENOUGH rows or some more, evenly spaced."""
        if len(rows) < _MANY:
            if not self._checks_left:
                return
            self._checks_left -= 1
        places = self.places(rows[:: len(rows) // ENOUGH])
        warn_if_at_target(np.asarray(places.tolist()), "the rows of this call")


class Measure(Protocol):
    """Where first rows lie."""

    def add(self, rows: torch.Tensor) -> None:
        """Take in (items, rows of each, d)."""

    def tell(self, which: str) -> bool:
        """Warn where they lie where they should not; whether it did."""


class Places:
    """Whether independent items lie at the target, before any map."""

    def __init__(self, between: BetweenMeans) -> None:
        self._between = between
        self._places: list[torch.Tensor] = []

    def add(self, rows: torch.Tensor) -> None:
        self._places.append(self._between.places(rows.flatten(0, 1)).reshape(len(rows), -1).nanmean(-1))

    def tell(self, which: str) -> bool:
        places = np.concatenate([part.tolist() for part in self._places])
        return warn_if_at_target(places, which, "call the model on them without this layer")


class FirstRows:
    """Warns of some rows of a module or a training, which are measured on their device until there are `enough` items.

    measure: where they lie; without one only NaN and Inf are reported
    """

    def __init__(self, which: str, enough: int, measure: Measure | None) -> None:
        self.which, self.measure = which, measure
        self.misplaced = False  # whether the measure warned
        self._enough = enough
        self._items = self._rows = 0
        self._not_finite: Any = None

    def look(self, rows: torch.Tensor, items: int) -> bool:
        """Look at rows (n, d) of `items` independent items; True once there were enough."""
        if not items:
            return False
        rows = rows.detach().reshape(items, -1, rows.shape[-1])[: self._enough - self._items]
        self._not_finite = added(self._not_finite, (~rows.isfinite().all(-1)).sum())
        if self.measure is not None:
            self.measure.add(rows)
        self._items += len(rows)
        self._rows += len(rows) * rows.shape[1]
        if self._items < self._enough:
            return False
        warn_if_not_finite(int(self._not_finite), self._rows, self.which)
        self.misplaced = self.measure is not None and self.measure.tell(self.which)
        return True


def added(total: torch.Tensor | None, more: torch.Tensor) -> torch.Tensor:
    """A running total, on the device of what is added: modules move, and replicas of one share its totals."""
    return more if total is None else more + total.to(more.device)


class Looks:
    """Which calls of a module in one mode are looked at: the first, and after each look twice as many pass as before it.

    first    the rows that are looked at; None: those of the next look are to be chosen
    until    calls to pass before that
    """

    __slots__ = ("_pause", "first", "until", "which")

    def __init__(self, which: str, first: FirstRows | None = None) -> None:
        self.which, self.first = which, first
        self.restart()

    def restart(self) -> None:
        """Look at the next calls. Rows of a look that is not complete still count."""
        self.until: float = 0
        self._pause = _PAUSE

    def end(self, misplaced: bool) -> None:
        """The look is complete. After a warning of where rows lie there is none until `restart`."""
        self.first, self.until = None, math.inf if misplaced else self._pause
        self._pause *= 2


def warn_if_at_target(places: np.ndarray, which: str, instead: str = "use those as they are") -> bool:
    """A FitWarning that says what to do. It has no figures, so that Python shows it once for a line of code."""
    if found := at_target(places):
        warn(
            f"{which} lie at the target already, so the alignment moves them away from it: they look like images or aligned "
            f"rows; {instead}. Only rows of the source (text) are to be aligned"
        )
    return found


def at_target(places: np.ndarray) -> bool:
    """Whether independent rows at these places lie at the target, beyond what sampling explains."""
    places = places[np.isfinite(places)]
    if len(places) < ENOUGH // 2:
        return False
    return bool(abs(places.mean()) + _STANDARD_ERRORS * places.std() / np.sqrt(len(places)) < _MIDDLE)


def warn_if_not_finite(bad: int, rows: int, which: str) -> None:
    """A FitWarning of rows that a module passes on unchanged."""
    if bad:
        warn(
            f"{which}: {bad:,} of {rows:,} rows hold NaN or Inf and pass unchanged, so a loss of them is NaN; leave such "
            "rows out, with x[x.isfinite().all(-1)]"
        )
