"""The row map f(y; s, b, c)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

import fastrealign._core as _core
from fastrealign.core.errors import InputError


@dataclass(frozen=True)
class RowMap:
    """f(y; s, b, c) = pi(pi(s pi(y) + b) + c), where pi(v) = v / |v|.

    Parameters
    ----------
    s : float
        Scale of the unit row.
    b, c : float64 array (d,), optional
        Shifts; None is zero. The map keeps copies that cannot be written to.

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
    _prepared: _core.PreparedMap | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "s", float(self.s))
        for name in ("b", "c"):
            if (given := getattr(self, name)) is not None:
                kept = np.array(given, dtype=np.float64, order="C")
                kept.setflags(write=False)
                object.__setattr__(self, name, kept)

    def __reduce__(self) -> tuple[type[RowMap], tuple[float, np.ndarray | None, np.ndarray | None]]:
        return RowMap, (self.s, self.b, self.c)

    def prepared(self, d: int) -> _core.PreparedMap:
        """The map as the compiled core reads it, made by the first call and kept as long as the map.

        Raises
        ------
        InputError
            b or c has another width than d.
        """
        made = self._prepared
        if made is None or made.d != d:  # without b and c a map fits rows of any width
            for label, v in (("b", self.b), ("c", self.c)):
                if v is not None and v.shape != (d,):
                    raise InputError(
                        f"rows are {d} wide, but the map's {label} has shape {v.shape}: it was fitted on another encoder"
                    )
            made = _core.PreparedMap(self.s, self.b, self.c, d)
            object.__setattr__(self, "_prepared", made)
        return made

    @property
    def terms(self) -> int:
        """Which of b and c it has: Terms of csrc/row_map.h. A scale alone counts as a map with b = 0."""
        if self.c is not None:
            return int(_core.TERMS_BC)
        return int(_core.TERMS_B if self.b is not None or self.s != 1.0 else _core.TERMS_NONE)


UNIT = RowMap()
