"""Open files, local or on a server, behind one interface: descriptors that threads share, full reads, errors in one line."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError, changed, shortage
from fastrealign.core.text import one_line
from fastrealign.storage import remote_file
from fastrealign.storage.paths import AnyPath, place
from fastrealign.storage.remote_file import RemoteFile, RemoteStream
from fastrealign.storage.system import FLAGS, read_at, read_into_at

# Read ahead where a file on a server is read in order.
_STREAM_BYTES = 4 << 20


class Descriptor:
    """An open file descriptor that closes once the last holder lets go of the object.

    A thread that still reads or writes when another one drops the file keeps its own reference, so that the number of its
    descriptor cannot have gone to another file in between.

    For a URL there is no descriptor: `fd` is -1, and what reads goes through `pread` and `read_into`.
    """

    __slots__ = ("__weakref__", "fd", "remote")

    def __init__(self, path: AnyPath, flags: int = os.O_RDONLY) -> None:
        self.fd = -1
        self.remote: RemoteFile | None = None
        if isinstance(at := place(path), Path):
            self.fd = os.open(at, flags | FLAGS, 0o666)
        else:
            self.remote = RemoteFile(str(at))

    def pread(self, count: int, offset: int) -> bytes:
        """Up to `count` bytes from byte `offset` on, fewer only where the file ends."""
        return self.remote.read(offset, count) if self.remote is not None else read_at(self.fd, count, offset)

    def state(self) -> tuple[int, int | str | None]:
        """The size in bytes, and when it was last changed: in ns, or the server's tag (remote_facts.py)."""
        if self.remote is not None:
            return self.remote.size, self.remote.modified
        status = os.fstat(self.fd)
        return status.st_size, status.st_mtime_ns

    def close(self) -> None:
        """Close now. Raises OSError where closing is what reports a failed write (network file systems)."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if os is not None:  # while the interpreter ends, names of modules are gone; the system closes what is open
            self.close()


@contextmanager
def reading(path: AnyPath) -> Iterator[None]:
    """Turns an OSError while reading `path` into an InputError that names it, and a shortage of the machine, such as memory,
    into a FastRealignError."""
    try:
        yield
    except FastRealignError:
        raise
    except FileNotFoundError:
        if os.path.islink(path) and not os.path.exists(path):
            to = os.readlink(path)
            raise InputError(
                f"{path}: no such file or folder: it is a link to {to}; restore that, or remove the link"
            ) from None
        raise InputError(f"{path}: no such file or folder") from None
    except PermissionError:
        raise InputError(f"{path}: cannot be read: permission denied; check the file's permissions") from None
    except Exception as error:
        short = shortage(error)
        if short is not None:
            raise FastRealignError(f"{path}: cannot be read: {short}") from error
        if not isinstance(error, OSError):
            raise
        raise InputError(f"{path}: cannot be read: {error.strerror or one_line(error)}") from error


def file_size(path: AnyPath) -> int:
    """The size in bytes of a regular, non-empty file; anything else is an InputError."""
    if not isinstance(at := place(path), Path):
        return remote_file.file_size(str(at))
    with reading(path):
        status = os.stat(at)
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path}: is a folder, expected a file")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is not a regular file; copy its contents to one first")
    if status.st_size == 0:
        raise InputError(f"{path}: is empty (0 bytes); write it again or remove it")
    return status.st_size


def state_of(path: AnyPath) -> tuple[int, ...] | None:
    """Values that change when a file, or one in a folder, is written to or replaced, even if size and time are set back.

    None if it does not exist, and for a URL, which is checked with each answer of the server (remote_file.py).
    """
    if not isinstance(at := place(path), Path):
        return None
    try:
        if not os.path.isdir(at):
            status = os.stat(at)
            return status.st_size, status.st_mtime_ns, status.st_ctime_ns
        within = [os.stat(os.path.join(folder, name)) for folder, _, names in os.walk(at) for name in names]
    except OSError:
        return None
    changed = max((status.st_ctime_ns for status in within), default=0)
    return len(within), sum(status.st_size for status in within), changed


def check_state(path: AnyPath, state: tuple[int, ...] | None) -> None:
    """ChangedError unless the state is still the same."""
    if state is not None and state_of(path) != state:
        raise changed(path, "while it was read")


def read_into(descriptor: Descriptor, buffer: np.ndarray, offset: int, path: AnyPath) -> None:
    """Fill the contiguous uint8 array `buffer` from byte `offset` on; safe to call from several threads.

    Raises InputError when the file ends first: it was cut after its header had been checked.
    """
    view, done = buffer.data, 0
    with reading(path):
        while done < len(view):
            if descriptor.remote is not None:
                count = descriptor.remote.fill(view[done:], offset + done)
            else:
                count = read_into_at(descriptor.fd, view[done:], offset + done)
            if count == 0:
                raise InputError(
                    f"{path}: ended at byte {offset + done} while being read, expected {len(view) - done} bytes more; "
                    "it was cut short after it was opened: do not write to the input during a run"
                )
            done += count


def open_binary(path: AnyPath) -> BinaryIO:
    """The file opened to be read in order, with some of it read ahead."""
    if isinstance(at := place(path), Path):
        return open(at, "rb", opener=os.open)
    return io.BufferedReader(RemoteStream(str(at)), _STREAM_BYTES)
