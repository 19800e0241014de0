"""Temporary files that several processes may read, removed with the process that made them."""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastrealign.core.errors import FastRealignError
from fastrealign.core.optional import Lazy
from fastrealign.core.text import one_line
from fastrealign.storage.files import Descriptor
from fastrealign.storage.leftovers import mark, remove_left
from fastrealign.storage.paths import AnyPath, place, spool_folder
from fastrealign.storage.remote_file import REQUEST_BYTES, RemoteFile
from fastrealign.storage.remote_session import SESSION
from fastrealign.storage.system import DESCRIPTORS
from fastrealign.storage.url import Url

if TYPE_CHECKING:
    import tempfile
    import uuid
else:  # most runs make no spool files
    tempfile = Lazy("tempfile")
    uuid = Lazy("uuid")


class Spool:
    """A new folder in TMPDIR with a file `path`, removed with the object by the process that made it.

    Forked or spawned processes can read it, and do not remove it. Folders that killed processes left are removed.
    """

    def __init__(self, name: str) -> None:
        remove_left(Path(tempfile.gettempdir()), f"fastrealign-{name}")
        self.folder = tempfile.mkdtemp(prefix=f"fastrealign-{name}-{os.getpid()}-")
        if hasattr(os, "O_DIRECTORY"):
            self._held = Descriptor(Path(self.folder))
            mark(self._held.fd)
        self.path = os.path.join(self.folder, name)
        weakref.finalize(self, _remove, self.folder, os.getpid())

    def __getstate__(self) -> dict[str, str]:
        """Without the descriptor, which is this process's."""
        return {"folder": self.folder, "path": self.path}

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn an OSError of a write into a FastRealignError that says what to do."""
        try:
            yield
        except OSError as error:
            raise FastRealignError(
                f"{self.folder}: could not be written: {error.strerror or error}; free some space or set TMPDIR to another "
                "folder"
            ) from error

    @contextmanager
    def writing(self) -> Iterator[BinaryIO]:
        """The file, open for sequential writes."""
        with self.guarded(), open(self.path, "wb", buffering=1 << 20) as file:
            yield file


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


def spool(url: Url | str) -> tuple[Descriptor, Path]:
    """A new local file for the contents of `url`, and a path by which it can be opened.

    On Linux it has no name: its space is freed with its last descriptor, also after a kill. Elsewhere it is removed with it;
    what a kill leaves, the next one in the same folder removes, where the system says whether a process has ended.
    """
    folder = spool_folder()
    try:
        descriptor, named = _nameless(folder), None
        if descriptor is None:
            descriptor, named = _named(folder)
    except OSError as error:
        raise FastRealignError(spool_failure(url, error)) from error
    return descriptor, named or DESCRIPTORS / str(descriptor.fd)


def _nameless(folder: Path) -> Descriptor | None:
    """A file that never had a name; None where the system or the file system has none."""
    if not hasattr(os, "O_TMPFILE") or not DESCRIPTORS.exists():
        return None
    try:
        return Descriptor(folder, os.O_RDWR | os.O_TMPFILE)
    except OSError:  # what else is wrong with the folder, a file with a name meets too
        return None


def _named(folder: Path) -> tuple[Descriptor, Path | None]:
    """A file with a name, which it loses at once where it can be opened without."""
    remove_left(folder, "fastrealign-spool")
    path = folder / f"fastrealign-spool-{os.getpid()}-{uuid.uuid4().hex}"
    descriptor = Descriptor(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    if DESCRIPTORS.exists():
        path.unlink()
        return descriptor, None
    mark(descriptor.fd)
    weakref.finalize(descriptor, path.unlink, missing_ok=True)
    return descriptor, path


def spool_failure(url: Url | str, error: OSError) -> str:
    """The message about a spool file that cannot be written."""
    return (
        f"{url}: its spool file in {spool_folder()} could not be written: {error.strerror or one_line(error)}; set "
        "FASTREALIGN_SPOOL to a folder with room for some shards"
    )


@contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """The file on the disk, for libraries that need one: of a URL, a copy that is removed at the end."""
    if isinstance(at := place(path), Path):
        yield at
        return
    url = str(at)
    SESSION.forget(url)
    file = RemoteFile(url)
    descriptor, copy = spool(url)
    try:
        try:
            with open(copy, "wb") as out:
                for offset in range(0, file.size, REQUEST_BYTES):
                    out.write(file.read(offset, REQUEST_BYTES))
        except OSError as error:
            raise FastRealignError(spool_failure(url, error)) from error
        yield copy
    finally:
        descriptor.close()
