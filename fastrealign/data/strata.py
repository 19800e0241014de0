"""Strata: a source as stretches of neighbouring blocks, from each of which two blocks are drawn.

Neighbouring rows are alike (shards are sorted by topic, date or crawl). Every stretch of the source is in the sample with the
same share of its rows, so what differs between stretches does not move the mean of the sample; only what differs within one
does. A stretch lies in one shard; where shards are smaller, it is a run of them. Two blocks are the fewest whose difference
tells how much that is (Cochran, Sampling Techniques, chapters 5 and 5A).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.data import cluster_sampling
from fastrealign.data.cluster_sampling import Block, BlockSource
from fastrealign.data.row_source import Piece, RowSource, rows_in
from fastrealign.data.sources import ArraySource, FileSource

# Blocks in a first sample times the bound that it should have: what was not drawn then takes about a quarter of the bound.
# Of a small source no more than a part, but not so few that their differences say nothing.
WANTED_BLOCKS = 16
FEWEST_BLOCKS = 64
FIRST_SHARE = 0.1
# So many blocks are of the smallest size; of larger samples the blocks are larger too.
SMALL_BLOCKS = 1024
# Share of a side from which on reading all of it in order is as fast as reading blocks.
LARGEST_SHARE = 0.5


class Strata:
    """A source from which samples of any size are drawn; a draw depends on the source, `key` and the share of rows alone."""

    def __init__(self, source: RowSource, key: tuple[int, ...]) -> None:
        if not isinstance(source, (FileSource, ArraySource)):
            raise InputError(
                f"{source.name}: chunks come in their own order, and a sample needs files or arrays; pass a path or an array"
            )
        self._source = source
        self._key = key
        self.nbytes = source.nbytes

    def first_share(self, wanted: float) -> float:
        """The share of rows of the first sample for a bound of `wanted`."""
        blocks = max(FEWEST_BLOCKS, WANTED_BLOCKS / wanted)
        nbytes = blocks * max(1.0, blocks / SMALL_BLOCKS) * self.block_bytes(0.0)
        there = max(1, sum(cut.blocks for cut in self._cuts(0.0)))
        return max(FEWEST_BLOCKS / there, min(FIRST_SHARE, max(blocks / there, nbytes / max(1, self._source.nbytes))))

    def block_bytes(self, share: float) -> int:
        """The size of blocks in a sample of this share of the rows.

        Blocks and their number grow alike, as the square root of what is read: both parts of a bound fall alike.
        """
        smallest = cluster_sampling.SMALL_BLOCK_BYTES
        wanted = int(math.sqrt(share * self._source.nbytes * smallest / SMALL_BLOCKS))
        return min(cluster_sampling.BLOCK_BYTES, max(smallest, wanted))

    def draw(self, share: float) -> BlockSource:
        """At least this share of the rows: two blocks of each stratum, drawn without replacement; or everything."""
        if share > LARGEST_SHARE:
            return BlockSource(self._source)
        size = int(2.0 / share)
        strata = _strata(self._cuts(share, size), size)
        # The same for every rank, and for a run that resumes a killed one.
        rng = np.random.default_rng([*self._key, size])
        counts = np.array([_count(stratum) for stratum in strata])
        firsts = rng.integers(counts)
        seconds = (firsts + 1 + rng.integers(np.maximum(counts - 1, 1))) % counts
        blocks = []
        for i, (stratum, count) in enumerate(zip(strata, counts.tolist(), strict=True)):
            drawn = range(count) if count <= 2 else (int(firsts[i]), int(seconds[i]))
            for sign, block in zip((1, -1), drawn, strict=False):
                blocks.append(Block(self._piece(stratum, block), i, count, sign if count > 2 else 0))
        largest = max((stretch.largest / -math.log1p(-2.0 / n) for stretch, n in _sampled(strata, counts)), default=0.0)
        return BlockSource(self._source, blocks, largest / max(1, self._source.rows))

    def _piece(self, stratum: list[_Stretch], block: int) -> Piece:
        for stretch in stratum:
            if block < stretch.count:
                break
            block -= stretch.count
        shard, (lo, hi) = stretch.cut.shard, stretch.cut.block(stretch.first + block)
        return self._source.piece(shard, lo, hi) if isinstance(self._source, FileSource) else Piece(0, lo, hi, lo)

    def _cuts(self, share: float, size: int = 1) -> Iterator[_Cut]:
        """How each shard is cut, in the order of names, so that the sample does not depend on how they were listed.

        Without random access, blocks are whole parts, or the whole shard. With it, a shard that is large enough is cut into
        whole strata of `size` blocks.
        """
        source, nbytes = self._source, self.block_bytes(share)
        if isinstance(source, ArraySource):
            yield _Cut(0, source.rows, _even(source.rows, rows_in(nbytes, source.d, source.array.dtype), size))
            return
        for i, shard in sorted(enumerate(source.files.shards), key=lambda numbered: numbered[1].name):
            if i in source.left_out or shard.rows == 0:
                continue
            step = rows_in(nbytes, source.d, shard.dtype)
            ends = () if shard.random_access else _ends(shard.parts, step) or (shard.rows,)
            yield _Cut(i, shard.rows, len(ends) or _even(shard.rows, step, size), ends)


@dataclass(frozen=True)
class _Cut:
    """How the shard with this number is cut into blocks: evenly, or, for blocks of unequal size, at `ends`."""

    shard: int
    rows: int
    blocks: int
    ends: tuple[int, ...] = ()

    def block(self, i: int) -> tuple[int, int]:
        """(first row, end) of the block with this number."""
        if self.ends:
            return self.ends[i - 1] if i else 0, self.ends[i]
        return self.rows * i // self.blocks, self.rows * (i + 1) // self.blocks


@dataclass(frozen=True)
class _Stretch:
    """Blocks first to first + count of a shard."""

    cut: _Cut
    first: int
    count: int

    @property
    def largest(self) -> int:
        """The number of rows of the largest of its blocks."""
        if not self.cut.ends:
            return -(-self.cut.rows // self.cut.blocks)
        return max(hi - lo for lo, hi in map(self.cut.block, range(self.first, self.first + self.count)))


def _even(rows: int, step: int, size: int) -> int:
    """The number of even blocks of at most `step` rows: whole strata of `size` blocks, if there are enough rows for one."""
    strata = -(-rows // (step * size))
    return min(rows, size * strata if 2 * rows >= step * size else -(-rows // step))


def _ends(parts: Sequence[int], step: int) -> tuple[int, ...]:
    """The ends of blocks of whole parts with at least `step` rows each; the last block may have fewer."""
    ends, lo = [], 0
    for end in itertools.accumulate(parts):
        if end - lo >= step:
            ends.append(end)
            lo = end
    rows = sum(parts)
    return (*ends, rows) if lo < rows else tuple(ends)


def _strata(cuts: Iterator[_Cut], size: int) -> list[list[_Stretch]]:
    """Stretches of about `size` blocks: parts of one shard, or runs of neighbouring shards with less than half as many."""
    strata: list[list[_Stretch]] = []
    run: list[_Stretch] = []

    def close_run() -> None:
        if strata and 2 * _count(run) < size:
            strata[-1].extend(run)  # a stratum of its own would have more than its share of the sample
        elif run:
            strata.append(run.copy())
        run.clear()

    for cut in cuts:
        own = round(cut.blocks / size)
        if own == 0:
            run.append(_Stretch(cut, 0, cut.blocks))
        if own > 0 or _count(run) >= size:
            close_run()
        borders = [cut.blocks * i // own for i in range(own + 1)] if own else []
        strata += [[_Stretch(cut, first, end - first)] for first, end in itertools.pairwise(borders)]
    close_run()
    return strata


def _count(stratum: list[_Stretch]) -> int:
    return sum(stretch.count for stretch in stratum)


def _sampled(strata: list[list[_Stretch]], counts: np.ndarray) -> Iterator[tuple[_Stretch, int]]:
    """Each stretch of which not all is read, with the number of blocks of its stratum."""
    for stratum, count in zip(strata, counts.tolist(), strict=True):
        if count > 2:
            for stretch in stratum:
                yield stretch, count
