"""Files with columns of any format (Table, Sink), and the copy of one with new values in one column (TableCopy)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import numpy as np

from fastrealign.core.errors import changed
from fastrealign.core.libraries import pa
from fastrealign.formats.arrow_columns import filtered, fit, lists, size_of
from fastrealign.formats.arrow_errors import decoding, writing_columns
from fastrealign.formats.arrow_schema import retyped
from fastrealign.formats.choose_column import Fit
from fastrealign.storage.atomic import AtomicFile, AtomicFolder
from fastrealign.storage.paths import AnyPath

if TYPE_CHECKING:
    from typing_extensions import Self

# What a table is written to: a file, or a folder of a library.
Out = TypeVar("Out", AtomicFile, AtomicFolder)
# Rows of the other columns in memory at a time: they may be wide (an image per row).
STEP_ROWS = 1024
# A group of rows (row group, record batch) ends where one of the input does, or at this size: it is in memory until it is
# written.
GROUP_BYTES = 64 << 20


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
        """Release everything without writing: the file is about to be removed."""


class Table(ABC, Generic[Out]):
    """An open file with columns, a context manager. Raises InputError if the file cannot be read.

    kind     its name in messages
    grouped  whether `batches` can read some groups of rows alone
    schema   of all columns
    sizes    number of rows of each group (row group, record batch, fragment)
    """

    kind: ClassVar[str]
    grouped: ClassVar[bool] = False
    path: AnyPath
    schema: pa.Schema
    sizes: list[int]

    @abstractmethod
    def __init__(self, path: AnyPath) -> None: ...

    @abstractmethod
    def batches(self, rows: int, columns: list[str], groups: list[int] | None = None) -> Iterator[pa.RecordBatch]:
        """The named columns in batches of at most `rows` rows, in order; of some groups only, where it is `grouped`."""

    def parts(self) -> list[int]:
        """Number of rows of each part that can be read alone."""
        return self.sizes

    @abstractmethod
    def part(self, at: int, column: str) -> pa.Array | pa.ChunkedArray:
        """A column of one of `parts`."""

    @abstractmethod
    def sink(self, file: Out, schema: pa.Schema, column: str | None = None) -> Sink:
        """A writer of the same container and encoding. column: the one whose values are new."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TableCopy(Generic[Out]):
    """Copies a table in steps; the caller may drop rows and replace one column.

    The order of columns, the schema with its metadata, the encoding and the groups of rows stay (the largest are split).

    table     the input, which the copy closes
    file      the output
    rows      number of rows when the input was checked; InputError if that has changed
    column    the column that `step` gets new values for, or None
    dtype     the element type of that column in the output
    wide      its width there, if that is another
    """

    def __init__(
        self,
        table: Table[Out],
        file: Out,
        rows: int,
        column: str | None = None,
        dtype: np.dtype | None = None,
        wide: int | None = None,
    ) -> None:
        self._table: Table[Out] = table
        self._column = column
        try:
            with decoding(table.path, table.kind):
                schema = table.schema
                if sum(table.sizes) != rows:
                    raise changed(table.path)
                if column is not None and dtype is not None:
                    if column not in schema.names or fit(schema.field(column)) < Fit.PERHAPS:
                        raise changed(table.path)
                    schema = retyped(schema, column, dtype, wide)
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
        self.row = 0  # the next one of the input
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0

    def step(
        self,
        rows: int,
        keep: np.ndarray | None = None,
        values: np.ndarray | None = None,
        came: tuple[pa.Array, np.ndarray] | None = None,
    ) -> None:
        """Copy the next `rows` rows of the input, those where `keep` is true, with `values` in the column.

        keep    (rows,) boolean; None: all
        values  (rows kept, width) of the element type, or None
        came    where all are kept, the column as it was read, and which of its rows are copied unchanged
        """
        done = used = 0
        while done < rows:
            count = min(rows - done, self._end - self.row, STEP_ROWS)
            mask = None if keep is None else keep[done : done + count]
            kept = count if mask is None else int(np.count_nonzero(mask))
            part = None if values is None else values[used : used + kept]
            self._pend(count, mask, part, came and (came[0][done : done + count], came[1][done : done + count]))
            done, used = done + count, used + kept
            self.row += count
            if self.row == self._end:
                self._flush()
                self._end = next(self._ends, self._end)
            elif self._pending_bytes >= GROUP_BYTES:
                self._flush()

    def finish(self) -> None:
        """Write what is pending and complete the file."""
        self._flush()
        self._sink.finish()
        self._table.close()

    def abandon(self) -> None:
        """Release everything without writing: the file is about to be removed."""
        self._sink.abandon()
        self._pending.clear()
        self._table.close()

    def _pend(
        self, rows: int, mask: np.ndarray | None, values: np.ndarray | None, came: tuple[pa.Array, np.ndarray] | None
    ) -> None:
        columns = {}
        if self._others:
            others = self._rest.take(rows).select(self._others)
            if mask is not None:
                others = filtered(others, mask)
            columns = dict(zip(others.schema.names, others.columns, strict=True))
        if self._column is not None and values is not None:
            columns[self._column] = lists(values, self._schema.field(self._column).type, came)
        table = pa.Table.from_arrays([columns[name] for name in self._schema.names], schema=self._schema)
        self._pending.append(table)
        self._pending_bytes += size_of(table)

    def _flush(self) -> None:
        if any(table.num_rows for table in self._pending):
            with self._writing():
                self._sink.write(pa.concat_tables(self._pending))
        self._pending.clear()
        self._pending_bytes = 0


class InStep:
    """A stream of batches of any size, read a given number of rows at a time."""

    def __init__(self, batches: Iterator[pa.RecordBatch], path: AnyPath) -> None:
        self._batches = batches
        self._path = path
        self._batch: pa.RecordBatch | None = None

    def take(self, rows: int) -> pa.Table:
        """The next `rows` rows, at least one; InputError if the stream ends first: the file was changed."""
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
