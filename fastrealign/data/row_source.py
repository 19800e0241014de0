"""`RowSource`: rows in pieces, as passes read them. Files and arrays are in sources.py, chunks in chunk_source.py."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, Union

import numpy as np

from fastrealign.core.dtypes import common_dtype
from fastrealign.core.libraries import torch
from fastrealign.core.row_argument import Rows
from fastrealign.core.rows import as_rows
from fastrealign.core.tensors import is_tensor
from fastrealign.data.process_group import ALONE, ProcessGroup
from fastrealign.storage.system import pages

# Bytes that a thread reads, maps and writes at a time. They fit in its share of the last-level cache. A piece costs some 0.1 ms
# in Python, since rows push the interpreter's code and data out of the caches nearer to the core: a fifth of a pass at 2 MiB.
PIECE_BYTES = 4 << 20
# The end of a piece whose number of rows is not known before it is read.
UNKNOWN = sys.maxsize


@dataclass(frozen=True)
class Piece:
    """Rows lo to hi of one shard (or of the whole array); hi may be UNKNOWN.

    `first` is the number of row lo over the whole source, in an order that does not depend on how shards were listed.
    """

    shard: int
    lo: int
    hi: int
    first: int


class RowSource(ABC):
    """Rows of one width, in pieces that can be read again and again.

    rows, nbytes   None: not known before the first pass
    side_by_side   pieces may be read by several threads at once, each with a scratch buffer of its own
    pageable       rows in memory, from which devices copy slowly: where devices compute, threads copy them to their buffers
    scratch_bytes  what that buffer must hold, for any size of pieces
    again          whether it can be read more than once
    ranks          over which the sums of the source are added up
    """

    name: str
    d: int
    rows: int | None = None
    nbytes: int | None = None
    side_by_side: bool = False
    pageable: bool = False
    scratch_bytes: int = 0
    again: bool = True
    ranks: ProcessGroup = ALONE

    @property
    def encoder(self) -> str | None:
        """The name of what made the rows, where that is known."""
        return None

    @property
    def column(self) -> str | None:
        """The name under which files hold the rows, where they have one."""
        return None

    @abstractmethod
    def pieces(self, nbytes: int = PIECE_BYTES) -> Iterator[Piece]:
        """All rows in order, in pieces of at most `nbytes` where the source has random access."""

    def runs(self, nbytes: int = PIECE_BYTES) -> Iterator[Iterator[Piece]]:
        """The same pieces, those that one thread should read one after another together."""
        for piece in self.pieces(nbytes):
            yield iter((piece,))

    @abstractmethod
    def chunks(self, piece: Piece, scratch: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The piece's rows in order, as (row within the shard, (n, d) array valid until the next step).

        Sources whose pieces are not read side by side need no scratch: an empty array.
        """

    @abstractmethod
    def where(self, shard: int, row: int) -> str:
        """How to name a row in a message."""

    @abstractmethod
    def pilot(self, rows: int) -> np.ndarray:
        """About `rows` rows (n, d) from all over the source; its first ones if it can be read only once."""

    def check_unchanged(self) -> None:  # noqa: B027 (most sources have no files)
        """ChangedError, an InputError, if a file of it was written to or replaced since it was opened."""


# Rows (n, d) as public functions take them (`open_rows`): arrays, tensors, paths, or chunks that can be read again.
RowsLike: TypeAlias = Union[RowSource, np.ndarray, "torch.Tensor", str, "os.PathLike[str]", Iterable[Any]]


class PartOf(RowSource):
    """Some pieces of another source, which reads them."""

    def __init__(self, base: RowSource) -> None:
        self._base = base
        self.name, self.d, self.side_by_side = base.name, base.d, base.side_by_side

    @property
    def encoder(self) -> str | None:
        return self._base.encoder

    @property
    def column(self) -> str | None:
        return self._base.column

    def chunks(self, piece: Piece, scratch: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        return self._base.chunks(piece, scratch)

    def where(self, shard: int, row: int) -> str:
        return self._base.where(shard, row)

    def pilot(self, rows: int) -> np.ndarray:
        return self._base.pilot(rows)


def rows_in(nbytes: int, d: int, dtype: np.dtype) -> int:
    """How many rows of width d make up `nbytes`; at least one."""
    return max(1, nbytes // (d * dtype.itemsize))


def paged_rows(rows: int, d: int, dtype: np.dtype) -> np.ndarray:
    """An array (rows, d) of zeros in memory of its own, which the system has back as soon as the array is freed.

    malloc would keep it: what a thread of an earlier pass used, and, once a large array was freed, any array of that size.
    """
    size = rows * d * dtype.itemsize
    return np.frombuffer(pages(size), np.uint8, size).view(dtype).reshape(rows, d)


def in_memory(rows: Rows) -> np.ndarray:
    """An array in memory, of a tensor or an array."""
    return as_rows(rows.cpu() if is_tensor(rows) else rows)


def together(parts: list[np.ndarray]) -> np.ndarray:
    """One array of all rows."""
    dtype = common_dtype(part.dtype for part in parts)
    return np.concatenate([part.astype(dtype, copy=False) for part in parts])
