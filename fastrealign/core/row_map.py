"""The row map f(y; s, b, c)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import fastrealign._core as _core


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
