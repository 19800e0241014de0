"""Lance datasets: a folder `x.lance` is one shard. Needs pylance.

The latest version of the dataset is read in batches, without deleted rows. Written back as a new dataset of one version, by a
thread of Lance's that takes batches from a queue; indices are not copied. Lance gives files random names: two runs write the
same rows, but not the same bytes.
"""

from __future__ import annotations

import os
import queue
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.libraries import pa
from fastrealign.core.optional import optional
from fastrealign.core.text import one_line
from fastrealign.formats.arrow_errors import decoded, decoding
from fastrealign.formats.table_copy import Sink, Table
from fastrealign.formats.tables import TableShard
from fastrealign.storage.atomic import AtomicFolder
from fastrealign.storage.paths import AnyPath, place

if TYPE_CHECKING:
    from types import ModuleType

    import lance

# What Lance reads ahead; its own default is 2 GB.
_READ_AHEAD_BYTES = 32 << 20
_BATCHES_READ_AHEAD = 2
# Rows per data file where the input does not fix that: Lance's default.
FILE_ROWS = 1 << 20
# Read where rows are taken at random.
PART_ROWS = 256
# The first format of Lance can be read but no longer be written.
_UNWRITTEN = ("0.1", "legacy")
# The end of a data file: the offsets of the columns' metadata and of the two tables of contents, the number of buffers and
# columns in them, version, magic. A table has the offset and the length of each entry.
_END = struct.Struct("<QQQIIHH4s")
_ENTRY = struct.Struct("<QQ")


class LanceTable(Table[AtomicFolder]):
    """The latest version of one dataset."""

    kind = "Lance dataset"

    def __init__(self, path: AnyPath) -> None:
        library = _lance(path)
        if not isinstance(place(path), Path):
            raise InputError(f"{path}: Lance datasets are read from a disk; copy it to one first, or use parquet")
        self.path = path
        # Absolute, so that a name with a colon is not taken for a URL.
        folder = os.path.abspath(path)
        if not os.path.isdir(folder):
            what = "is a file, expected the folder of a Lance dataset" if os.path.exists(folder) else "no such folder"
            raise InputError(f"{path}: {what}")
        with decoding(path, self.kind):
            os.listdir(folder)  # raises the right error where permission is denied
            self._dataset = library.dataset(folder)
            self.schema = self._dataset.schema
            self.version = self._dataset.data_storage_version
            fragments = self._dataset.get_fragments()
            self.sizes = [fragment.count_rows() for fragment in fragments]
            for fragment in fragments:
                self._check_files(fragment, folder)

    def batches(self, rows: int, columns: list[str], groups: list[int] | None = None) -> Iterator[pa.RecordBatch]:
        with decoding(self.path, self.kind):
            stream = self._dataset.to_batches(
                columns,
                batch_size=rows,
                batch_readahead=_BATCHES_READ_AHEAD,
                fragment_readahead=1,
                io_buffer_size=_READ_AHEAD_BYTES,
                scan_in_order=True,
                blob_handling="all_binary",
            )
        yield from decoded(stream, self.path, self.kind)

    def parts(self) -> list[int]:
        rows = sum(self.sizes)
        return [min(PART_ROWS, rows - lo) for lo in range(0, rows, PART_ROWS)]

    def part(self, at: int, column: str) -> pa.ChunkedArray:
        with decoding(self.path, self.kind):
            return self._dataset.to_table([column], offset=at * PART_ROWS, limit=PART_ROWS).column(0)

    def sink(self, file: AtomicFolder, schema: pa.Schema, column: str | None = None) -> LanceSink:
        version = None if self.version in _UNWRITTEN else self.version
        return LanceSink(file, schema, max(self.sizes, default=0) or FILE_ROWS, version)

    def close(self) -> None:
        self._dataset = None

    def _check_files(self, fragment: lance.LanceFragment, folder: str) -> None:
        """InputError for a data file that is missing or cut off. One in another dataset is left to Lance."""
        for file in fragment.data_files():
            if getattr(file, "base_id", None) is not None:
                continue
            path = Path(folder, "data", file.path)
            size = path.stat().st_size if path.is_file() else None
            if size is None or file.file_size_bytes not in (None, size):
                found = "it is gone" if size is None else f"it has {size} bytes, not {file.file_size_bytes}"
                raise self._damaged(file.path, found)
            self._check_end(path, size, file.path)

    def _check_end(self, path: Path, size: int, name: str) -> None:
        """InputError for damage that makes Lance abort the process: a number at the end asks for more memory than there is,
        or the message of an error has a zero byte."""
        with open(path, "rb") as file:
            file.seek(max(0, size - _END.size))
            end = file.read()
            if len(end) < _END.size:
                raise self._damaged(name, "it has no end")
            _, columns_at, buffers_at, buffers, columns, *version, magic = _END.unpack(end)
            if magic == b"LANC" and version <= [0, 2]:  # another layout, without these counts
                return
            tables = [(columns_at, columns), (buffers_at, buffers)]
            if magic != b"LANC" or any(at + _ENTRY.size * count > size for at, count in tables):
                raise self._damaged(name, "it does not end as a data file does")
            for at, count in tables:
                file.seek(at)
                for offset, length in _ENTRY.iter_unpack(file.read(_ENTRY.size * count)):
                    if offset + length > size:
                        raise self._damaged(name, "its end points beyond the file")
        optional("lance.file", "lance", "Lance").LanceFileReader(str(path)).metadata()  # raises instead of aborting

    def _damaged(self, name: str, found: str) -> InputError:
        return InputError(f"{self.path}: damaged: data file data/{name}: {found}; copy or make it again")


class LanceSink(Sink):
    """Passes tables to a thread in which Lance writes a dataset."""

    def __init__(self, folder: AtomicFolder, schema: pa.Schema, file_rows: int, version: str | None = None) -> None:
        self._lance = _lance(folder.path)
        self._folder = folder
        self._schema = schema
        self._options: dict[str, Any] = {"max_rows_per_file": file_rows}
        if version is not None:
            self._options["data_storage_version"] = version
        self._queue: queue.Queue[pa.RecordBatch | None] = queue.Queue(2)
        self._thread: threading.Thread | None = None
        self._abandoned = False
        self._failure: BaseException | None = None

    def write(self, table: pa.Table) -> None:
        for batch in table.combine_chunks().to_batches():
            self._put(batch)

    def finish(self) -> None:
        self._put(None)
        self._join()
        self._check()

    def abandon(self) -> None:
        self._abandoned = True
        self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _put(self, batch: pa.RecordBatch | None) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="fastrealign-lance", daemon=True)
            self._thread.start()
        while True:
            self._check()
            try:
                return self._queue.put(batch, timeout=0.1)
            except queue.Full:
                continue

    def _check(self) -> None:
        if self._failure is not None:
            with self._folder.writing():
                raise self._failure

    def _write(self) -> None:
        reader = pa.RecordBatchReader.from_batches(self._schema, self._taken())
        try:
            self._lance.write_dataset(reader, str(self._folder.temporary.absolute()), mode="create", **self._options)
        except BaseException as error:
            self._failure = error
            if type(error).__name__ == "PanicException":  # Rust's, not an Exception
                self._failure = FastRealignError(
                    f"{self._folder.path}: Lance failed to write it ({one_line(error)}); leave out columns of rare types, or "
                    "choose another format"
                )

    def _taken(self) -> Iterator[pa.RecordBatch]:
        while not self._abandoned:
            try:
                batch = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            if batch is None:
                return
            yield batch
        raise FastRealignError("writing was stopped")


class LanceShard(TableShard):
    """One Lance dataset of embeddings."""

    format = "lance"
    folder = True
    table = LanceTable


def _lance(path: AnyPath) -> ModuleType:
    return optional("lance", "lance", f"{path}: Lance")
