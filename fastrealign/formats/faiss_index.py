"""FAISS indexes that store float32 rows unchanged: flat ones, graphs over and refinements by a flat one, inverted lists of
rows (IVFFlat), each alone or inside an IndexIDMap. Ids are copied.

    index    code (4 bytes), width (int32), rows (int64), 17 bytes, metric (int32), a parameter if the metric is beyond 1
    flat     index, number of values (int64), the rows
    graph    index, the graph, the flat index; a refinement has its factor (float32) after that
    IVFFlat  index, what finds the lists, the lists (faiss_lists.py)
    id map   index, the index inside it, number of ids (int64), the ids (int64)

All little-endian. faiss reads whole indexes into memory, so the header is parsed here and faiss is not needed. Graphs and
centroids of lists differ between versions and are skipped: rows are located from the end of the file.

The rows of an IVFFlat come in the order of their ids, in which they were added if faiss numbered them. The output is always a
flat index, since graphs and lists do not fit rows that have moved; with ids it is inside an IndexIDMap.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.formats.choose_column import Wanted
from fastrealign.formats.faiss_lists import Lists, find_lists
from fastrealign.formats.matrix import CarryingWriter, MatrixShard, check_shape
from fastrealign.storage.files import Descriptor, file_size, read_into, reading
from fastrealign.storage.paths import AnyPath, Place

_FLOAT32 = np.dtype(np.float32)
_FLAT = ("IxF2", "IxFI", "IxFl")
_ID_MAPS = ("IxMp", "IxM2")
# Indexes that end with a flat index of the same rows, and the number of bytes after it.
_ENDS_FLAT = {"IHNf": 0, "IHNc": 0, "IHc2": 0, "IHfP": 0, "INNf": 0, "INSf": 0, "IxRF": 4}
_LISTS = "IwFl"
# Names for messages; other indexes are named by their code.
_NAMES = {
    "IBxF": "IndexBinaryFlat", "IHNc": "IndexHNSWCagra", "IHNf": "IndexHNSWFlat", "IHNp": "IndexHNSWPQ",
    "IHNs": "IndexHNSWSQ", "IHc2": "IndexHNSWCagra", "IHfP": "IndexHNSWFlatPanorama", "INNf": "IndexNNDescentFlat",
    "INSf": "IndexNSGFlat", "IPfs": "IndexPQFastScan", "IwFd": "IndexIVFFlatDedup", "IwFl": "IndexIVFFlat",
    "IwPQ": "IndexIVFPQ", "IwPf": "IndexIVFPQFastScan", "IwSq": "IndexIVFScalarQuantizer", "IxFP": "IndexFlatPanorama",
    "IxHe": "IndexLSH", "IxPT": "IndexPreTransform", "IxPq": "IndexPQ", "IxRF": "IndexRefineFlat",
    "IxSQ": "IndexScalarQuantizer",
}  # fmt: skip
_INDEX = struct.Struct("<4siq17si")
# Offsets in a header: the number of rows, and whether the index is trained.
_ROWS, _TRAINED = 8, 32
_COUNT = struct.Struct("<q")
# Stands before the number of rows.
_WIDTH = struct.Struct("<i")
# Two headers with the parameter of a metric, and a count.
_HEAD_LIMIT = 2 * (_INDEX.size + 4) + _COUNT.size
_COPY_IDS = 1 << 17


class _Index(NamedTuple):
    """One index in a file: the bytes of its header, and the values in them."""

    text: bytes
    code: str
    dim: int
    rows: int

    @property
    def name(self) -> str:
        return _NAMES.get(self.code, f"index of type {self.code}")

    def as_flat(self) -> bytes:
        """The header of a flat index of the same width, metric and number of rows."""
        metric = _INDEX.unpack_from(self.text)[4]
        code = {0: b"IxFI", 1: b"IxF2"}.get(metric, b"IxFl")
        return code + self.text[4:_TRAINED] + b"\1" + self.text[_TRAINED + 1 :]


class FaissShard(MatrixShard):
    """One index of these kinds.

    head      the bytes before the rows of the output; it ends with the number of values
    counts    the offsets in it of the number of rows
    has_ids   whether the rows have ids other than their numbers
    """

    format = "faiss"

    def __init__(self, path: AnyPath, name: str, column: str | Wanted | None = None) -> None:
        super().__init__(path, name, column)
        size = file_size(path)
        descriptor = self._opened()
        with reading(path):
            text = descriptor.pread(_HEAD_LIMIT, 0)
        outer = index = self._index(text)
        mapped = outer.code in _ID_MAPS
        if mapped:
            text = text[len(outer.text) :]
            index = self._index(text, inside=True)
            if outer.rows != index.rows:
                raise self._damaged(f"{outer.rows} ids for an index of {index.rows} rows")
        if min(index.rows, index.dim) < 0:
            raise self._damaged(f"an index of {index.rows} x {index.dim}")
        self.rows, self.dim = check_shape((index.rows, index.dim), self.path)
        self.dtype = _FLOAT32
        self._strides = (self.dim, 1)
        self._lists: Lists | None = None
        after = _COUNT.size + self.rows * 8 if mapped else 0
        end = size - after  # of the index inside a map
        self._ids = end + _COUNT.size
        first = outer.text if mapped else b""
        if index.code in _FLAT:
            self.head = first + index.text + self._count(text, index)
            self._offset = len(self.head)
            self._check_size(size, self._offset + self.rows * self.dim * 4 + after)
        else:
            if index.code == _LISTS:
                lists = self._number(text, len(index.text))
                self._lists = find_lists(descriptor, end, self.rows, self.dim, lists, self.path)
                if mapped and not self._lists.numbered:
                    raise self._damaged("the rows in its IndexIDMap are not numbered as they come")
                if not mapped and not self._lists.numbered:
                    first = b"IxM2" + index.as_flat()[4:]
            else:
                self._offset = self._rows_at_end(descriptor, index, end - _ENDS_FLAT[index.code])
            self.head = first + index.as_flat() + _COUNT.pack(self.rows * self.dim)
            ids = ", in the order of their ids" if self._lists is not None else ""
            self.note = f"rows of an {index.name}{ids}; written as a flat index{' with ids' if first else ''}"
        self.has_ids = bool(first)
        self.counts = [_ROWS, len(first) + _ROWS] if first else [_ROWS]
        if mapped:
            count = np.empty(1, dtype="<i8")
            read_into(descriptor, count.view(np.uint8), end, self.path)
            if count[0] != self.rows:
                raise self._damaged(f"{self.rows} rows, {count[0]} ids")
        self._mapped = mapped
        self.close()

    def writer(self, out_path: Place, dtype: np.dtype, rows: int | None = None, fsync: bool = True) -> FaissWriter:
        return FaissWriter(out_path, dtype, self, fsync)

    def of_rows(self) -> tuple[dict[str, np.ndarray], list[str]]:
        return ({"id": self.ids(0, self.rows)} if self.has_ids else {}), []

    def ids(self, lo: int, hi: int) -> np.ndarray:
        """The ids of rows lo to hi (int64), of an index that has ids."""
        if self._lists is not None and not self._mapped:
            return self._lists.ids(self._opened(), lo, hi)
        ids = np.empty(hi - lo, dtype=np.int64)
        read_into(self._opened(), ids.view(np.uint8), self._ids + lo * 8, self.path)
        return ids

    def close(self) -> None:
        super().close()
        if self._lists is not None:
            self._lists.forget()

    def _fill(self, lo: int, block: np.ndarray) -> None:
        if self._lists is not None:
            self._lists.read(self._opened(), lo, block)
        else:
            super()._fill(lo, block)

    def _index(self, text: bytes, inside: bool = False) -> _Index:
        """The index at the beginning of `text`; InputError if it is none, or does not store rows unchanged."""
        code = text[:4].decode("latin1")
        if len(code) < 4 or not (code.isascii() and code.isalnum() and code.startswith("I")):
            if inside and len(code) < 4:
                raise self._cut()
            raise InputError(f"{self.path}: is not a FAISS index: it begins with {text[:4]!r}")
        if code not in (*_FLAT, *_ENDS_FLAT, _LISTS) and (inside or code not in _ID_MAPS):
            raise InputError(
                f"{self.path}: is an {_NAMES.get(code, f'index of type {code}')}, which does not store the original rows; "
                "give the embeddings that it was made from"
            )
        if len(text) < _INDEX.size:
            raise self._cut()
        _, dim, rows, _, metric = _INDEX.unpack_from(text)
        size = _INDEX.size + (4 if metric > 1 else 0)
        if len(text) < size:
            raise self._cut()
        return _Index(text[:size], code, dim, rows)

    def _rows_at_end(self, descriptor: Descriptor, index: _Index, end: int) -> int:
        """The offset of the rows of the flat index, of the size of `index`, that ends at byte `end`."""
        offset = end - self.rows * self.dim * 4
        for metric in (0, 4):  # with or without a parameter
            at = offset - _COUNT.size - _INDEX.size - metric
            text = descriptor.pread(offset - at, at) if at >= 0 else b""
            if text[:4].decode("latin1") in _FLAT and len(text) == offset - at:
                flat = self._index(text[: -_COUNT.size])
                same = (flat.dim, flat.rows) == (self.dim, self.rows) and len(flat.text) == len(text) - _COUNT.size
                if same and _COUNT.unpack(text[-_COUNT.size :])[0] == self.rows * self.dim:
                    return offset
        raise InputError(
            f"{self.path}: is an {index.name} of {self.rows} x {self.dim}, but does not end with its float32 rows: it is "
            "truncated or damaged, or was written without them; give the embeddings that it was made from"
        )

    def _count(self, text: bytes, index: _Index) -> bytes:
        values = self._number(text, len(index.text))
        if values != self.rows * self.dim:
            raise self._damaged(f"{values} values in an index of {self.rows} x {self.dim}")
        return _COUNT.pack(values)

    def _number(self, text: bytes, at: int) -> int:
        if len(text) < at + _COUNT.size:
            raise self._cut()
        return _COUNT.unpack_from(text, at)[0]

    def _check_size(self, size: int, expected: int) -> None:
        if size != expected:
            what = "truncated" if size < expected else "damaged"
            raise InputError(
                f"{self.path}: {what}: an index of {self.rows} x {self.dim} float32 takes {expected} bytes, the file has "
                f"{size}; write it again"
            )

    def _damaged(self, how: str) -> InputError:
        return InputError(f"{self.path}: damaged: {how}; write it again")

    def _cut(self) -> InputError:
        return InputError(f"{self.path}: truncated: its header ends after {file_size(self.path)} bytes; write it again")


class FaissWriter(CarryingWriter):
    """Writes a flat index. Its header has the same size for any number of rows."""

    def __init__(self, path: Place, dtype: np.dtype, shard: FaissShard, fsync: bool = True) -> None:
        if dtype != _FLOAT32:
            raise InputError(f"{path}: a flat FAISS index holds float32, not {np.dtype(dtype)}; choose float32")
        super().__init__(path, dtype, shard.out_dim, shard.rows, fsync)
        self._shard = shard
        self._offset = len(shard.head)

    def _finish(self) -> None:
        text = bytearray(self._shard.head)
        for at in self._shard.counts:
            _COUNT.pack_into(text, at, self._kept)
            _WIDTH.pack_into(text, at - _WIDTH.size, self.dim)
        _COUNT.pack_into(text, len(text) - _COUNT.size, self._kept * self.dim)
        self._file.pwrite(text, 0)
        if self._shard.has_ids:
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
            self._file.pwrite(ids.view(np.uint8).data, offset)
            offset += ids.nbytes
