"""torch.save of a value with one large matrix that is not in memory: its bytes are left out, and written separately.

torch writes a zip archive with the bytes of each tensor uncompressed in an entry. Here it saves a placeholder of the matrix's
size, memory that was never written to and so takes none; the stream recognises its bytes by their address, skips them and
records the offset. In the end only the checksum of the entry has to be corrected.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import struct
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from fastrealign.core.errors import FastRealignError
from fastrealign.core.libraries import torch
from fastrealign.storage.atomic import AtomicFile

if TYPE_CHECKING:
    from typing_extensions import Buffer

_DATA_DESCRIPTOR = 0x8  # flag of an entry with its checksum behind its bytes, not before
_CRC_POLYNOMIAL = 0xEDB88320


class Hole:
    """A tensor of any size that takes no memory. It reads as zeros and cannot be written to."""

    def __init__(self, rows: int, dim: int, dtype: np.dtype) -> None:
        self.nbytes = rows * dim * dtype.itemsize
        self.address = 0
        kind = getattr(torch, dtype.name)
        self.tensor: torch.Tensor = torch.empty((0, dim), dtype=kind)
        if not self.nbytes:
            return
        # Read-only memory is not reserved: it may be larger than the machine's.
        if hasattr(mmap, "MAP_PRIVATE"):
            self._memory = mmap.mmap(-1, self.nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
        else:  # Windows
            self._memory = mmap.mmap(-1, self.nbytes, access=mmap.ACCESS_READ)
        self.address = np.frombuffer(self._memory, dtype=np.uint8).ctypes.data
        buffer = (ctypes.c_ubyte * self.nbytes).from_address(self.address)
        self.tensor = torch.frombuffer(buffer, dtype=kind).reshape(rows, dim)


def save_around(value: object, hole: Hole, file: AtomicFile, reached: Callable[[int], None]) -> None:
    """torch.save `value`, in which the tensor of `hole` is, to `file`; that tensor's bytes are not written.

    reached  called with their offset when all before it has been written, and nothing behind it
    """
    stream = _Stream(file, hole, reached)
    torch.save(value, stream)
    if stream.failure is not None:
        raise stream.failure
    if stream.left_out != hole.nbytes:
        raise FastRealignError(f"{file.path}: torch {torch.__version__} is too old to write it; pip install -U torch")
    file.truncate(stream.at)


class _Stream(io.RawIOBase):
    """The stream that torch writes to. It keeps a failure and continues, since torch would replace the error."""

    def __init__(self, file: AtomicFile, hole: Hole, reached: Callable[[int], None]) -> None:
        self.at = 0
        self.left_out = 0
        self.failure: BaseException | None = None
        self._file = file
        self._hole = hole
        self._reached = reached

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        view: np.ndarray = np.frombuffer(memoryview(data), dtype=np.uint8)
        if self.failure is None:
            try:
                self._take(view)
            except BaseException as failure:
                self.failure = failure
        self.at += view.size
        return view.size

    def _take(self, view: np.ndarray) -> None:
        if 0 <= view.ctypes.data - self._hole.address < self._hole.nbytes:
            if not self.left_out:
                self._reached(self.at)
            self.left_out += view.size
        else:
            self._file.pwrite(view.data, self.at)


def put_crc(file: AtomicFile, offset: int, size: int, crc: int) -> None:
    """Write the checksum of the entry of `size` bytes at `offset`, in both places where a zip archive has it."""
    import zipfile

    with zipfile.ZipFile(file.temporary) as archive:
        entries, at = archive.infolist(), archive.start_dir
    crc_bytes = struct.pack("<I", crc)
    chosen = max((entry for entry in entries if entry.header_offset < offset), key=lambda entry: entry.header_offset)
    if chosen.flag_bits & _DATA_DESCRIPTOR:
        file.pwrite(crc_bytes, offset + size + 4)
    else:
        file.pwrite(crc_bytes, chosen.header_offset + 14)
    for entry in entries:
        head = np.empty(46, dtype=np.uint8)
        file.pread(head, at)
        if entry is chosen:
            file.pwrite(crc_bytes, at + 16)
        at += len(head) + sum(struct.unpack_from("<HHH", head.data, 28))  # name, extra field, comment


def crc_of_parts(parts: Iterable[tuple[int, int]]) -> int:
    """The CRC-32 of bytes from (length, CRC-32) of their parts in order."""
    total = 0
    for length, crc in parts:
        total = _times(_zeros(length), total) ^ crc
    return total


def _times(a: int, b: int) -> int:
    """The product of two polynomials modulo that of CRC-32; the highest bit is the coefficient of x^0."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_CRC_POLYNOMIAL if b & 1 else 0)
    return product


@cache
def _zeros(length: int) -> int:
    """x^(8 length), the factor of a checksum that is followed by `length` more bytes."""
    power, square = 1 << 31, 1 << 23  # x^0 and x^8
    while length:
        if length & 1:
            power = _times(power, square)
        square = _times(square, square)
        length >>= 1
    return power
