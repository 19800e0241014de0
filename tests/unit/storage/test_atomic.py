"""atomic.py: a file, or a folder that is one thing, appears whole or not at all, whatever fails."""

from __future__ import annotations

import errno
import gc
import io
import os
import stat
import subprocess

import pytest

from fastrealign.core.errors import FastRealignError
from fastrealign.storage.atomic import AtomicFile, AtomicFolder


def fail(code):
    def call(*_, **__):
        raise OSError(code, os.strerror(code))

    return call


def test_appears_on_commit_alone(tmp_path, tree):
    path = tmp_path / "a" / "b" / "x.bin"
    with AtomicFile(path) as file:
        file.pwrite(b"world", 5)
        file.append(b"hello")
        assert tree(tmp_path) == [f"a/b/.x.bin.{os.getpid()}.tmp"]
        file.commit()
        file.commit()
    file.abort()
    assert path.read_bytes() == b"helloworld"
    assert tree(tmp_path) == ["a/b/x.bin"]
    with pytest.raises(ValueError, match="already committed"):
        file.append(b"!")


def test_replaces_the_old_file_and_obeys_the_umask(tmp_path):
    (tmp_path / "x").write_bytes(b"old and longer")
    before = os.umask(0o027)
    try:
        with AtomicFile(tmp_path / "x") as file:
            file.append(b"new")
            assert (tmp_path / "x").read_bytes() == b"old and longer"
            file.commit()
    finally:
        os.umask(before)
    assert (tmp_path / "x").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_removed_when_the_block_is_left_by_an_exception(tmp_path, tree, error):
    with pytest.raises(error), AtomicFile(tmp_path / "x") as file:
        file.append(b"half")
        raise error
    assert tree(tmp_path) == []


def test_interrupted_inside_a_write(tmp_path, tree, monkeypatch):
    def pwrite(*_):
        raise KeyboardInterrupt

    file = AtomicFile(tmp_path / "x")
    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(KeyboardInterrupt):
        file.append(b"half")
    assert tree(tmp_path) == []


def test_a_leftover_of_the_same_name_is_written_over(tmp_path, tree):
    (tmp_path / f".x.{os.getpid()}.tmp").write_bytes(b"a longer leftover of a process that was killed")
    with AtomicFile(tmp_path / "x") as file:
        file.append(b"new")
        file.commit()
    assert (tmp_path / "x").read_bytes() == b"new"
    assert tree(tmp_path) == ["x"]


def test_much_is_written_in_parts(tmp_path, monkeypatch):
    data, sizes, real = os.urandom(3_500_000), [], os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: sizes.append(len(data)) or real(fd, data, at))
    with AtomicFile(tmp_path / "x") as file:
        file.append(data)
        file.commit()
    assert (tmp_path / "x").read_bytes() == data
    assert len(sizes) > 1 and max(sizes) <= 1 << 20


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:3], at))
    with AtomicFile(tmp_path / "x") as file:
        file.append(b"more than three bytes")
        file.commit()
    assert (tmp_path / "x").read_bytes() == b"more than three bytes"


@pytest.mark.parametrize(
    ("function", "code", "pieces"),
    [
        ("pwrite", errno.ENOSPC, ["No space left on device", "free some space or choose another output folder"]),
        ("pwrite", errno.EDQUOT, ["quota", "free some space"]),
        ("pwrite", errno.EIO, ["Input/output error", "nothing was kept"]),
        ("fsync", errno.ENOSPC, ["No space left on device", "free some space"]),
        ("replace", errno.EACCES, ["Permission denied", "permissions of the folder"]),
        ("close", errno.EDQUOT, ["quota"]),
        ("pwrite", errno.EMFILE, ["too many open files", "raise the limit (ulimit -n)"]),
    ],
)
def test_every_failing_call_leaves_nothing(tmp_path, tree, refused, monkeypatch, function, code, pieces):
    gc.collect()  # descriptors that earlier tests left behind are not to be closed by the failing call
    file = AtomicFile(tmp_path / "x")

    def run():
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail(code))
            file.append(b"data")
            file.commit()

    refused(run, tmp_path / "x", *pieces, error=FastRealignError)
    assert tree(tmp_path) == []
    refused(lambda: file.append(b"more"), "x", pieces[0], error=FastRealignError)  # the cause, not a consequence


def test_a_name_that_is_too_long_with_what_a_temporary_adds(tmp_path, tree, refused):
    refused(lambda: AtomicFile(tmp_path / ("x" * 250)), "name too long", "shorten it", error=FastRealignError)
    assert tree(tmp_path) == []


def test_folder_that_cannot_be_made_or_written(tmp_path, refused, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    refused(lambda: AtomicFile(tmp_path / "file" / "x"), tmp_path / "file" / "x", error=FastRealignError)
    monkeypatch.setattr(os, "open", fail(errno.EROFS))
    refused(lambda: AtomicFile(tmp_path / "x"), "x", "Read-only file system", "permissions", error=FastRealignError)


def test_final_name_is_a_folder(tmp_path, tree, refused):
    (tmp_path / "x").mkdir()
    file = AtomicFile(tmp_path / "x")
    file.append(b"data")
    refused(file.commit, tmp_path / "x", error=FastRealignError)
    assert tree(tmp_path) == []


@pytest.mark.parametrize(("code", "raises"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_folder_that_cannot_be_synced(tmp_path, tree, refused, monkeypatch, code, raises):
    real = os.fsync

    def fsync(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(code, os.strerror(code))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    file = AtomicFile(tmp_path / "x")
    file.append(b"data")
    if raises:
        refused(file.commit, "x", "Input/output error", error=FastRealignError)
    else:
        file.commit()
    assert (tmp_path / "x").read_bytes() == b"data"
    assert tree(tmp_path) == ["x"]


def test_syncs_file_then_folder_unless_asked_not_to(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)))
    for fsync in (False, True):
        with AtomicFile(tmp_path / "x", fsync=fsync) as file:
            file.commit()
        assert synced == ([False, True] if fsync else [])


def test_stream_is_a_file_object(tmp_path):
    with AtomicFile(tmp_path / "x") as file:
        stream = file.stream()
        assert isinstance(stream, io.RawIOBase) and stream.writable()
        assert stream.write(b"abc") == 3
        assert stream.tell() == 3
        stream.close()
        file.append(b"def")
        file.commit()
    assert (tmp_path / "x").read_bytes() == b"abcdef"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte, where this process may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # a traceback may hold a descriptor still


def test_a_disk_that_is_really_full(small_disk, tree, refused):
    file = AtomicFile(small_disk / "x")

    def run():
        for _ in range(3):
            file.append(b"\1" * 700_000)

    refused(run, small_disk / "x", "No space left on device", error=FastRealignError)
    assert tree(small_disk) == []
    with AtomicFile(small_disk / "x") as again:  # the room is there again
        again.append(b"\1" * 700_000)
        again.commit()


def test_a_folder_appears_on_commit_alone(tmp_path, tree):
    path = tmp_path / "a" / "x"
    folder = AtomicFolder(path)
    (folder.temporary / "deep").mkdir()
    (folder.temporary / "deep" / "y").write_bytes(b"1")
    assert tree(tmp_path) == [f"a/.x.{os.getpid()}.tmp/deep/y"]
    folder.commit()
    folder.commit()
    folder.abort()
    assert tree(tmp_path) == ["a/x/deep/y"]


def test_a_folder_takes_the_place_of_another(tmp_path, tree):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").write_bytes(b"1")
    (tmp_path / f".x.{os.getpid()}.tmp").mkdir()
    (tmp_path / f".x.{os.getpid()}.tmp" / "left by a killed run").write_bytes(b"1")
    folder = AtomicFolder(tmp_path / "x", fsync=False)
    (folder.temporary / "new").write_bytes(b"2")
    assert (tmp_path / "x" / "old").exists()
    folder.commit()
    assert tree(tmp_path) == ["x/new"]


def test_a_folder_that_is_left(tmp_path, tree, refused):
    folder = AtomicFolder(tmp_path / "x")
    (folder.temporary / "half").write_bytes(b"1")
    folder.abort()
    folder.abort()
    assert tree(tmp_path) == [] and not folder.temporary.exists()
    refused(folder.commit, tmp_path / "x", "nothing was kept", error=FastRealignError)


@pytest.mark.parametrize(
    ("error", "pieces"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ["Disk quota exceeded", "free some space"]),
        (RuntimeError("LanceError(IO): No space left on device (os error 28)"), ["free some space"]),
        (ValueError("what a library\nsays"), ["what a library says; nothing was kept"]),
    ],
)
def test_what_fails_within_a_folder(tmp_path, tree, refused, error, pieces):
    folder = AtomicFolder(tmp_path / "x")
    (folder.temporary / "half").write_bytes(b"1")

    def run():
        with folder.writing():
            raise error

    refused(run, f"{tmp_path / 'x'}: could not be written", *pieces, error=FastRealignError)
    refused(folder.commit, *pieces, error=FastRealignError)
    assert tree(tmp_path) == []


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_folder_whose_commit_fails(tmp_path, tree, refused, monkeypatch, function):
    folder = AtomicFolder(tmp_path / "x")
    (folder.temporary / "y").write_bytes(b"1")
    monkeypatch.setattr(os, function, fail(errno.EIO))
    refused(folder.commit, tmp_path / "x", "Input/output error", error=FastRealignError)
    assert tree(tmp_path) == []
