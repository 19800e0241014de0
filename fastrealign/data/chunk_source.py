"""Rows from an iterable of arrays (chunks), which may be readable only once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fastrealign.core import arrays
from fastrealign.core.errors import InputError
from fastrealign.core.float_state import callers_state
from fastrealign.core.formatting import count
from fastrealign.core.row_argument import named
from fastrealign.core.rows import rows_anywhere
from fastrealign.core.tensors import is_tensor
from fastrealign.data.row_source import PIECE_BYTES, UNKNOWN, Piece, RowSource, in_memory, together


class ChunkSource(RowSource):
    """An iterable of (n, d) chunks: arrays, or the batches of a DataLoader (`_chunk`).

    again   whether each iteration starts at the first chunk. An iterator does not: it is read once, and that pass begins
            with the chunks that the pilot took
    """

    def __init__(self, chunks: Iterable[Any], name: str) -> None:
        self.again = not isinstance(chunks, Iterator)
        self.chunks_given = chunks
        self._taken: list[Any] = []
        self._spent = False
        self.name = name
        first = next(_handed(chunks), _END)
        if first is _END:
            used = "" if self.again else "; an iterator that was read before is empty: pass a new one"
            raise InputError(f"{name}: yields no chunks, expected (rows, width) arrays{used}")
        first = rows_anywhere(_chunk(first, f"{name}, chunk 0"), f"{name}, chunk 0")
        self.d = first.shape[1]
        if not self.again:
            self._taken.append(first)

    def pieces(self, nbytes: int = PIECE_BYTES) -> Iterator[Piece]:
        yield Piece(0, 0, UNKNOWN, 0)

    def pilot(self, rows: int) -> np.ndarray:
        return _first_rows(_handed(self.chunks_given), [] if self.again else self._taken, self, rows)

    def checked(self, chunk: object, number: int) -> Any:
        """The chunk as rows of the right width."""
        name = f"{self.name}, chunk {number}"
        rows = rows_anywhere(_chunk(chunk, name), name)
        if rows.shape[1] != self.d:
            raise InputError(f"{name}: rows are {rows.shape[1]} wide, those before {self.d}")
        return rows

    def _all(self) -> Iterator[Any]:
        if self.again:
            return _handed(self.chunks_given)
        if self._spent:
            raise InputError(
                f"{self.name}: an iterator can be read once, and this reads more than once; pass a list of chunks, or an "
                "object whose __iter__ starts at the first chunk"
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
                f"{self.name}: {lo} rows in this pass, {self.rows} in the one before; every pass must yield the same rows"
            )
        self.rows = lo

    def where(self, shard: int, row: int) -> str:
        return f"{self.name}: row {row}"


def _chunk(chunk: Any, name: str) -> Any:
    """The rows of a chunk. A tuple, list or dict, as a DataLoader yields it, must have exactly one float matrix.

    Raises InputError where that is ambiguous: several matrices, or a list of arrays, which are columns if the DataLoader
    collated lists of numbers.
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
            f"{name}: a {kind} of {count(len(entries), 'array')} of one dimension, expected one of (rows, width); stack them"
        )
    key = next(iter(may_be or entries))
    raise InputError(
        f"{name}: a {kind} with {named(entries)}, expected one array (rows, width); pass the right one, for "
        f"example [batch[{key!r}] for batch in ...]"
    )


_END = object()


def _handed(chunks: Iterable[Any]) -> Iterator[Any]:
    """The chunks, each produced under the caller's floating-point state: the producer may be an encoder."""
    with callers_state():
        numbered = iter(chunks)
    while True:
        with callers_state():
            chunk = next(numbered, _END)
        if chunk is _END:
            return
        yield chunk


def _first_rows(chunks: Iterator[Any], taken: list[Any], source: ChunkSource, rows: int) -> np.ndarray:
    """The first `rows` rows of `taken` and the chunks that follow; chunks that are read are added to `taken`."""
    while sum(map(len, taken)) < rows:
        if taken:  # the producer may reuse the memory of its last chunk
            taken[-1] = taken[-1].clone() if is_tensor(taken[-1]) else taken[-1].copy()
        chunk = next(chunks, _END)
        if chunk is _END:
            break
        taken.append(source.checked(chunk, len(taken)))
    return together([in_memory(chunk[:rows]) for chunk in taken])[:rows]
