"""space.py: the space of a file whose size is known is set aside before it is written, where the file system can do that."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from fastrealign.core.errors import FastRealignError
from fastrealign.formats.npy import NpyWriter
from fastrealign.storage import space
from fastrealign.storage.atomic import AtomicFile

SIZE = 3 << 20


@pytest.fixture
def answers(monkeypatch):
    """Has the file system answer with this error."""

    def answers(number):
        def call(*_):
            space.ctypes.set_errno(number)
            return -1

        monkeypatch.setattr(space, "_fallocate", lambda: call)

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
        monkeypatch.setattr(space, "_fallocate", lambda: None)
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
