"""What operating systems do in their own ways: locks, reads and writes at a position, flushing folders, setting space aside.

Linux has all of it. Elsewhere the rest of the package gets what is nearest: macOS sets no space aside; Windows locks a byte far
behind the end of a file, moves the position of a file under a lock, and flushes no folders.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # everywhere else
    msvcrt = None  # type: ignore[assignment]

# Not inherited by child processes; on Windows, bytes as they are.
FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_BINARY", 0)
# Where an open file without a name can be opened once more, by its number.
DESCRIPTORS = Path("/proc/self/fd")

_FAR = 1 << 40  # the byte that is locked on Windows, where a lock keeps others from reading
# Answers of a file system that sets no space aside.
_CANNOT = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_moving = threading.Lock()


# Whether several processes can hold a lock at a time, each a shared one.
SHARED_LOCKS = fcntl is not None


def lock(fd: int, shared: bool = False) -> None:
    """Lock an open file until it is closed; `shared` with others that ask so, where the system has SHARED_LOCKS.

    Raises BlockingIOError where another process holds it, another OSError where the file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    elif msvcrt is not None:
        held: Any = msvcrt  # its functions are those of Windows
        with _moving:
            os.lseek(fd, _FAR, os.SEEK_SET)
            try:
                held.locking(fd, held.LK_NBLCK, 1)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EDEADLK):
                    raise BlockingIOError(error.errno, "locked by another process") from None
                raise
    else:
        raise OSError(errno.ENOSYS, "this system has no locks")


def read_at(fd: int, count: int, offset: int) -> bytes:
    """Up to `count` bytes from `offset` on; safe to call from several threads."""
    if hasattr(os, "pread"):
        return os.pread(fd, count, offset)
    with _moving:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, count)


def read_into_at(fd: int, view: memoryview, offset: int) -> int:
    """Fill `view` from `offset` on; returns how many bytes were read. Safe to call from several threads."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    part = read_at(fd, len(view), offset)
    view[: len(part)] = part
    return len(part)


def write_at(fd: int, view: memoryview, offset: int) -> int:
    """Write `view` from `offset` on; returns how many bytes were written. Safe to call from several threads."""
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, view, offset)
    with _moving:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, view)


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that names in it survive a power cut. Does nothing where folders cannot be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | FLAGS)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network and user-space file systems cannot sync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(fd)


def set_aside(fd: int, size: int) -> None:
    """Set aside `size` bytes for an open file, which then has that size. Does nothing where the system cannot.

    Raises OSError where there is no room.
    """
    call = _fallocate()
    while call is not None and size > 0 and call(fd, 0, 0, size):
        number = ctypes.get_errno()
        if number in _CANNOT:
            return
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def pages(size: int) -> mmap.mmap:
    """Zeroed memory, at least a byte, that the system has back as soon as no array holds it. Raises MemoryError."""
    kind = [mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS] if hasattr(mmap, "MAP_PRIVATE") else []
    try:
        memory = mmap.mmap(-1, max(1, size), *kind)
    except OSError as error:
        raise MemoryError(f"{size:,} bytes") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without large pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


@cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    """fallocate of Linux. posix_fallocate writes a byte into every block of a file system that sets no space aside."""
    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate64
    except (AttributeError, OSError, TypeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return call
