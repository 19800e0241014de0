"""Values of input files as text, the same for every command: bytes are decoded as UTF-8, and ids are compared as text."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.libraries import pa


def as_text(value: object) -> Any:
    """Bytes decoded as UTF-8; other values unchanged. InputError ("is not UTF-8 ...") if they are not UTF-8."""
    try:
        if isinstance(value, UnicodeDecodeError):  # of `values_of`
            raise value
        return bytes(value).decode("utf-8-sig") if isinstance(value, (bytes, bytearray, memoryview)) else value
    except UnicodeDecodeError as error:
        if bytes(error.object[:2]) in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError("is not UTF-8 but UTF-16; save the file as UTF-8") from None
        raise InputError(f"is not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start})") from None


def texts_in(value: object) -> Any:
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
