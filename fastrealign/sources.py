"""Anything that holds embeddings, as pieces of rows that can be read again and again.

A source is files, an array or tensor, or an iterable of chunks. Each yields `Piece`s in order; pieces of files may be worked
on side by side, each thread with a scratch buffer of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fastrealign import io, ops
from fastrealign.errors import InputError

# What one thread reads, computes and writes at a time: two such buffers (in and out) stay within a share of the last-level
# cache, and taking a piece costs nothing beside it.
PIECE_BYTES = 2 << 20


@dataclass(frozen=True)
class Piece:
    """Rows lo to hi of one shard (or of the whole array). `first` is the number of row lo over the whole source."""

    shard: int
    lo: int
    hi: int | None  # None: to the end, which only reading will show
    first: int


class RowSource(Protocol):
    """What the passes of `pipeline` read."""

    name: str
    d: int
    rows: int | None  # None: not known before the first pass
    nbytes: int | None
    side_by_side: bool  # pieces may be read by several threads at once

    def pieces(self) -> Iterator[Piece]: ...

    def chunks(self, piece: Piece, scratch: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The piece's rows in order, as (row within the shard, (n, d) array valid until the next step)."""

    def where(self, shard: int, row: int) -> str:
        """How to name a row in a message."""


class FileSource:
    """Shards on disk."""

    side_by_side = True

    def __init__(self, files: io.Source) -> None:
        self.files = files
        self.name = files.name
        self.d = files.dim
        self.rows = files.rows
        self.nbytes = sum(s.rows * s.dim * s.dtype.itemsize for s in files.shards)

    def pieces(self) -> Iterator[Piece]:
        first = 0
        for i, shard in enumerate(self.files.shards):
            step = rows_in(PIECE_BYTES, self.d, shard.dtype) if shard.random_access else max(shard.rows, 1)
            for lo in range(0, shard.rows, step):
                yield Piece(i, lo, min(lo + step, shard.rows), first + lo)
            first += shard.rows

    def chunks(self, piece: Piece, scratch: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        shard = self.files.shards[piece.shard]
        if shard.random_access:
            yield piece.lo, shard.read(piece.lo, piece.hi, scratch)
        else:
            lo = 0
            for chunk in shard.chunks(rows_in(PIECE_BYTES, self.d, shard.dtype)):
                yield lo, chunk
                lo += len(chunk)
        if piece.hi == shard.rows:
            # Thousands of shards must not stay open. One that is still being read elsewhere keeps its descriptor.
            shard.close()

    def where(self, shard: int, row: int) -> str:
        return self.files.shards[shard].where(row)


class ArraySource:
    """One array or tensor, in memory (or a memory map) or on a device. The kernel's own threads share each piece."""

    side_by_side = False

    def __init__(self, x: Any, name: str) -> None:
        self.array = ops.rows_anywhere(x, name)
        self.name = name
        self.rows, self.d = self.array.shape
        self.nbytes = self.array.nbytes

    def pieces(self) -> Iterator[Piece]:
        # Large enough for all threads to have work, small enough to show progress and to be interrupted.
        step = rows_in(64 << 20, self.d, self.array.dtype)
        for lo in range(0, self.rows, step):
            yield Piece(0, lo, min(lo + step, self.rows), lo)

    def chunks(self, piece: Piece, scratch: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        yield piece.lo, self.array[piece.lo : piece.hi]

    def where(self, shard: int, row: int) -> str:
        return f"{self.name}: row {row}"


class ChunkSource:
    """An iterable of (n, d) chunks. Two passes need one that starts anew each time it is iterated over."""

    side_by_side = False
    nbytes = None

    def __init__(self, chunks: Iterable[Any], name: str) -> None:
        if isinstance(chunks, Iterator):
            raise InputError(
                f"{name}: an iterator can be read once, fitting reads it more than once; pass something that starts anew "
                "each time it is iterated over: a list of chunks, or an object with __iter__"
            )
        self._chunks = chunks
        self.name = name
        self.rows = None
        first = next(iter(chunks), None)
        if first is None:
            raise InputError(f"{name}: yields no chunks, expected (rows, width) arrays")
        self.d = ops.rows_anywhere(first, name).shape[1]

    def pieces(self) -> Iterator[Piece]:
        yield Piece(0, 0, None, 0)

    def chunks(self, piece: Piece, scratch: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        lo = 0
        for i, chunk in enumerate(self._chunks):
            rows = ops.rows_anywhere(chunk, f"{self.name}, chunk {i}")
            if rows.shape[1] != self.d:
                raise InputError(f"{self.name}, chunk {i}: rows are {rows.shape[1]} wide, those before {self.d}")
            yield lo, rows
            lo += len(rows)
        if self.rows is not None and lo != self.rows:
            raise InputError(
                f"{self.name}: {lo} rows in this pass, {self.rows} in the one before; every pass must yield the same"
            )
        self.rows = lo

    def where(self, shard: int, row: int) -> str:
        return f"{self.name}: row {row}"


def open_rows(spec: Any, side: str, column: str | None = None) -> RowSource:
    """A RowSource from files (path, glob, folder, list of paths), an array, a tensor, or an iterable of chunks.

    side: "source" or "target", for messages and for folders that hold both. Raises InputError for anything else.
    """
    if isinstance(spec, (FileSource, ArraySource, ChunkSource)):
        return spec
    if isinstance(spec, io.Source):
        return FileSource(spec)
    if isinstance(spec, (str, os.PathLike)) or _is_paths(spec):
        return FileSource(io.open_source(spec, side=side, column=column))
    spec = ops.native(spec)
    if ops.is_tensor(spec) or hasattr(spec, "__array_interface__") or isinstance(spec, np.ndarray):
        return ArraySource(spec, side)
    if isinstance(spec, Iterable):
        return ChunkSource(spec, side)
    raise InputError(
        f"{side}: {type(spec).__name__}, expected a path, a glob, a folder, an array, a tensor or an iterable of chunks"
    )


def rows_in(nbytes: int, d: int, dtype: np.dtype) -> int:
    """How many rows of width d make up `nbytes`; at least one."""
    return max(1, nbytes // (d * dtype.itemsize))


def _is_paths(spec: Any) -> bool:
    return isinstance(spec, (list, tuple)) and len(spec) > 0 and all(isinstance(p, (str, Path)) for p in spec)
