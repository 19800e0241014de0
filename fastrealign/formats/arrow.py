"""Arrow IPC shards: streams (saved by Hugging Face datasets) or files, distinguished by their magic bytes. Needs pyarrow.

The file is memory-mapped: opening it or reading one column does not read the others, and pages that were read are released, so
that resident memory stays bounded however large a record batch is. Compressed batches are decoded whole, one at a time.
Written back as a stream or a file as before, without compression, with the same record batches.
"""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastrealign.core.errors import InputError, changed
from fastrealign.core.libraries import pa
from fastrealign.core.optional import optional
from fastrealign.formats.arrow_columns import size_of
from fastrealign.formats.arrow_errors import decoding
from fastrealign.formats.table_copy import Sink, Table
from fastrealign.formats.tables import TableShard
from fastrealign.storage.atomic import AtomicFile
from fastrealign.storage.files import file_size, reading
from fastrealign.storage.paths import AnyPath, place
from fastrealign.storage.spool import local_copy

_FILE_MAGIC = b"ARROW1"
# The beginning of each message of a stream since Arrow 0.15, and the end of such a stream.
_CONTINUED = b"\xff\xff\xff\xff"
_END = _CONTINUED + bytes(4)
# Read before the mapped pages are released.
_RESIDENT_BYTES = 32 << 20


class ArrowTable(Table[AtomicFile]):
    """One IPC stream or file."""

    kind = "Arrow file"

    def __init__(self, path: AnyPath) -> None:
        optional("pyarrow", "parquet", f"{path}: an Arrow file")
        self.path = path
        self._size = file_size(path)
        self._remote = not isinstance(place(path), Path)
        # The map keeps the copy of a URL alive.
        with local_copy(path) as local, reading(path), open(local, "rb", opener=os.open) as file:
            self._map = mmap.mmap(file.fileno(), self._size, access=mmap.ACCESS_READ)
        self._buffer = pa.py_buffer(self._map)
        self.streamed = self._map[: len(_FILE_MAGIC)] != _FILE_MAGIC
        with decoding(path, self.kind):
            self.schema = self._reader()[0].schema
            # One column suffices to count rows; the others of compressed batches need not be decoded.
            self.sizes = [batch.num_rows for batch in self._batches([0] if len(self.schema) else [])]
        self._columns: dict[str, list[pa.Array]] = {}

    def batches(self, rows: int, columns: list[str], groups: list[int] | None = None) -> Iterator[pa.RecordBatch]:
        places = sorted(self.schema.get_field_index(name) for name in columns)
        done = passed = 0
        stream = self._batches(places)
        while True:
            with decoding(self.path, self.kind, done):
                if not self._remote and os.path.getsize(self.path) != self._size:
                    raise changed(self.path)
                batch = next(stream, None)
                if batch is None:
                    return
                batch = batch.select(columns)
                batch.validate(full=True)
            for lo in range(0, batch.num_rows, rows):
                part = batch.slice(lo, rows)
                yield part
                passed += size_of(part)
                if passed >= _RESIDENT_BYTES:
                    # Views of these pages stay valid: pages that are used again are read again.
                    if hasattr(mmap, "MADV_DONTNEED"):
                        self._map.madvise(mmap.MADV_DONTNEED)
                    passed = 0
            done += batch.num_rows

    def part(self, at: int, column: str) -> pa.Array:
        place = self.schema.get_field_index(column)
        with decoding(self.path, self.kind):
            if not self.streamed:
                return self._reader([place])[0].get_batch(at).column(0)
            if column not in self._columns:
                # A stream is read from its beginning; views of the map are free to keep, decoded batches are not.
                batches = self._batches([place])
                first = next(batches).column(0)
                self._columns[column] = [first, *(b.column(0) for b in batches)] if self._is_mapped(first) else []
            if kept := self._columns[column]:
                return kept[at]
            return next(itertools.islice(self._batches([place]), at, None)).column(0)

    def _is_mapped(self, column: pa.Array) -> bool:
        inside = range(self._buffer.address, self._buffer.address + self._size)
        return all(buffer.address in inside for buffer in column.buffers() if buffer is not None and buffer.size)

    def sink(self, file: AtomicFile, schema: pa.Schema, column: str | None = None) -> ArrowSink:
        return ArrowSink(file, schema, self.streamed)

    def close(self) -> None:
        """Nothing: the last view of the map closes it."""

    def _reader(self, places: list[int] | None = None) -> tuple[Any, pa.BufferReader]:
        """A reader, and the buffer that it reads from the beginning on."""
        options = pa.ipc.IpcReadOptions(included_fields=places, use_threads=False)
        source = pa.BufferReader(self._buffer)
        open_one = pa.ipc.open_stream if self.streamed else pa.ipc.open_file
        return open_one(source, options=options), source

    def _batches(self, places: list[int]) -> Iterator[pa.RecordBatch]:
        """All record batches, with the columns at these places; InputError if the stream is cut off."""
        reader, source = self._reader(places)
        if not self.streamed:
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)
            return
        yield from reader
        end = source.tell()
        if self._map[: len(_CONTINUED)] == _CONTINUED and self._map[max(0, end - len(_END)) : end] != _END:
            raise InputError(f"{self.path}: truncated: the stream has no end; copy or make it again")
        if end != self._size:
            raise InputError(f"{self.path}: has {self._size - end} bytes after its end; make it again")


class ArrowSink(Sink):
    """Writes each table as one record batch."""

    def __init__(self, file: AtomicFile, schema: pa.Schema, streamed: bool = True) -> None:
        self._writer = (pa.ipc.new_stream if streamed else pa.ipc.new_file)(file.stream(), schema)

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table.combine_chunks())

    def finish(self) -> None:
        self._writer.close()

    def abandon(self) -> None:
        self._writer = None


class ArrowShard(TableShard):
    """One Arrow file of embeddings."""

    format = "arrow"
    table = ArrowTable
