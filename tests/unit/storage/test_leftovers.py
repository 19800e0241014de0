"""leftovers.py: temporaries of killed processes are removed by a later run, those of processes that run stay."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.storage.atomic import AtomicFile, AtomicFolder, save_bytes
from fastrealign.storage.leftovers import _temporaries
from fastrealign.storage.spool import Spool
from fastrealign.storage.system import lock

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes and locks of POSIX")

MAKE = {
    "file": "from fastrealign.storage.atomic import AtomicFile as Made; made = Made(sys.argv[1]); made.append(b'x')",
    "folder": "from fastrealign.storage.atomic import AtomicFolder as Made; made = Made(sys.argv[1])",
    "spool": "from fastrealign.storage.spool import Spool as Made; made = Made(sys.argv[1].rpartition('/')[2])",
}
AGAIN = {"file": AtomicFile, "folder": AtomicFolder, "spool": lambda path: Spool(path.name)}


@pytest.fixture(autouse=True)
def first_look(monkeypatch, tmp_path):
    """As in a new process, with temporary files in a folder of the test."""
    _temporaries.cache_clear()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def _child(kind: str, path: Path, then: str) -> subprocess.Popen:
    code = f"import os, sys; {MAKE[kind]}; print('made', flush=True); {then}"
    child = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert child.stdout.readline() == b"made\n"
    return child


@pytest.mark.parametrize("kind", MAKE)
def test_what_a_killed_process_left_is_removed(tmp_path, kind):
    child = _child(kind, tmp_path / "x", "os.kill(os.getpid(), 9)")
    child.communicate()
    (left,) = tmp_path.iterdir()
    other = tmp_path / f".y.{child.pid}.tmp"  # of another file, which a run that writes it removes
    other.touch()
    made = AGAIN[kind](tmp_path / "x")
    assert not left.exists() and other.exists()
    del made


@pytest.mark.parametrize("kind", MAKE)
def test_what_a_running_process_writes_stays(tmp_path, kind):
    child = _child(kind, tmp_path / "x", "sys.stdin.read()")
    try:
        (theirs,) = tmp_path.iterdir()
        made = AGAIN[kind](tmp_path / "x")
        assert theirs.exists()
        del made
    finally:
        child.communicate()


def test_what_a_process_of_another_machine_writes_stays(tmp_path):
    """Its number is not one of this machine, but it holds a lock."""
    child = _child("file", tmp_path / "x", "os.kill(os.getpid(), 9)")
    child.communicate()
    (left,) = tmp_path.iterdir()
    with open(left) as held:
        lock(held.fileno())
        save_bytes(tmp_path / "x", b"ours")
        assert left.exists()
    _temporaries.cache_clear()
    save_bytes(tmp_path / "x", b"ours")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("name", [".x.0.tmp", f".x.{10**30}.tmp", f".x.{os.getppid()}.tmp"])
def test_unless_the_process_has_ended_nothing_is_removed(tmp_path, name):
    (tmp_path / name).touch()
    save_bytes(tmp_path / "x", b"ours")
    assert (tmp_path / name).exists()


def test_a_killed_fit_leaves_nothing_after_the_next_one(tmp_path):
    sides = [tmp_path / "text.npy", tmp_path / "image.npy"]
    for i, path in enumerate(sides):
        np.save(path, corpus.rows(100, i))
    code = (
        "import os, sys, fastrealign as fr; os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "fr.fit(*sys.argv[1:3]).save(sys.argv[3])"
    )
    subprocess.run([sys.executable, "-c", code, *sides, tmp_path / "a.safetensors"], check=False)
    assert len(list(tmp_path.glob(".a.safetensors.*.tmp"))) == 1
    fr.fit(*sides).save(tmp_path / "a.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "image.npy", "text.npy"]


SPOOL = "from fastrealign.storage.spool import spool; held = spool('s3://a/b')[0]; print(os.listdir())"
# Killed between making a file and removing its name. Path.unlink of Python 3.10 keeps the os.unlink of its import.
KILLED = "import os, pathlib; os.unlink = pathlib.Path.unlink = lambda *_, **__: os.kill(os.getpid(), 9);"


def _spool(folder: Path, code: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"FASTREALIGN_SPOOL": str(folder)}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, check=False)


@pytest.fixture
def nameless(tmp_path):
    """Skips where the file system has no files without a name."""
    try:
        os.close(os.open(tmp_path, os.O_TMPFILE | os.O_RDWR))
    except (AttributeError, OSError):
        pytest.skip("no files without a name here")


@pytest.mark.usefixtures("nameless")
def test_a_spool_file_never_has_a_name(tmp_path):
    assert _spool(tmp_path, f"{KILLED} {SPOOL}").stdout == b"[]\n"


@pytest.mark.usefixtures("nameless")
def test_a_spool_file_with_a_name_is_removed_by_the_next(tmp_path):
    """Where the file system has no files without a name."""
    for _ in range(2):
        assert _spool(tmp_path, f"{KILLED} del os.O_TMPFILE; {SPOOL}").returncode == -9
        (left,) = tmp_path.iterdir()
        assert left.name.startswith("fastrealign-spool-")
    assert _spool(tmp_path, f"import os; del os.O_TMPFILE; {SPOOL}").stdout == b"[]\n"


def test_a_spool_travels_to_other_processes_without_its_descriptor():
    spool = Spool("x")
    there = pickle.loads(pickle.dumps(spool))
    assert vars(there) == {"folder": spool.folder, "path": spool.path}
    del there
    assert os.path.isdir(spool.folder)
