"""Atomic output: files, and folders that are one shard, get their name only once they are complete."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError, shortage
from fastrealign.core.text import one_line
from fastrealign.storage.files import Descriptor, read_into
from fastrealign.storage.leftovers import mark, remove_left_beside
from fastrealign.storage.paths import AnyPath, Place, check_output, place
from fastrealign.storage.remote_session import SESSION
from fastrealign.storage.spool import spool, spool_failure
from fastrealign.storage.system import set_aside, sync_folder, write_at
from fastrealign.storage.url import Url

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Written at a time. For more, the system looks for pages as large, and moves others out of the way to get them.
_WRITE_BYTES = 1 << 20
_FULL = "free some space or choose another output folder, then run again"
_DENIED = "check the permissions of the folder or choose another output folder"
_ADVICE = {
    errno.ENOSPC: _FULL,
    getattr(errno, "EDQUOT", errno.ENOSPC): _FULL,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.ENAMETOOLONG: "shorten it: while it is written, its name is 15 or so bytes longer",
}


_OF_FILES = (errno.EMFILE, errno.ENFILE)


class AtomicFile:
    """Writes to a hidden temporary beside `path`; `commit` gives it its name, `abort` removes it.

    The temporary is `.{name}.{pid}.tmp` in the same folder, so that the rename stays on one file system; those that killed
    processes left there are removed (leftovers.py). Missing parent folders are made. For a URL the temporary is a local spool
    file (spool.py), which `commit` uploads. A failed write removes the temporary and raises FastRealignError with the file, the
    reason and what to do. As a context manager it aborts unless `commit` was called.
    """

    def __init__(self, path: AnyPath, fsync: bool = True) -> None:
        self.path = place(path)
        self.committed = False
        self._fsync = fsync
        self._end = 0
        self._descriptor: Descriptor | None = None
        self._failure = f"{path}: writing was stopped by an earlier failure, nothing was kept"
        self._url: Url | None = None
        if not isinstance(self.path, Path):
            check_output(self.path)
            self._url = self.path
            self._descriptor, self.temporary = spool(self.path)
            return
        if self.path.name in ("", ".."):
            raise InputError(f"{os.fspath(path)!r}: is no name of a file; name a file to write")
        self.temporary = _temporary(self.path)
        remove_left_beside(self.path)
        with self._removing():
            try:
                self._descriptor = self._made()
            except FileNotFoundError:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = self._made()

    def pwrite(self, data: Buffer, offset: int) -> None:
        """Write all of `data` (contiguous bytes) at byte `offset`; safe to call from several threads."""
        descriptor = self._open()
        with self._removing():
            view = memoryview(data).cast("B")
            while view:
                count = write_at(descriptor.fd, view[:_WRITE_BYTES], offset)
                view, offset = view[count:], offset + count

    def reserve(self, size: int) -> None:
        """Set aside `size` bytes of a file to be written, where the file system can; a spool file grows as it is written."""
        descriptor = self._open()
        if self._url is None:
            with self._removing():
                set_aside(descriptor.fd, size)

    def pread(self, buffer: np.ndarray, offset: int) -> None:
        """Read what was written from byte `offset` on into the contiguous uint8 array `buffer`."""
        descriptor = self._open()
        with self._removing():
            read_into(descriptor, buffer, offset, self.temporary)

    def truncate(self, size: int) -> None:
        """Cut the file off after `size` bytes."""
        descriptor = self._open()
        with self._removing():
            os.ftruncate(descriptor.fd, size)

    def append(self, data: Buffer) -> int:
        """Write `data` behind what was appended before (one thread at a time); returns its size in bytes."""
        size = memoryview(data).nbytes
        self.pwrite(data, self._end)
        self._end += size
        return size

    def stream(self) -> io.RawIOBase:
        """A write-only file object that appends, for libraries. Closing it does not commit."""
        return _Stream(self)

    def commit(self) -> None:
        """Flush to the disk and rename to the final name, or upload; a second call does nothing.

        Every write must have returned. The folder is synced too, so that the name survives a power cut.
        """
        if self.committed:
            return
        descriptor = self._open()
        with self._removing():
            if self._url is not None:
                self._url.upload(str(self.temporary), descriptor.state()[0])
                SESSION.forget(str(self._url))
                descriptor.close()
            else:
                if self._fsync:
                    os.fsync(descriptor.fd)
                descriptor.close()
                os.replace(self.temporary, self.path)
        self.committed = True
        self._descriptor = None
        if self._fsync and isinstance(self.path, Path):
            with self._removing():
                sync_folder(self.path.parent)

    def abort(self) -> None:
        """Remove the temporary. Safe to call at any time and more than once; does nothing after `commit`."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                if self._url is None:
                    self.temporary.unlink()
                # A thread or a traceback may still hold the descriptor; the space is freed now.
                os.ftruncate(descriptor.fd, 0)

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _made(self) -> Descriptor:
        made = Descriptor(self.temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        mark(made.fd)
        return made

    def _open(self) -> Descriptor:
        descriptor = self._descriptor
        if descriptor is None:
            if self.committed:
                raise ValueError(f"{self.path}: already committed")
            raise FastRealignError(self._failure)
        return descriptor

    @contextmanager
    def _removing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Other threads that write to the file report the same cause, whichever comes first.
            self._failure = _failure(self.path, error) if self._url is None else spool_failure(self._url, error)
            self.abort()
            raise FastRealignError(self._failure) from error
        except BaseException:
            self.abort()
            raise


class AtomicFolder:
    """A hidden temporary folder beside `path`, for a library to write to; `commit` gives it its name, `abort` removes it.

    As AtomicFile, except that the library opens the files: `writing` turns its errors into a FastRealignError. An existing
    folder of that name is removed first, so for a moment there is none.
    """

    def __init__(self, path: AnyPath, fsync: bool = True) -> None:
        at = place(path)
        assert isinstance(at, Path)  # callers refuse URLs first
        self.path = at
        self.temporary = _temporary(self.path)
        self.committed = False
        self._fsync = fsync
        self._failure: str | None = None
        self._held: Descriptor | None = None
        with self.writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_left_beside(self.path)
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary.mkdir()
            if hasattr(os, "O_DIRECTORY"):  # elsewhere folders cannot be opened
                self._held = Descriptor(self.temporary)
                mark(self._held.fd)

    def commit(self) -> None:
        """Flush every file to the disk and rename the folder; a second call does nothing. Every write must have ended."""
        if self.committed:
            return
        with self.writing():
            if self._fsync:
                sync_tree(self.temporary)
            if self.path.is_dir():
                shutil.rmtree(self.path)
            os.replace(self.temporary, self.path)
            self.committed, self._held = True, None
            if self._fsync:
                sync_folder(self.path.parent)

    def abort(self) -> None:
        """Remove the temporary. Safe to call at any time and more than once; does nothing after `commit`."""
        if not self.committed:
            self._failure, self._held = self._failure or f"{self.path}: writing was stopped, nothing was kept", None
            shutil.rmtree(self.temporary, ignore_errors=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around writes: a failure removes the folder and raises FastRealignError with the reason and what to do."""
        if self._failure is not None:
            raise FastRealignError(self._failure)
        try:
            yield
        except FastRealignError:
            self.abort()
            raise
        except Exception as error:
            self._failure = _failure(self.path, error)
            self.abort()
            raise FastRealignError(self._failure) from error
        except BaseException:
            self.abort()
            raise


class _Stream(io.RawIOBase):
    def __init__(self, file: AtomicFile) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        return self._file.append(data)

    def tell(self) -> int:
        return self._file._end


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _failure(path: Place, error: Exception) -> str:
    number, reason = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
    reason = reason or one_line(error)
    if number is None and os.strerror(errno.ENOSPC) in reason:  # raised by a library in another language
        number = errno.ENOSPC
    elif (number is None or number in _OF_FILES) and (short := shortage(error)) is not None:
        return f"{path}: could not be written: {short}"
    advice = _ADVICE.get(number or 0, "nothing was kept; fix this and run again")
    return f"{path}: could not be written: {reason}; {advice}"


def sync_tree(folder: Path) -> None:
    """Flush a folder and all files below it to the disk."""
    for at, _, names in os.walk(folder):
        for name in names:
            descriptor = Descriptor(Path(at, name))
            os.fsync(descriptor.fd)
            descriptor.close()
        sync_folder(Path(at))


def save_bytes(path: AnyPath, data: bytes, fsync: bool = True) -> None:
    """Write a file atomically and, unless `fsync` is false, flush it to the disk."""
    with AtomicFile(path, fsync) as file:
        file.append(data)
        file.commit()
