"""NumPy .npy shards: any header version, C or Fortran order, either byte order; read and written by position.

bfloat16 is stored as ml_dtypes stores it: two opaque bytes an element, `<V2`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import lru_cache
from math import prod

import numpy as np
from numpy.lib import format as npy_format

from fastrealign.core.dtypes import BFLOAT16
from fastrealign.core.errors import InputError
from fastrealign.core.text import one_line
from fastrealign.formats.base import native_float, no_float
from fastrealign.formats.choose_column import Wanted
from fastrealign.formats.matrix import MatrixShard, MatrixWriter, check_shape
from fastrealign.storage.files import Descriptor, file_size, reading
from fastrealign.storage.paths import AnyPath, Place

# NumPy refuses headers beyond 10,000 characters; magic, version and length precede them.
_HEADER_LIMIT = 10_000 + 12
# Version 3 differs from 2 in the encoding of field names alone, and arrays with named fields are refused.
_PARSERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
    (3, 0): npy_format.read_array_header_2_0,
}
# The usual header of a matrix: matching it takes a sixth of the time that NumPy's parser does. There may be many shards.
_SIZE = rb"(0|[1-9][0-9]{0,17})"
_USUAL = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([<>][fV][248])', 'fortran_order': (True|False), "
    rb"'shape': \(%b, %b\), \} *\n" % (_SIZE, _SIZE),
    re.DOTALL,
)


class NpyShard(MatrixShard):
    """One array, (rows, width) or (rows, 1, width). Fortran order costs a small read for every column of every block."""

    format = "npy"

    def __init__(self, path: AnyPath, name: str, column: str | Wanted | None = None) -> None:
        super().__init__(path, name, column)
        size = file_size(path)
        with reading(path):
            descriptor = Descriptor(path)
            head = descriptor.pread(_HEADER_LIMIT, 0)
            descriptor.close()
        shape, fortran, dtype, self._offset = _parse_header(head, self.path)
        # NumPy reads '>V2' as '|V2', so that the byte order of bfloat16 has to come from the text.
        self._swapped = not dtype.isnative or b"'>V2'" in head[: self._offset]
        if dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None and dtype.subdtype is None:
            dtype = BFLOAT16
        if dtype.names is not None or dtype.hasobject:
            raise no_float(dtype, self.path)
        # Before the type: converting labels would not make embeddings.
        self.rows, self.dim = check_shape(shape, self.path)
        self.dtype = native_float(dtype, self.path)
        self.between = tuple(shape[1:-1])
        self._strides = (1, self.rows) if fortran else (self.dim, 1)
        expected = self._offset + prod(shape) * self.dtype.itemsize
        takes = f"{self.rows} x {self.dim} {self.dtype} take {expected} bytes with the header, the file has {size}"
        if size < expected:
            raise InputError(f"{path}: truncated: {takes}; copy or make it again")
        if size > expected:
            raise InputError(f"{path}: {takes}; if several arrays were saved into one file, save each into its own")

    def writer(self, out_path: Place, dtype: np.dtype, rows: int | None = None, fsync: bool = True) -> NpyWriter:
        return NpyWriter(out_path, dtype, self.out_dim, rows, fsync, self.between)


class NpyWriter(MatrixWriter):
    """Writes C order. The header has the same size for any number of rows, and is written on commit."""

    def __init__(
        self,
        path: Place,
        dtype: np.dtype,
        dim: int,
        rows: int | None = None,
        fsync: bool = True,
        between: tuple[int, ...] = (),
    ) -> None:
        super().__init__(path, dtype, dim, rows, fsync)
        self._row = (*between, dim)
        self._offset = len(_header(self.dtype.str, (rows or 0, *self._row)))

    def _finish(self) -> None:
        self._file.pwrite(_header(self.dtype.str, (self._kept, *self._row)), 0)


@lru_cache(64)
def _header(descr: str, shape: tuple[int, ...]) -> bytes:
    text = io.BytesIO()
    npy_format.write_array_header_1_0(text, {"descr": descr, "fortran_order": False, "shape": shape})
    return text.getvalue()


def _parse_header(head: bytes, path: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """(shape, fortran_order, dtype, offset of the data) from the first bytes of a file."""
    usual = _USUAL.match(head)
    if usual and usual.end() == 10 + int.from_bytes(usual[1], "little"):
        return (int(usual[4]), int(usual[5])), usual[3] == b"True", np.dtype(usual[2].decode()), usual.end()
    if head[:6] != npy_format.MAGIC_PREFIX:
        raise InputError(f"{path}: is not a .npy file: it does not start with {npy_format.MAGIC_PREFIX!r}")
    text = io.BytesIO(head)
    try:
        version = npy_format.read_magic(text)
        if version not in _PARSERS:
            raise ValueError(f"version {version} is unknown")
        shape, fortran, dtype = _persistently(_PARSERS[version], text)
    except Exception as error:  # NumPy lets any error of its literal parser through
        raise InputError(f"{path}: has a damaged .npy header ({one_line(error)}); make it again") from error
    return shape, fortran, dtype, text.tell()


def _persistently(parse: Callable, text: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """NumPy parses with ast, which fails on Python 3.11 when another thread does the same; then, parse again."""
    start = text.tell()
    for _ in range(4):
        try:
            return parse(text)
        except SystemError:
            text.seek(start)
    return parse(text)
