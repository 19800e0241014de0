"""What a job writes, as a value that a writer takes: threads of this process (write_shards.py) or actors (ray_writer.py)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from fastrealign import formats
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.progress import Progress
from fastrealign.data.options import OutputOptions, ReadOptions
from fastrealign.data.row_source import PIECE_BYTES, Piece, RowSource, rows_in
from fastrealign.data.sources import FileSource
from fastrealign.data.workers import Workers
from fastrealign.formats.manifest import ShardRecord
from fastrealign.methods.method import Method
from fastrealign.storage.fingerprint import FileFingerprint
from fastrealign.storage.paths import Place

# Called with the record of a shard that is in place, and the exact sums of its columns.
Note: TypeAlias = Callable[[ShardRecord, ExactSum], None]


class Unwritten(FileSource):
    """The shards of `files` at the places `left`, in pieces of at most `piece_bytes`, as read and as written.

    dtype     element type of the output, None for that of each shard
    in_order  every shard is one piece, read from head to tail
    first     the number of the first row of `files`, where they are a part of the source; pieces are numbered over all
    """

    def __init__(
        self,
        files: formats.Source,
        left: Sequence[int],
        dtype: np.dtype | None,
        in_order: bool,
        piece_bytes: int = PIECE_BYTES,
        first: int = 0,
    ) -> None:
        super().__init__(files, first)
        self._widest = max((self.d, *(shard.out_dim for shard in files.shards)))
        self._piece_bytes = piece_bytes
        self._left = left
        self._dtype = dtype
        self._in_order = in_order
        shards = [files.shards[i] for i in left]
        self.rows = sum(shard.rows for shard in shards)
        self.nbytes = sum(shard.nbytes for shard in shards)

    def dtype_of(self, shard: formats.Shard) -> np.dtype:
        return self._dtype or shard.out_dtype

    def pieces(self, nbytes: int = PIECE_BYTES) -> Iterator[Piece]:
        return itertools.chain.from_iterable(self.runs(nbytes))

    def runs(self, nbytes: int = PIECE_BYTES) -> Iterator[Iterator[Piece]]:
        """A shard each: two threads that write to one file wait for each other."""
        return map(self._pieces_of, self._left)

    def _pieces_of(self, at: int) -> Iterator[Piece]:
        shard = self.files.shards[at]
        step = self._rows(shard) if self.in_scratch(shard) else max(shard.rows, 1)
        for lo in range(0, max(shard.rows, 1), step):  # an empty shard is one empty piece
            yield self.piece(at, lo, min(lo + step, shard.rows))

    def count_pieces(self, shard: formats.Shard) -> int:
        return max(1, -(-shard.rows // self._rows(shard))) if self.in_scratch(shard) else 1

    def chunks(self, piece: Piece, scratch: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        shard = self.files.shards[piece.shard]
        if self.in_scratch(shard):
            if piece.hi > piece.lo:
                with self.naming(piece.shard):
                    yield piece.lo, shard.read(piece.lo, piece.hi, scratch)
            return
        lo = 0
        with self.naming(piece.shard):
            for chunk in shard.chunks(self._rows(shard)):
                yield lo, chunk
                lo += len(chunk)

    def in_scratch(self, shard: formats.Shard) -> bool:
        """Whether pieces of the shard are read at any place, each into the scratch buffer of the thread that reads it."""
        return shard.random_access and not self._in_order

    def _rows(self, shard: formats.Shard) -> int:
        wider = max(shard.dtype, self.dtype_of(shard), key=lambda dtype: dtype.itemsize)
        return rows_in(self._piece_bytes, self._widest, wider)


@dataclass(frozen=True)
class Destination:
    """Where shards go: names of the output shards and of their metadata files, relative to `root`, by their places."""

    root: Place
    names: list[str]
    metadata: list[str | None]


@dataclass(frozen=True)
class ShardPlan:
    """What a writer writes: the shards of `files` at the places `left`, mapped by `method`.

    fingerprints   of the source shards when the run began, by their places; a shard with another one is an error
    first          the number of the first row of `files`, where they are a part of the source
    """

    files: formats.Source
    out: Destination
    left: Sequence[int]
    method: Method
    read: ReadOptions
    output: OutputOptions
    fingerprints: Sequence[FileFingerprint]
    first: int = 0


class Writer(Protocol):
    """Writes the shards of a plan. `left_out` has the shards that could not be read, by name with the reason."""

    @property
    def source(self) -> RowSource: ...

    left_out: dict[str, str]

    def run(self, progress: Progress) -> None: ...


# Makes a writer of a plan.
MakeWriter: TypeAlias = Callable[[ShardPlan, Note, Workers], Writer]
