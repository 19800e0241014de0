"""The row map f(y; s, b, c), and what its kernels report about rows: their states and counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import fastrealign._core as _core

# RowState of csrc/row_map.h.
GOOD: int = _core.GOOD
ZERO: int = _core.ZERO
NOT_FINITE: int = _core.NOT_FINITE
COLLAPSED: int = _core.COLLAPSED
REASONS = {
    ZERO: "is all zeros",
    NOT_FINITE: "has a NaN or Inf",
    COLLAPSED: "is sent to zero by the map",
}


@dataclass(frozen=True)
class RowMap:
    """f(y; s, b, c) = pi(pi(s pi(y) + b) + c), where pi(v) = v / |v|.

    Parameters
    ----------
    s : float
        Scale of the unit row.
    b, c : float64 array (d,), optional
        Shifts; None is zero.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrealign.core.reference import row_map
    >>> shift = RowMap(s=1.0, b=np.array([0.0, 1.0]))
    >>> row_map(np.array([[2.0, 0.0]]), shift.s, shift.b, shift.c).round(3)
    array([[0.707, 0.707]])
    """

    s: float = 1.0
    b: np.ndarray | None = None
    c: np.ndarray | None = None

    @property
    def terms(self) -> int:
        """Which of b and c it has: Terms of csrc/row_map.h. A scale alone counts as a map with b = 0."""
        if self.c is not None:
            return int(_core.TERMS_BC)
        return int(_core.TERMS_B if self.b is not None or self.s != 1.0 else _core.TERMS_NONE)


UNIT = RowMap()


@dataclass(frozen=True)
class Counts:
    """The number of rows with and without a direction, counted by a kernel in the same pass.

    Parameters
    ----------
    good, bad : int
        Number of rows.
    first_bad : int
        Index of the first bad row; -1 if there is none.
    reason : int
        State of that row: ZERO, NOT_FINITE or COLLAPSED.
    """

    good: int = 0
    bad: int = 0
    first_bad: int = -1
    reason: int = GOOD

    @property
    def why(self) -> str:
        """What is wrong with the first bad row, as the end of a sentence."""
        return REASONS[self.reason]


def counted(state: np.ndarray) -> Counts:
    """The counts of rows in these states, uint8 (n,)."""
    bad = np.flatnonzero(state)
    if not len(bad):
        return Counts(len(state))
    return Counts(len(state) - len(bad), len(bad), int(bad[0]), int(state[bad[0]]))
