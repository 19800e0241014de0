"""Pairs of rows of two encoders in one pass: blocks of unit rows, and exact sums of their products.

Every entry of a unit row is rounded to a multiple of 2^-40 and split into two whole numbers of 20 bits. Sums of products of
these over a block stay below 2^53, so a float64 matrix product adds them without rounding, whatever the order (Ozaki et al.,
2012); over blocks they are added as integers. The sums have the same bits for any cut into chunks, any BLAS and any number of
its threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fastrealign.core import ops
from fastrealign.core.bad_rows import GOOD
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.progress import Progress
from fastrealign.core.row_map import UNIT
from fastrealign.core.wording import option
from fastrealign.data.row_source import RowSource
from fastrealign.diagnostics.unit_rows import chunks

# Rows of a block: sums of their products are below 2^53.
BLOCK_ROWS = 2048
# Sums of so many pairs fit in int64. Far fewer determine a map.
MOST_PAIRS = 1 << 22
_BITS = 20


class PairMoments:
    """Sums over pairs of unit rows (e, f): of e f^T, e, f, and e e^T where `own` is True.

    Attributes
    ----------
    count : int
        Number of pairs.
    """

    def __init__(self, d_old: int, d_new: int, own: bool) -> None:
        self.count = 0
        # A column of ones beside the rows sums the rows themselves.
        self._cross = _Sums(d_old + 1, d_new + 1)
        self._own = _Sums(d_old + 1, d_old + 1) if own else None

    def add(self, e: np.ndarray, f: np.ndarray) -> None:
        """Add pairs: float64 (n, d_old) and (n, d_new), at most BLOCK_ROWS."""
        if self.count + len(e) > MOST_PAIRS:
            raise InputError(f"more than {MOST_PAIRS:,} pairs; give a sample of them, more do not change a map")
        old, new = _parts(e), _parts(f)
        self._cross.add(old, new)
        if self._own is not None:
            self._own.add(old, old)
        self.count += len(e)

    def join(self, other: PairMoments) -> None:
        """Add the sums of other pairs."""
        self.count += other.count
        self._cross.join(other._cross)
        if self._own is not None and other._own is not None:
            self._own.join(other._own)

    @property
    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """float64 (d_old,) and (d_new,): the means of e and f."""
        mean = self._cross.values / self.count
        return mean[:-1, -1], mean[-1, :-1]

    @property
    def cross(self) -> np.ndarray:
        """float64 (d_old, d_new): E[(e - mean)(f - mean)^T]."""
        old, new = self.means
        return self._cross.values[:-1, :-1] / self.count - np.outer(old, new)

    @property
    def own(self) -> np.ndarray:
        """float64 (d_old, d_old): E[(e - mean)(e - mean)^T]."""
        assert self._own is not None
        old, _ = self.means
        return self._own.values[:-1, :-1] / self.count - np.outer(old, old)


class _Sums:
    """Sums of products, int64: `high` in multiples of 2^-40, `low` in multiples of 2^-60; products below that are left out."""

    def __init__(self, *shape: int) -> None:
        self.high, self.low = np.zeros(shape, np.int64), np.zeros(shape, np.int64)

    def add(self, a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> None:
        self.high += (a[0].T @ b[0]).astype(np.int64)
        self.low += (a[0].T @ b[1] + a[1].T @ b[0]).astype(np.int64)

    def join(self, other: _Sums) -> None:
        self.high += other.high
        self.low += other.low

    @property
    def values(self) -> np.ndarray:
        return np.ldexp(self.high.astype(np.float64), -2 * _BITS) + np.ldexp(self.low.astype(np.float64), -3 * _BITS)


def _parts(e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows with a column of ones, as whole multiples of 2^-20 and what is left in multiples of 2^-40: float64 (n, d + 1)."""
    scaled = np.ldexp(np.column_stack([e, np.ones(len(e))]), _BITS)
    high = np.rint(scaled)
    return high, np.rint(np.ldexp(scaled - high, _BITS))


def pair_blocks(
    sides: Sequence[RowSource], skip: bool, progress: Progress
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Blocks of matched unit rows of several sources: (numbers of the rows, int64 (n,); a float64 (n, d) block of each).

    skip   leave out a match with a row that has no direction, instead of BadRowsError

    Raises InputError where the sources have different numbers of rows.
    """
    known = [side.rows for side in sides if side.rows is not None]
    if len(set(known)) > 1:
        raise _unmatched(sides)
    with progress.running("reading pairs", known[0] if known else None):
        first = 0
        streams = [_unit_blocks(side, skip) for side in sides]
        while True:
            found = [next(stream, None) for stream in streams]
            blocks = [block for block in found if block is not None]
            if not blocks:
                break
            if len(blocks) < len(found) or len({len(rows) for rows, _ in blocks}) > 1:
                for stream in streams:  # to the end: then every source knows how many rows it has
                    for _ in stream:
                        pass
                raise _unmatched(sides)
            good = np.logical_and.reduce([state == GOOD for _, state in blocks])
            rows = len(good)
            yield first + np.flatnonzero(good), [block[good] for block, _ in blocks]
            first += rows
            progress.advance(rows, 0)
    for side in sides:
        side.check_unchanged()


def _unmatched(sides: Sequence[RowSource]) -> InputError:
    counts = ", ".join(f"{side.name} has {side.rows:,} rows" for side in sides)
    return InputError(
        f"{counts}; expected as many on each side: row i of one is of the same item as row i of the other"
    )


def _unit_blocks(source: RowSource, skip: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All rows in order as unit rows, BLOCK_ROWS at a time, with their states; both are valid until the next step."""
    block, states = np.empty((BLOCK_ROWS, source.d)), np.empty(BLOCK_ROWS, np.uint8)
    filled = 0
    for piece, lo, rows in chunks(source):
        at = 0
        while at < len(rows):
            take = min(BLOCK_ROWS - filled, len(rows) - at)
            to = slice(filled, filled + take)
            found = ops.apply(rows[at : at + take], UNIT, block[to], flags=states[to])
            if found.bad and not skip:
                where = source.where(piece.shard, lo + at + found.first_bad)
                raise BadRowsError(
                    f"{where} {found.why}; fix it, or leave such pairs out with {option('bad_rows', 'skip')}"
                )
            at, filled = at + take, filled + take
            if filled == BLOCK_ROWS:
                yield block, states
                filled = 0
    if filled:
        yield block[:filled], states[:filled]


def shares(numbers: np.ndarray, seed: int) -> np.ndarray:
    """float64 (n,) in [0, 1): for each row number, evenly spread and the same in every pass (splitmix64)."""
    start = np.uint64((seed * 0xD1342543DE82EF95 + 1) % 2**64)
    x = (numbers.astype(np.uint64) + start) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
