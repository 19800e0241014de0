"""The run lock on a disk: a lock on the file of an append log. On a server it is a lease (remote_lock.py)."""

from __future__ import annotations

import os
from pathlib import Path

from fastrealign.core.errors import InputError
from fastrealign.storage.system import lock


def take_lock(fd: int, folder: Path) -> None:
    """Lock an open file in `folder` until it is closed. InputError if another process has the lock or removed the file."""
    try:
        lock(fd)
    except BlockingIOError:
        raise InputError(f"{folder}: another fastrealign is writing there; wait for it or stop it") from None
    except OSError:
        pass  # a file system without locks
    if os.fstat(fd).st_nlink == 0:
        raise InputError(f"{folder}: another fastrealign has just finished there; look at what it wrote")
