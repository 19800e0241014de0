"""The columns that belong to the rows of a shard beside their embeddings, and the writers of a conversion."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

import numpy as np

from fastrealign import formats
from fastrealign.core.errors import InputError, shortage
from fastrealign.core.libraries import pa
from fastrealign.core.optional import optional
from fastrealign.core.text import one_line
from fastrealign.formats.arrow import ArrowSink
from fastrealign.formats.arrow_columns import filtered, lists
from fastrealign.formats.arrow_errors import writing_columns
from fastrealign.formats.arrow_schema import retyped
from fastrealign.formats.lance import FILE_ROWS, LanceSink
from fastrealign.formats.npy import NpyWriter
from fastrealign.formats.parquet import ParquetSink, ParquetTable
from fastrealign.formats.table_copy import GROUP_BYTES, STEP_ROWS, InStep, Sink
from fastrealign.formats.tables import TableShard
from fastrealign.storage.atomic import AtomicFile, AtomicFolder
from fastrealign.storage.paths import AnyPath, Place

_COLUMN = "embedding"


class RowColumns:
    """The columns that belong to the rows of a shard: its other columns, other values of its items, its metadata."""

    def __init__(self, shard: formats.Shard, stack: ExitStack) -> None:
        self._parts: list[tuple[pa.Schema, InStep]] = []
        if isinstance(shard, TableShard):
            table = stack.enter_context(shard.table(shard.path))
            schema = table.schema
            if shard.column is not None:
                schema = schema.remove(schema.get_field_index(shard.column))
            self._add(schema, table.batches, shard.path)
        values, others = shard.of_rows()
        self.left_out = [f"{shard.name}: {name}" for name in others]
        if values:
            own = _table(values, shard.path)
            self._add(own.schema, lambda rows, _: iter(own.to_batches(rows)), shard.path)
        if shard.metadata is not None:
            table = stack.enter_context(ParquetTable(shard.metadata))
            self._add(table.schema, table.batches, shard.metadata)
        self.names = [name for schema, _ in self._parts for name in schema.names]
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{shard.path}: has the column {twice!r}, and so has {shard.metadata}; rename one of them")

    def _add(self, schema: pa.Schema, batches: Callable, path: AnyPath) -> None:
        if schema.names:
            self._parts.append((schema, InStep(batches(STEP_ROWS, schema.names), path)))

    def schema(self) -> pa.Schema:
        return pa.schema([field for schema, _ in self._parts for field in schema])

    def schema_with(self, shard: formats.Shard, dim: int, dtype: np.dtype) -> tuple[pa.Schema, str | None]:
        """The schema of a table that holds the embeddings too, and the name of their column, if there is one."""
        _check_pyarrow(shard.path)
        schema = self.schema()
        if isinstance(shard, TableShard):  # where it was, as the list it was
            with shard.table(shard.path) as table:
                if shard.column is None:
                    return table.schema, None
                whole = table.schema
                if shard.blank:
                    lists_of = pa.field(shard.column, pa.list_(pa.from_numpy_dtype(dtype)))
                    whole = whole.set(whole.get_field_index(shard.column), lists_of)
                whole = retyped(whole, shard.column, dtype)
            others = [field for field in schema if field.name not in whole.names]
            return pa.schema([*whole, *others], metadata=whole.metadata), shard.column
        if _COLUMN in schema.names:
            raise InputError(
                f"{shard.path}: holds {_COLUMN!r} beside the embeddings, which are written under that name; rename it"
            )
        return schema.append(pa.field(_COLUMN, pa.list_(pa.from_numpy_dtype(dtype), dim))), _COLUMN

    def take(self, rows: int) -> dict[str, pa.ChunkedArray]:
        """The columns of the next rows."""
        taken = [step.take(rows) for _, step in self._parts]
        return {name: table.column(name) for table in taken for name in table.column_names}


class Output(Protocol):
    """A file being written; `path` is its final name."""

    path: Place

    def write(self, rows: np.ndarray, beside: dict[str, pa.ChunkedArray]) -> None: ...

    def commit(self) -> None: ...


class NpyOutput:
    """A .npy file; the columns go to a separate file."""

    def __init__(self, path: Place, dtype: np.dtype, dim: int, stack: ExitStack, fsync: bool) -> None:
        self.path = path
        self._writer = stack.enter_context(NpyWriter(path, dtype, dim, None, fsync))

    def write(self, rows: np.ndarray, beside: dict[str, pa.ChunkedArray]) -> None:
        self._writer.write(rows)

    def commit(self) -> None:
        self._writer.commit()


class TableOutput:
    """A table being written, with the embeddings in `column` if there is one. A parquet row group is held in memory."""

    def __init__(
        self, path: Place, to: str, schema: pa.Schema, column: str | None, stack: ExitStack, fsync: bool
    ) -> None:
        self.path = path
        self._file: AtomicFile | AtomicFolder
        self._schema = schema
        self._column = column
        self._writing = partial(writing_columns, path, schema, to)
        if to == "lance":
            self._file = folder = AtomicFolder(path, fsync)
            open_sink: Callable[[], Sink] = partial(LanceSink, folder, schema, FILE_ROWS)
        else:
            self._file = file = AtomicFile(path, fsync)
            open_sink = partial(ParquetSink if to == "parquet" else ArrowSink, file, schema)
        stack.callback(self._file.abort)
        with self._writing():
            self._sink = open_sink()
        stack.callback(self._sink.abandon)
        self._group = GROUP_BYTES if to == "parquet" else 0
        self._pending: list[pa.Table] = []

    def write(self, rows: np.ndarray, beside: dict[str, pa.ChunkedArray]) -> None:
        columns = dict(beside)
        if self._column is not None:
            columns[self._column] = lists(rows, self._schema.field(self._column).type)
        self._pending.append(pa.table([columns[name] for name in self._schema.names], schema=self._schema))
        if sum(table.nbytes for table in self._pending) >= self._group:
            self._flush()

    def commit(self) -> None:
        self._flush()
        with self._writing():
            self._sink.finish()
        self._file.commit()

    def _flush(self) -> None:
        if self._pending:
            with self._writing():
                self._sink.write(pa.concat_tables(self._pending))
            self._pending.clear()


def kept(column: pa.ChunkedArray, mask: np.ndarray) -> pa.ChunkedArray:
    """The values where the mask is true."""
    return filtered(pa.table({"": column}), mask).column(0)


def _table(values: dict[Any, Any], path: AnyPath) -> pa.Table:
    """Values by name as columns."""
    _check_pyarrow(path)
    columns = {}
    for name, of_rows in values.items():
        if not isinstance(name, str):
            raise InputError(f"{path}: {name!r} is no name of a column; pickle items whose keys are text")
        try:
            columns[name] = pa.array(of_rows)
        except Exception as error:  # Arrow's own errors, OverflowError, UnicodeEncodeError, ...
            if shortage(error) is not None:
                raise
            raise InputError(
                f"{path}: the values of {name!r} do not make a column ({one_line(error)}); give them one type or drop them"
            ) from error
    return pa.table(columns)


def _check_pyarrow(path: AnyPath) -> None:
    optional("pyarrow", "parquet", f"{path}: a table")
