"""Exact, order-independent column sums (csrc/exact_sum.h), in two 64-bit limbs per column."""

from __future__ import annotations

import numpy as np

import fastrealign._core as _core
from fastrealign.core.float_state import computes

# Of the totals (csrc/exact_sum.h).
FRACTION_BITS: int = _core.SUM_FRACTION_BITS
# Rows with entries of at most 2, whose int64 sums of steps cannot overflow.
ROWS = 1 << 21


class ExactSum:
    """Sums over rows of entries in [-1, 1], each rounded once to a multiple of 2^-40.

    Addition is exact, associative and commutative: any order and grouping of the same rows gives the same bits. The total of
    a column is (high * 2^64 + low) * 2^-88; it holds 2^39 rows.

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
    >>> sums.add_rows(np.array([[1.0, 0.5]]))
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

    @classmethod
    def saved(cls, low: np.ndarray, high: np.ndarray, count: int, fraction_bits: int | None) -> ExactSum:
        """Sums from a file. Version 0.1 did not save the fraction bits; it had 40. ValueError for another number."""
        sums = cls(len(low))
        sums.low[:], sums.high[:], sums.count = low.view(np.uint64), high, count
        if fraction_bits is None:
            sums.scale(FRACTION_BITS - _core.STEP_FRACTION_BITS)
        elif fraction_bits != FRACTION_BITS:
            raise ValueError(f"sums with {fraction_bits} fraction bits")
        return sums

    def add_rows(self, rows: np.ndarray) -> None:
        """Add rows (n, d) as they are, with entries of at most 2 in size; the kernels add rows with a map."""
        for first in range(0, len(rows), ROWS):
            part = ExactSum(self.d)
            block = rows[first : first + ROWS].astype(np.float64)
            steps = _rounded(np.ldexp(block, _core.STEP_FRACTION_BITS)).astype(np.int64).sum(axis=0)
            part.low[:], part.high[:], part.count = steps.view(np.uint64), steps >> 63, len(block)
            part.scale(_core.VECTOR_FRACTION_BITS)
            self.add(part)

    def scale(self, bits: int) -> None:
        """Multiply the totals by 2^bits, 0 < bits < 64."""
        self.high[:] = self.high << bits | (self.low >> np.uint64(64 - bits)).view(np.int64)
        self.low <<= np.uint64(bits)

    @property
    def d(self) -> int:
        """Width of the rows."""
        return len(self.low)

    def add(self, other: ExactSum) -> None:
        """Add another sum of the same width to this one."""
        self.low += other.low
        self.high += other.high + (self.low < other.low)
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


def _rounded(values: np.ndarray) -> np.ndarray:
    """values * (1 + 2^-52), exactly, rounded to the nearest integer: what the kernels do, so that there are no ties."""
    size = np.abs(values)
    whole = np.floor(size)
    return np.copysign(whole + (0.5 - (size - whole) < np.ldexp(size, -52)), values)
