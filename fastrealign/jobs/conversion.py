"""Embeddings from one format to another, every number as it is: for what a script has left, before it is aligned.

source -> rows and what belongs to them, so many at a time -> a table (parquet, Arrow, Lance), or .npy and its metadata
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign import formats
from fastrealign.core.errors import InputError, shortage
from fastrealign.core.float_state import computes
from fastrealign.core.listing import count, listing, size
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.text import one_line, shown, shown_values
from fastrealign.data.options import OutputOptions
from fastrealign.formats.arrow import ArrowSink
from fastrealign.formats.arrow_columns import filtered, lists
from fastrealign.formats.arrow_errors import writing_columns
from fastrealign.formats.arrow_schema import retyped
from fastrealign.formats.choose_column import SIDES, Wanted
from fastrealign.formats.lance import FILE_ROWS, LanceSink
from fastrealign.formats.metadata import SIDE_FOLDERS, attach_metadata, metadata_name
from fastrealign.formats.npy import NpyWriter
from fastrealign.formats.parquet import ParquetSink, ParquetTable
from fastrealign.formats.pickle_layouts import AnyPickleShard
from fastrealign.formats.shard_names import Name
from fastrealign.formats.table_copy import GROUP_BYTES, STEP_ROWS, InStep, Sink
from fastrealign.formats.tables import TableShard, no_bfloat16
from fastrealign.jobs.folders import remove_folders, remove_temporaries
from fastrealign.jobs.inputs import Inputs, check_outside
from fastrealign.jobs.layout import METADATA
from fastrealign.jobs.output_folder import JOURNAL, OutputFolder
from fastrealign.storage.atomic import AtomicFile, AtomicFolder
from fastrealign.storage.fingerprint import FileFingerprint

if TYPE_CHECKING:
    import pyarrow as pa

TARGETS = {"npy": ".npy", "parquet": ".parquet", "arrow": ".arrow", "lance": ".lance"}
_COLUMN = "embedding"


@dataclass(frozen=True)
class Conversion:
    """What `convert` did.

    source, out  as they were named
    to           the format written
    rows, dim    embeddings written and their width
    column       the name under which the source holds them (column, key, tensor), if it has one
    skipped      items of the source without an embedding
    columns      written beside the embeddings
    left_out     what the source holds that does not belong to rows and was not written, as "FILE: NAME"
    files        that were written, relative to `out` where that is a folder
    bytes        they take together
    """

    source: str
    out: str
    to: str
    rows: int
    dim: int
    column: str | None
    skipped: int
    columns: list[str]
    left_out: list[str]
    files: list[str]
    bytes: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps."""
        return shown_values(vars(self))

    def __str__(self) -> str:
        head = f"converted {count(self.rows, 'row')} of {self.source}, {self.dim} wide, to {self.to}"
        others = f"{', '.join(self.left_out)}: not of as many values as there are rows"
        lines = listing(
            ("columns", ", ".join(self.columns)),
            ("column", None if self.column is None else f"of the embeddings: taken from {self.column!r}"),
            ("skipped", f"{count(self.skipped, 'item')} without an embedding" if self.skipped else None),
            ("left out", others if self.left_out else None),
            ("written", f"{self.out}: {count(len(self.files), 'file')}, {size(self.bytes)}"),
        )
        return "\n".join([shown(head), *lines])


@computes
def convert(
    source: Any,
    out: str | os.PathLike,
    *,
    to: str | None = None,
    dtype: Any = None,
    column: str | None = None,
    side: str | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
    fsync: bool = True,
) -> Conversion:
    """Write the embeddings of `source` in another format, with what belongs to them.

    source    path, glob, folder or list of paths of shards; of pickles, also the layouts of formats/pickle_layouts.py
    out       a folder, which gets a file for every shard of the source; or for a single shard a file name
    to        "npy", "parquet", "arrow" or "lance"; by default what the suffix of `out` says, else "parquet". Other
              columns, and what else pickled items hold, become columns: for "npy" those of a parquet file beside it
    dtype     element type ("float32", "float16", "bfloat16", "float64"), by default that of each shard
    column    the column or pickle key that holds the embeddings, where it cannot be told; or of a pickle with several
              sets of items the one to take
    side      "text" or "image": of a clip-retrieval folder, which side to read; with "npy", also write such a folder
    overwrite replace files that are there

    Items without an embedding, and rows of tables whose embedding is null or has a null, are counted and left out. Raises
    InputError for bad input, a value that `dtype` cannot hold, or files that are there; FastRealignError when writing fails. A
    conversion that fails leaves nothing new behind.
    """
    started = time.perf_counter()
    options = OutputOptions(dtype, overwrite=overwrite, fsync=fsync)
    if side is not None and side not in SIDES:
        raise InputError(f"side={side!r}: expected text or image")
    wanted = Wanted(column, SIDES.get(side))
    files = formats.open_source(source, side=SIDES.get(side, "source"), column=wanted, pickles=AnyPickleShard)
    if side == "image":
        attach_metadata(files.shards)
    target = _Target(out, to, side, files, options)
    target.check()
    check_outside(out, target.root, [source] if isinstance(source, (str, os.PathLike)) else source, [files])
    columns: dict[str, None] = {}
    left_out: list[str] = []
    skipped = 0
    progress.start("converting", files.rows, sum(shard.nbytes for shard in files.shards))
    try:
        with target:
            for at, shard in enumerate(files.shards):
                with ExitStack() as stack:
                    rest = _Rest(shard, stack)
                    columns.update(dict.fromkeys(rest.names))
                    left_out += rest.left_out
                    writers = target.writers(at, shard, rest, options.dtype or shard.dtype, stack)
                    for rows, there in _rows(shard, options.dtype or shard.dtype):
                        beside = rest.take(len(rows))
                        progress.advance(len(rows), rows.size * shard.dtype.itemsize)
                        if there is not None:
                            skipped += len(rows) - np.count_nonzero(there)
                            rows = rows[there]
                            beside = {name: _kept(column, there) for name, column in beside.items()}
                        for writer in writers if len(rows) else ():
                            writer.write(rows, beside)
                    shard.check_unchanged()
                    for writer in writers:
                        target.written.append(writer.path)  # before it is there: an interrupt may come right after
                        writer.commit()
                shard.close()
    finally:
        progress.finish()
    return Conversion(
        source=files.name,
        out=os.fspath(out),
        to=target.to,
        rows=files.rows - skipped,
        dim=files.dim,
        column=files.column,
        skipped=files.skipped + skipped,
        columns=list(columns),
        left_out=left_out,
        files=[path.relative_to(target.root).as_posix() for path in target.written],
        bytes=sum(FileFingerprint.of(path).bytes for path in target.written),
        seconds=time.perf_counter() - started,
    )


class _Target(OutputFolder):
    """The files that a conversion writes. A failure leaves nothing new behind.

    root   the folder of all of them
    paths  of the embeddings, one a shard; `metadata` of what belongs to them, where that is a file of its own (npy)
    written  files that have their final name
    """

    def __init__(
        self,
        out: str | os.PathLike,
        to: str | None,
        side: str | None,
        files: formats.Source,
        options: OutputOptions,
    ) -> None:
        path = Path(out)
        suffix = path.suffix.lower()
        named = next((name for name, known in TARGETS.items() if known == suffix), None)
        if to is not None and to not in TARGETS:
            raise InputError(f"to={to!r}: expected one of {', '.join(TARGETS)}")
        if named is not None and (named == "lance" or not path.is_dir()):
            if to not in (None, named):
                raise InputError(f"{out}: is the name of a {named} file, but {to} was asked for; choose one of them")
            if len(files.shards) != 1:
                raise InputError(f"{out}: names one file, but {files.name} has {len(files.shards)}; name a folder")
            self.to = named
            super().__init__(path.parent, path.with_name(f".{path.name}{JOURNAL}"), options.fsync)
            names, metadata = [path.name], [f"{path.name}.{METADATA}"]
        else:
            if suffix in formats.FORMATS and not path.is_dir():
                raise InputError(
                    f"{out}: {suffix} is not written; name a folder or a {' or '.join(TARGETS.values())} file"
                )
            self.to = to or "parquet"
            super().__init__(path, path / JOURNAL, options.fsync)
            names, metadata = _names(files.shards, self.to, side)
        self.paths = [self.root / name for name in names]
        self.metadata = [self.root / name for name in metadata] if self.to == "npy" else []
        self._dim = files.dim
        self._inputs = Inputs(path for s in files.shards for path in (s.path, s.metadata) if path is not None)
        self._overwrite = options.overwrite
        self.written: list[Path] = []
        every = {*self.paths, *self.metadata}
        self._missing = {folder for path in every for folder in path.parents if not folder.exists()}

    def check(self) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root}: is a file, expected a folder to write to")
        seen: dict[Path, int] = {}
        for at, path in enumerate(self.paths):
            if seen.setdefault(path, at) != at:
                raise InputError(f"{path}: two files of the source would become this one; convert them to two folders")
            self._check(path)

    def _check(self, path: Path) -> None:
        self._inputs.check(path)
        if os.path.lexists(path) and not self._overwrite:
            raise InputError(f"{path}: exists; choose another name or replace it with --overwrite")
        if path.is_dir() and not (self.to == "lance" and (path / "_versions").is_dir()):
            raise InputError(f"{path}: is a folder, which is not replaced; choose another name")

    def begin(self) -> None:
        self.check()  # another process may have written since
        every = {*self.paths, *self.metadata}
        self._there = {path for path in every if path.exists()}
        remove_temporaries(every)

    def roll_back(self) -> None:
        """Remove what is new of the files written, and the folders made for them."""
        for path in set(self.written) - self._there:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        remove_folders(sorted(self._missing, key=lambda folder: -len(folder.parts)))

    def writers(
        self, at: int, shard: formats.Shard, rest: _Rest, dtype: np.dtype, stack: ExitStack
    ) -> list[_NpyOut | _TableOut]:
        """What writes a shard; aborted when the stack is left, unless committed."""
        path = self.paths[at]
        if self.to == "npy":
            made = [_NpyOut(path, dtype, self._dim, stack, self.fsync)]
            if rest.names:
                self._check(self.metadata[at])
                made.append(_TableOut(self.metadata[at], "parquet", rest.schema(), None, stack, self.fsync))
            return made
        no_bfloat16(path, dtype, self.to)
        schema, column = rest.schema_with(shard, self._dim, dtype)
        return [_TableOut(path, self.to, schema, column, stack, self.fsync)]


class _Rest:
    """What belongs to the rows of a shard beside their embeddings: its other columns, items' other values, metadata."""

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
            self._add_table(_table(values, shard.path), shard.path)
        if shard.metadata is not None:
            table = stack.enter_context(ParquetTable(shard.metadata))
            self._add(table.schema, table.batches, shard.metadata)
        self.names = [name for schema, _ in self._parts for name in schema.names]
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{shard.path}: has the column {twice!r}, and so has {shard.metadata}; rename one of them")

    def _add_table(self, table: pa.Table, path: str | Path) -> None:
        self._add(table.schema, lambda rows, _: iter(table.to_batches(rows)), path)

    def _add(self, schema: pa.Schema, batches: Callable, path: str | Path) -> None:
        if schema.names:
            self._parts.append((schema, InStep(batches(STEP_ROWS, schema.names), path)))

    def schema(self) -> pa.Schema:
        import pyarrow as pa

        return pa.schema([field for schema, _ in self._parts for field in schema])

    def schema_with(self, shard: formats.Shard, dim: int, dtype: np.dtype) -> tuple[pa.Schema, str | None]:
        """The schema of a table that holds the embeddings too, and the name of their column, if there is one."""
        pa = _pyarrow(shard.path)
        schema = self.schema()
        if isinstance(shard, TableShard):  # where it was, as the list it was
            with shard.table(shard.path) as table:
                if shard.column is None:
                    return table.schema, None
                whole = _as_lists(table.schema, shard.column, dtype) if shard.blank else table.schema
                whole = retyped(whole, shard.column, dtype)
            others = [field for field in schema if field.name not in whole.names]
            return pa.schema([*whole, *others], metadata=whole.metadata), shard.column
        if _COLUMN in schema.names:
            raise InputError(f"{shard.path}: holds {_COLUMN!r} beside the embeddings, whose column that is; rename it")
        return schema.append(pa.field(_COLUMN, pa.list_(pa.from_numpy_dtype(dtype), dim))), _COLUMN

    def take(self, rows: int) -> dict[str, Any]:
        """The columns of the next rows."""
        taken = [step.take(rows) for _, step in self._parts]
        return {name: table.column(name) for table in taken for name in table.column_names}


class _NpyOut:
    def __init__(self, path: Path, dtype: np.dtype, dim: int, stack: ExitStack, fsync: bool) -> None:
        self.path = path
        self._writer = stack.enter_context(NpyWriter(path, dtype, dim, None, fsync))

    def write(self, rows: np.ndarray, beside: dict[str, Any]) -> None:
        self._writer.write(rows)

    def commit(self) -> None:
        self._writer.commit()


class _TableOut:
    """A table being written, with the embeddings in `column` if there is one. A parquet row group is held in memory."""

    def __init__(
        self, path: Path, to: str, schema: pa.Schema, column: str | None, stack: ExitStack, fsync: bool
    ) -> None:
        self.path = path
        self._file = (AtomicFolder if to == "lance" else AtomicFile)(path, fsync)
        stack.callback(self._file.abort)
        self._schema = schema
        self._column = column
        self._writing = partial(writing_columns, path, schema, to)
        with self._writing():
            self._sink = self._open(to)
        stack.callback(self._sink.abandon)
        self._group = GROUP_BYTES if to == "parquet" else 0
        self._pending: list[pa.Table] = []

    def write(self, rows: np.ndarray, beside: dict[str, Any]) -> None:
        import pyarrow as pa

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
        import pyarrow as pa

        if self._pending:
            with self._writing():
                self._sink.write(pa.concat_tables(self._pending))
            self._pending.clear()

    def _open(self, to: str) -> Sink:
        if to == "lance":
            return LanceSink(self._file, self._schema, FILE_ROWS)
        return (ParquetSink if to == "parquet" else ArrowSink)(self._file, self._schema)


def _as_lists(schema: pa.Schema, column: str, dtype: np.dtype) -> pa.Schema:
    import pyarrow as pa

    at = schema.get_field_index(column)
    return schema.set(at, pa.field(column, pa.list_(pa.from_numpy_dtype(dtype))))


def _kept(column: Any, mask: np.ndarray) -> Any:
    import pyarrow as pa

    return filtered(pa.table({"": column}), mask).column(0)


def _rows(shard: formats.Shard, dtype: np.dtype) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """The shard's rows as elements of `dtype`, and which of them are there, (n,) bool, where some are null.

    Raises InputError for the first row with a number that becomes infinite.
    """
    at = 0
    for rows in shard.chunks(STEP_ROWS):
        nulls = shard.nulls(at, len(rows)) if isinstance(shard, TableShard) else None
        if dtype != shard.dtype:
            with np.errstate(over="ignore"):
                converted = rows.astype(dtype)
            lost = np.flatnonzero((np.isinf(converted) & np.isfinite(rows)).any(axis=1))
            if len(lost):
                raise InputError(
                    f"{shard.where(at + int(lost[0]))} has a number that {dtype} cannot hold; choose a wider dtype"
                )
            rows = converted
        yield rows, None if nulls is None else ~nulls[1]
        at += len(rows)


def _table(values: dict[str, Any], path: str) -> pa.Table:
    """Values by name as columns."""
    pa = _pyarrow(path)
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


def _names(shards: list[formats.Shard], to: str, side: str | None) -> tuple[list[str], list[str]]:
    """Of the files in a folder, and of their metadata: numbered alike, which is how one is found beside the other."""
    if to == "npy" and side is not None:
        folder = SIDE_FOLDERS[SIDES[side]]
        numbers = range(len(shards))
        return [f"{folder}/{folder}_{i}.npy" for i in numbers], [f"metadata/metadata_{i}.parquet" for i in numbers]
    names = [PurePosixPath(shard.name).with_suffix(TARGETS[to]) for shard in shards]
    if to != "npy":
        return [str(name) for name in names], []
    tails = [(name.parent, Name.of(name.stem).tail) for name in names]
    if len(set(tails)) < len(names) or not all(tail for _, tail in tails):
        names = [name.with_stem(f"{name.stem}_{i}") for i, name in enumerate(names)]
    return [str(name) for name in names], [str(name.with_name(metadata_name(name.stem))) for name in names]


def _pyarrow(path: str | Path):
    try:
        import pyarrow
    except ImportError:
        raise InputError(f"{path}: columns need pyarrow: pip install 'fastrealign[parquet]'") from None
    return pyarrow
