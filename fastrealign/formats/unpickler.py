"""A pickle reader for NumPy arrays and plain values that refuses every other name.

A pickle is a program: it imports names and calls them. Here each known name is bound to a function of this module that checks
its arguments and builds arrays of numbers or text; any other name is an error before anything is imported or called. NumPy's
`ndarray` and `dtype` are never passed to a pickle: it could call the first to allocate memory of any size, and change the
second, which the whole process shares, in place.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import threading
from collections.abc import Callable
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, NoReturn, SupportsIndex

import numpy as np

from fastrealign.core.dtypes import BFLOAT16
from fastrealign.core.errors import FastRealignError, InputError, shortage
from fastrealign.core.text import one_line
from fastrealign.formats.pickle_opcodes import check_opcodes
from fastrealign.storage.files import open_binary, reading
from fastrealign.storage.paths import place

_CONVERT = "keep ids, text, numbers and float arrays only, written with plain NumPy"


class Refused(Exception):
    """A pickle asks for something other than arrays and plain values; the message names it, without the file."""


def load(path: str) -> object:
    """The object in the pickle at `path`; arrays in it pickle again as plain NumPy arrays.

    Raises InputError if the pickle asks for a name that NumPy arrays do not need, is damaged, or is followed by further data.
    Nothing that the pickle names is imported or called. Time and memory are proportional to the size of the file.
    """
    with reading(path), open_binary(path) as file:
        if not isinstance(place(path), Path):  # it is read twice
            file = io.BytesIO(file.read())
        try:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            check_opcodes(file, size)
            file.seek(0)
            _made.bytes_left = _TIMES * size + _FREE
            value = _Unpickler(file).load()
            _check_extent(value, _TIMES * size + _FREE)
        except Refused as refused:
            raise InputError(f"{path}: refused to load: the pickle asks for {refused}; {_CONVERT}") from None
        except (OSError, FastRealignError):
            raise
        except Exception as error:  # a damaged pickle can raise almost anything
            if shortage(error) is not None:
                raise
            raise InputError(f"{path}: is not a readable pickle ({one_line(error)}); make it again") from error
        if file.read(1):
            raise InputError(f"{path}: holds more than one pickle; write one list of items to each file")
    return value


def _count(nbytes: int) -> None:
    """Count bytes that a pickle makes; ValueError once they are out of proportion to the file."""
    _made.bytes_left -= nbytes
    if _made.bytes_left < 0:
        raise ValueError("it makes far more bytes than it has")


def _check_extent(value: Any, most: int) -> None:
    """ValueError for a value that is nested too deeply, contains itself, or has more than `most` parts if none is shared."""
    # By the id of what holds containers: levels and parts; None while under way.
    done: dict[int, tuple[int, int] | None] = {}
    stack: list[Any] = [value] if _inner(value) else []
    leaves = 0
    while stack:
        one = stack[-1]
        if done.get(id(one)) is not None:
            stack.pop()
        elif id(one) not in done:
            done[id(one)] = None
            for part in _inner(one):
                if id(part) in done:
                    if done[id(part)] is None:
                        raise ValueError("it holds itself")
                elif _inner(part):
                    stack.append(part)
                else:
                    leaves += len(part)
            if leaves > most:
                raise ValueError("it holds the same parts too often")
        else:
            stack.pop()
            inner = [done.get(id(part)) or (1, len(part)) for part in _inner(one)]
            levels, parts = 1 + max(levels for levels, _ in inner), len(one) + sum(parts for _, parts in inner)
            if levels > _LEVELS or parts > most:
                raise ValueError("it is nested too deeply" if levels > _LEVELS else "it holds the same parts too often")
            done[id(one)] = (levels, parts)


def _inner(value: Any) -> list[Any]:
    """The containers in a container."""
    if not isinstance(value, _CONTAINERS):
        return []
    parts = chain(value, value.values()) if isinstance(value, dict) else value
    return [part for part in parts if isinstance(part, _CONTAINERS)]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        known = _GLOBALS.get((module, name))
        if known is None:
            raise Refused(f"{module}.{name}, which is neither a NumPy array nor a plain value")
        return known


class _Global:
    """The object that a known name is bound to: it can be called but not changed."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *args: object) -> object:
        return self._call(*args)

    def __setstate__(self, state: object) -> NoReturn:
        raise Refused("a change to one of NumPy's own names")

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise Refused("one of NumPy's own names as a value")


class _DType:
    """The element type of a pickled dtype, separate from NumPy's shared dtype objects."""

    __slots__ = ("dtype",)

    def __init__(self, code: object) -> None:
        if code is _BFLOAT16:
            self.dtype = BFLOAT16
        elif isinstance(code, str) and _NUMBERS_OR_TEXT.fullmatch(code):
            self.dtype = np.dtype(code)
        else:
            raise Refused(f"an array of dtype {'object' if code in ('O', 'O8') else one_line(ValueError(repr(code)))}")

    def __setstate__(self, state: tuple) -> None:
        # (version, byte order, subarray, field names, fields, item size, alignment, flags)
        if any(part is not None for part in state[2:5]):
            raise Refused("an array with fields (structured dtype)")
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])

    def __reduce__(self) -> tuple:
        return self.dtype.__reduce__()


class _Array(np.ndarray):
    """An array being rebuilt: it checks its state, and pickles again as a plain ndarray."""

    __slots__ = ()

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _DType) or not isinstance(raw, bytes):
            raise Refused("an array whose contents are not bytes of numbers or text")
        if not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("an array has an invalid shape")
        if prod(shape) * dtype.dtype.itemsize != len(raw):
            raise ValueError(f"an array of shape {shape} has {len(raw)} bytes")
        _count(len(raw))
        super().__setstate__((1, shape, dtype.dtype, bool(fortran), raw))  # type: ignore[arg-type]  # NumPy takes a bool
        self.setflags(write=False)  # NumPy may share the memory of `raw` with others

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _reconstruct(subtype: object, shape: object, code: object) -> _Array:
    if subtype is not _NDARRAY or shape != (0,) or code not in (b"b", "b"):
        raise Refused("a subclass of ndarray")
    return np.empty(0, dtype=np.int8).view(_Array)


def _frombuffer(raw: Any, dtype: object, shape: tuple, order: Any, axis_order: tuple | None = None) -> _Array:
    if not isinstance(dtype, _DType):
        raise Refused("an array without a dtype")
    array = np.frombuffer(raw, dtype=dtype.dtype)
    if order == "K" and axis_order is not None:
        return array.reshape(shape).transpose(axis_order).view(_Array)
    return array.reshape(shape, order=order).view(_Array)


def _scalar(dtype: object, raw: object) -> np.generic:
    if not isinstance(dtype, _DType) or not isinstance(raw, bytes):
        raise Refused("a NumPy scalar whose value is not bytes of numbers or text")
    _count(dtype.dtype.itemsize)
    return np.frombuffer(raw, dtype=dtype.dtype, count=1)[0]


def _encode(text: str, encoding: str = "") -> bytes:
    if encoding != "latin1":
        raise Refused(f"_codecs.encode with the encoding {encoding!r}")
    _count(len(text))
    return text.encode("latin1")  # bytes in protocols up to 2


def _no_bytes(*args: object) -> bytes:
    if args:
        raise Refused("a call of bytes with arguments")
    return b""  # empty bytes in protocols up to 2


def _not_callable(*args: object) -> NoReturn:
    raise Refused("a call of numpy.ndarray or ml_dtypes.bfloat16 itself")


# A pickle may make this many times its size in bytes, and this many more.
_TIMES = 8
_FREE = 1 << 16
# More than any real pickle has; functions of Python and Arrow fail at some thousand levels.
_LEVELS = 100
_CONTAINERS = (dict, list, tuple, set, frozenset)
_made = threading.local()
_NUMBERS_OR_TEXT = re.compile("[<>=|]?[biufcSU][0-9]{1,6}")
_NDARRAY = _Global(_not_callable)
_BFLOAT16 = _Global(_not_callable)
_GLOBALS = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Global(lambda code, align=False, copy=False: _DType(code)),
    ("ml_dtypes", "bfloat16"): _BFLOAT16,
    ("_codecs", "encode"): _Global(_encode),
    ("__builtin__", "bytes"): _Global(_no_bytes),
    ("numpy.dtypes", "Float16DType"): _Global(lambda: _DType("f2")),
    ("numpy.dtypes", "Float32DType"): _Global(lambda: _DType("f4")),
    ("numpy.dtypes", "Float64DType"): _Global(lambda: _DType("f8")),
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and NumPy 2
    _GLOBALS[_core + ".multiarray", "_reconstruct"] = _Global(_reconstruct)
    _GLOBALS[_core + ".multiarray", "scalar"] = _Global(_scalar)
    _GLOBALS[_core + ".numeric", "_frombuffer"] = _Global(_frombuffer)
