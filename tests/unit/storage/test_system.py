"""system.py: space set aside before a file is written; other systems, which have no fcntl, pread, preadv, pwrite or /proc."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core.errors import FastRealignError
from fastrealign.formats.npy import NpyWriter
from fastrealign.storage import files, system
from fastrealign.storage.atomic import AtomicFile

SIZE = 3 << 20


def test_a_file_that_is_open_when_the_interpreter_ends(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    descriptor = files.Descriptor(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(files, "os", None)  # as Python leaves a module
        descriptor.__del__()
    descriptor.close()


@pytest.fixture
def answers(monkeypatch):
    """Has the file system answer with this error."""

    def answers(number):
        def call(*_):
            system.ctypes.set_errno(number)
            return -1

        monkeypatch.setattr(system, "_fallocate", lambda: call)

    return answers


def test_the_space_is_there_before_the_first_byte(tmp_path):
    with AtomicFile(tmp_path / "x") as file:
        file.reserve(SIZE)
        status = os.stat(file.temporary)
        assert status.st_size == SIZE and status.st_blocks * 512 >= SIZE
        file.pwrite(b"end", SIZE - 3)
        file.commit()
    assert (tmp_path / "x").read_bytes() == bytes(SIZE - 3) + b"end"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_at_once_and_nothing_stays(tmp_path, tree, answers, number):
    answers(number)
    file = AtomicFile(tmp_path / "x.npy")
    with pytest.raises(FastRealignError) as caught:
        file.reserve(SIZE)
    assert str(caught.value) == (
        f"{tmp_path / 'x.npy'}: could not be written: {os.strerror(number)}; "
        "free some space or choose another output folder, then run again"
    )
    assert tree(tmp_path) == []
    with pytest.raises(FastRealignError, match=os.strerror(number)):
        file.pwrite(b"a thread that did not know", 0)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, None])
def test_without_it_files_grow_as_they_are_written(tmp_path, answers, monkeypatch, number):
    rows = np.random.default_rng(0).standard_normal((50, 8), dtype=np.float32)
    if number is None:  # another system
        monkeypatch.setattr(system, "_fallocate", lambda: None)
    else:
        answers(number)
    with NpyWriter(tmp_path / "x.npy", rows.dtype, 8, len(rows)) as writer:
        writer.reserve()
        assert os.stat(writer._file.temporary).st_size == 0
        writer.write_at(20, rows[20:])
        writer.write_at(0, rows[:20])
        writer.commit()
    assert np.array_equal(np.load(tmp_path / "x.npy"), rows)


ALIGN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
from fastrealign.cli.main import main
sys.exit(main(["apply", *sys.argv[1:], "--quiet"]))
"""


def test_a_shard_that_has_no_room_is_not_begun(tmp_path, tree):
    """The limit of the size of a file stands for a disk that is full: the first 1 MB of the shard could be written."""
    import fastrealign as fr

    rng = np.random.default_rng(0)
    text, images = (rng.standard_normal((9000, 64), dtype=np.float32) + shift for shift in (1, -1))
    np.save(tmp_path / "text.npy", text)
    fr.fit(text, images).save(tmp_path / "a.safetensors")
    words = [str(tmp_path / name) for name in ("a.safetensors", "text.npy")]
    done = subprocess.run(
        [sys.executable, "-c", ALIGN, *words, "--out", str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "text.npy: could not be written: File too large" in done.stderr
    assert tree(tmp_path) == ["a.safetensors", "text.npy"]


# What Windows lacks is taken away before anything of fastrealign is imported; a module msvcrt locks with the real fcntl.
ELSEWHERE = """
import errno, fcntl, mmap, os, signal, sys, types
from pathlib import Path
# Libraries are those of this system, which take names that others lack.
if sys.argv[1] == "no locks":
    import torch
else:
    import pandas, pyarrow
for name in ("pread", "preadv", "pwrite", "O_CLOEXEC", "O_DIRECTORY", "sched_getaffinity"):
    delattr(os, name)
for name in ("MADV_DONTNEED", "MAP_PRIVATE", "MAP_ANONYMOUS"):
    delattr(mmap, name)
del errno.EREMOTEIO
def locking(fd, mode, size):
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, size, os.lseek(fd, 0, os.SEEK_CUR))
    except OSError as error:
        raise OSError(errno.EACCES, "Permission denied") from None
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2) if sys.argv[1] == "windows" else None
sys.modules["fcntl"] = None
from fastrealign.storage import system
system.DESCRIPTORS = Path("/nowhere")
system._fallocate = lambda: None
from fastrealign.cli.main import main
for folder in sys.argv[2:]:
    os.chdir(folder)
    code = main(["align", "text", "--target", "image", "--out", "there", "--quiet", "--threads", "2"])
    if code:
        sys.exit(code)
"""


@pytest.mark.parametrize(
    ("where", "suffixes"), [("windows", (".npy", ".arrow")), ("no locks", (".pt", ".safetensors"))]
)
def test_a_run_elsewhere_writes_the_bytes_of_one_on_linux(tmp_path, where, suffixes):
    for library in ("torch",) if where == "no locks" else ("pandas", "pyarrow"):
        pytest.importorskip(library)
    folders = [tmp_path / suffix for suffix in suffixes]
    for suffix, folder in zip(suffixes, folders, strict=True):
        for side, sizes in (("text", (300, 7)), ("image", (200,))):
            (folder / side).mkdir(parents=True)
            for i, size in enumerate(sizes):
                corpus.FORMATS[suffix](folder / side / f"part_{i}{suffix}", corpus.rows(size, 10 * i + len(side), 8))
        fr.align(folder / "text", folder / "image", folder / "here")
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, where, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for folder in folders:
        here, there = (corpus.tree(folder / run) for run in ("here", "there"))
        assert here.keys() == there.keys()
        assert [name for name in here if here[name] != there[name] and "manifest" not in name] == []


def test_a_lock_of_windows_that_is_held_and_one_that_cannot_be(tmp_path, monkeypatch):
    def locking(fd, mode, size):
        raise OSError(number, "refused")

    monkeypatch.setattr(system, "fcntl", None)
    monkeypatch.setattr(system, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    with open(tmp_path / "journal", "wb") as file:
        number = errno.EACCES
        with pytest.raises(BlockingIOError):
            system.lock(file.fileno())
        number = errno.ENOLCK
        with pytest.raises(OSError, match="refused") as caught:
            system.lock(file.fileno())
    assert not isinstance(caught.value, BlockingIOError)


def test_memory_of_a_pass_goes_back_to_the_system():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    # malloc maps arrays, and gives them back, until a larger one was freed: from then on it keeps them.
    np.empty(16 << 20, np.uint8).fill(1)
    before = resident()
    held = [np.frombuffer(system.pages(8 << 20), np.uint8) for _ in range(8)]
    for buffer in held:
        buffer[:] = 1
    full = resident()
    assert full - before > 48 << 20
    del held[::2], buffer
    assert full - resident() > 24 << 20
    assert len(system.pages(0)) > 0
