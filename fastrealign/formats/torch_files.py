"""PyTorch shards: files of torch.save with a matrix, or a dict with a matrix among its values. Needs torch.

torch loads the file with weights_only, which runs no code, and maps it into memory, which shows the offset of the matrix; rows
are then read by position. Everything else in a dict is copied; lists and tensors with one entry per row lose those of dropped
rows.
"""

from __future__ import annotations

import copy
import threading
import zlib
from collections import Counter
from enum import Enum
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from fastrealign.core.dtypes import NAMES
from fastrealign.core.errors import InputError, changed
from fastrealign.core.libraries import torch
from fastrealign.core.text import described
from fastrealign.formats.base import no_float
from fastrealign.formats.choose_column import Candidate, Fit, Wanted, choose_name, other_split, with_alternatives
from fastrealign.formats.matrix import CarryingWriter, MatrixShard, check_shape, fit_of_shape
from fastrealign.formats.torch_archive import Hole, crc_of_parts, put_crc, save_around
from fastrealign.formats.torch_load import is_archive, load, offset_in_map
from fastrealign.storage.files import file_size
from fastrealign.storage.paths import AnyPath, Place, place


class _NoKey(Enum):
    """In place of the key of a matrix that is no value of a dict; None may be a key. Stays itself when it is pickled."""

    NO_KEY = "no key"


NO_KEY = _NoKey.NO_KEY


class TorchShard(MatrixShard):
    """One .pt file; of a dict the key given, else the one with a usual name, else the only matrix of floats."""

    format = "torch"
    opens_whole = True

    def __init__(self, path: AnyPath, name: str, column: str | Wanted | None = None) -> None:
        super().__init__(path, name, column)
        if not isinstance(place(path), Path):
            raise InputError(
                f"{path}: a file of torch is mapped into memory, which a URL cannot be; copy it to a disk first, or save it "
                "as .safetensors"
            )
        self._wanted = Wanted.of(column)
        self._whole: np.ndarray | None = None
        self._loading = threading.Lock()
        size = file_size(path)
        self._mapped = is_archive(self.path, size)
        self.key, tensor = self._choose(load(self.path, self._mapped))
        self.column = None if self.key is NO_KEY else self._names[self.key]
        self.rows, self.dim, self.dtype = self._facts(tensor)
        self.between = tuple(tensor.shape[1:-1])
        self._strides = tensor.stride(0), tensor.stride(-1)
        # Where torch negates a tensor lazily, the file holds the other sign.
        offset = offset_in_map(tensor) if self._mapped and not tensor.is_neg() else None
        self._by_position, self._offset = offset is not None, offset or 0

    def writer(self, out_path: Place, dtype: np.dtype, rows: int | None = None, fsync: bool = True) -> TorchWriter:
        return TorchWriter(out_path, dtype, self, fsync)

    def close(self) -> None:
        super().close()
        self._whole = None

    def value(self) -> Any:
        """The contents, loaded again; tensors are views of the mapped file."""
        value = load(self.path, self._mapped)
        key, tensor = self._choose(value)
        if (
            key != self.key
            or self._facts(tensor) != (self.rows, self.dim, self.dtype)
            or tensor.ndim != 2 + len(self.between)
        ):
            raise changed(self.path)
        return value

    def of_rows(self) -> tuple[dict[str, Any], list[str]]:
        value = self.value()
        found: dict[str, Any] = {}
        others = []
        for key, one in value.items() if isinstance(value, dict) else ():
            if key == self.key:
                continue
            name = self._names[key]
            mine = not other_split(name, self.column)
            if mine and isinstance(one, torch.Tensor) and one.shape == (self.rows,) and one.dtype != torch.bfloat16:
                found[name] = one.detach().clone().numpy()
            elif mine and isinstance(one, (list, tuple)) and len(one) == self.rows:
                found[name] = list(one)
            else:
                others.append(name)
        return found, others

    def _choose(self, value: Any) -> tuple[Any, torch.Tensor]:
        """The matrix in the loaded value, and its key if that is a dict, of any type; users name it as text."""
        if isinstance(value, torch.Tensor):
            return NO_KEY, value
        if not isinstance(value, dict):
            raise InputError(
                f"{self.path}: holds {described(value)}, expected a matrix or a dict with a matrix among its values"
            )
        self._names = _names(value)
        found = [(key, one, Candidate(self._names[key], _holds(one), _fit(one))) for key, one in value.items()]
        self._candidates = [
            known for _, one, known in found if known.fit is not Fit.NO or isinstance(one, torch.Tensor)
        ]
        name = choose_name(self.path, self._candidates, self._wanted, "tensor", "a matrix of floats")
        key, tensor, held = next(one for one in found if one[2].name == name)
        if not isinstance(tensor, torch.Tensor):
            with with_alternatives(self._candidates, name, self._wanted):
                raise InputError(f"{self.path}: {name!r} is {held.holds}, expected a tensor")
        return key, tensor

    def _facts(self, tensor: torch.Tensor) -> tuple[int, int, np.dtype]:
        if self.key is NO_KEY:
            return self._checked(tensor, self.path)
        name = self._names[self.key]
        with with_alternatives(self._candidates, name, self._wanted):
            return self._checked(tensor, f"{self.path}: tensor {name!r}")

    def _checked(self, tensor: torch.Tensor, where: str) -> tuple[int, int, np.dtype]:
        if str(tensor.layout) != "torch.strided" or tensor.is_nested or tensor.device.type != "cpu":
            raise InputError(
                f"{where}: is sparse, nested or without values, expected a plain tensor; save tensor.to_dense()"
            )
        shape = check_shape(tensor.shape, where)  # before the type: converting labels would not make embeddings
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in NAMES:
            raise no_float(kind, where, ".float()")
        return *shape, NAMES[kind]

    def _fill(self, lo: int, block: np.ndarray) -> None:
        if self._by_position:
            super()._fill(lo, block)
        else:
            block[:] = self._loaded()[lo : lo + len(block)]

    def _loaded(self) -> np.ndarray:
        """The matrix of a file whose rows cannot be read by position, kept until `close`."""
        with self._loading:
            whole = self._whole
            if whole is None:
                value = self.value()
                tensor = value if self.key is NO_KEY else value[self.key]
                plain = tensor.detach().resolve_neg().reshape(self.rows, self.dim).contiguous()
                whole = self._whole = plain.view(torch.uint8).numpy().view(self.dtype)
            return whole


class TorchWriter(CarryingWriter):
    """Lets torch.save write everything but the rows, and writes these into the gap."""

    def __init__(self, path: Place, dtype: np.dtype, shard: TorchShard, fsync: bool = True) -> None:
        super().__init__(path, dtype, shard.out_dim, shard.rows, fsync)
        self._key = shard.key
        self._between = shard.between
        self._parts: list[tuple[int, int, int]] = []  # first row, bytes and checksum of what was written
        with self._whole():
            self._value = shard.value()
            self._save(shard.rows, None)

    def _save(self, rows: int, mask: np.ndarray | None) -> None:
        """Write everything around `rows` rows, without the entries of rows that the mask drops."""
        hole = Hole(rows, self.dim, self.dtype)
        value = tensor = hole.tensor.reshape(rows, *self._between, self.dim)
        if self._key is not NO_KEY:
            value = copy.copy(self._value)
            for key, old in self._value.items():
                if key == self._key:
                    value[key] = tensor
                elif mask is not None and not other_split(str(key), str(self._key)):
                    value[key] = _kept(old, mask)
        save_around(value, hole, self._file, self._start_at if mask is None else self._move)

    def _start_at(self, offset: int) -> None:
        self._offset = offset

    def _put(self, lo: int, rows: np.ndarray) -> None:
        super()._put(lo, rows)
        data = rows.reshape(-1).view(np.uint8)
        part = (lo, data.size, zlib.crc32(data.data))
        with self._lock:
            self._parts.append(part)

    def _finish(self) -> None:
        mask = self._mask()
        if mask is not None:
            self._save(self._kept, mask)
        self._value = None
        if self._kept:
            crc = crc_of_parts((size, crc) for _, size, crc in sorted(self._parts))
            put_crc(self._file, self._offset, self._kept * self._row_bytes, crc)


def _names(value: dict[Any, Any]) -> dict[Any, str]:
    """What users call each key: its text. Of tensors with the same text each has its repr, of other parts its type, too."""
    tensors = Counter(str(key) for key, one in value.items() if isinstance(one, torch.Tensor))
    parts = Counter(map(str, value))
    found = {}
    for key, one in value.items():
        if isinstance(one, torch.Tensor):
            found[key] = str(key) if tensors[str(key)] == 1 else repr(key)
        else:
            found[key] = str(key) if parts[str(key)] == 1 else f"{type(key).__name__} {key!r}"
    return found


def _kept(value: Any, mask: np.ndarray) -> Any:
    """A value of the dict without the entries of dropped rows, if it has one per row."""
    if isinstance(value, torch.Tensor):
        plain = str(value.layout) == "torch.strided" and value.ndim > 0 and value.shape[0] == len(mask)
        return value.detach()[torch.from_numpy(mask)] if plain else value
    if type(value) in (list, tuple) and len(value) == len(mask):
        return type(value)(compress(value, mask))
    return value


def _fit(value: Any) -> Fit:
    """Whether a value of a dict may hold the embeddings."""
    if isinstance(value, torch.Tensor):
        whole = not (value.dtype.is_floating_point or value.dtype.is_complex)
        return fit_of_shape(value.shape, str(value.dtype).removeprefix("torch.") in NAMES, whole)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)) and value:
        first = value[0]
        if isinstance(first, torch.Tensor):
            vectors = first.ndim > 0 and first.dtype.is_floating_point
        else:
            vectors = isinstance(first, (list, tuple)) and len(first) > 0 and isinstance(first[0], float)
        return Fit.SHAPED if vectors else Fit.CODED
    return Fit.NO if value is None or isinstance(value, (bool, int, float)) else Fit.CODED


def _holds(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return described(value)
