"""Temporary files that several processes may read, and that go away with the process that made them."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from fastrealign.core.errors import FastRealignError


class Spool:
    """A folder of its own below TMPDIR, with a file `path`. Removed when the object goes, in the process that made it.

    Forked or spawned processes read what is there, and remove nothing.
    """

    def __init__(self, name: str) -> None:
        self.folder = tempfile.mkdtemp(prefix=f"fastrealign-{name}-")
        self.path = os.path.join(self.folder, name)
        weakref.finalize(self, _remove, self.folder, os.getpid())

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Around all that writes there: an OSError becomes a FastRealignError that says what to do."""
        try:
            yield
        except OSError as error:
            raise FastRealignError(
                f"{self.folder}: could not be written: {error.strerror or error}; free some space or set TMPDIR to another "
                "folder"
            ) from error

    @contextmanager
    def writing(self) -> Iterator[BinaryIO]:
        """The file, opened to be written in order."""
        with self.guarded(), open(self.path, "wb", buffering=1 << 20) as file:
            yield file


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)
