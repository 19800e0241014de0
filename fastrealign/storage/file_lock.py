"""The run lock on a disk: a lock on the file of an append log. On a server it is a lease (remote_lock.py)."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fastrealign.core.errors import InputError
from fastrealign.storage.system import lock

# Seconds between two tries to take a lock.
_PAUSE = 0.01


def take_lock(fd: int, folder: Path, wait: float = 0.0, shared: bool = False) -> None:
    """Lock an open file in `folder` until it is closed. InputError if another process has the lock or removed the file.

    wait     seconds to wait for another process, for a lock that is held only for a moment
    shared   with other processes that take a shared lock, too
    """
    until = time.monotonic() + wait
    while True:
        try:
            lock(fd, shared)
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(_PAUSE)
                continue
            raise InputError(f"{folder}: another fastrealign is writing there; wait for it or stop it") from None
        except OSError:
            pass  # a file system without locks
        break
    if os.fstat(fd).st_nlink == 0:
        raise InputError(f"{folder}: another fastrealign has just finished there; look at what it wrote")
