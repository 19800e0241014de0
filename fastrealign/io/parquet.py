"""Parquet shards: one column of float lists, every other column carried through. Needs pyarrow.

The file is read in batches through a small buffer, never a row group at a time, and the rows of a batch are a view of
Arrow's values.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastrealign.errors import FastRealignError, InputError
from fastrealign.io.base import BFLOAT16, Shard, ShardWriter
from fastrealign.io.files import file_size, one_line, reading
from fastrealign.io.names import choose_name
from fastrealign.io.places import is_url

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# Read from the file at a time; without it Arrow takes in the whole column of a row group, however large.
_BUFFER = 1 << 20
# The same of a file on a server, where every read is a request.
_REMOTE_BUFFER = 4 << 20


class ParquetShard(Shard):
    """One parquet file, the column given, else the one with a usual name, else the only float list."""

    format = "parquet"

    def __init__(self, path: str | Path, name: str, column: str | None = None) -> None:
        super().__init__(path, name, column)
        with open_parquet(path) as file, decoding(path):
            schema = file.schema_arrow
            self.rows = file.metadata.num_rows
            self.column = _choose(schema, column, self.path)
            kind = schema.field(self.column).type
            self.dtype = np.dtype(f"f{kind.value_type.bit_width // 8}")
            self.dim = getattr(kind, "list_size", 0)
            if self.rows and not self.dim:
                first = next(file.iter_batches(batch_size=1, columns=[self.column]))
                self.dim = len(_matrix(first.column(self.column), None, 0, self.path)[0])
        if self.rows and not self.dim:
            raise InputError(f"{path}: row 0 of column {self.column!r} has no values, expected one embedding a row")

    def chunks(self, rows: int) -> Iterator[np.ndarray]:
        with open_parquet(self.path) as file:
            at = 0
            for batch in batches(file, self.path, rows, [self.column]):
                block = _matrix(batch.column(self.column), self.dim, at, self.path)
                at += len(block)
                yield block
            if at != self.rows:
                raise InputError(f"{self.path}: changed during the run: do not write to the input, run again")

    def writer(self, out_path: Path, dtype: np.dtype, rows: int | None = None, fsync: bool = True) -> ParquetWriter:
        return ParquetWriter(out_path, dtype, self, fsync)


class ParquetWriter(ShardWriter):
    """Writes the shard's columns in their order, the embedding in the same kind of list."""

    def __init__(self, path: Path, dtype: np.dtype, shard: ParquetShard, fsync: bool = True) -> None:
        from fastrealign.io.parquet_copy import ParquetCopy

        if dtype == BFLOAT16:
            raise InputError(f"{path}: parquet has no bfloat16; choose float32 or float16, or give the input as .npy")
        self._copy: ParquetCopy | None = None
        super().__init__(path, dtype, shard.dim, shard.rows, fsync)
        try:
            self._copy = ParquetCopy(shard.path, self._file.stream(), shard.rows, shard.column, self.dtype)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        super().abort()
        if self._copy is not None:
            self._copy.abandon()

    def _append(self, rows: np.ndarray, keep: np.ndarray | None) -> None:
        self._copy.step(len(rows) if keep is None else len(keep), keep, rows)

    def _finish(self) -> None:
        self._copy.finish()


def open_parquet(path: str | Path) -> pq.ParquetFile:
    """The opened file, to be used as a context manager; InputError if it is missing, unreadable or not parquet."""
    try:
        import pyarrow.parquet as pq
        from pyarrow.fs import LocalFileSystem
    except ImportError:
        raise InputError(f"{path}: parquet needs pyarrow: pip install 'fastrealign[parquet]'") from None
    file_size(path)
    with decoding(path):
        if is_url(path):
            from fastrealign.io.remote import RemoteStream

            return pq.ParquetFile(RemoteStream(str(path)), pre_buffer=False, buffer_size=_REMOTE_BUFFER)
        # Absolute and on a named file system, so that a name with a colon is not taken for a URL.
        place = os.path.abspath(path)
        return pq.ParquetFile(place, filesystem=LocalFileSystem(), pre_buffer=False, buffer_size=_BUFFER)


@contextmanager
def decoding(path: str | Path, rows_read: int = 0) -> Iterator[None]:
    """Turns what Arrow raises over a damaged or unreadable file into an InputError."""
    with reading(path):
        try:
            yield
        except FastRealignError:
            raise
        except Exception as error:  # damage shows as anything, from Arrow's own errors to text that is not UTF-8
            if isinstance(error, OSError) and error.errno is not None:
                raise
            where = f" from row {rows_read} on" if rows_read else ""
            raise InputError(
                f"{path}: is not a readable parquet file{where} ({one_line(error)}); make it again"
            ) from error


def batches(file: pq.ParquetFile, path: str | Path, rows: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The named columns in batches of at most `rows` rows."""
    if not file.metadata.num_row_groups:  # some versions of Arrow fail to read such a file
        return
    stream = file.iter_batches(batch_size=rows, columns=columns, use_threads=False)
    done = 0
    while True:
        with decoding(path, done):
            batch = next(stream, None)
        if batch is None:
            return
        yield batch
        done += batch.num_rows


def _choose(schema: pa.Schema, column: str | None, path: str) -> str:
    """The name of the embedding column."""
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: has more than one column named {twice[0]!r}; rename one of them")
    column = choose_name(
        path, schema.names, lambda name: is_float_list(schema.field(name).type), column, "column", "lists of floats"
    )
    kind = schema.field(column).type
    if not is_float_list(kind):
        raise InputError(f"{path}: column {column!r} holds {kind}, expected lists of float16, float32 or float64")
    return column


def is_float_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in lists) and pa.types.is_floating(kind.value_type)


def _matrix(column: pa.Array, dim: int | None, first_row: int, path: str) -> np.ndarray:
    """The lists of a batch as an (n, dim) view of their values; InputError for a null or a row of another length."""
    import pyarrow as pa

    if column.null_count:
        row = first_row + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(f"{path}: row {row} is null, expected an embedding; remove the row or fill it")
    if pa.types.is_fixed_size_list(column.type):
        dim = column.type.list_size
    else:
        lengths = np.diff(column.offsets.to_numpy())
        if dim is None:
            dim = int(lengths[0])
        other = np.flatnonzero(lengths != dim)
        if len(other):
            row = int(other[0])
            raise InputError(
                f"{path}: row {first_row + row} has {lengths[row]} values, row 0 has {dim}: all must be of one width"
            )
    values = column.flatten()
    if values.null_count:
        row = first_row + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // dim
        raise InputError(f"{path}: row {row} has a null among its values; remove the row or fill it")
    return values.to_numpy(zero_copy_only=True).reshape(len(column), dim)
