"""Memory between two pages that may not be touched: one byte too many ends the process."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np


class Fenced:
    """Arrays at either end of a mapping of at least `nbytes` bytes, which lies between two such pages."""

    def __init__(self, nbytes: int) -> None:
        self.size = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, self.size + 2 * mmap.PAGESIZE)
        start = np.frombuffer(self.memory, np.uint8).ctypes.data
        libc = ctypes.CDLL(None, use_errno=True)
        for page in (start, start + mmap.PAGESIZE + self.size):
            assert libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0

    def array(self, shape, dtype, stride=None, *, first=False):
        """Rows, `stride` bytes apart, the last of which ends where the mapping ends. first: one begins where it begins.

        A negative stride is that of rows backwards: the first row ends where the mapping ends.
        """
        n, d = shape
        row = d * np.dtype(dtype).itemsize
        stride = row if stride is None else stride
        span = (n - 1) * abs(stride) + row
        assert span <= self.size
        offset = mmap.PAGESIZE + (0 if first else self.size - span)
        rows = np.ndarray(shape, dtype, self.memory, offset, (abs(stride), np.dtype(dtype).itemsize))
        return rows[::-1] if stride < 0 else rows
