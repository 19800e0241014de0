"""Cluster sampling: blocks of rows of a source, and the error of the mean from the differences between them.

Blocks are drawn in pairs from strata (strata.py). The mean is the combined ratio estimator, for blocks of unequal size and
strata with unequal shares (Cochran, Sampling Techniques, chapters 5A and 6): sum w t / sum w n over the drawn blocks, t the sum
and n the number of a block's rows, w the number of blocks that it stands for. Its error is, to first order, the sum over
strata of M sqrt(1 - 2 / M) (z_1 - z_2) / 2, z = (t - n mean) / sum w n, which has the covariance of the true error.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fastrealign.core.bad_rows import Counts
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import RowMap
from fastrealign.data.options import PassOptions
from fastrealign.data.pipeline import Pass, Work, pieces_of
from fastrealign.data.row_source import PIECE_BYTES, PartOf, Piece
from fastrealign.data.sources import ArraySource, FileSource
from fastrealign.data.workers import Device, Host

# Largest and smallest size of a block: large enough for a disk to be quick, small enough to sample many places.
BLOCK_BYTES = 256 << 10
SMALL_BLOCK_BYTES = 4 << 10
# Sums of strata that are kept; more would hardly change the estimated covariance.
GROUPS = 256


@dataclass(frozen=True)
class Block:
    """A drawn block: its rows, the number of its stratum, how many blocks that has, and the sign of the block in the pair.

    The sign is that of the order in which the two were drawn, so that signs are random; 0: all blocks of the stratum are read.
    """

    piece: Piece
    stratum: int
    of: int
    sign: int

    @property
    def weight(self) -> float:
        """How many blocks it stands for."""
        return self.of / 2.0 if self.sign else 1.0

    @property
    def contrast(self) -> float:
        """Its factor in the error of the mean."""
        return self.sign * self.of * math.sqrt(1.0 - 2.0 / self.of) / 2.0 if self.sign else 0.0


class BlockSource(PartOf):
    """Drawn blocks of a source, as a source; none given: all of it. Ranks that share files all read the same sample.

    rarity   a part of the source that is missed by the draw with a probability of exp(-x) holds at most a share rarity * x
    """

    rows: int
    nbytes: int

    def __init__(self, base: FileSource | ArraySource, blocks: Sequence[Block] = (), rarity: float = 0.0) -> None:
        super().__init__(base)
        self.blocks = {block.piece: block for block in sorted(blocks, key=lambda block: block.piece.first)}
        self.of = base.rows  # rows of the source
        self.rows = sum(piece.hi - piece.lo for piece in self.blocks) if blocks else base.rows
        self.nbytes = self.rows * base.nbytes // max(1, base.rows)
        self.scratch_bytes = BLOCK_BYTES
        self.rarity = rarity

    @property
    def whole(self) -> bool:
        return self.rows == self.of

    def pieces(self, nbytes: int = PIECE_BYTES) -> Iterator[Piece]:
        # A whole source is read in large pieces: the mean of all rows has no sampling error, so no blocks are needed.
        return iter(self.blocks) if self.blocks else self._base.pieces(nbytes)


class Spread:
    """Sums over the blocks of a sample: its mean, and vectors whose squares add up to the covariance of the mean's error."""

    def __init__(self, d: int) -> None:
        self.rows = 0
        self._total = np.zeros(d)
        self._weight = 0.0
        # Of sums over strata (their signs are random) the squares are, on average, those of the strata.
        self._contrasts: dict[int, np.ndarray] = {}
        self._contrast_rows: dict[int, float] = {}

    def add(self, total: np.ndarray, rows: int, block: Block | None = None) -> None:
        """Add the sum of a block's rows, float64 (d,), and their number. No block: the rows stand for themselves."""
        weight = 1.0 if block is None else block.weight
        self.rows += rows
        self._total += weight * total
        self._weight += weight * rows
        if block is not None and block.sign:
            group = block.stratum % GROUPS
            self._contrasts.setdefault(group, np.zeros(len(total)))
            self._contrasts[group] += block.contrast * total
            self._contrast_rows[group] = self._contrast_rows.get(group, 0.0) + block.contrast * rows

    @property
    def mean(self) -> np.ndarray:
        """The estimated mean of the whole source."""
        return self._total / self._weight

    @property
    def errors(self) -> np.ndarray:
        """float64 (groups, d): vectors, the sum of whose outer products estimates the covariance of the mean's error."""
        if not self._contrasts:
            return np.zeros((0, len(self._total)))
        rows = np.array(list(self._contrast_rows.values()))[:, None]
        return (np.stack(list(self._contrasts.values())) - rows * self.mean) / self._weight


def measure_spread(source: BlockSource, row_map: RowMap, phase: str, options: PassOptions) -> Spread:
    """One pass over blocks. They are added in order, so that the number of threads does not change the last digits."""
    spread = Spread(source.d)
    waiting: dict[Piece, ExactSum] = {}
    order = iter(list(pieces_of(source, options.workers)))
    expected = next(order, None)
    lock = threading.Lock()

    def make_work(place: Host | Device) -> Work:
        held: dict[Piece, ExactSum] = {}

        def work(piece: Piece, lo: int, rows: np.ndarray, kernel_threads: int) -> Counts:
            nonlocal expected
            sums = held.setdefault(piece, ExactSum(source.d))
            counts = place.reduce(rows, [row_map], [sums], kernel_threads)
            if lo + len(rows) == piece.hi:
                del held[piece]
                with lock:
                    waiting[piece] = sums
                    while expected in waiting:
                        found = waiting.pop(expected)
                        if found.count:
                            spread.add(found.mean * found.count, found.count, source.blocks.get(expected))
                        expected = next(order, None)
            return counts

        return work

    Pass(source, phase, options).run(make_work)
    return spread
