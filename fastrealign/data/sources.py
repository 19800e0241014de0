"""Anything that holds embeddings, as pieces of rows that can be read again and again.

A source is files, an array or tensor, or an iterable of chunks. Each yields `Piece`s in order; pieces of files may be worked
on side by side, each thread with a scratch buffer of its own.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fastrealign import formats
from fastrealign.core import arrays, ops
from fastrealign.core.errors import BadShardError, ChangedError, InputError
from fastrealign.core.float_state import callers_state
from fastrealign.data.process_group import ALONE, ProcessGroup
from fastrealign.formats.choose_column import Wanted
from fastrealign.formats.manifest import encoder_of
from fastrealign.formats.tables import TableShard

# What one thread reads, computes and writes at a time: two such buffers (in and out) stay within a share of the last-level
# cache, and taking a piece costs nothing beside it.
PIECE_BYTES = 2 << 20
# Shards that a pilot is taken from, at most.
PILOT_SHARDS = 16


@dataclass(frozen=True)
class Piece:
    """Rows lo to hi of one shard (or of the whole array).

    `first` is the number of row lo over the whole source, in an order that does not depend on how shards were listed.
    """

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
    again: bool  # can be read as often as asked
    encoder: str | None  # the name of what made the rows, where that is known
    column: str | None  # the name under which files hold the rows, where they have one
    ranks: ProcessGroup  # whose rows these are: sums over the source are added up over them

    def pieces(self, nbytes: int = PIECE_BYTES) -> Iterator[Piece]:
        """All rows, in pieces of at most so many bytes where it can be read at any place."""

    def chunks(self, piece: Piece, scratch: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The piece's rows in order, as (row within the shard, (n, d) array valid until the next step)."""

    def where(self, shard: int, row: int) -> str:
        """How to name a row in a message."""

    def pilot(self, rows: int) -> np.ndarray:
        """Some `rows` rows (n, d) from all over the source, or its first ones where it is read once."""


class FileSource:
    """Shards on disk. first: the number of their first row, where they are a part of more."""

    side_by_side = True
    again = True
    ranks = ALONE

    def __init__(self, files: formats.Source, first: int = 0) -> None:
        self.files = files
        self.name = files.name
        self.d = files.dim
        self.rows = files.rows
        self.nbytes = sum(shard.nbytes for shard in files.shards)
        self.left_out: set[int] = set()
        self._firsts = _firsts(files.shards, first)

    @property
    def column(self) -> str | None:
        return self.files.column

    @cached_property
    def encoder(self) -> str | None:
        """The name of the encoder, where `fastrealign embed` wrote these shards."""
        return encoder_of([shard.path for shard in self.files.shards])

    @property
    def embedded(self) -> str | None:
        """Where `fastrealign embed` wrote these shards: "text" or "images"."""
        first = self.files.shards[0]
        if self.encoder is None or not isinstance(first, TableShard):
            return None
        with first.table(first.path) as table:
            return "text" if "caption" in table.schema.names else "images"

    def pieces(self, nbytes: int = PIECE_BYTES) -> Iterator[Piece]:
        for i, shard in enumerate(self.files.shards):
            if i in self.left_out:
                continue
            step = rows_in(nbytes, self.d, shard.dtype) if shard.random_access else max(shard.rows, 1)
            for lo in range(0, shard.rows, step):
                yield self.piece(i, lo, min(lo + step, shard.rows))

    def piece(self, shard: int, lo: int, hi: int) -> Piece:
        return Piece(shard, lo, hi, self._firsts[shard] + lo)

    def chunks(self, piece: Piece, scratch: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        shard = self.files.shards[piece.shard]
        with self.naming(piece.shard):
            if shard.random_access:
                yield piece.lo, shard.read(piece.lo, piece.hi, scratch)
            else:
                lo, rows = piece.lo, rows_in(scratch.nbytes, self.d, shard.dtype)
                whole = piece.hi - piece.lo == shard.rows
                for chunk in shard.chunks(rows) if whole else shard.part(piece.lo, piece.hi, rows):
                    yield lo, chunk
                    lo += len(chunk)
        if piece.hi == shard.rows:
            # Thousands of shards must not stay open. One that is still being read elsewhere keeps its descriptor.
            shard.close()

    @contextmanager
    def naming(self, shard: int) -> Iterator[None]:
        """An error in reading becomes one that says which shard it is; unless the file is another one now."""
        try:
            yield
        except ChangedError:
            raise
        except InputError as error:
            self.files.shards[shard].check_unchanged()
            raise BadShardError(str(error), shard, self.name) from error

    def check_unchanged(self) -> None:
        """ChangedError, an InputError, if a file was written to or replaced since it was opened."""
        for i, shard in enumerate(self.files.shards):
            if i not in self.left_out:
                shard.check_unchanged()

    def leave_out(self, shard: int) -> None:
        """Read a shard no more."""
        self.left_out.add(shard)
        left = [s for i, s in enumerate(self.files.shards) if i not in self.left_out]
        self.rows = sum(s.rows for s in left)
        self.nbytes = sum(shard.nbytes for shard in left)

    def where(self, shard: int, row: int) -> str:
        return self.files.shards[shard].where(row)

    def pilot(self, rows: int) -> np.ndarray:
        numbered = enumerate(self.files.shards)
        chosen = sorted((shard.name, i) for i, shard in numbered if shard.rows and i not in self.left_out)
        chosen = chosen[:: max(1, -(-len(chosen) // PILOT_SHARDS))]
        parts = []
        for _, i in chosen:
            shard = self.files.shards[i]
            wanted = min(shard.rows, -(-rows // len(chosen)))
            with self.naming(i):
                if shard.random_access:
                    lo, memory = (shard.rows - wanted) // 2, np.empty(wanted * self.d * shard.dtype.itemsize, np.uint8)
                    parts.append(shard.read(lo, lo + wanted, memory))
                else:
                    parts.append(next(shard.chunks(wanted)).copy())
            shard.close()
        return _together(parts)


def _firsts(shards: list[formats.Shard], first: int) -> list[int]:
    """The number of each shard's first row when shards follow on each other by name, the first one's given."""
    by_name = sorted(range(len(shards)), key=lambda i: shards[i].name)
    firsts = [first] * len(shards)
    for before, i in itertools.pairwise(by_name):
        firsts[i] = firsts[before] + shards[before].rows
    return firsts


class ArraySource:
    """One array or tensor, in memory (or a memory map) or on a device. The kernel's own threads share each piece."""

    side_by_side = False
    again = True
    encoder: str | None = None
    column: str | None = None
    ranks = ALONE

    def __init__(self, x: Any, name: str) -> None:
        taken = arrays.take(x, name)
        self.array, self._nulls = ops.taken_rows(taken.rows, name, x), taken.nulls
        self.name = name
        self.rows, self.d = self.array.shape
        self.nbytes = self.array.nbytes

    def pieces(self, nbytes: int = PIECE_BYTES) -> Iterator[Piece]:
        # Large enough for all threads to have work, small enough to show progress and to be interrupted.
        step = rows_in(64 << 20, self.d, self.array.dtype)
        for lo in range(0, self.rows, step):
            yield Piece(0, lo, min(lo + step, self.rows), lo)

    def chunks(self, piece: Piece, scratch: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        yield piece.lo, self.array[piece.lo : piece.hi]

    def where(self, shard: int, row: int) -> str:
        missing = " (which is missing)" if self._nulls is not None and self._nulls[row] else ""
        return f"{self.name}: row {row}{missing}"

    def pilot(self, rows: int) -> np.ndarray:
        return _in_memory(self.array[:: max(1, -(-self.rows // rows))])


class ChunkSource:
    """An iterable of (n, d) chunks, each an array or what a DataLoader makes of one (`_chunk`).

    again   whether it starts anew each time it is iterated over; an iterator does not, so it is read once, and what was
            taken for the pilot comes once more in that pass
    """

    side_by_side = False
    nbytes = None
    encoder: str | None = None
    column: str | None = None
    ranks = ALONE

    def __init__(self, chunks: Iterable[Any], name: str) -> None:
        self.again = not isinstance(chunks, Iterator)
        self.chunks_given = chunks
        self._taken: list[Any] = []
        self._spent = False
        self.name = name
        self.rows = None
        first = next(_handed(chunks), _END)
        if first is _END:
            raise InputError(f"{name}: yields no chunks, expected (rows, width) arrays")
        first = ops.rows_anywhere(_chunk(first, f"{name}, chunk 0"), f"{name}, chunk 0")
        self.d = first.shape[1]
        if not self.again:
            self._taken.append(first)

    def pieces(self, nbytes: int = PIECE_BYTES) -> Iterator[Piece]:
        yield Piece(0, 0, None, 0)

    def pilot(self, rows: int) -> np.ndarray:
        if self.again:
            return _first_rows(_handed(self.chunks_given), [], self, rows)
        return _first_rows(_handed(self.chunks_given), self._taken, self, rows)

    def checked(self, chunk: Any, number: int) -> Any:
        """The chunk as rows of the right width."""
        name = f"{self.name}, chunk {number}"
        rows = ops.rows_anywhere(_chunk(chunk, name), name)
        if rows.shape[1] != self.d:
            raise InputError(f"{self.name}, chunk {number}: rows are {rows.shape[1]} wide, those before {self.d}")
        return rows

    def _all(self) -> Iterator[Any]:
        if self.again:
            return _handed(self.chunks_given)
        if self._spent:
            raise InputError(
                f"{self.name}: an iterator can be read once, and this reads more than once; pass something that starts anew "
                "each time it is iterated over: a list of chunks, or an object with __iter__"
            )
        self._spent = True
        taken, self._taken = self._taken, []
        return itertools.chain(taken, _handed(self.chunks_given))

    def chunks(self, piece: Piece, scratch: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        lo = 0
        for i, chunk in enumerate(self._all()):
            rows = self.checked(chunk, i)
            yield lo, rows
            lo += len(rows)
        if self.rows is not None and lo != self.rows:
            raise InputError(
                f"{self.name}: {lo} rows in this pass, {self.rows} in the one before; every pass must yield the same"
            )
        self.rows = lo

    def where(self, shard: int, row: int) -> str:
        return f"{self.name}: row {row}"


def _chunk(chunk: Any, name: str) -> Any:
    """The rows of a chunk: of a tuple, a list or a dict, as a DataLoader gives them, the one entry that is a matrix of floats.

    Raises InputError where another entry may be meant as well: more matrices, or lists of arrays, which are columns where a
    DataLoader has put together lists of numbers.
    """
    if not isinstance(chunk, (list, tuple, Mapping)):
        return chunk
    entries = dict(chunk) if isinstance(chunk, Mapping) else dict(enumerate(chunk))
    if not isinstance(chunk, Mapping) and all(isinstance(row, (list, tuple, int, float)) for row in chunk):
        return chunk
    may_be = {key: entry for key, entry in entries.items() if arrays.may_hold_rows(entry)}
    if len(may_be) == 1:
        entry = next(iter(may_be.values()))
        if getattr(entry, "ndim", None) == 2:
            return entry
    kind = type(chunk).__name__
    if all(getattr(entry, "ndim", None) == 1 for entry in entries.values()):
        raise InputError(
            f"{name}: a {kind} of {len(entries)} arrays of one dimension, expected one of (rows, width); stack them"
        )
    key = next(iter(may_be or entries))
    raise InputError(
        f"{name}: a {kind} with {arrays.named(entries)}, expected one array (rows, width); pass the one that is meant, for "
        f"example [batch[{key!r}] for batch in ...]"
    )


_END = object()


def _handed(chunks: Iterable[Any]) -> Iterator[Any]:
    """The chunks, each made under the caller's floating-point state: whoever makes them may be an encoder."""
    with callers_state():
        numbered = iter(chunks)
    while True:
        with callers_state():
            chunk = next(numbered, _END)
        if chunk is _END:
            return
        yield chunk


def _first_rows(chunks: Iterator[Any], taken: list[Any], source: ChunkSource, rows: int) -> np.ndarray:
    """The first `rows` rows of `taken` and the chunks that follow, which `taken` gets as they are pulled."""
    while sum(map(len, taken)) < rows:
        if taken:  # whoever makes the chunks may use the memory of the last one again
            taken[-1] = taken[-1].clone() if ops.is_tensor(taken[-1]) else taken[-1].copy()
        chunk = next(chunks, _END)
        if chunk is _END:
            break
        taken.append(source.checked(chunk, len(taken)))
    return _together([_in_memory(chunk[:rows]) for chunk in taken])[:rows]


def _in_memory(rows: Any) -> np.ndarray:
    return ops.as_rows(rows.cpu() if ops.is_tensor(rows) else rows)


def _together(parts: list[np.ndarray]) -> np.ndarray:
    """One array of all rows."""
    dtype = ops.common_dtype(part.dtype for part in parts)
    return np.concatenate([part.astype(dtype, copy=False) for part in parts])


def open_rows(spec: Any, side: str, column: str | Wanted | None = None, bad_shards: str = "error") -> RowSource:
    """A RowSource from files (path, glob, folder, list of paths), an array, a tensor, or an iterable of chunks.

    side: "source" or "target", for messages and for folders that hold both. Raises InputError for anything else.
    """
    if isinstance(spec, (FileSource, ArraySource, ChunkSource)):
        return spec
    if isinstance(spec, formats.Source):
        return FileSource(spec)
    if isinstance(spec, (str, os.PathLike)) or _is_paths(spec):
        return FileSource(formats.open_source(spec, side=side, column=column, bad_shards=bad_shards))
    if arrays.holds_rows(spec) or isinstance(spec, Mapping):
        return ArraySource(spec, side)
    if isinstance(spec, Iterable):
        return ChunkSource(spec, side)
    raise InputError(
        f"{side}: {type(spec).__name__}, expected a path, a glob, a folder, an array, a tensor or an iterable of chunks"
    )


def check_unchanged(*sources: RowSource) -> None:
    """ChangedError, an InputError, if a file of these was written to or replaced since it was opened."""
    for source in sources:
        if (check := getattr(source, "check_unchanged", None)) is not None:
            check()


def rows_in(nbytes: int, d: int, dtype: np.dtype) -> int:
    """How many rows of width d make up `nbytes`; at least one."""
    return max(1, nbytes // (d * dtype.itemsize))


def _is_paths(spec: Any) -> bool:
    return isinstance(spec, (list, tuple)) and len(spec) > 0 and all(isinstance(p, (str, Path)) for p in spec)
