"""Products of rows with a matrix whose bits do not depend on BLAS, on threads or on how the rows are split."""

from __future__ import annotations

import numpy as np

# Bits of a float64 number: whole numbers below 2^53 add up without rounding.
_BITS = 53


class ExactProduct:
    """e -> M e for unit rows e, the same bits for any split of the rows and any BLAS and number of its threads.

    Both factors are rounded to sums of whole multiples of a power of two, of so few bits that a sum of d products stays below
    2^53 and is exact in float64: then its order does not matter (Ozaki et al., 2012). M is split in two.

    narrow   True: one part of e, of 24 bits, for rows of float32 or less, as near as a float32 product; False: two, to about
             1e-12
    """

    def __init__(self, matrix: np.ndarray, narrow: bool) -> None:
        room = _BITS - (matrix.shape[1] - 1).bit_length()
        self._of_e = 24 if narrow else room // 2
        self._narrow = narrow
        of_m = room - self._of_e
        self._unit = 2.0 ** (int(np.frexp(np.abs(matrix).max())[1]) - of_m)
        self._fine = self._unit * 2.0**-of_m
        high = np.rint(matrix.T / self._unit)
        self._high, self._low = high, np.rint((matrix.T - high * self._unit) / self._fine)

    def __call__(self, e: np.ndarray) -> np.ndarray:
        """float64 (n, d) in, (n, rows of M) out."""
        step = 2.0**-self._of_e
        first = np.rint(e / step)
        low = (first @ self._low) * (self._fine * step)
        if not self._narrow:
            second = np.rint((e - first * step) / step**2)
            low += (second @ self._high) * (self._unit * step**2)
        return (first @ self._high) * (self._unit * step) + low
