"""The noise of C3 and of `noise=`: standard normal numbers that depend on the seed and the number of the row alone."""

from __future__ import annotations

import numpy as np

from fastrealign.core.errors import InputError


def noise(seed: int, numbers: np.ndarray, d: int) -> np.ndarray:
    """Standard normal float64 (n, d): the rows of these numbers, each independent of the others that are asked for.

    Philox (Salmon et al., 2011) is a function of key and counter: the seed is the key, and each row has its own stretch of
    the counter. Box and Muller make two normals of two of its numbers, so every row takes equally many. Angles are float32,
    of 24 bits: four times as fast, and rows are no finer.
    """
    if len(numbers) == 0:
        return np.empty((0, d))
    half = -(-d // 4) * 2  # Philox gives four numbers a count
    counts = half // 2
    bits = np.empty((len(numbers), 2 * half), np.uint64)
    source, at = np.random.Philox(key=seed), 0
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    for lo, hi in zip([0, *cuts], [*cuts, len(numbers)], strict=True):
        source.advance((int(numbers[lo]) - at) * counts)
        bits[lo:hi] = source.random_raw((hi - lo) * 2 * half).reshape(-1, 2 * half)
        at = int(numbers[hi - 1]) + 1
    radius = np.sqrt(-2.0 * np.log(((bits[:, :half] >> np.uint64(11)) + 1.0) * 2.0**-53))
    angle = (bits[:, half:] >> np.uint64(40)).astype(np.float32) * np.float32(2.0 * np.pi * 2.0**-24)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :d]


def row_numbers(first: int | np.ndarray, rows: int) -> np.ndarray:
    """int64 (rows,): the numbers of rows, from the number of the first one or from all numbers."""
    given = np.asarray(first)
    if given.shape not in ((), (rows,)):
        raise InputError(f"first has shape {given.shape} for {rows} rows; give a number, or one a row")
    if given.size and given.dtype.kind not in "iu":
        raise InputError(f"first holds {given.dtype}, expected the numbers of rows: whole, from 0 to 2^63 - 1")
    if given.size and (given.min() < 0 or int(given.max()) + rows > 2**63):
        raise InputError(
            f"first is from {given.min()} to {given.max()}, expected the numbers of rows: from 0 to 2^63 - 1"
        )
    return given.astype(np.int64) + (np.arange(rows) if given.ndim == 0 else 0)
