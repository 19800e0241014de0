"""Text of input files, the same for every command: UTF-8 bytes are text, ids are text, blank lines at the end do not count."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.storage.files import open_binary, reading
from fastrealign.storage.paths import AnyPath

if TYPE_CHECKING:
    import pyarrow as pa

# Limit of a line, which is held in memory.
LINE_BYTES = 64 << 20
_MARK = b"\xef\xbb\xbf"  # a byte order mark


def as_text(value: Any) -> Any:
    """Bytes decoded as UTF-8; other values unchanged. InputError ("is not UTF-8 ...") if they are not UTF-8."""
    try:
        if isinstance(value, UnicodeDecodeError):  # of `values_of`
            raise value
        return bytes(value).decode("utf-8-sig") if isinstance(value, (bytes, bytearray, memoryview)) else value
    except UnicodeDecodeError as error:
        if bytes(error.object[:2]) in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError("is not UTF-8 but UTF-16; save the file as UTF-8") from None
        raise InputError(f"is not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start})") from None


def texts_in(value: Any) -> Any:
    """`as_text` of a value, of the items of a list and of the values of a dict."""
    if isinstance(value, dict):
        return {name: texts_in(part) for name, part in value.items()}
    return [texts_in(part) for part in value] if isinstance(value, list) else as_text(value)


def values_of(column: pa.Array) -> list[Any]:
    """The values of a column; for text that is not UTF-8, the UnicodeDecodeError."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error


def id_text(value: object) -> str:
    """An id as text, for comparison: 7 equals "7", not "007". InputError for a fraction, a list, null."""
    try:
        value = as_text(value)
    except InputError as error:
        raise InputError(f"has an id that {error}") from None
    if isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    raise InputError(f"has the id {value!r}, expected text or a whole number")


def lines_of(path: AnyPath) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, offset, bytes) of each line, without a byte order mark in the first.

    Raises InputError for a line longer than LINE_BYTES.
    """
    at = 0
    with reading(path), open_binary(path) as file:
        for number in itertools.count(1):
            line = file.readline(LINE_BYTES + 1)
            if not line:
                return
            if len(line) > LINE_BYTES:
                raise InputError(
                    f"{path}: line {number}: is longer than {LINE_BYTES >> 20} MB; is this a file of lines?"
                )
            start, at = at, at + len(line)
            if number == 1 and line.startswith(_MARK):
                start, line = start + len(_MARK), line[len(_MARK) :]
            yield number, start, line


def rows_in_lines(path: AnyPath, space: bytes | None = None) -> Iterator[tuple[int, int, bytes]]:
    """`lines_of` a file with a row per line, without blank lines at the end.

    Blank lines before that are b"": they keep their numbers, which may pair them with the rows of another file.

    space   the characters of a blank line; None: white space
    """
    blank = 0
    for number, start, line in lines_of(path):
        if not line.strip(space):
            blank += 1
            continue
        for gap in range(number - blank, number):
            yield gap, start, b""
        blank = 0
        yield number, start, line
