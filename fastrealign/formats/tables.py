"""Formats with columns (parquet, Arrow, Lance): one column of float lists, every other column carried through.

A format says how its file is opened, read in batches and written (Table, Sink); what it takes to be a shard is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fastrealign.core.errors import InputError, changed
from fastrealign.formats.arrow_columns import (
    candidates_of,
    choose,
    decoding,
    element_type,
    filtered,
    fit,
    is_missing,
    lists,
    matrix,
    plain,
    retyped,
    stored,
    width,
    writing_columns,
)
from fastrealign.formats.base import BFLOAT16, Shard, ShardWriter
from fastrealign.formats.choose_column import Fit, Wanted, telling

if TYPE_CHECKING:
    import pyarrow as pa
    from typing_extensions import Self

    from fastrealign.storage.atomic import AtomicFile, AtomicFolder

# Rows of the other columns in memory at a time: these may be wide (an image a row).
STEP_ROWS = 1024
# Groups of rows (row groups, record batches) end where those of the input do, or at this size: one is held in memory
# until it is written.
GROUP_BYTES = 64 << 20
# Rows that are null whose numbers a shard keeps for messages, about.
_NOTED_NULLS = 1000


class Sink(ABC):
    """A file with columns being written, one group of rows after the other."""

    @abstractmethod
    def write(self, table: pa.Table) -> None:
        """Append a table that has rows as one group."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is left; the file is complete."""

    @abstractmethod
    def abandon(self) -> None:
        """Let go without writing: the file is about to go away."""


class Table(ABC):
    """An open file with columns, to be used as a context manager. Raises InputError for whatever is wrong with it.

    kind     how a message names one
    grouped  whether `batches` reads groups of rows alone
    schema   of all columns
    sizes    how many rows each group (row group, record batch, fragment) has
    """

    kind: ClassVar[str]
    grouped: ClassVar[bool] = False
    path: str | Path
    schema: pa.Schema
    sizes: list[int]

    @abstractmethod
    def __init__(self, path: str | Path) -> None: ...

    @abstractmethod
    def batches(self, rows: int, columns: list[str], groups: list[int] | None = None) -> Iterator[pa.RecordBatch]:
        """The named columns in batches of at most `rows` rows, in order; of these groups alone, where it is `grouped`."""

    def parts(self) -> list[int]:
        """How many rows each part has that can be read by itself."""
        return self.sizes

    @abstractmethod
    def part(self, at: int, column: str) -> pa.Array | pa.ChunkedArray:
        """A column of one of `parts`."""

    @abstractmethod
    def sink(self, file: AtomicFile | AtomicFolder, schema: pa.Schema, column: str | None = None) -> Sink:
        """A writer of the same container, encoded alike. column: the one whose values are new."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class TableShard(Shard):
    """One file; the column given, else embedding, embeddings or emb, else the only float list.

    Rows that are null, or have a null among their values, are rows of NaN here: bad rows.

    blank   the column holds nothing but nulls, or no rows, and is of a type that cannot hold embeddings. It is written back
            as it is. `adopt` says what its rows are to look like.
    """

    table: ClassVar[type[Table]]
    writes: ClassVar[type[TableWriter]]

    def __init__(self, path: str | Path, name: str, column: str | Wanted | None = None) -> None:
        super().__init__(path, name, column)
        self._opened: Table | None = None
        self._nulls: set[int] = set()  # numbers of rows that were seen to be, for messages
        self._latest: tuple[int, pa.Array, np.ndarray] | None = None
        with self.table(self.path) as table, decoding(path, table.kind):
            self.rows = sum(table.sizes)
            groups = [size for size in table.sizes if size] if table.grouped else []
            self.parts = groups if len(groups) > 1 else ()
            try:
                self.column = choose(table.schema, column, self.path, lambda name: self._is_blank(table, name))
                field = plain(table.schema, self.column).field(self.column)
                self.blank = fit(field) < Fit.PERHAPS
            except InputError:
                if self.rows:
                    raise
                self.blank = True
            self.dtype = np.dtype(np.float32) if self.blank else element_type(field.type)
            self.dim = 0 if self.blank else width(field.type)
            if self.rows and not self.dim and not self.blank:
                with telling(candidates_of(table.schema), self.column, column):
                    self.dim = self._first_width(table)

    def _is_blank(self, table: Table, column: str) -> bool:
        return all(is_missing(stored(batch.column(0))).all() for batch in table.batches(STEP_ROWS, [column]))

    def _first_width(self, table: Table) -> int:
        """Of the first row that is there; 0 if all are null."""
        for rows in (1, STEP_ROWS):  # most often the first one is
            at = 0
            for batch in table.batches(rows, [self.column]):
                block, nulls = matrix(batch.column(0), None, at, self.path)
                if block.shape[1]:
                    return block.shape[1]
                if nulls is None or not nulls.all():
                    row = at if nulls is None else at + int(np.argmin(nulls))
                    raise InputError(
                        f"{self.path}: row {row} of column {self.column!r} has no values, expected one embedding a row"
                    )
                at += len(block)
                if rows == 1:
                    break
        return 0

    def adopt(self, dim: int, dtype: np.dtype) -> None:
        """Rows that are all null are as wide, and of the type, as those of other shards."""
        if self.rows and not self.dim:
            self.dim = dim
        if self.blank:
            self.dtype = dtype

    def where(self, row: int) -> str:
        return f"{super().where(row)}{' (null)' if row in self._nulls else ''}"

    def nulls(self, lo: int, count: int) -> tuple[pa.Array, np.ndarray] | None:
        """Of a chunk of `count` rows that was yielded last and began at row `lo`: its column as it is stored, and which rows
        have nulls; None if none has.
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

    def writer(self, out_path: Path, dtype: np.dtype, rows: int | None = None, fsync: bool = True) -> TableWriter:
        return self.writes(out_path, dtype, self, fsync)

    def _table(self) -> Table:
        """The file, opened until `close`; one thread at a time."""
        if self._opened is None:
            self._opened = self.table(self.path)
        return self._opened


class TableWriter(ShardWriter):
    """Writes the shard's columns in their order, the embedding in the same kind of list."""

    def __init__(self, path: Path, dtype: np.dtype, shard: TableShard, fsync: bool = True) -> None:
        no_bfloat16(path, dtype, shard.format)
        self._copy: TableCopy | None = None
        super().__init__(path, dtype, shard.dim, shard.rows, fsync)
        try:
            column = None if shard.blank else shard.column
            self._shard = shard
            self._copy = TableCopy(shard.table(shard.path), self._file, shard.rows, column, self.dtype)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        if self._copy is not None:
            self._copy.abandon()
        super().abort()

    def _append(self, rows: np.ndarray, keep: np.ndarray | None) -> None:
        came = self._shard.nulls(self._copy.row, len(rows)) if keep is None else None
        self._copy.step(len(rows) if keep is None else len(keep), keep, None if self._shard.blank else rows, came)

    def _finish(self) -> None:
        self._copy.finish()


class TableCopy:
    """Copies a table row by row, in step with its caller, who may drop rows and replace one column.

    The column order, the schema with its metadata, the encoding and the groups of rows stay (the largest are split).

    table     the input, which is the copy's to close
    file      what the output is written to
    rows      how many rows the input had when it was checked; InputError if that has changed
    column    the column that `step` is given new values for, or None
    dtype     the element type of that column in the output
    """

    def __init__(
        self,
        table: Table,
        file: AtomicFile | AtomicFolder,
        rows: int,
        column: str | None = None,
        dtype: np.dtype | None = None,
    ) -> None:
        self._table = table
        self._column = column
        try:
            with decoding(table.path, table.kind):
                schema = table.schema
                if sum(table.sizes) != rows:
                    raise changed(table.path)
                if column is not None:
                    if column not in schema.names or fit(schema.field(column)) < Fit.PERHAPS:
                        raise changed(table.path)
                    schema = retyped(schema, column, dtype)
            self._schema = schema
            self._writing = partial(writing_columns, file.path, schema, table.kind)
            self._ends = iter(np.cumsum([size for size in table.sizes if size]).tolist())
            self._end = next(self._ends, 0)
            self._others = [name for name in schema.names if name != column]
            self._rest = InStep(table.batches(STEP_ROWS, self._others) if self._others else iter(()), table.path)
            with self._writing():
                self._sink = table.sink(file, schema, column)
        except BaseException:
            table.close()
            raise
        self._row = 0
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0

    @property
    def row(self) -> int:
        """How many rows of the input have passed."""
        return self._row

    def step(
        self,
        rows: int,
        keep: np.ndarray | None = None,
        values: np.ndarray | None = None,
        came: tuple[pa.Array, np.ndarray] | None = None,
    ) -> None:
        """Pass on the next `rows` rows of the input, those where `keep` is true, with `values` in the column.

        keep: (rows,) boolean or None for all; values: (rows kept, width) of the element type, or None.
        came: where all are kept, the column of these rows as it was read, and which of them pass as they came
        """
        done = used = 0
        while done < rows:
            count = min(rows - done, self._end - self._row, STEP_ROWS)
            mask = None if keep is None else keep[done : done + count]
            kept = count if mask is None else int(np.count_nonzero(mask))
            part = None if values is None else values[used : used + kept]
            self._pend(count, mask, part, came and (came[0][done : done + count], came[1][done : done + count]))
            done, used = done + count, used + kept
            self._row += count
            if self._row == self._end:
                self._flush()
                self._end = next(self._ends, self._end)
            elif self._pending_bytes >= GROUP_BYTES:
                self._flush()

    def finish(self) -> None:
        """Write what is pending, and what ends the file."""
        self._flush()
        self._sink.finish()
        self._table.close()

    def abandon(self) -> None:
        """Let go without writing: the file is about to go away."""
        self._sink.abandon()
        self._pending.clear()
        self._table.close()

    def _pend(
        self,
        rows: int,
        mask: np.ndarray | None,
        values: np.ndarray | None,
        came: tuple[pa.Array, np.ndarray] | None,
    ) -> None:
        import pyarrow as pa

        columns = {}
        if self._others:
            others = self._rest.take(rows).select(self._others)
            if mask is not None:
                others = filtered(others, mask)
            columns = dict(zip(others.schema.names, others.columns, strict=True))
        if self._column is not None:
            columns[self._column] = lists(values, self._schema.field(self._column).type, came)
        table = pa.Table.from_arrays([columns[name] for name in self._schema.names], schema=self._schema)
        self._pending.append(table)
        self._pending_bytes += table.nbytes

    def _flush(self) -> None:
        import pyarrow as pa

        table = pa.concat_tables(self._pending) if self._pending else None
        if table is not None and table.num_rows:
            with self._writing():
                self._sink.write(table)
        self._pending.clear()
        self._pending_bytes = 0


class InStep:
    """A stream of batches of any size, taken so many rows at a time."""

    def __init__(self, batches: Iterator[pa.RecordBatch], path: str | Path) -> None:
        self._batches = batches
        self._path = path
        self._batch: pa.RecordBatch | None = None

    def take(self, rows: int) -> pa.Table:
        """The next `rows` rows, at least one; InputError if the stream ends first: the file was changed."""
        import pyarrow as pa

        parts = []
        while rows:
            if self._batch is None or not self._batch.num_rows:
                self._batch = next(self._batches, None)
                if self._batch is None:
                    raise changed(self._path)
            part = self._batch.slice(0, rows)
            self._batch = self._batch.slice(part.num_rows)
            parts.append(part)
            rows -= part.num_rows
        return pa.Table.from_batches(parts)


def no_bfloat16(path: str | Path, dtype: np.dtype, kind: str) -> None:
    """InputError if that is what a table is to hold."""
    if dtype == BFLOAT16:
        raise InputError(f"{path}: {kind} has no bfloat16; choose float32 or float16, or give the input as .npy")
