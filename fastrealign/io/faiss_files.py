"""Flat FAISS indexes, which hold float32 rows as they are, bare or inside an IndexIDMap, whose ids are carried through.

    index    code (4 bytes), width (int32), rows (int64), 17 bytes, metric (int32), a parameter if the metric is beyond 1
    flat     index, number of values (int64), the rows
    id map   index, the index inside it, number of ids (int64), the ids (int64)

All little-endian. The header is read here and not by faiss, which takes whole indexes into memory; so faiss is not needed.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastrealign.errors import InputError
from fastrealign.io.files import Descriptor, file_size, read_into, reading
from fastrealign.io.matrix import CarryingWriter, MatrixShard, check_shape

_FLOAT32 = np.dtype(np.float32)
_FLAT = ("IxF2", "IxFI", "IxFl")
_ID_MAPS = ("IxMp", "IxM2")
# What others are called; those that are missing are named by their code.
_OTHERS = {
    "IBxF": "IndexBinaryFlat",
    "IHNf": "IndexHNSWFlat",
    "IHNp": "IndexHNSWPQ",
    "IHNs": "IndexHNSWSQ",
    "INSf": "IndexNSGFlat",
    "IPfs": "IndexPQFastScan",
    "IwFl": "IndexIVFFlat",
    "IwPQ": "IndexIVFPQ",
    "IwPf": "IndexIVFPQFastScan",
    "IwSq": "IndexIVFScalarQuantizer",
    "IxHe": "IndexLSH",
    "IxPT": "IndexPreTransform",
    "IxPq": "IndexPQ",
    "IxRF": "IndexRefineFlat",
    "IxSQ": "IndexScalarQuantizer",
}
_INDEX = struct.Struct("<4siq17si")
_COUNT = struct.Struct("<q")
# Two headers with the parameter of a metric, and a count.
_HEAD_LIMIT = 2 * (_INDEX.size + 4) + _COUNT.size
_COPY_IDS = 1 << 17


class _Head(NamedTuple):
    """What comes before the rows."""

    text: bytes
    rows: int
    dim: int
    counts: list[int]  # where in the text the number of rows stands; the number of values is the last of it
    has_ids: bool


class FaissShard(MatrixShard):
    """One IndexFlatL2, IndexFlatIP or IndexFlat, or an IndexIDMap or IndexIDMap2 over one."""

    format = "faiss"

    def __init__(self, path: str | Path, name: str, column: str | None = None) -> None:
        super().__init__(path, name, column)
        size = file_size(path)
        with reading(path):
            descriptor = Descriptor(path)
            text = descriptor.pread(_HEAD_LIMIT, 0)
        self.head = _read_head(text, self.path)
        self.rows, self.dim = check_shape((self.head.rows, self.head.dim), self.path)
        self.dtype = _FLOAT32
        self._offset = len(self.head.text)
        self._strides = (self.dim, 1)
        self._ids = self._offset + self.rows * self.dim * 4 + _COUNT.size
        expected = self._ids + self.rows * 8 if self.head.has_ids else self._ids - _COUNT.size
        if size != expected:
            what = "truncated" if size < expected else "damaged"
            raise InputError(
                f"{path}: {what}: an index of {self.rows} x {self.dim} float32 takes {expected} bytes, the file has {size}; "
                "write it again"
            )
        if self.head.has_ids:
            count = np.empty(_COUNT.size, dtype=np.uint8)
            read_into(descriptor, count, self._ids - _COUNT.size, self.path)
            if _COUNT.unpack(count)[0] != self.rows:
                raise InputError(f"{path}: damaged: {self.rows} rows, {_COUNT.unpack(count)[0]} ids; write it again")

    def writer(self, out_path: Path, dtype: np.dtype, rows: int | None = None, fsync: bool = True) -> FaissWriter:
        return FaissWriter(out_path, dtype, self, fsync)

    def of_rows(self) -> tuple[dict[str, np.ndarray], list[str]]:
        return ({"id": self.ids(0, self.rows)} if self.head.has_ids else {}), []

    def ids(self, lo: int, hi: int) -> np.ndarray:
        """The ids of rows lo to hi (int64), of an index that has ids."""
        ids = np.empty(hi - lo, dtype=np.int64)
        read_into(self._opened(), ids.view(np.uint8), self._ids + lo * 8, self.path)
        return ids


class FaissWriter(CarryingWriter):
    """Writes the same kind of index. Its header is of one size for any number of rows."""

    def __init__(self, path: Path, dtype: np.dtype, shard: FaissShard, fsync: bool = True) -> None:
        if dtype != _FLOAT32:
            raise InputError(f"{path}: a flat FAISS index holds float32, not {np.dtype(dtype)}; choose float32")
        super().__init__(path, dtype, shard.dim, shard.rows, fsync)
        self._shard = shard
        self._offset = len(shard.head.text)

    def _finish(self) -> None:
        head = self._shard.head
        text = bytearray(head.text)
        for at in head.counts:
            _COUNT.pack_into(text, at, self._kept)
        _COUNT.pack_into(text, len(text) - _COUNT.size, self._kept * self.dim)
        self._file.pwrite(text, 0)
        if head.has_ids:
            self._write_ids(self._mask())
        self._shard.close()

    def _write_ids(self, mask: np.ndarray | None) -> None:
        offset = self._offset + self._kept * self._row_bytes
        self._file.pwrite(_COUNT.pack(self._kept), offset)
        offset += _COUNT.size
        for lo in range(0, self._shard.rows, _COPY_IDS):
            hi = min(lo + _COPY_IDS, self._shard.rows)
            ids = self._shard.ids(lo, hi)
            if mask is not None:
                ids = ids[mask[lo:hi]]
            self._file.pwrite(ids.view(np.uint8), offset)
            offset += ids.nbytes


def _read_head(text: bytes, path: str) -> _Head:
    """The header of the flat index that a file begins with; InputError if it is none."""
    code, dim, rows, end = _read_index(text, 0, path)
    counts, has_ids = [8], code in _ID_MAPS
    outer_rows = rows
    if has_ids:
        counts.append(end + 8)
        code, dim, rows, end = _read_index(text, end, path)
    if code not in _FLAT:
        raise InputError(
            f"{path}: is an {_OTHERS.get(code, f'index of type {code}')}, which does not hold the rows themselves, expected "
            "a flat one; give its rows as .npy: numpy.save(file, index.reconstruct_n(0, index.ntotal))"
        )
    if outer_rows != rows:
        raise InputError(f"{path}: damaged: {outer_rows} ids for an index of {rows} rows; write it again")
    if len(text) < end + _COUNT.size:
        raise _cut(text, path)
    values = _COUNT.unpack_from(text, end)[0]
    if rows < 0 or dim < 0 or values != rows * dim:
        raise InputError(f"{path}: damaged: {values} values in an index of {rows} x {dim}; write it again")
    return _Head(text[: end + _COUNT.size], rows, dim, counts, has_ids)


def _read_index(text: bytes, at: int, path: str) -> tuple[str, int, int, int]:
    """(code, width, rows, where its header ends) of the index at byte `at`."""
    code = text[at : at + 4].decode("latin1")
    if at and len(code) < 4:
        raise _cut(text, path)
    if code not in (*_FLAT, *_ID_MAPS):
        if len(code) < 4 or not (code.isascii() and code.isalnum() and code.startswith("I")):
            raise InputError(f"{path}: is not a FAISS index: it begins with {text[at : at + 4]!r}")
        return code, 0, 0, 0
    if len(text) < at + _INDEX.size:
        raise _cut(text, path)
    _, dim, rows, _, metric = _INDEX.unpack_from(text, at)
    return code, dim, rows, at + _INDEX.size + (4 if metric > 1 else 0)


def _cut(text: bytes, path: str) -> InputError:
    return InputError(f"{path}: truncated: its header ends after {len(text)} bytes; write it again")
