"""Exact, order-independent column sums (csrc/exact_sum.h), in two 64-bit limbs per column."""

from __future__ import annotations

import numpy as np

import fastrealign._core as _core
from fastrealign.core.float_state import computes

# One step of the sums is 2^-FRACTION_BITS (csrc/exact_sum.h).
FRACTION_BITS: int = _core.SUM_FRACTION_BITS


class ExactSum:
    """Sums over rows of entries in [-1, 1], each rounded once to a multiple of 2^-40.

    Addition is exact, associative and commutative: any order and grouping of the same rows gives the same bits. The total of
    a column is (high * 2^64 + low) * 2^-40.

    Parameters
    ----------
    d : int
        Width of the rows.

    Attributes
    ----------
    low : uint64 array (d,)
    high : int64 array (d,)
    count : int
        Number of rows.

    Examples
    --------
    >>> sums = ExactSum(2)
    >>> sums.add_steps([1 << FRACTION_BITS, 1 << FRACTION_BITS - 1])
    >>> sums.count = 1
    >>> sums.mean
    array([1. , 0.5])
    """

    __slots__ = ("count", "high", "low")

    def __init__(self, d: int) -> None:
        self.low = np.zeros(d, dtype=np.uint64)
        self.high = np.zeros(d, dtype=np.int64)
        self.count = 0

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray) -> ExactSum:
        """Sums in the caller's memory: int64 (d,) limbs, which additions change in place. The count is 0."""
        sums = cls(0)
        sums.low, sums.high = low.view(np.uint64), high
        return sums

    def add_steps(self, steps: list[int]) -> None:
        """Add integer multiples of 2^-40, one per column."""
        for j, extra in enumerate(steps):
            total = (int(self.high[j]) << 64) + int(self.low[j]) + extra
            self.low[j], self.high[j] = total & (1 << 64) - 1, total >> 64

    @property
    def d(self) -> int:
        """Width of the rows."""
        return len(self.low)

    @property
    def addresses(self) -> tuple[int, int]:
        """Addresses of the limbs, for the compiled core."""
        return self.low.ctypes.data, self.high.ctypes.data

    def add(self, other: ExactSum) -> None:
        """Add another sum of the same width to this one."""
        low = self.low + other.low
        self.high += other.high + (low < self.low)
        self.low = low
        self.count += other.count

    @property
    @computes
    def mean(self) -> np.ndarray:
        """The totals divided by `count`, float64 (d,), correct to one or two units in the last place. NaN for no rows."""
        if self.count == 0:
            return np.full(self.d, np.nan)
        negative = self.high < 0
        # Convert |total|: the low limb of a small negative total is large and would be rounded.
        low = np.where(negative, ~self.low + np.uint64(1), self.low)
        high = np.where(negative, ~self.high + (self.low == 0), self.high)
        size = np.ldexp(high.astype(np.float64), 64 - FRACTION_BITS) + np.ldexp(low.astype(np.float64), -FRACTION_BITS)
        return np.where(negative, -size, size) / self.count

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExactSum):
            return NotImplemented
        return (
            self.count == other.count and np.array_equal(self.low, other.low) and np.array_equal(self.high, other.high)
        )

    __hash__ = None  # type: ignore[assignment]  # mutable
