"""Temporary files of processes that were killed before they could remove them.

A process locks what it writes until it is complete (on Linux and macOS). What nobody locks, of a process that does not run
here, is left over: a process on another machine that shares the folder holds its lock.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from fastrealign.storage.system import FLAGS, lock

# A file or folder that is being written (atomic.py): ".name.process.tmp".
TEMPORARY = re.compile(r"\.(.+)\.([0-9]+)\.tmp")


def mark(fd: int) -> None:
    """Mark an open file or folder as in use until it is closed, where there are locks."""
    with suppress(OSError):
        lock(fd)


def remove_left_beside(path: Path) -> None:
    """Remove what killed processes left of writing `path`. Of a folder, what was there when this process first asked."""
    _remove(
        (Path(path.parent, name), pid) for name, pid in _temporaries(os.path.abspath(path.parent)).get(path.name, ())
    )


def remove_left(folder: Path, prefix: str) -> None:
    """Remove the files and folders "prefix-process-..." of processes that have ended."""
    of = re.compile(rf"{re.escape(prefix)}-([0-9]+)-.*")
    found = [(Path(folder, name), match[1]) for name in _names(folder) if (match := of.fullmatch(name))]
    _remove((path, int(pid)) for path, pid in found)


@lru_cache(256)
def _temporaries(folder: str) -> dict[str, list[tuple[str, int]]]:
    """(name, process) of the temporaries in a folder, by their final names: listed once, there may be many shards."""
    found: dict[str, list[tuple[str, int]]] = {}
    for name in _names(folder):
        if match := TEMPORARY.fullmatch(name):
            found.setdefault(match[1], []).append((name, int(match[2])))
    return found


def _names(folder: str | Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _remove(found: Iterable[tuple[Path, int]]) -> None:
    for path, pid in found:
        if _has_ended(pid):
            _remove_unlocked(path)


def _has_ended(pid: int) -> bool:
    """Whether no process of this machine has the number."""
    if os.name != "posix":  # elsewhere the call ends the process
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError):  # another process removes it, or it is another user's: it stays
        fd = os.open(path, os.O_RDONLY | FLAGS)
        try:
            lock(fd)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        finally:
            os.close(fd)
