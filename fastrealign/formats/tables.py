"""Shards with columns (parquet, Arrow, Lance): one column of float lists is read, all others are carried through."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import ClassVar

import numpy as np

from fastrealign.core.dtypes import BFLOAT16
from fastrealign.core.errors import InputError, changed
from fastrealign.core.libraries import pa
from fastrealign.formats.arrow_columns import candidates_of, choose, fit, is_missing, matrix
from fastrealign.formats.arrow_errors import decoding
from fastrealign.formats.arrow_schema import element_type, plain, stored, width
from fastrealign.formats.base import Shard, ShardWriter
from fastrealign.formats.choose_column import Fit, Wanted, with_alternatives
from fastrealign.formats.table_copy import STEP_ROWS, Table, TableCopy
from fastrealign.storage.atomic import AtomicFile, AtomicFolder
from fastrealign.storage.paths import AnyPath, Place

# Numbers of null rows that a shard keeps for messages, roughly.
_NOTED_NULLS = 1000


class TableShard(Shard):
    """One file with columns.

    Rows that are null, or have a null among their values, are rows of NaN: bad rows.

    blank   the column has only nulls, or no rows, and a type that cannot hold embeddings. It is copied unchanged; `adopt` sets
            width and type of its rows.
    """

    table: ClassVar[type[Table]]

    def __init__(self, path: AnyPath, name: str, column: str | Wanted | None = None) -> None:
        super().__init__(path, name, column)
        self._opened: Table | None = None
        self._nulls: set[int] = set()  # row numbers, for messages
        self._latest: tuple[int, pa.Array, np.ndarray] | None = None
        with self.table(self.path) as table, decoding(path, table.kind):
            self.rows = sum(table.sizes)
            groups = [size for size in table.sizes if size] if table.grouped else []
            self.parts = groups if len(groups) > 1 else ()
            try:
                chosen = choose(
                    table.schema,
                    column,
                    self.path,
                    lambda name: self._is_blank(table, name),
                    lambda name: self._first_value(table, name),
                )
                field = plain(table.schema, chosen).field(chosen)
                self.column, self.blank = chosen, fit(field) < Fit.PERHAPS
            except InputError:
                if self.rows:
                    raise
                self.blank = True
            self.dtype = np.dtype(np.float32) if self.blank else element_type(field.type)
            self.dim = 0 if self.blank else width(field.type)
            if self.rows and not self.dim and not self.blank:
                with with_alternatives(candidates_of(table.schema), chosen, column):
                    self.dim = self._first_width(table, chosen)

    def _is_blank(self, table: Table, column: str) -> bool:
        return all(is_missing(stored(batch.column(0))).all() for batch in table.batches(STEP_ROWS, [column]))

    def _first_value(self, table: Table, column: str) -> object:
        """Of the first row that is not null; None if all are."""
        for batch in table.batches(STEP_ROWS, [column]):
            there = batch.column(0).drop_null()
            if len(there):
                return there[0].as_py()
        return None

    def _first_width(self, table: Table, column: str) -> int:
        """Of the first row that is not null; 0 if all are."""
        for rows in (1, STEP_ROWS):  # most often the first one is
            at = 0
            for batch in table.batches(rows, [column]):
                block, nulls = matrix(batch.column(0), None, at, self.path)
                if block.shape[1]:
                    return block.shape[1]
                if nulls is None or not nulls.all():
                    row = at if nulls is None else at + int(np.argmin(nulls))
                    raise InputError(
                        f"{self.path}: row {row} of column {column!r} has no values, expected one embedding a row"
                    )
                at += len(block)
                if rows == 1:
                    break
        return 0

    def adopt(self, dim: int, dtype: np.dtype) -> None:
        """Rows that are all null take width and type of those of other shards."""
        if self.rows and not self.dim:
            self.dim = dim
        if self.blank:
            self.dtype = dtype

    def where(self, row: int) -> str:
        return f"{super().where(row)}{' (null)' if row in self._nulls else ''}"

    def nulls(self, lo: int, count: int) -> tuple[pa.Array, np.ndarray] | None:
        """For the chunk yielded last, if that is the one of `count` rows from `lo` on: the stored column, and which of its
        rows have nulls; None if no row has.
        """
        if self._latest is None or self._latest[0] != lo or len(self._latest[1]) != count:
            return None
        return self._latest[1:]

    def chunks(self, rows: int) -> Iterator[np.ndarray]:
        if self.column is None:
            return
        with self.table(self.path) as table:
            yield from self._blocks(table.batches(rows, [self.column]), 0, self.rows)

    def part(self, lo: int, hi: int, rows: int) -> Iterator[np.ndarray]:
        if self.column is None:
            return
        with self.table(self.path) as table:
            starts = [0, *accumulate(table.sizes)]
            groups = [i for i, size in enumerate(table.sizes) if size and lo <= starts[i] < hi]
            yield from self._blocks(table.batches(rows, [self.column], groups), lo, hi)

    def _blocks(self, batches: Iterator[pa.RecordBatch], lo: int, hi: int) -> Iterator[np.ndarray]:
        at = lo
        for batch in batches:
            column = batch.column(self.column)
            block, nulls = self._matrix(column, at)
            self._latest = None if nulls is None else (at, stored(column), nulls)
            at += len(block)
            yield block
        self._latest = None
        if at != hi:
            raise changed(self.path)

    def _matrix(self, column: pa.Array, first: int) -> tuple[np.ndarray, np.ndarray | None]:
        block, nulls = matrix(column, self.dim, first, self.path)
        if nulls is not None and len(self._nulls) < _NOTED_NULLS:
            self._nulls.update((first + np.flatnonzero(nulls)[:_NOTED_NULLS]).tolist())
        return block.astype(self.dtype, copy=False), nulls

    def groups(self) -> list[int]:
        parts = self._table().parts()
        if sum(parts) != self.rows:
            raise changed(self.path)
        return parts

    def group(self, at: int) -> np.ndarray:
        if self.column is None:
            return super().group(at)
        table = self._table()
        first = sum(table.parts()[:at])
        with decoding(self.path, table.kind, first):
            values = table.part(at, self.column)
            values.validate(full=True)
        chunks = getattr(values, "chunks", [values])
        blocks = [np.empty((0, self.dim), self.dtype)]
        for chunk in chunks:
            blocks.append(self._matrix(chunk, first)[0])
            first += len(chunk)
        return blocks[1] if len(blocks) == 2 else np.concatenate(blocks)

    def close(self) -> None:
        table, self._opened = self._opened, None
        if table is not None:
            table.close()

    def writer(self, out_path: Place, dtype: np.dtype, rows: int | None = None, fsync: bool = True) -> TableWriter:
        return TableWriter(out_path, dtype, self, fsync)

    def _table(self) -> Table:
        """The file, open until `close`; one thread at a time."""
        if self._opened is None:
            self._opened = self.table(self.path)
        return self._opened


class TableWriter(ShardWriter):
    """Writes the shard's columns in their order, the embedding in the same kind of list."""

    def __init__(self, path: Place, dtype: np.dtype, shard: TableShard, fsync: bool = True) -> None:
        no_bfloat16(path, dtype, shard.format)
        self.container = AtomicFolder if shard.folder else AtomicFile
        super().__init__(path, dtype, shard.out_dim, shard.rows, fsync)
        self._shard = shard
        try:
            column = None if shard.blank else shard.column
            wide = None if self.dim == shard.dim else self.dim
            self._copy = TableCopy(shard.table(shard.path), self._file, shard.rows, column, self.dtype, wide)
        except BaseException:
            super().abort()
            raise

    def abort(self) -> None:
        self._copy.abandon()
        super().abort()

    def _append(self, rows: np.ndarray, keep: np.ndarray | None) -> None:
        came = self._shard.nulls(self._copy.row, len(rows)) if keep is None else None
        self._copy.step(len(rows) if keep is None else len(keep), keep, None if self._shard.blank else rows, came)

    def _finish(self) -> None:
        self._copy.finish()


def no_bfloat16(path: AnyPath, dtype: np.dtype, kind: str) -> None:
    """InputError if a table is to hold bfloat16."""
    if dtype == BFLOAT16:
        raise InputError(f"{path}: {kind} has no bfloat16; choose float32 or float16, or give the input as .npy")
