"""One rank's part of a source; sums are taken over all ranks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastrealign.data.process_group import ProcessGroup
from fastrealign.data.row_source import PIECE_BYTES, PartOf, Piece, RowSource
from fastrealign.data.sources import FileSource

# Row numbers reserved for each rank, where ranks bring different rows.
_OWN_ROWS = 1 << 48


class Shared(PartOf):
    """This rank's part of a source; sums are added up over all ranks.

    Files, which all ranks name alike, are divided into contiguous parts of about equal size. An array or chunks are rows of
    this rank alone.
    """

    def __init__(self, base: RowSource, ranks: ProcessGroup) -> None:
        super().__init__(base)
        self.ranks, self.again = ranks, base.again
        self._divided = base.rows if isinstance(base, FileSource) else None  # rows of the files that are divided
        parts = 1 if self._divided is None else ranks.size
        self.rows = base.rows if base.rows is None else base.rows // parts
        self.nbytes = base.nbytes if base.nbytes is None else base.nbytes // parts

    def pieces(self, nbytes: int = PIECE_BYTES) -> Iterator[Piece]:
        if self._divided is None:
            for piece in self._base.pieces(nbytes):
                yield Piece(piece.shard, piece.lo, piece.hi, piece.first + self.ranks.rank * _OWN_ROWS)
            return
        at = 0
        for piece in self._base.pieces(nbytes):
            if owner(at, self._divided, self.ranks.size) == self.ranks.rank:
                yield piece
            at += piece.hi - piece.lo

    def check_unchanged(self) -> None:
        self._base.check_unchanged()

    def pilot(self, rows: int) -> np.ndarray:
        if self._divided is not None:
            return self._base.pilot(rows)
        return np.concatenate(self.ranks.all_gather(self._base.pilot(-(-rows // self.ranks.size))))


def shared(source: RowSource, ranks: ProcessGroup) -> RowSource:
    return source if ranks.size == 1 else Shared(source, ranks)


def owner(at: int, rows: int, size: int) -> int:
    """The rank that processes a piece which begins at row `at` of `rows`."""
    return min(size - 1, at * size // max(1, rows))
