"""Cluster sampling: random blocks of rows of a source, and the error of the mean from the spread between blocks.

Neighbouring rows are alike (shards are sorted by topic, date or crawl), so the standard error of independent rows would be too
small. Blocks are drawn without replacement, and the spread between them gives the error, with the ratio estimator for blocks of
unequal size (Cochran, Sampling Techniques, chapters 6 and 9A).
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fastrealign.core.bad_rows import Counts
from fastrealign.core.errors import InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import RowMap
from fastrealign.data.options import PassOptions
from fastrealign.data.pipeline import Pass, Work, pieces_of
from fastrealign.data.row_source import PIECE_BYTES, PartOf, Piece, RowSource, rows_in
from fastrealign.data.sources import ArraySource, FileSource
from fastrealign.data.workers import Device, Host

# Largest and smallest size of a block: large enough for a disk to be quick, small enough to sample many places.
BLOCK_BYTES = 256 << 10
SMALL_BLOCK_BYTES = 16 << 10
# Blocks that a source is cut into, unless they would be too small. The more are drawn, the less can the others move the mean.
BLOCKS = 1 << 13


class Blocks:
    """A source as blocks that can be read one by one, in an order drawn from `seed`."""

    def __init__(self, source: RowSource, seed: int) -> None:
        if not isinstance(source, (FileSource, ArraySource)):
            raise InputError(
                f"{source.name}: chunks come in their own order, a certified sample needs files or arrays; leave out tol"
            )
        self.source = source
        self._rng = np.random.default_rng(seed)
        # Shards by name, so that the sample does not depend on how they were listed.
        self._cuts = [cut for cut in _cuts(source) if cut.rows]
        self._ends = list(itertools.accumulate(cut.count for cut in self._cuts))
        self.count = self._ends[-1] if self._ends else 0
        self._drawn: list[int] = []
        self._seen: set[int] = set()

    def draw(self, count: int) -> BlockSource:
        """The first `count` blocks drawn, or all if there are no more, as a source. A larger draw contains a smaller one."""
        if count >= self.count:
            return BlockSource(self.source, [self._piece(i) for i in range(self.count)])
        while len(self._drawn) < count:
            for block in self._rng.integers(self.count, size=count - len(self._drawn)).tolist():
                if block not in self._seen:
                    self._seen.add(block)
                    self._drawn.append(block)
        return BlockSource(self.source, [self._piece(i) for i in sorted(self._drawn[:count])])

    def unseen(self, drawn: int, allowed: float) -> float:
        """Bound on the share of rows in a group of blocks of which none was drawn; it fails with probability `allowed`.

        n blocks drawn of N miss a group of K with a probability of at most (1 - n / N)^K, so K is at most
        ln(allowed) / ln(1 - n / N). The bound takes the K largest blocks.
        """
        if drawn >= self.count:
            return 0.0
        most = min(self.count - drawn, math.floor(math.log(allowed) / math.log1p(-drawn / self.count)))
        rows, left = 0, most
        for size in sorted(self._sizes, reverse=True):
            taken = min(left, self._sizes[size])
            rows, left = rows + taken * size, left - taken
        return rows / max(1, self.source.rows)

    @cached_property
    def _sizes(self) -> Counter[int]:
        """How many blocks there are of each number of rows; every look needs it."""
        sizes = Counter[int]()
        for cut in self._cuts:
            sizes.update(cut.sizes)
        return sizes

    def _piece(self, block: int) -> Piece:
        at = np.searchsorted(self._ends, block, side="right")
        cut = self._cuts[at]
        lo, hi = cut.block(block - (self._ends[at - 1] if at else 0))
        return self.source.piece(cut.shard, lo, hi) if isinstance(self.source, FileSource) else Piece(0, lo, hi, lo)


@dataclass(frozen=True)
class _Cut:
    """How the shard with this number is cut into blocks: every `step` rows, or, for blocks of unequal size, at `ends`."""

    shard: int
    rows: int
    step: int
    ends: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        return len(self.ends) or -(-self.rows // self.step)

    @property
    def sizes(self) -> Counter[int]:
        """How many blocks there are of each number of rows."""
        if self.ends:
            return Counter(end - lo for lo, end in itertools.pairwise((0, *self.ends)))
        sizes = Counter({self.step: self.rows // self.step})
        sizes[self.rows % self.step] += 1
        return sizes

    def block(self, i: int) -> tuple[int, int]:
        """(first row, end) of the block with this number."""
        if self.ends:
            return self.ends[i - 1] if i else 0, self.ends[i]
        return i * self.step, min((i + 1) * self.step, self.rows)


def _cuts(source: FileSource | ArraySource) -> Iterator[_Cut]:
    """The cut of each shard, in the order of names. Without random access, blocks are whole parts, or the whole shard."""
    block_bytes = min(BLOCK_BYTES, max(SMALL_BLOCK_BYTES, source.nbytes // BLOCKS))
    if isinstance(source, ArraySource):
        yield _Cut(0, source.rows, rows_in(block_bytes, source.d, source.array.dtype))
        return
    for i, shard in sorted(enumerate(source.files.shards), key=lambda numbered: numbered[1].name):
        if i in source.left_out:
            continue
        step = rows_in(block_bytes, source.d, shard.dtype)
        if shard.random_access:
            yield _Cut(i, shard.rows, step)
        else:
            yield _Cut(i, shard.rows, max(1, shard.rows), _ends(shard.parts, step))


def _ends(parts: Sequence[int], step: int) -> tuple[int, ...]:
    """The ends of blocks of whole parts with at least `step` rows each; the last block may have fewer."""
    ends, lo = [], 0
    for end in itertools.accumulate(parts):
        if end - lo >= step:
            ends.append(end)
            lo = end
    rows = sum(parts)
    return (*ends, rows) if lo < rows else tuple(ends)


class BlockSource(PartOf):
    """Some blocks of a source, as a source. Ranks that share files all read the same sample."""

    rows: int
    nbytes: int

    def __init__(self, base: FileSource | ArraySource, blocks: list[Piece]) -> None:
        super().__init__(base)
        self._blocks = blocks
        self.of = base.rows  # rows of the source
        self.rows = sum(block.hi - block.lo for block in blocks)
        self.nbytes = self.rows * base.nbytes // max(1, base.rows)
        self.scratch_bytes = BLOCK_BYTES

    @property
    def blocks(self) -> int:
        """How many blocks were drawn."""
        return len(self._blocks)

    @property
    def whole(self) -> bool:
        return self.rows == self.of

    @property
    def share(self) -> float:
        """Share of the rows of the source."""
        return self.rows / max(1, self.of)

    def pieces(self, nbytes: int = PIECE_BYTES) -> Iterator[Piece]:
        # A whole source is read in large pieces: the mean of all rows has no sampling error, so no blocks are needed.
        return self._base.pieces(nbytes) if self.whole else iter(self._blocks)


class Spread:
    """Sums over blocks, for the sampling error of the mean over all of them.

    along   float64 (d,): a direction along which the variance is wanted too
    """

    def __init__(self, along: np.ndarray) -> None:
        self.blocks = 0
        self.rows = 0
        self._along = along
        self._total = np.zeros(len(along))
        self._weighted = np.zeros(len(along))  # sum of n_i t_i, t_i the sum of block i's n_i rows
        self._squares = self._rows_squared = self._along_squared = self._along_weighted = 0.0

    def add(self, total: np.ndarray, rows: int) -> None:
        """Add a block: the sum of its rows, float64 (d,), and their number."""
        along = float(total @ self._along)
        self.blocks += 1
        self.rows += rows
        self._total += total
        self._weighted += rows * total
        self._squares += float(total @ total)
        self._rows_squared += float(rows) ** 2
        self._along_squared += along**2
        self._along_weighted += rows * along

    @property
    def mean(self) -> np.ndarray:
        return self._total / self.rows

    def variance(self, share: float) -> float:
        """E|mean - mean of the whole source|^2, from blocks that hold this share of the source."""
        mean = self.mean
        left = self._squares - 2.0 * float(mean @ self._weighted) + float(mean @ mean) * self._rows_squared
        return self._scaled(left, share)

    def variance_along(self, share: float) -> float:
        """The variance of along @ mean."""
        mean = float(self.mean @ self._along)
        return self._scaled(
            self._along_squared - 2.0 * mean * self._along_weighted + mean**2 * self._rows_squared, share
        )

    def _scaled(self, left: float, share: float) -> float:
        if share >= 1.0:
            return 0.0
        if self.blocks < 2:
            return math.inf
        return (1.0 - share) * self.blocks / (self.blocks - 1) * max(0.0, left) / self.rows**2


def measure_spread(source: BlockSource, row_map: RowMap, along: np.ndarray, phase: str, options: PassOptions) -> Spread:
    """One pass over blocks. They are added in order, so that the number of threads does not change the last digits."""
    spread = Spread(along)
    waiting: dict[Piece, tuple[np.ndarray, int]] = {}
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
                    waiting[piece] = (sums.mean * sums.count if sums.count else np.zeros(source.d), sums.count)
                    while expected in waiting:
                        spread.add(*waiting.pop(expected))
                        expected = next(order, None)
            return counts

        return work

    Pass(source, phase, options).run(make_work)
    return spread


def quantile(confidence: float, freedom: int) -> float:
    """Two-sided quantile of Student's t, by Cornish and Fisher's expansion: to 1e-5 from 30 degrees of freedom on."""
    from statistics import NormalDist

    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    n = float(freedom)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )
