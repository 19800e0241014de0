"""What `index` writes to a fragment of a Lance table: values of its columns, and the fragment that holds them."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastrealign.core.libraries import pa
from fastrealign.core.optional import optional
from fastrealign.retrieval.stores.base import chosen

# The number of a field whose values a data file no longer holds.
_GONE = -2


class Made(NamedTuple):
    """A data file for a fragment, and the files that held its columns when it was made."""

    file: Any
    instead_of: list[str]

    def put_into(self, fragment: Any, fields: list[int]) -> Any:
        """The metadata of a fragment with this data file for these fields, which its other files hold no longer."""
        kept = []
        for one in fragment.files:
            left = [_GONE if number in fields else number for number in one.fields]
            if {*left} == {_GONE}:
                continue
            if left != [*one.fields]:
                more = one.file_major_version, one.file_minor_version, one.file_size_bytes, one.base_id
                one = type(one)(one.path, left, [*one.column_indices], *more)
            kept.append(one)
        fragment.files = [*kept, self.file]
        return fragment


@dataclass
class Filled:
    """Aligned rows (n, dim), which of them are there (bool (n,)), and the role of each, if rows have one each.

    changed: whether any is not as it was
    """

    rows: np.ndarray
    good: np.ndarray
    roles: np.ndarray | None
    changed: bool = False

    @classmethod
    def empty(cls, n: int, like: np.ndarray, with_roles: bool, changed: bool = False) -> Filled:
        """n rows that are not there, as wide as others."""
        roles = np.full(n, None, object) if with_roles else None
        return cls(np.zeros((n, like.shape[1]), like.dtype), np.zeros(n, bool), roles, changed)

    def put(self, at: np.ndarray, rows: np.ndarray, good: np.ndarray, roles: np.ndarray | None) -> None:
        """These rows at their places."""
        self.rows[at], self.good[at] = rows, good
        if self.roles is not None:
            self.roles[at] = roles

    def to_batch(self, schema: Any) -> Any:
        """As a record batch: the rows and, where they have one each, their roles; null where no row is."""
        null = None if self.good.all() else pa.array(~self.good)
        numbers = pa.array(self.rows.reshape(-1))
        arrays = [pa.FixedSizeListArray.from_arrays(numbers, self.rows.shape[1], mask=null)]
        if self.roles is not None:
            arrays.append(pa.array(self.roles, pa.string(), mask=None if null is None else ~self.good))
        return pa.record_batch(arrays, schema=schema)


class DataFile:
    """A new data file of a table, while it is written: a context manager that removes it unless it was finished.

    made_of: what its name ends with
    """

    def __init__(self, folder: str, schema: Any, version: str, made_of: str) -> None:
        self._name = f"{uuid.uuid4()}-{made_of}.lance"
        self._path = Path(folder, "data", self._name).absolute()
        self._schema, self._whole = schema, False
        self._writer = optional("lance.file", "lancedb", "LanceDB").LanceFileWriter(
            str(self._path), schema, version=version
        )

    def write(self, part: Filled) -> None:
        """Add these rows."""
        self._writer.write_batch(part.to_batch(self._schema))

    def finish(self) -> None:
        """Complete the file."""
        self._writer.close()
        self._whole = True

    def described(self, fields: list[int], like: Any) -> Any:
        """As a part of a fragment, which holds these fields; of the version that another of its files has."""
        made = optional("lance.fragment", "lancedb", "LanceDB").DataFile
        versions = like.file_major_version, like.file_minor_version
        return made(self._name, fields, [*range(len(fields))], *versions, self._writer.size_bytes)

    def __enter__(self) -> DataFile:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._whole:
            with suppress(Exception):  # what is wrong is raised already
                self._writer.close()
            self._path.unlink(missing_ok=True)


def made_of(data: Any, column: str, fragment: Any) -> str:
    """Stands for the data files of a fragment, which never change, that hold the values of a column."""
    numbers = [field.id() for field in data.lance_schema.fields() if field.name() == column]
    paths = sorted(file.path for file in fragment.data_files() if {*numbers} & {*file.fields})
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16]


def numbers_in(fragment: Any) -> set[int]:
    """The numbers of the fields that a fragment has values of."""
    return {number for file in fragment.data_files() for number in file.fields}


def is_vector(kind: Any) -> bool:
    """Whether an Arrow type is one of vectors."""
    return pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)


def other_types(schema: Any, asked: str | None) -> dict[str, str]:
    """The columns that are not read, with their types: lists of numbers that are no vectors, and vectors in a struct.

    The one that is asked for is among them, if it is no vector.
    """
    lists = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    return {f"{field.name}.{name}": f"{kind} in a struct" for field in schema for name, kind in _inside(field.type)} | {
        field.name: str(field.type)
        for field in schema
        if not is_vector(field.type)
        and (field.name == asked or (any(one(field.type) for one in lists) and _is_number(field.type.value_type)))
    }


def _inside(kind: Any) -> Iterator[tuple[str, Any]]:
    """The vectors in a struct, at any depth: their names in it, and their types."""
    for field in kind if pa.types.is_struct(kind) else ():
        if is_vector(field.type):
            yield field.name, field.type
        yield from ((f"{field.name}.{name}", of) for name, of in _inside(field.type))


def _is_number(kind: Any) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def matrix_of(lists: Any) -> np.ndarray:
    """The rows of a fixed-size list array without nulls, as a view."""
    return np.asarray(lists.flatten()).reshape(len(lists), lists.type.list_size)


def values_of(column: Any) -> np.ndarray:
    """The values of a column as objects; None for null."""
    coded = column.dictionary_encode()
    values = np.array([*coded.dictionary.to_pylist(), None], object)
    return values[np.asarray(coded.indices.fill_null(len(values) - 1))]


def metric_of(data: Any, column: str) -> str | None:
    """That of the index on a column; None where there is none."""
    for index in data.describe_indices():
        if index.field_names == [column]:
            kind = data.stats.index_stats(index.name)["indices"][0].get("metric_type")
            return kind if kind in ("dot", "l2") else "cosine"
    return None


def table_folder(location: str, table: str | None) -> str:
    """The folder of the table: `location` itself, or a table in this database."""
    if location.rstrip("/").endswith(".lance"):
        return location.rstrip("/")
    names = sorted(one.name[: -len(".lance")] for one in Path(location).iterdir() if one.name.endswith(".lance"))
    return os.path.join(location, f"{chosen(location, 'table', table, names, 'table')}.lance")
