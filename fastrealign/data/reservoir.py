"""A uniform sample of the rows of a pass, independent of chunks, order and threads."""

from __future__ import annotations

import threading

import numpy as np

from fastrealign.core.dtypes import common_dtype
from fastrealign.core.float_state import computes
from fastrealign.core.row_argument import Rows
from fastrealign.core.tensors import is_tensor

# Rows that suffice for the means of small differences, and their limit in memory.
ROWS = 4096
BYTES = 32 << 20

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


class Reservoir:
    """Between `capacity` / 2 and `capacity` rows of a longer source; all rows of a shorter one.

    One row is drawn from each stratum of 2^level consecutive rows. Which one depends on row numbers alone, and when two strata
    merge, the row of one of them stays, so the sample at a level contains that at the next. The level rises until the rows
    fit: it depends on the source alone, not on the order in which rows arrive.
    """

    def __init__(self, capacity: int, seed: int = 0) -> None:
        self.capacity = capacity
        self._seed = seed
        self._level = 0
        self._numbers = np.empty(0, np.int64)
        self._rows: list[np.ndarray] = []  # one per number, in the same order
        self._known: dict[int, int] = {}  # stratum -> its row, at the present level
        self._foreseen = 0  # rows of the source, which `foresee` was given, and those that are drawn
        self._draws = np.empty(0, np.int64)
        self._lock = threading.Lock()

    @classmethod
    def of_width(cls, d: int) -> Reservoir:
        """One that stays within BYTES for rows of float32."""
        return cls(max(2, min(ROWS, BYTES // (4 * d))))

    @computes
    def foresee(self, rows: int) -> None:
        """Expect this many rows. The sample is the same, unless most rows are bad, without being drawn level by level."""
        while (rows - 1 >> self._level) + 1 > 2 * self.capacity:
            self._level += 1
        self._foreseen = rows
        self._draws = self._rows_of(np.arange((rows - 1 >> self._level) + 1), self._level)

    @computes
    def look(self, first: int, rows: Rows) -> None:
        """See rows (n, d) of an array or a tensor, numbered from `first` on. Called from any thread."""
        with self._lock:
            level = self._level
            numbers = self._drawn(first, first + len(rows), level)
        if not len(numbers):
            return
        taken = rows[numbers - first]
        taken = taken.double().cpu().numpy() if is_tensor(taken) else np.array(taken)
        wide = taken.astype(np.float64)
        good = np.isfinite(wide).all(axis=1) & wide.any(axis=1)
        with self._lock:
            kept = good & (self._picks(numbers, self._level) if level != self._level else True)
            self._numbers = np.concatenate([self._numbers, numbers[kept]])
            self._rows += [row.copy() for row in taken[kept]]  # a view would keep all that was taken alive
            while len(self._rows) > self.capacity:
                self._rise(self._level + 1)

    @property
    def held(self) -> tuple[int, np.ndarray, list[np.ndarray]]:
        """What `join` takes."""
        return self._level, self._numbers, self._rows

    def join(self, all_held: list[tuple[int, np.ndarray, list[np.ndarray]]]) -> None:
        """Hold a sample of all rows that several reservoirs of this capacity have seen (`held` of each, this one's too)."""
        if len(all_held) == 1:
            return
        self._numbers = np.concatenate([numbers for _, numbers, _ in all_held])
        self._rows = [row for _, _, rows in all_held for row in rows]
        self._rise(max(level for level, _, _ in all_held))
        while len(self._rows) > self.capacity:
            self._rise(self._level + 1)

    def _rise(self, level: int) -> None:
        """To a level that holds less."""
        self._level = level
        self._known.clear()
        self._draws = self._draws[self._picks(self._draws, level)]
        stay = self._picks(self._numbers, level)
        self._numbers = self._numbers[stay]
        self._rows = [row for row, stays in zip(self._rows, stay, strict=True) if stays]

    @property
    def whole(self) -> bool:
        """Whether it holds every row that has a direction."""
        return self._level == 0

    def rows(self) -> np.ndarray:
        """(n, d), in the order of the source: results must not depend on the order in which rows arrive."""
        order = np.argsort(self._numbers)
        dtype = common_dtype(row.dtype for row in self._rows) if self._rows else None
        return np.array([self._rows[i] for i in order], dtype=dtype)

    def _drawn(self, lo: int, hi: int, level: int) -> np.ndarray:
        """The numbers drawn among lo to hi, at the present level."""
        if hi <= self._foreseen:
            return self._draws[slice(*np.searchsorted(self._draws, (lo, hi)))]
        if level == 0:
            return np.arange(lo, hi)
        first, last = lo >> level, ((hi - 1) >> level) + 1
        if last - first <= 4:  # chunks much smaller than a stratum meet the same ones again and again
            chosen = np.array([self._remembered(t, level) for t in range(first, last)], np.int64)
        else:
            chosen = self._rows_of(np.arange(first, last), level)
        return chosen[(lo <= chosen) & (chosen < hi)]

    def _remembered(self, stratum: int, level: int) -> int:
        if stratum not in self._known:
            if len(self._known) > 4096:
                self._known.clear()
            self._known[stratum] = int(self._rows_of(np.array([stratum]), level)[0])
        return self._known[stratum]

    def _picks(self, numbers: np.ndarray, level: int) -> np.ndarray:
        return self._rows_of(numbers >> level, level) == numbers

    def _rows_of(self, strata: np.ndarray, level: int) -> np.ndarray:
        """The row drawn from each stratum: level by level, one of its halves."""
        at = strata.astype(np.int64)
        for below in range(level, 0, -1):
            at = 2 * at + (_hash(at, self._seed + below) & np.uint64(1)).astype(np.int64)
        return at


def _hash(numbers: np.ndarray, salt: int) -> np.ndarray:
    """SplitMix64 of 64-bit numbers."""
    with np.errstate(over="ignore"):
        x = numbers.astype(np.uint64) * np.uint64(_STEP) + np.uint64((salt * 0xD1342543DE82EF95 + _STEP) & _MASK)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
