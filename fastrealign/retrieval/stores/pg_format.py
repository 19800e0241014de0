"""PostgreSQL's binary format of vectors: values of columns to rows, and rows to a stream for COPY.

    vector     width (int16), 0 (int16), float32 numbers
    halfvec    the same with float16 numbers
    array      dimensions (int32), 0 (int32), type (int32), width (int32), first index (int32), and of each number its
               size (int32) and itself

All big-endian. A stream for COPY begins with a signature and ends with -1 (int16); a row of it has the number of fields
(int16), and of each field its size (int32) and its value. All rows have the same size, so that one NumPy array is the stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastrealign.core.errors import InputError

_BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_OF_NUMBERS = ("_numeric", "_int2", "_int4", "_int8", "sparsevec")
# The place of a row: block (uint32) and number in it (uint16).
_PLACE = 6


class Column(NamedTuple):
    """A column of a table: type, declared width (-1: none), comment, number of the type, whether it is the primary key."""

    kind: str
    size: int
    comment: str
    oid: int
    key: bool


@dataclass(frozen=True)
class Format:
    """The values of one type of column.

    name      of the type in SQL
    number    big-endian type of a number
    element   the number of that type in an array; 0 for pgvector's types
    size      SQL for the width of a value of the column {of}
    """

    name: str
    number: str
    element: int
    size: str

    @property
    def searchable(self) -> bool:
        """Whether the server can search it."""
        return not self.element

    @property
    def written(self) -> Format:
        """The format of aligned vectors."""
        return FORMATS["_float4"] if self.element else self

    def declared(self, dim: int) -> str:
        """The type of the column of aligned vectors."""
        return f"{self.written.name}({dim})" if self.searchable else self.written.name

    def value(self, dim: int) -> np.dtype:
        """The layout of one value."""
        if self.searchable:
            return np.dtype([("dim", ">i2"), ("zero", ">i2"), ("x", self.number, (dim,))])
        head = [(name, ">i4") for name in ("dims", "nulls", "element", "dim", "first")]
        return np.dtype([*head, ("x", [("size", ">i4"), ("number", self.number)], (dim,))])

    def decode(self, values: list[bytes], where: str, ids: Sequence[str] = ()) -> np.ndarray:
        """Values of one column as rows: float32, or float16 of halfvec. `ids` name the rows in messages."""
        sizes = {len(value) for value in values}
        head = 4 if self.searchable else 20
        each = np.dtype(self.number).itemsize + (0 if self.searchable else 4)
        if len(sizes) > 1 or (sizes.copy().pop() - head) % each:
            usual = Counter(map(len, values)).most_common(1)[0][0]
            odd = next((f" (row {one})" for one, value in zip(ids, values, strict=False) if len(value) != usual), "")
            raise InputError(
                f"{where}: the vectors of a column are of different widths, or have nulls in them{odd}; set these to null"
            )
        dim = (sizes.pop() - head) // each
        table = np.frombuffer(b"".join(values), self.value(dim))
        if not self.searchable and ((table["dims"] != 1) | (table["nulls"] != 0) | (table["dim"] != dim)).any():
            raise InputError(f"{where}: an array has nulls in it or several dimensions, expected one row of numbers")
        numbers = table["x"] if self.searchable else table["x"]["number"]
        return numbers.astype(np.float16 if self.number == ">f2" else np.float32)

    def encoded(self, places: list[bytes], rows: np.ndarray, codes: np.ndarray) -> bytes:
        """A stream for COPY of the places of rows, rows (n, dim), and a number (int16) each."""
        value = self.value(rows.shape[1])
        fields = [("n", ">i2"), ("size", ">i4"), ("place", "V6"), ("size2", ">i4"), ("value", value)]
        table = np.zeros(len(rows), np.dtype([*fields, ("size3", ">i4"), ("code", ">i2")]))
        table["n"], table["size"], table["size2"], table["size3"] = 3, _PLACE, value.itemsize, 2
        table["code"] = codes
        table["place"] = np.frombuffer(b"".join(places), "V6")
        values = table["value"]
        values["dim"] = rows.shape[1]
        if self.searchable:
            values["x"] = rows
        else:
            values["dims"], values["element"], values["first"] = 1, self.element, 1
            values["x"]["size"], values["x"]["number"] = np.dtype(self.number).itemsize, rows
        return _BEGIN + table.tobytes() + _END


FORMATS = {
    "vector": Format("vector", ">f4", 0, "vector_dims({of})"),
    "halfvec": Format("halfvec", ">f2", 0, "vector_dims({of})"),
    "_float4": Format("real[]", ">f4", 700, "array_length({of}, 1)"),
    "_float8": Format("double precision[]", ">f8", 701, "array_length({of}, 1)"),
}


def other_types(columns: Mapping[str, Column], asked: str | None) -> dict[str, str]:
    """The columns of numbers that are no vectors, and the one that is asked for if it is none, with their types."""
    return {
        name: f"{one.kind[1:]}[]" if one.kind.startswith("_") else one.kind
        for name, one in columns.items()
        if one.kind not in FORMATS and (name == asked or one.kind in _OF_NUMBERS)
    }


def raw_loader(psycopg: Any) -> Any:
    """A loader of psycopg's that leaves values as they are."""

    class Raw(psycopg.adapt.Loader):
        format = psycopg.pq.Format.BINARY

        def load(self, data: Any) -> bytes:
            return bytes(data)

    return Raw
