"""safetensors shards: one matrix of floats, also as (rows, 1, width); all other tensors and the metadata are copied.

A file has the length of its header (8 bytes), the header (JSON: element type, shape and offsets of each tensor) and the bytes
of the tensors, without gaps. The header is parsed here because the library maps the file and does not return offsets.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastrealign.core.dtypes import BFLOAT16
from fastrealign.core.errors import InputError
from fastrealign.core.text import one_line
from fastrealign.formats.base import no_float
from fastrealign.formats.choose_column import Candidate, Fit, Wanted, choose_name, other_split, with_alternatives
from fastrealign.formats.matrix import CarryingWriter, MatrixShard, check_shape, fit_of_shape
from fastrealign.storage.files import Descriptor, file_size, read_into, reading
from fastrealign.storage.paths import AnyPath, Place
from fastrealign.storage.records import parsed, record_of

# The key of the JSON record in the metadata of files that fastrealign saves.
RECORD = "fastrealign"
_FLOATS = {"F16": np.dtype(np.float16), "BF16": BFLOAT16, "F32": np.dtype(np.float32), "F64": np.dtype(np.float64)}
# What a column of a table can hold.
_OF_ROWS = {
    **{f"{kind}{bits}": np.dtype(f"{kind.lower()}{bits // 8}") for kind in "IU" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    "BOOL": np.dtype(bool),
}
_FLOAT_NAMES = {dtype: name for name, dtype in _FLOATS.items()}
_BITS = {
    **dict.fromkeys(["F4"], 4),
    **dict.fromkeys(["F6_E2M3", "F6_E3M2"], 6),
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"], 8),
    **dict.fromkeys(["U16", "I16", "F16", "BF16"], 16),
    **dict.fromkeys(["U32", "I32", "F32"], 32),
    **dict.fromkeys(["U64", "I64", "F64", "C64"], 64),
}
# The limit of the library.
_HEADER_LIMIT = 100_000_000
# Of files that fastrealign saved: the header of an alignment takes about a kilobyte.
_OWN_HEADER_LIMIT = 1 << 16
_COPY_BYTES = 1 << 20


class _Tensor(NamedTuple):
    """One entry of a header; begin and end count from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def of_rows(self, rows: int) -> bool:
        """Whether it has an entry for each of `rows` rows."""
        return len(self.shape) > 0 and self.shape[0] == rows and (self.end - self.begin) % max(rows, 1) == 0


class _Header(NamedTuple):
    tensors: dict[str, _Tensor]  # in the order of their bytes
    metadata: dict[str, str] | None
    size: int  # of the file before the bytes of the tensors


class SafetensorsShard(MatrixShard):
    """One safetensors file, the tensor given, else the one with a usual name, else the only matrix of floats."""

    format = "safetensors"
    column: str

    def __init__(self, path: AnyPath, name: str, column: str | Wanted | None = None) -> None:
        super().__init__(path, name, column)
        self.header = _read_header(self.path, file_size(path))
        own = _own_kind(self.header.metadata)
        if own is not None:
            raise InputError(f"{path}: holds {own}, not embeddings")
        tensors = self.header.tensors
        candidates = [Candidate(one.name, f"{one.dtype} {one.shape}", _fit(one)) for one in tensors.values()]
        self.column = choose_name(self.path, candidates, column, "tensor", "a matrix of floats")
        chosen = tensors[self.column]
        where = f"{path}: tensor {self.column!r}"
        with with_alternatives(candidates, self.column, column):
            self.rows, self.dim = check_shape(chosen.shape, where)
            if chosen.dtype not in _FLOATS:
                raise no_float(chosen.dtype, where, ".float(), with safetensors.torch")
            self.dtype = _FLOATS[chosen.dtype]
            self.between = chosen.shape[1:-1]
        self._offset = self.header.size + chosen.begin
        self._strides = (self.dim, 1)

    def writer(
        self, out_path: Place, dtype: np.dtype, rows: int | None = None, fsync: bool = True
    ) -> SafetensorsWriter:
        return SafetensorsWriter(out_path, dtype, self, fsync)

    def of_rows(self) -> tuple[dict[str, np.ndarray], list[str]]:
        found: dict[str, np.ndarray] = {}
        others = []
        for name, tensor in self.header.tensors.items():
            if name == self.column:
                continue
            if self.has_rows_of(tensor) and tensor.shape == (self.rows,) and tensor.dtype in _OF_ROWS:
                found[name] = np.empty(self.rows, _OF_ROWS[tensor.dtype])
                self.read_bytes(found[name].view(np.uint8), tensor.begin)
            else:
                others.append(name)
        return found, others

    def has_rows_of(self, tensor: _Tensor) -> bool:
        """Whether another tensor has an entry for each row."""
        return tensor.of_rows(self.rows) and not other_split(tensor.name, self.column)

    def read_bytes(self, buffer: np.ndarray, offset: int) -> None:
        """Fill the uint8 array `buffer` from byte `offset` behind the header on."""
        read_into(self._opened(), buffer, self.header.size + offset, self.path)


class SafetensorsWriter(CarryingWriter):
    """Writes the tensors in order, wider elements first, which keeps all of them aligned."""

    def __init__(self, path: Place, dtype: np.dtype, shard: SafetensorsShard, fsync: bool = True) -> None:
        super().__init__(path, dtype, shard.out_dim, shard.rows, fsync)
        self._shard = shard
        self._header, places = self._lay_out(shard.rows)
        self._offset = len(self._header) + places[shard.column].begin

    def _lay_out(self, rows: int) -> tuple[bytes, dict[str, _Tensor]]:
        """The header for `rows` rows, and the offsets of all tensors."""
        shard = self._shard
        planned = []
        for old in shard.header.tensors.values():
            dtype, shape, size = old.dtype, old.shape, old.end - old.begin
            if old.name == shard.column:
                dtype, size = _FLOAT_NAMES[self.dtype], rows * self._row_bytes
                shape = (rows, *shard.between, self.dim)
            elif rows != shard.rows and shard.has_rows_of(old):
                shape, size = (rows, *shape[1:]), size // shard.rows * rows
            planned.append(_Tensor(old.name, dtype, shape, 0, size))
        planned.sort(key=lambda one: -_BITS[one.dtype])
        places, end = {}, 0
        for one in planned:
            places[one.name] = one._replace(begin=end, end=end + one.end)
            end += one.end
        return _header_bytes(places.values(), shard.header.metadata), places

    def _finish(self) -> None:
        mask = self._mask()
        header, places = self._lay_out(self._kept)
        self._move(len(header) + places[self._shard.column].begin)
        self._file.pwrite(header, 0)
        for old in self._shard.header.tensors.values():
            if old.name != self._shard.column:
                dropping = mask if self._shard.has_rows_of(old) else None
                self._copy(old, len(header) + places[old.name].begin, dropping)
        self._file.truncate(len(header) + max(place.end for place in places.values()))
        self._shard.close()

    def _copy(self, old: _Tensor, offset: int, mask: np.ndarray | None) -> None:
        """Copy a tensor to byte `offset` of the output; with a mask, the rows that it keeps."""
        size = old.end - old.begin
        row = 1 if mask is None else size // len(mask)
        step = max(_COPY_BYTES // max(row, 1), 1) * row
        buffer = np.empty(min(step, size), dtype=np.uint8)
        for at in range(0, size, max(step, 1)):
            part = buffer[: size - at]
            self._shard.read_bytes(part, old.begin + at)
            if mask is not None:
                part = part.reshape(-1, row)[mask[at // row : at // row + len(part) // row]].reshape(-1)
            self._file.pwrite(part.data, offset)
            offset += len(part)


def own_kind(path: AnyPath) -> str | None:
    """What fastrealign saved in the file ("a saved alignment"); None for any other file, also one that cannot be read."""
    try:
        size = file_size(path)
        return _own_kind(_read_header(str(path), size, _OWN_HEADER_LIMIT).metadata)
    except InputError:
        return None


def is_of_others(path: AnyPath) -> bool:
    """Whether it is a readable safetensors file that fastrealign did not save, such as embeddings."""
    try:
        return _own_kind(_read_header(str(path), file_size(path)).metadata) is None
    except InputError:
        return False


def _own_kind(metadata: dict[str, str] | None) -> str | None:
    if not metadata or RECORD not in metadata:
        return None
    try:
        kind = parsed(metadata[RECORD])["kind"]
    except (ValueError, TypeError, KeyError):
        kind = None
    known = {name: f"a saved {name}" for name in ("alignment", "baseline", "frame")} | {
        name: f"saved {name}" for name in ("moments", "roles")
    }
    return known.get(kind if isinstance(kind, str) else "", "something that fastrealign saved")


def _fit(tensor: _Tensor) -> Fit:
    return fit_of_shape(tensor.shape, tensor.dtype in _FLOATS, tensor.dtype[0] in "IU" or tensor.dtype == "BOOL")


def _read_header(path: str, size: int, limit: int = _HEADER_LIMIT) -> _Header:
    """The checked header of a file of `size` bytes."""
    with reading(path):
        descriptor = Descriptor(path)
        length = int.from_bytes(descriptor.pread(8, 0), "little")
    if size < 8 or 8 + length > size:
        raise InputError(
            f"{path}: its header would be {length} bytes long, the file has {size}; "
            "it was cut short or is not a safetensors file"
        )
    if length > limit:
        raise InputError(f"{path}: has a header of {length} bytes, at most {limit} are accepted; make it again")
    text = np.empty(length, dtype=np.uint8)
    read_into(descriptor, text, 8, path)
    try:
        fields = record_of(text.tobytes())
        json.dumps(fields, ensure_ascii=False).encode()  # half of a surrogate pair could not be written back
        metadata = fields.pop("__metadata__", None)
        if metadata is not None and not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its __metadata__ holds more than text")
        tensors = sorted((_entry(name, entry) for name, entry in fields.items()), key=lambda one: (one.begin, one.end))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: has a damaged safetensors header ({one_line(error)}); make it again") from error
    _check_places(tensors, size - 8 - length, path)
    return _Header({tensor.name: tensor for tensor in tensors}, metadata, 8 + length)


def _entry(name: str, entry: dict[str, Any]) -> _Tensor:
    dtype, shape, places = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = [*shape, *places]
    if len(places) != 2 or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"tensor {name!r} has shape {shape} and offsets {places}")
    if dtype not in _BITS:
        raise ValueError(f"tensor {name!r} has the unknown element type {dtype!r}")
    begin, end = places
    if prod(shape) * _BITS[dtype] != (end - begin) * 8:
        raise ValueError(f"tensor {name!r} of shape {shape} and type {dtype} has {end - begin} bytes")
    return _Tensor(name, dtype, tuple(shape), begin, end)


def _check_places(tensors: list[_Tensor], size: int, path: str) -> None:
    """InputError unless the tensors fill the `size` bytes behind the header without gaps."""
    end = 0
    for tensor in tensors:
        if tensor.begin != end:
            what = "overlaps the one before" if tensor.begin < end else "leaves a gap"
            raise InputError(
                f"{path}: tensor {tensor.name!r} begins at byte {tensor.begin}, expected {end}: it {what}; make it again"
            )
        end = tensor.end
    takes = f"its tensors take {end} bytes, the file has {size} behind the header"
    if end > size:
        raise InputError(f"{path}: truncated: {takes}; copy or make it again")
    if end < size:
        raise InputError(f"{path}: {takes}; make it again")


def _header_bytes(tensors: Iterable[_Tensor], metadata: dict[str, str] | None) -> bytes:
    fields: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    for one in tensors:
        fields[one.name] = {"dtype": one.dtype, "shape": one.shape, "data_offsets": (one.begin, one.end)}
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8, as the library has it
    return len(text).to_bytes(8, "little") + text
