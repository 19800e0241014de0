"""Shared by the io tests: reading a shard whole, what a folder holds, faults that the operating system reports."""

from __future__ import annotations

import errno
import os
import re

import ml_dtypes
import numpy as np
import pytest

from fastrealign.core.errors import InputError

DTYPES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32), np.dtype(np.float64)]


@pytest.fixture(params=DTYPES, ids=lambda dtype: dtype.name)
def dtype(request):
    return request.param


@pytest.fixture
def rows_in():
    def rows_in(shard, chunk=7):
        parts = [np.zeros((0, shard.dim), shard.dtype)]
        for part in shard.chunks(chunk):
            assert len(part) <= chunk and part.flags.c_contiguous and part.dtype == shard.dtype
            parts.append(part.copy())
        return np.concatenate(parts)

    return rows_in


@pytest.fixture
def tree():
    """The files below a folder, temporaries and hidden ones included."""

    def tree(folder):
        return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())

    return tree


@pytest.fixture
def refused():
    """Calls, expects an InputError of one line that contains every given piece; returns the message."""

    def refused(call, *pieces, error=InputError):
        with pytest.raises(error) as caught:
            call()
        message = str(caught.value)
        assert "\n" not in message
        for piece in pieces:
            assert str(piece) in message, message
        return re.sub(r"\s+", " ", message)

    return refused


@pytest.fixture
def disk_full(monkeypatch):
    """From the call on, at most `room` bytes can be written before the disk is full."""

    def disk_full(room=0):
        real, left = os.pwrite, [room]

        def pwrite(fd, data, offset):
            if not left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            count = real(fd, memoryview(data)[: left[0]], offset)
            left[0] -= count
            return count

        monkeypatch.setattr(os, "pwrite", pwrite)

    return disk_full


@pytest.fixture
def server(monkeypatch):
    """A web server whose faults are waited for a moment only."""
    from faulty_server import FaultyServer

    from fastrealign.storage import retry

    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
    server = FaultyServer()
    yield server
    server.close()


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    fs = pytest.importorskip("fsspec").filesystem("memory")
    from fastrealign.storage import retry

    retry.SESSION.clear()
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


@pytest.fixture
def quick_lease(monkeypatch):
    """A lease that is taken, and given up for dead, in a moment."""
    from fastrealign.storage import remote_lock

    monkeypatch.setattr(remote_lock, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(remote_lock, "WATCH_SECONDS", 0.6)
    monkeypatch.setattr(remote_lock, "SETTLE_SECONDS", 0.02)
