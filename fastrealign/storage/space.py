"""Space on the disk for a file whose size is known before it is written."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache

# Answers of a file system that sets no space aside.
_CANNOT = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def set_aside(descriptor: int, size: int) -> None:
    """Set aside `size` bytes for an open file, which then has that size. Does nothing where the system cannot.

    Raises OSError where there is no room.
    """
    call = _fallocate()
    while call is not None and size > 0 and call(descriptor, 0, 0, size):
        number = ctypes.get_errno()
        if number in _CANNOT:
            return
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


@cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    """fallocate of Linux. posix_fallocate writes a byte into every block of a file system that sets no space aside."""
    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate64
    except (AttributeError, OSError, TypeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return call
