"""A matrix at a known offset of a file: rows are read and written by position, in any container.

Rows are read with preadv into the caller's memory, not through a memory map: resident memory stays bounded however large the
file, and a file that is truncated while it is read causes an error, not a signal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.formats.base import Shard, ShardWriter
from fastrealign.formats.choose_column import Fit, Wanted
from fastrealign.storage.atomic import AtomicFile
from fastrealign.storage.files import Descriptor, read_into, reading
from fastrealign.storage.paths import AnyPath, Place

# Bounds of the memory beyond the caller's scratch: columns of a matrix stored by columns that are gathered at a time, and bytes
# read at a time of one whose rows are not adjacent.
_COLUMNS = 64
_SPAN_BYTES = 1 << 20
# Moved at a time within an output file.
_MOVE_BYTES = 8 << 20


def check_shape(shape: Sequence[int], where: str) -> tuple[int, int]:
    """(rows, width) of a matrix of embeddings of shape (rows, width) or (rows, 1, width); InputError for another shape."""
    if len(shape) < 2 or min(shape) < 0 or shape[-1] == 0:
        raise InputError(
            f"{where}: has shape {tuple(shape)}, expected (rows, width): one embedding a row, every row at least 1 wide"
        )
    if not _one_a_row(shape):
        raise InputError(
            f"{where}: has shape {tuple(shape)}, {prod(shape[1:-1])} vectors a row, expected (rows, width) or (rows, 1, "
            f"width): save one of each row, as x[:, {', '.join('0' * (len(shape) - 2))}], or all as rows, as "
            f"x.reshape(-1, {shape[-1]})"
        )
    return int(shape[0]), int(shape[-1])


def fit_of_shape(shape: Sequence[int], taken: bool, whole: bool) -> Fit:
    """Whether an array may hold embeddings. taken: its element type is accepted; whole: its elements are integers."""
    if len(shape) < 2:
        return Fit.NO
    if taken and _one_a_row(shape):
        return Fit.TAKEN
    return Fit.CODED if whole else Fit.SHAPED


def _one_a_row(shape: Sequence[int]) -> bool:
    return set(shape[1:-1]) <= {1}


class MatrixShard(Shard):
    """One matrix. The constructor of a subclass sets rows, dim, dtype and the attributes below.

    _offset   of the first element, in bytes
    _strides  from a row to the next and from a column to the next, in elements. A matrix not stored row after row costs a small
              read for every column of every block, or reads the bytes between the rows.
    _swapped  whether elements are in the other byte order
    between   the sizes between rows and width, all 1: (1,) for an array (rows, 1, width)
    """

    random_access = True
    _offset: int
    _strides: tuple[int, int]
    _swapped = False
    between: tuple[int, ...] = ()

    def __init__(self, path: AnyPath, name: str, column: str | Wanted | None = None) -> None:
        super().__init__(path, name, column)
        self._descriptor: Descriptor | None = None

    def chunks(self, rows: int) -> Iterator[np.ndarray]:
        scratch = np.empty(min(rows, self.rows) * self.dim * self.dtype.itemsize, dtype=np.uint8)
        for lo in range(0, self.rows, rows):
            yield self.read(lo, min(lo + rows, self.rows), scratch)

    def read(self, lo: int, hi: int, scratch: np.ndarray) -> np.ndarray:
        if not 0 <= lo <= hi <= self.rows:
            raise ValueError(f"{self.path}: rows {lo} to {hi} of {self.rows}")
        size = (hi - lo) * self.dim * self.dtype.itemsize
        if scratch.nbytes < size:
            raise ValueError(f"{self.path}: scratch has {scratch.nbytes} bytes, rows {lo} to {hi} take {size}")
        block = scratch[:size].view(self.dtype).reshape(hi - lo, self.dim)
        if hi > lo:
            self._fill(lo, block)
        return block

    def close(self) -> None:
        self._descriptor = None

    def _fill(self, lo: int, block: np.ndarray) -> None:
        """Read rows lo to lo + len(block), at least one, into the C-contiguous `block`."""
        row, column = self._strides
        descriptor = self._opened()
        if (row, column) == (self.dim, 1):
            self._read(descriptor, block.reshape(-1), lo * row)
        elif column > row:
            self._gather_columns(descriptor, lo, block)
        else:
            self._gather_rows(descriptor, lo, block)
        if self._swapped:
            words = block.view(f"u{self.dtype.itemsize}")
            words.byteswap(inplace=True)

    def _read(self, descriptor: Descriptor, values: np.ndarray, first: int) -> None:
        """Elements from number `first` on, counted from the first of the matrix."""
        read_into(descriptor, values.view(np.uint8), self._offset + first * self.dtype.itemsize, self.path)

    def _opened(self) -> Descriptor:
        # Two threads may both open the file; each holds its own reference, and the spare descriptor closes itself.
        descriptor = self._descriptor
        if descriptor is None:
            with reading(self.path):
                descriptor = self._descriptor = Descriptor(self.path)
        return descriptor

    def _gather_columns(self, descriptor: Descriptor, lo: int, block: np.ndarray) -> None:
        row, column = self._strides
        columns = np.empty((min(_COLUMNS, self.dim), (len(block) - 1) * row + 1), dtype=self.dtype)
        for first in range(0, self.dim, _COLUMNS):
            part = columns[: self.dim - first]
            for at, values in enumerate(part, start=first):
                self._read(descriptor, values, lo * row + at * column)
            block[:, first : first + len(part)] = part[:, :: max(row, 1)].T

    def _gather_rows(self, descriptor: Descriptor, lo: int, block: np.ndarray) -> None:
        row, column = self._strides
        itemsize = self.dtype.itemsize
        width = (self.dim - 1) * column + 1
        step = max(1, (_SPAN_BYTES // itemsize - width) // max(row, 1) + 1)
        span = np.empty((min(step, len(block)) - 1) * row + width, dtype=self.dtype)
        for first in range(0, len(block), step):
            count = min(step, len(block) - first)
            part = span[: (count - 1) * row + width]
            self._read(descriptor, part, (lo + first) * row)
            rows = np.ndarray((count, self.dim), self.dtype, part, strides=(row * itemsize, column * itemsize))
            block[first : first + count] = rows


class MatrixWriter(ShardWriter):
    """Writes rows one after another from byte `_offset` on, set by the subclass."""

    _file: AtomicFile
    _offset: int

    def __init__(self, path: Place, dtype: np.dtype, dim: int, rows: int | None = None, fsync: bool = True) -> None:
        super().__init__(path, dtype, dim, rows, fsync)
        self._kept = 0

    def write_at(self, lo: int, rows: np.ndarray) -> None:
        rows = self._matrix(rows)
        if self._expected is None or not 0 <= lo <= lo + len(rows) <= self._expected:
            raise ValueError(f"{self.path}: rows {lo} to {lo + len(rows)} of {self._expected}")
        self._put(lo, rows)
        self._count(len(rows))

    def reserve(self) -> None:
        self._file.reserve(self._offset + (self._expected or 0) * self._row_bytes)

    @property
    def _row_bytes(self) -> int:
        return self.dim * self.dtype.itemsize

    def _append(self, rows: np.ndarray, keep: np.ndarray | None) -> None:
        self._put(self._kept, rows)

    def _put(self, lo: int, rows: np.ndarray) -> None:
        self._file.pwrite(rows.reshape(-1).view(np.uint8).data, self._offset + lo * self._row_bytes)
        with self._lock:
            self._kept += len(rows)


class CarryingWriter(MatrixWriter):
    """A MatrixWriter of a container with other values per row, which are dropped with their rows."""

    def __init__(self, path: Place, dtype: np.dtype, dim: int, rows: int, fsync: bool = True) -> None:
        super().__init__(path, dtype, dim, rows, fsync)
        self._masks: list[np.ndarray] = []

    def _append(self, rows: np.ndarray, keep: np.ndarray | None) -> None:
        super()._append(rows, keep)
        self._masks.append(np.ones(len(rows), dtype=bool) if keep is None else keep.copy())

    def _mask(self) -> np.ndarray | None:
        """Which rows of the source were kept, once all have been written; None if all were."""
        return np.concatenate(self._masks) if self._kept < self._seen else None

    def _move(self, offset: int) -> None:
        """Move the rows to `offset`, before where they are: dropped rows left room."""
        if offset > self._offset:
            raise ValueError(f"{self.path}: rows cannot move from byte {self._offset} to {offset}")
        size = self._kept * self._row_bytes
        buffer = np.empty(min(size, _MOVE_BYTES), dtype=np.uint8)
        for at in range(0, size if offset < self._offset else 0, _MOVE_BYTES):
            part = buffer[: size - at]
            self._file.pread(part, self._offset + at)
            self._file.pwrite(part.data, offset + at)
        self._offset = offset
