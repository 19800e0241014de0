"""The ids (or other values) of the rows of shards: from a column, from metadata beside them, or from a file the user names."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.progress import Progress
from fastrealign.core.text import brief, described, meant, one_line
from fastrealign.data.usual_names import ID_NAMES, first_of
from fastrealign.formats.base import Shard
from fastrealign.formats.parquet import ParquetTable
from fastrealign.formats.table_copy import Table
from fastrealign.formats.tables import TableShard
from fastrealign.storage.csv_column import csv_column
from fastrealign.storage.files import Descriptor, open_binary, reading
from fastrealign.storage.paths import AnyPath, is_path, place, suffix_of
from fastrealign.storage.records import parsed
from fastrealign.storage.text_lines import rows_in_lines
from fastrealign.storage.text_values import id_text, values_of

_FILES = (".txt", ".json", ".npy", ".csv", ".parquet")
_TABLES = (".csv", ".parquet")
_STEP = 1 << 16


def file_and_column(given: AnyPath, what: str) -> tuple[AnyPath, str | None]:
    """The file and the column of its table that FILE:COLUMN names; None without a column. what: its values, for messages."""
    path = os.fspath(given)
    head, _, column = path.rpartition(":")
    if not column or not head.lower().endswith(_FILES) or place(path).exists():
        return given, None
    if not head.lower().endswith(_TABLES):
        raise InputError(f"{path}: only .csv and .parquet files have columns of {what}; leave out ':{column}'")
    return head, column


class IdsOf:
    """The ids of all rows of some shards, in order.

    shards, given, column   as `open_embeddings` takes them; given: `ids` there, also FILE:COLUMN
    rows      how many rows there are, where they are not those of shards
    named     where they come from, for messages
    numbered  there are none: rows have their numbers

    A subclass may read other values: what they are called, their usual names, whether a row may lack one (then empty lines at
    the end of a file are such rows, as many as there are rows left), and how one becomes text.
    """

    what = "ids"
    usual: Sequence[str] = ID_NAMES
    may_lack = False
    text_of = staticmethod(id_text)

    def __init__(self, shards: list[Shard], given: Any, column: str | None, rows: int | None = None) -> None:
        self._shards = [shard for shard in shards if shard.rows]
        self._column = column
        self._rows = sum(shard.rows for shard in shards) if rows is None else rows
        self._file = given if is_path(given) else None
        self._list = given if self._file is None else None
        if is_path(given) and column is None:
            self._file, self._column = file_and_column(given, self.what)
        self._header: str | None = None  # the first line of a .csv file, where that may be a value as well as a name
        self._held: tuple[Shard, dict[str, Any]] | None = None
        self.numbered = False
        if self._file is not None:
            suffix = suffix_of(self._file)
            if suffix not in _FILES:
                kind = f"{suffix!r} files" if suffix else "a folder or a file whose name has no ending"
                raise InputError(f"{given}: {self.what} are not read from {kind}; expected {', '.join(_FILES)}")
            self.named = os.fspath(self._file)
        elif self._list is not None:
            self.named = f"the list of {self.what} that was given"
        else:
            name = self._name(self._shards[0]) if self._shards else None
            self.numbered = name is None
            if self.numbered and (other := next((one for one in self._shards if self._has_ids(one)), None)):
                raise InputError(
                    f"{self._shards[0].path}: holds no ids, but {other.path} does; give all shards ids, or none"
                )
            beside = not self.numbered and self._shards[0].metadata is not None
            self.named = f"{name!r} of {'the metadata beside the shards' if beside else 'the shards'}"
            if self.numbered:
                self.named = f"the numbers of the rows, 0 to {self._rows - 1}, since the files hold none"

    def batches(self, progress: Progress) -> Iterator[list[str]]:
        """Lists of texts; InputError for an invalid one, and for more or fewer of them than rows."""
        done = 0
        with progress.running(f"reading {self.what}", self._rows):
            for values in self._values():
                batch: list[str] = []
                for value in values:
                    try:
                        batch.append(value if type(value) is str else self.text_of(value))
                    except InputError as error:
                        raise InputError(f"{self._where(done + len(batch))} {error}") from None
                done += len(batch)
                if done > self._rows:
                    break
                yield batch
                progress.advance(len(batch), 0)
        if done != self._rows:
            found = f"more than {self._rows}" if done > self._rows else done
            taken = f"; its first line, {brief(self._header)}, was taken as the name of its column"
            header = done == self._rows - 1 and self._header is not None
            raise InputError(
                f"{self.named}: has {found} {self.what}, expected one for each of {self._rows} rows, in their order"
                f"{taken if header else ''}"
            )

    def of_row(self, row: int) -> str:
        """One id, found by reading those before it."""
        for values in self._values():
            if row < len(values):
                return id_text(values[row])
            row -= len(values)
        raise IndexError(row)

    def made_of(self) -> dict[str, Any]:
        """The state of the files that the ids are read from: a stored index is valid while it stays the same."""
        if self._list is not None:
            raise InputError("an index is not stored for a list of ids; leave out index, or name a file of ids")
        files = [(self._file, self._rows)] if self._file is not None else []
        states = []
        for path, rows in files or [(shard.metadata or shard.path, shard.rows) for shard in self._shards]:
            # A Lance dataset is a folder, in which each version of it is a file.
            folder = os.path.isdir(path)
            with reading(path):
                states.append(
                    [str(path), rows, *Descriptor(os.path.join(path, "_versions") if folder else path).state()]
                )
        return {"column": self._column, "ids": states}

    def _where(self, row: int) -> str:
        if self._file is not None or self._list is not None:
            return f"{self.named}: number {row}"
        for shard in self._shards:
            if row < shard.rows:
                return shard.where(row)
            row -= shard.rows
        return self.named

    def _name(self, shard: Shard) -> str | None:
        """Under which name a shard has its ids; None where it has none."""
        names = list(self._beside(shard)) if _decoded(shard) else _names_in(shard)
        if self._column is None:
            return first_of(self.usual, names)
        if self._column not in names:
            listed = ", ".join(map(repr, names)) or "nothing"
            hint = meant(self._column, names, f"beside the embeddings it holds {listed}")
            raise InputError(f"{shard.path}: has no {self.what} {self._column!r}{hint}")
        return self._column

    def _has_ids(self, shard: Shard) -> bool:
        """Whether a shard has ids that are found without reading all of it."""
        return not _decoded(shard) and self._name(shard) is not None

    def _values(self) -> Iterator[Sequence[Any]]:
        if self._file is not None:
            if suffix_of(self._file) == ".csv":
                texts = csv_column(self._file, self._of_header)
                while batch := list(itertools.islice(texts, _STEP)):
                    yield batch
            else:
                yield from self._read(self._file)
        elif self._list is not None:
            yield from _cut(self._list)
        else:
            for shard in self._shards:
                name = self._name(shard)
                if name is None:
                    raise InputError(f"{shard.path}: holds no ids, but shards before it do ({self.named})")
                if shard.metadata is not None:
                    yield from _column(ParquetTable(shard.metadata), name)
                elif isinstance(shard, TableShard):
                    yield from _column(shard.table(shard.path), name)
                else:
                    values = self._beside(shard)[name]
                    self._held = None
                    yield from _cut(values)
                shard.close()

    def _of_header(self, names: list[str]) -> tuple[str, int]:
        """Which column of a .csv file holds the values, and how many are expected; 0 where the header may be a value itself."""
        name = self._chosen(names)
        sure = name == self._column or name in self.usual
        self._header = None if sure else name
        return name, self._at_the_end if sure else 0

    @property
    def _at_the_end(self) -> int:
        """Up to how many rows empty lines at the end of a file count."""
        return self._rows if self.may_lack else 0

    def _chosen(self, names: list[str]) -> str:
        """Which column of a separate table holds the values; InputError where none of these names does."""
        path, column = self._file, self._column
        name = column or first_of(self.usual, names) or (names[0] if len(names) == 1 else self.usual[0])
        if name not in names:
            listed = f"its columns are {', '.join(names) or 'none'}"
            if column is None and names:
                raise InputError(
                    f"{path}: has no column {name!r}; {listed}; name one of them, such as {path}:{names[0]}"
                )
            raise InputError(f"{path}: has no column {name!r}{meant(name, names, listed)}")
        return name

    def _read(self, path: AnyPath) -> Iterator[Sequence[Any]]:
        """The values in a separate file, other than .csv."""
        suffix = suffix_of(path)
        if suffix == ".parquet":
            table = ParquetTable(place(path))
            try:
                name = self._chosen(table.schema.names)
            except InputError:
                table.close()
                raise
            yield from _column(table, name)
            return
        if suffix == ".txt":
            lines = (line.rstrip(b"\r\n") for _, _, line in rows_in_lines(path, b"\r\n", self._at_the_end))
            while part := list(itertools.islice(lines, _STEP)):
                yield part
            return
        try:
            with reading(path), open_binary(path) as file:
                values = parsed(file.read()) if suffix == ".json" else np.load(file, allow_pickle=False)
        except InputError:
            raise
        except (ValueError, EOFError) as error:
            if str(error).startswith("Object arrays"):
                raise InputError(
                    f"{path}: holds Python objects; save {self.what} as text, np.save(path, values.astype(str))"
                ) from None
            raise InputError(f"{path}: is not readable as {self.what} ({one_line(error)})") from None
        if isinstance(values, np.ndarray) and values.ndim != 1:
            raise InputError(f"{path}: holds an array of shape {values.shape}, expected a list of {self.what}")
        if not isinstance(values, (list, np.ndarray)):
            raise InputError(f"{path}: holds {described(values)}, expected a list of {self.what}")
        yield from _cut(values)

    def _beside(self, shard: Shard) -> dict[str, Any]:
        """What a shard that is decoded whole holds beside the embeddings: kept for its ids, once their name was looked up."""
        if self._held is None or self._held[0] is not shard:
            self._held = shard, shard.of_rows()[0]
        return self._held[1]


def _decoded(shard: Shard) -> bool:
    """Whether names are found only by decoding what they name."""
    return shard.metadata is None and not isinstance(shard, TableShard)


def _names_in(shard: Shard) -> list[str]:
    if shard.metadata is not None:
        with ParquetTable(shard.metadata) as table:
            return table.schema.names
    assert isinstance(shard, TableShard)
    with shard.table(shard.path) as table:
        return [name for name in table.schema.names if name != shard.column]


def _column(table: Table, name: str) -> Iterator[list[Any]]:
    with table:
        for batch in table.batches(_STEP, [name]):
            yield values_of(batch.column(0))


def _cut(values: Any) -> Iterator[Sequence[Any]]:
    for lo in range(0, len(values), _STEP):
        yield values[lo : lo + _STEP]
