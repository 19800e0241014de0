"""Parquet shards. Needs pyarrow.

The file is read in batches through a small buffer, not by row groups, and the rows of a batch are a view of Arrow's values.
Written back with the same codecs, dictionaries and row groups.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.core.libraries import fs, pa, pq
from fastrealign.core.optional import optional
from fastrealign.core.text import one_line
from fastrealign.formats.arrow_errors import decoded, decoding
from fastrealign.formats.table_copy import Sink, Table
from fastrealign.formats.tables import TableShard
from fastrealign.storage.atomic import AtomicFile
from fastrealign.storage.files import file_size
from fastrealign.storage.paths import AnyPath, place
from fastrealign.storage.remote_file import RemoteStream

# Without a buffer Arrow reads the whole column of a row group, however large.
_BUFFER = 1 << 20
# The same of a file on a server, where every read is a request.
_REMOTE_BUFFER = 4 << 20
_PROBED_ROWS = 1024


class ParquetTable(Table[AtomicFile]):
    """One parquet file."""

    kind = "parquet file"
    grouped = True

    def __init__(self, path: AnyPath) -> None:
        optional("pyarrow.parquet", "parquet", f"{path}: parquet")
        self.path = path
        file_size(path)
        with decoding(path, self.kind):
            # Checksums are verified where a page has one.
            how: dict[str, Any] = {"pre_buffer": False, "page_checksum_verification": True}
            if isinstance(at := place(path), Path):
                # Absolute and on a named file system, so that a name with a colon is not taken for a URL.
                how |= {"buffer_size": _BUFFER, "filesystem": fs.LocalFileSystem()}
                self._file = pq.ParquetFile(os.path.abspath(at), **how)
            else:
                self._file = pq.ParquetFile(RemoteStream(str(at)), buffer_size=_REMOTE_BUFFER, **how)
            try:
                self.schema = self._file.schema_arrow
                self._metadata = self._file.metadata
                groups = range(self._metadata.num_row_groups)
                self.sizes = [self._metadata.row_group(i).num_rows for i in groups]
            except BaseException:
                self.close()
                raise

    def batches(self, rows: int, columns: list[str], groups: list[int] | None = None) -> Iterator[pa.RecordBatch]:
        if not self.sizes:  # some versions of Arrow fail to read such a file
            return
        parts: list[list[int] | None] = [groups]
        if any(_dictionary_within(self.schema.field(name).type) for name in columns):
            # Arrow fails where a batch of these is of two row groups.
            parts = [[group] for group in (range(len(self.sizes)) if groups is None else groups)]
        try:
            yield from self._stream(rows, columns, parts)
        except InputError as error:
            culprit = (
                columns[0] if len(columns) == 1 else next((name for name in columns if self._fails(name, parts)), None)
            )
            if culprit is None:
                raise
            kind = one_line(self.schema.field(culprit).type)
            raise InputError(f"{error}; what cannot be read is column {culprit!r} ({kind})") from error

    def _stream(self, rows: int, columns: list[str], parts: list[list[int] | None]) -> Iterator[pa.RecordBatch]:
        done = 0
        for part in parts:
            with decoding(self.path, self.kind):
                stream = self._file.iter_batches(rows, row_groups=part, columns=columns, use_threads=False)
            for batch in decoded(stream, self.path, self.kind, done):
                yield batch
                done += batch.num_rows

    def _fails(self, column: str, parts: list[list[int] | None]) -> bool:
        """Whether this column is one that cannot be read."""
        try:
            for _ in self._stream(_PROBED_ROWS, [column], parts):
                pass
        except InputError:
            return True
        return False

    def part(self, at: int, column: str) -> pa.ChunkedArray:
        with decoding(self.path, self.kind):
            return self._file.read_row_group(at, columns=[column], use_threads=False).column(0)

    def sink(self, file: AtomicFile, schema: pa.Schema, column: str | None = None) -> ParquetSink:
        with decoding(self.path, self.kind):
            options = _encoding(self._metadata, schema, column)
        return ParquetSink(file, schema, **options)

    def close(self) -> None:
        self._file.close(force=True)


class ParquetSink(Sink):
    """Writes each table as one row group."""

    def __init__(self, file: AtomicFile, schema: pa.Schema, **options: Any) -> None:
        self._writer = pq.ParquetWriter(file.stream(), schema, **options)

    def write(self, table: pa.Table) -> None:
        # pyarrow 18 ends a page where a chunk ends, and the chunks depend on how many rows were computed at a time.
        with contextlib.suppress(pa.ArrowInvalid):  # a column too large for one chunk
            table = table.combine_chunks()
        self._writer.write_table(table, row_group_size=table.num_rows)

    def finish(self) -> None:
        self._writer.close()

    def abandon(self) -> None:
        self._writer.is_open = False


class ParquetShard(TableShard):
    """One parquet file of embeddings."""

    format = "parquet"
    table = ParquetTable


def _dictionary_within(kind: pa.DataType) -> bool:
    """Whether a nested type has a dictionary inside."""
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    return any(pa.types.is_dictionary(one) or _dictionary_within(one) for one in inner)


def _encoding(metadata: pq.FileMetaData, schema: pa.Schema, column: str | None) -> dict[str, Any]:
    """Options of ParquetWriter that keep the codec and the dictionary of each column."""
    if not metadata.num_row_groups:
        return {}
    # The name of a leaf may differ from the input's (list.item, list.element); its position does not.
    empty = io.BytesIO()
    pq.write_table(pa.Table.from_batches([], schema), empty)
    leaves = pq.ParquetFile(empty).schema
    group = metadata.row_group(0)
    codecs, dictionaries = {}, []
    for i in range(group.num_columns):
        chunk, path = group.column(i), leaves.column(i).path
        codecs[path] = chunk.compression if chunk.compression != "UNCOMPRESSED" else "NONE"
        if chunk.has_dictionary_page and path.split(".")[0] != column:
            dictionaries.append(path)
    return {"compression": codecs, "use_dictionary": dictionaries}
