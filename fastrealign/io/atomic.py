"""Output files that appear under their name complete or not at all."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastrealign.errors import FastRealignError
from fastrealign.io.files import Descriptor, one_line

if TYPE_CHECKING:
    from typing_extensions import Self

_FULL = "free some space or choose another output folder, then run again"
_DENIED = "check the permissions of the folder or choose another output folder"
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
}


class AtomicFile:
    """Writes to a hidden temporary beside `path`; `commit` gives it its name, `abort` removes it.

    The temporary is `.{name}.{pid}.tmp` in the same folder, so that the rename stays on one file system. Missing
    parent folders are made. Any failure to write removes the temporary and raises FastRealignError, which says
    which file, why and what to do. As a context manager it aborts unless `commit` was called.
    """

    def __init__(self, path: str | Path, fsync: bool = True) -> None:
        self.path = Path(path)
        self.temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self.committed = False
        self._fsync = fsync
        self._end = 0
        self._descriptor: Descriptor | None = None
        self._failure = f"{path}: writing was stopped by an earlier failure, nothing was kept"
        with self._removing():
            try:
                self._descriptor = self._made()
            except FileNotFoundError:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = self._made()

    def pwrite(self, data, offset: int) -> None:
        """Write all of `data` (contiguous bytes) at byte `offset`; safe to call from several threads."""
        descriptor = self._open()
        with self._removing():
            view = memoryview(data).cast("B")
            while view:
                count = os.pwrite(descriptor.fd, view, offset)
                view, offset = view[count:], offset + count

    def append(self, data) -> int:
        """Write `data` after what was appended before (one thread at a time); returns its size in bytes."""
        size = memoryview(data).nbytes
        self.pwrite(data, self._end)
        self._end += size
        return size

    def stream(self) -> io.RawIOBase:
        """A write-only file object that appends, for libraries that want one. Closing it does not commit."""
        return _Stream(self)

    def commit(self) -> None:
        """Flush to the disk and rename to the final name; a second call does nothing.

        Every write must have returned. The folder is synced too, so that the name survives a power cut.
        """
        if self.committed:
            return
        descriptor = self._open()
        with self._removing():
            if self._fsync:
                os.fsync(descriptor.fd)
            descriptor.close()
            os.replace(self.temporary, self.path)
        self.committed = True
        self._descriptor = None
        if self._fsync:
            with self._removing():
                _sync_folder(self.path.parent)

    def abort(self) -> None:
        """Remove the temporary. Safe to call at any time and more than once; does nothing after `commit`."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                self.temporary.unlink()
                # A thread or a traceback may hold the descriptor for a while yet; the space is to be free now.
                os.ftruncate(descriptor.fd, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.abort()

    def _made(self) -> Descriptor:
        return Descriptor(self.temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

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
            advice = _ADVICE.get(error.errno, "nothing was kept; mend this and run again")
            reason = error.strerror or one_line(error)
            # Other threads that write to the file give the cause too, whichever of them is heard first.
            self._failure = f"{self.path}: could not be written: {reason}; {advice}"
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

    def write(self, data) -> int:
        return self._file.append(data)

    def tell(self) -> int:
        return self._file._end


def _sync_folder(folder: Path) -> None:
    descriptor = Descriptor(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor.fd)
    except OSError as error:
        # Some network and user-space file systems cannot sync a folder; there is nothing more to be done there.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
