"""Copies a parquet file row by row, in step with its caller, who may drop rows and replace one column."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastrealign.errors import InputError
from fastrealign.io.parquet import batches, decoding, is_float_list, open_parquet

# Rows of the other columns in memory at a time: these may be wide (an image a row).
_STEP_ROWS = 1024
# Row groups end where those of the input do, or at this size: one is held in memory until it is written.
GROUP_BYTES = 64 << 20


class ParquetCopy:
    """Keeps the column order, the schema with its metadata, codecs and row groups (the largest are split).

    path      the input
    sink      a binary file object for the output
    rows      how many rows the input had when it was checked; InputError if that has changed
    column    the column that `step` is given new values for, or None
    dtype     the element type of that column in the output
    """

    def __init__(
        self,
        path: str | Path,
        sink: io.RawIOBase,
        rows: int,
        column: str | None = None,
        dtype: np.dtype | None = None,
    ) -> None:
        self._path = path
        self._column = column
        self._file = open_parquet(path)
        with decoding(path):
            schema = self._file.schema_arrow
            metadata = self._file.metadata
            groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            at = schema.get_field_index(column) if column is not None else 0
            if sum(groups) != rows or at < 0 or (column is not None and not is_float_list(schema.field(at).type)):
                raise self._changed()
            if column is not None:
                field = schema.field(at)
                schema = schema.set(at, field.with_type(_retyped(field.type, pa.from_numpy_dtype(dtype))))
            self._schema = schema
            self._ends = iter(np.cumsum([size for size in groups if size]).tolist())
            self._end = next(self._ends, 0)
            self._others = [name for name in schema.names if name != column]
            self._stream: Iterator[pa.RecordBatch] = iter(())
            if self._others:
                self._stream = batches(self._file, path, _STEP_ROWS, self._others)
            self._batch: pa.RecordBatch | None = None
            self._writer = pq.ParquetWriter(sink, schema, **_encoding(metadata, schema, column))
        self._row = 0
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0

    def step(self, rows: int, keep: np.ndarray | None = None, values: np.ndarray | None = None) -> None:
        """Pass on the next `rows` rows of the input, those where `keep` is true, with `values` in the column.

        keep: (rows,) boolean or None for all; values: (rows kept, width) of the element type, or None.
        """
        done = used = 0
        while done < rows:
            count = min(rows - done, self._end - self._row, _STEP_ROWS)
            mask = None if keep is None else keep[done : done + count]
            kept = count if mask is None else int(np.count_nonzero(mask))
            self._pend(count, mask, None if values is None else values[used : used + kept])
            done, used = done + count, used + kept
            self._row += count
            if self._row == self._end:
                self._flush()
                self._end = next(self._ends, self._end)
            elif self._pending_bytes >= GROUP_BYTES:
                self._flush()

    def finish(self) -> None:
        """Write what is pending and the footer."""
        self._flush()
        self._writer.close()
        self._file.close(force=True)

    def abandon(self) -> None:
        """Let go without writing: the sink is about to go away."""
        self._writer.is_open = False
        self._pending.clear()
        self._file.close(force=True)

    def _pend(self, rows: int, mask: np.ndarray | None, values: np.ndarray | None) -> None:
        columns = {}
        if self._others:
            others = self._take(rows)
            if mask is not None:
                others = others.filter(pa.array(mask))
            columns = dict(zip(others.schema.names, others.columns, strict=True))
        if self._column is not None:
            columns[self._column] = _lists(values, self._schema.field(self._column).type)
        table = pa.Table.from_arrays([columns[name] for name in self._schema.names], schema=self._schema)
        self._pending.append(table)
        self._pending_bytes += table.nbytes

    def _take(self, rows: int) -> pa.Table:
        parts = []
        while rows:
            if self._batch is None or not self._batch.num_rows:
                self._batch = next(self._stream, None)
                if self._batch is None:
                    raise self._changed()
            part = self._batch.slice(0, rows)
            self._batch = self._batch.slice(part.num_rows)
            parts.append(part)
            rows -= part.num_rows
        return pa.Table.from_batches(parts).select(self._others)

    def _flush(self) -> None:
        table = pa.concat_tables(self._pending) if self._pending else None
        if table is not None and table.num_rows:
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._pending.clear()
        self._pending_bytes = 0

    def _changed(self) -> InputError:
        return InputError(f"{self._path}: changed during the run: do not write to the input, run again")


def _retyped(kind: pa.DataType, value_type: pa.DataType) -> pa.DataType:
    """The same kind of list with other values."""
    values = kind.value_field.with_type(value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(values, kind.list_size)
    return pa.large_list(values) if pa.types.is_large_list(kind) else pa.list_(values)


def _lists(rows: np.ndarray, kind: pa.DataType) -> pa.Array:
    """The rows of a matrix as an Arrow array of lists, in memory of its own."""
    values = pa.array(np.array(rows).reshape(-1), type=kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    count, dim = rows.shape
    if pa.types.is_large_list(kind):
        return pa.LargeListArray.from_arrays(pa.array(np.arange(count + 1) * dim, pa.int64()), values, type=kind)
    return pa.ListArray.from_arrays(pa.array(np.arange(count + 1) * dim, pa.int32()), values, type=kind)


def _encoding(metadata: pq.FileMetaData, schema: pa.Schema, column: str | None) -> dict:
    """Options of ParquetWriter that give every column the codec it had, and a dictionary where it had one."""
    if not metadata.num_row_groups:
        return {}
    # The name of a leaf may differ from the input's (list.item, list.element); its position does not.
    empty = io.BytesIO()
    pq.write_table(schema.empty_table(), empty)
    leaves = pq.ParquetFile(empty).schema
    group = metadata.row_group(0)
    codecs, dictionaries = {}, []
    for i in range(group.num_columns):
        chunk, path = group.column(i), leaves.column(i).path
        codecs[path] = chunk.compression if chunk.compression != "UNCOMPRESSED" else "NONE"
        if chunk.has_dictionary_page and path.split(".")[0] != column:
            dictionaries.append(path)
    return {"compression": codecs, "use_dictionary": dictionaries}
