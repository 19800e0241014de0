"""Sources of rows: files, an array or tensor, or an iterable of chunks (chunk_source.py); `open_rows` makes them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from fastrealign import formats
from fastrealign.core.arrays import holds_rows
from fastrealign.core.dtypes import common_dtype
from fastrealign.core.errors import BadShardError, ChangedError, InputError
from fastrealign.core.rows import taken_rows
from fastrealign.data.chunk_source import ChunkSource
from fastrealign.data.options import NoiseOptions
from fastrealign.data.row_source import PIECE_BYTES, Piece, RowSource, in_memory, paged_rows, rows_in
from fastrealign.formats.choose_column import Wanted
from fastrealign.formats.manifest import JobSpec, spec_of
from fastrealign.formats.table_objects import take
from fastrealign.formats.tables import TableShard
from fastrealign.storage.paths import is_path, named_paths

# Pieces of an array: large enough for all threads to have work, small enough to show progress and to be interrupted.
_ARRAY_PIECE_BYTES = 64 << 20
# Shards that a pilot is taken from, at most.
PILOT_SHARDS = 16


class FileSource(RowSource):
    """Shards on disk. first: the number of their first row, where they are part of a larger source."""

    rows: int
    nbytes: int
    side_by_side = True

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
        return self._made_by.options.get("encoder") if self._made_by and self._made_by.kind == "embed" else None

    @property
    def noise(self) -> NoiseOptions:
        """The noise that `align` or `apply` added to the rows, where a manifest says so."""
        options = self._made_by.options if self._made_by and self._made_by.kind != "embed" else {}
        return NoiseOptions(options.get("noise", 0.0), options.get("seed", 0))

    @property
    def mapped_by(self) -> tuple[str, str] | None:
        """The command ("align" or "apply") and the method that wrote these rows, where a manifest says so."""
        made = self._made_by
        return (made.kind, made.options.get("method", "realign")) if made and made.kind != "embed" else None

    @cached_property
    def _made_by(self) -> JobSpec | None:
        return spec_of([shard.path for shard in self.files.shards])

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
        """Turn an error in reading into a BadShardError for this shard, or a ChangedError if the file was replaced."""
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
        """Leave a shard out of further passes."""
        self.left_out.add(shard)
        left = [one for i, one in enumerate(self.files.shards) if i not in self.left_out]
        self.rows = sum(one.rows for one in left)
        self.nbytes = sum(one.nbytes for one in left)

    def where(self, shard: int, row: int) -> str:
        return self.files.shards[shard].where(row)

    def pilot(self, rows: int) -> np.ndarray:
        numbered = enumerate(self.files.shards)
        chosen = sorted((shard.name, i) for i, shard in numbered if shard.rows and i not in self.left_out)
        chosen = chosen[:: max(1, -(-len(chosen) // PILOT_SHARDS))]
        shards = [(i, self.files.shards[i]) for _, i in chosen]
        most = -(-rows // max(1, len(shards)))
        drawn, at = paged_rows(most * len(shards), self.d, common_dtype(shard.dtype for _, shard in shards)), 0
        for i, shard in shards:
            wanted = min(shard.rows, most)
            with self.naming(i):
                if shard.random_access:
                    lo, memory = (shard.rows - wanted) // 2, np.empty(wanted * self.d * shard.dtype.itemsize, np.uint8)
                    part = shard.read(lo, lo + wanted, memory)
                else:
                    part = next(shard.chunks(wanted))
                drawn[at : at + len(part)] = part
                at += len(part)
            shard.close()
        return drawn[:at]


def _firsts(shards: list[formats.Shard], first: int) -> list[int]:
    """The number of each shard's first row, numbered from `first` on in the order of their names."""
    by_name = sorted(range(len(shards)), key=lambda i: shards[i].name)
    firsts = [first] * len(shards)
    for before, i in itertools.pairwise(by_name):
        firsts[i] = firsts[before] + shards[before].rows
    return firsts


class ArraySource(RowSource):
    """One array or tensor, in memory (or a memory map) or on a device. The kernel's own threads share each piece."""

    rows: int
    nbytes: int

    def __init__(self, x: object, name: str) -> None:
        taken = take(x, name)
        self.array, self._nulls = taken_rows(taken.rows, name, x), taken.nulls
        self.name = name
        self.rows, self.d = self.array.shape
        self.nbytes = self.array.nbytes
        self.pageable = isinstance(self.array, np.ndarray)

    def pieces(self, nbytes: int = _ARRAY_PIECE_BYTES) -> Iterator[Piece]:
        step = rows_in(nbytes, self.d, self.array.dtype)
        for lo in range(0, self.rows, step):
            yield Piece(0, lo, min(lo + step, self.rows), lo)

    def chunks(self, piece: Piece, scratch: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        rows = self.array[piece.lo : piece.hi]
        if len(scratch):
            copied = scratch[: rows.nbytes].view(rows.dtype).reshape(rows.shape)
            copied[:] = rows
            rows = copied
        yield piece.lo, rows

    def where(self, shard: int, row: int) -> str:
        missing = " (which is missing)" if self._nulls is not None and self._nulls[row] else ""
        return f"{self.name}: row {row}{missing}"

    def pilot(self, rows: int) -> np.ndarray:
        return in_memory(self.array[:: max(1, -(-self.rows // rows))])


def open_rows(spec: Any, side: str, column: str | Wanted | None = None, bad_shards: str = "error") -> RowSource:
    """A RowSource from files (path, glob, folder, list of paths), an array, a tensor, or an iterable of chunks.

    side: "source" or "target", for messages and for folders that hold both. Raises InputError for anything else.
    """
    if isinstance(spec, RowSource):
        return spec
    if isinstance(spec, formats.Source):
        return FileSource(spec)
    if names_files(spec):
        return FileSource(formats.open_source(spec, side=side, column=column, bad_shards=bad_shards))
    if holds_rows(spec) or isinstance(spec, Mapping):
        return ArraySource(spec, side)
    if isinstance(spec, Iterable) and not isinstance(spec, bytes):
        return ChunkSource(spec, side)
    raise InputError(
        f"{side}: {type(spec).__name__}, expected a path, a glob, a folder, an array, a tensor or an iterable of chunks"
    )


def names_files(spec: Any) -> bool:
    """Whether it is a path or paths, rather than rows."""
    named = named_paths(spec)
    return bool(named) and (is_path(spec) or len(named) == len(spec))
