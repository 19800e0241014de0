"""Append logs, such as a journal: lines are only added, by one process at a time.

On a disk the log is a file with a lock (file_lock.py). A server offers neither appending nor locks: there each line is a small
numbered file, written in one request, and the lock is a lease (remote_lock.py).
"""

from __future__ import annotations

import bisect
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fastrealign.core.errors import FastRealignError
from fastrealign.core.optional import Lazy
from fastrealign.core.text import one_line
from fastrealign.storage.file_lock import take_lock
from fastrealign.storage.files import Descriptor, reading
from fastrealign.storage.paths import Place, each
from fastrealign.storage.system import SHARED_LOCKS, read_at
from fastrealign.storage.url import Url

if TYPE_CHECKING:
    from fastrealign.storage import remote_lock
else:  # it imports socket
    remote_lock = Lazy("fastrealign.storage.remote_lock")

# Seconds to wait for a process that adds one line.
_WAIT = 30.0
# The same for one that only looks whether the log is held (check_not_held).
_LOOK = 0.5
_LEASE = "lease"
_NUMBER = re.compile("[0-9]{8}")


class AppendLog(Protocol):
    """An open append log. All methods but `close` raise FastRealignError where the disk or the server fails."""

    seconds_a_line: float  # least time between two lines of a journal, to keep it small beside the shards

    @property
    def lost(self) -> bool:
        """Whether another process has taken the log over."""

    def text(self) -> bytes:
        """All lines, each with its end; the last one may have been cut off."""

    def check(self) -> None:
        """FastRealignError if another process has taken the log over."""

    def append(self, line: bytes) -> None: ...

    def cut(self, size: int) -> None:
        """Keep the first `size` bytes, which end with a line."""

    def close(self) -> None:
        """Release the lock; the lines stay."""

    def remove(self) -> None:
        """Release the lock and delete the log."""


def open_append_log(path: Place, fsync: bool) -> AppendLog:
    """Open and lock a log. Raises InputError if another process has it open."""
    return FileLog(path, fsync) if isinstance(path, Path) else RemoteLog(path)


def check_not_held(path: Place) -> None:
    """InputError if another process has this log open, on a disk; on a server, finding out takes as long as a lease."""
    if not isinstance(path, Path):
        return
    try:
        file = Descriptor(path)
    except OSError:  # such as one of another user
        return
    try:  # shared, so that two that look do not take each other for a run
        take_lock(file.fd, path.parent, 0.0 if SHARED_LOCKS else _LOOK, shared=True)
    finally:
        file.close()


@contextmanager
def open_briefly(path: Path) -> Iterator[FileLog]:
    """A log in a file that several processes open, each for a moment: waits for the others."""
    log = FileLog(path, fsync=True, wait=_WAIT, instead="another log")
    try:
        yield log
    finally:
        log.close()


def read_append_log(path: Place) -> bytes:
    """All lines, without a lock."""
    if not isinstance(path, Path):
        return b"".join(_numbered(path)[1])
    with reading(path):
        return path.read_bytes()


class FileLog:
    """A log in a file."""

    # Sums take 16 bytes a column in a line.
    seconds_a_line = 1.0
    lost = False

    def __init__(self, path: Path, fsync: bool, wait: float = _LOOK, instead: str = "another output folder") -> None:
        self.path = path
        self._fsync = fsync
        try:
            self._file = Descriptor(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        except OSError as error:
            raise FastRealignError(
                f"{path}: could not be written: {error.strerror or one_line(error)}; choose {instead}"
            ) from error
        try:
            take_lock(self._file.fd, path.parent, wait)
        except BaseException:
            self._file.close()
            raise

    def text(self) -> bytes:
        with reading(self.path):
            size, parts, at = os.fstat(self._file.fd).st_size, [], 0
            while at < size and (part := read_at(self._file.fd, size - at, at)):
                parts.append(part)
                at += len(part)
            return b"".join(parts)

    def check(self) -> None:
        """Does nothing: a lock on a file cannot be taken over."""

    @property
    def size(self) -> int:
        """In bytes, as it is now."""
        return os.fstat(self._file.fd).st_size

    def append(self, line: bytes) -> None:
        size = self.size
        with self._writing():
            try:
                left = memoryview(line)
                while left:
                    left = left[os.write(self._file.fd, left) :]
                if self._fsync:
                    os.fsync(self._file.fd)
            except OSError:
                with suppress(OSError):  # a device has no length; a line that was cut off is not read
                    os.ftruncate(self._file.fd, size)
                raise

    def cut(self, size: int) -> None:
        if size < self.size:
            with self._writing():
                os.ftruncate(self._file.fd, size)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FastRealignError(
                f"{self.path}: could not be written: {error.strerror or one_line(error)}; fix this and run again"
            ) from error

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._file.close()


class RemoteLog:
    """A log on a server: lines numbered from 1, path/00000001 and so on, with the lease beside them."""

    # A line costs a request when it is written and when a run resumes.
    seconds_a_line = 5.0

    def __init__(self, path: Url) -> None:
        self.path = path
        self._sizes: list[int] = []
        self._lease = remote_lock.Lease(path / _LEASE, str(path.parent))

    @property
    def lost(self) -> bool:
        return self._lease.lost

    def text(self) -> bytes:
        stray, lines = _numbered(self.path)
        self._sizes = [len(line) for line in lines]
        self._unlink(stray)
        return b"".join(lines)

    def check(self) -> None:
        self._lease.check()

    def append(self, line: bytes) -> None:
        self.check()
        try:
            self._at(len(self._sizes) + 1).write_bytes(line, new=True)
        except FileExistsError:
            raise FastRealignError(f"{self.path.parent}: another fastrealign is writing there, too; stop one") from None
        self._sizes.append(len(line))

    def cut(self, size: int) -> None:
        self.check()
        kept = bisect.bisect_right(list(itertools.accumulate(self._sizes)), size)
        self._unlink([self._at(number) for number in range(kept + 1, len(self._sizes) + 1)])
        del self._sizes[kept:]

    def close(self) -> None:
        self._lease.release()

    def remove(self) -> None:
        try:
            if not self.lost:
                self.cut(0)
        finally:
            self._lease.release()
        if not self.lost:
            with suppress(OSError):  # where there are folders
                self.path.rmdir()

    def _at(self, number: int) -> Url:
        return self.path / f"{number:08d}"

    def _unlink(self, urls: list[Url]) -> None:
        """Remove the first one first: if this is stopped halfway, lines after the gap do not count."""
        for part in (urls[:1], urls[1:]):
            for _ in each(lambda url: url.unlink(missing_ok=True), part, several=True):
                pass


def _numbered(path: Url) -> tuple[list[Url], list[bytes]]:
    """(files beyond a gap in the numbers, the lines before it)."""
    names = sorted(name for name in path.walk() if _NUMBER.fullmatch(name))
    whole = 0
    while whole < len(names) and int(names[whole]) == whole + 1:
        whole += 1
    lines = each(lambda name: (path / name).read_bytes(), names[:whole], several=True)
    return [path / name for name in names[whole:]], list(lines)
