"""Memory, open files or room that run out, a file system that is away: each is reported, and no good file is left out."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core.errors import FastRealignError, InputError, shortage


def _numpys_own():
    try:
        np.empty(1 << 60, np.uint8)
    except MemoryError as error:
        return type(error)((1 << 20,), np.dtype("f4"))


def _arrows_own():
    import pyarrow as pa

    return pa.ArrowMemoryError("malloc of size 12345 failed")


ERRORS = {
    "python": MemoryError,
    "numpy": _numpys_own,
    "arrow": _arrows_own,
    "ENOMEM": lambda: OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    "torch": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you ..."
    ),
    "C++": lambda: RuntimeError("std::bad_alloc"),
    "mmap": lambda: OSError("Memory mapping file failed: Cannot allocate memory"),
    "threads": lambda: RuntimeError("can't start new thread"),
    "EMFILE": lambda: OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    "ENFILE": lambda: OSError(errno.ENFILE, os.strerror(errno.ENFILE)),
    "arrow's EMFILE": lambda: OSError("Failed to open local file 'x'. Detail: [errno 24] Too many open files"),
    "ESTALE": lambda: OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
    "ETIMEDOUT": lambda: OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)),
}
SAID = re.compile("not enough memory|too many open files|file system does not answer")


def _npy(path, rows):
    np.save(path, rows)


def _pt(path, rows):
    torch = pytest.importorskip("torch")
    torch.save(torch.from_numpy(rows), path)


def _faiss(path, rows):
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    faiss.write_index(index, str(path))


def _safetensors(path, rows):
    corpus.safetensors_file(path, rows, np.arange(len(rows)))


def _pickle(path, rows):
    corpus.pickle_file(path, [{"id": i, "embed": row} for i, row in enumerate(rows)])


# Suffix: what writes a file, and which functions its reader calls.
FORMATS = {
    ".npy": (_npy, ["os.pread", "os.preadv"]),
    ".safetensors": (_safetensors, ["os.pread", "os.preadv"]),
    ".faiss": (_faiss, ["os.pread", "os.preadv"]),
    ".parquet": (
        corpus.parquet_file,
        ["pyarrow.parquet.ParquetFile.__init__", "pyarrow.parquet.ParquetFile.iter_batches"],
    ),
    ".arrow": (corpus.arrow_file, ["pyarrow.ipc.open_stream", "pyarrow.memory_map"]),
    ".pkl": (_pickle, ["fastrealign.formats.unpickler.check_opcodes", "fastrealign.formats.unpickler._Unpickler.load"]),
    ".pt": (_pt, ["torch.load", "zipfile.ZipFile.__init__"]),
}


BY_ARROW = (".parquet", ".arrow")  # Arrow opens its files itself


@pytest.fixture(params=FORMATS)
def sides(request, tmp_path):
    if request.param in BY_ARROW:
        pytest.importorskip("pyarrow")
    make, functions = FORMATS[request.param]
    for side in ("text", "image"):
        (tmp_path / side).mkdir()
        for i in range(3):
            make(tmp_path / side / f"part_{i}{request.param}", corpus.rows(40, i + 10 * (side == "image")))
    return tmp_path / "text", tmp_path / "image", functions


def failing_at(patch, function, call, error):
    """From its call number `call` on, in the shards' own files, the function fails; returns how often it was called."""
    holder, _, name = function.rpartition(".")
    module, _, kind = holder.rpartition(".") if holder not in sys.modules else (holder, "", "")
    __import__(module or holder)
    place = getattr(sys.modules[module], kind) if kind else sys.modules[holder]
    real, calls = getattr(place, name), [0]

    def fail(*args, **kwargs):
        calls[0] += 1
        if calls[0] >= call:
            raise error()
        return real(*args, **kwargs)

    patch.setattr(place, name, fail)
    return calls


@pytest.mark.parametrize("name", ERRORS)
def test_a_good_file_is_not_left_out_for_it(sides, tmp_path, name):
    text, image, functions = sides
    if name == "arrow":
        pytest.importorskip("pyarrow")
    failed = 0
    for function in functions:
        # The first call, and a later one, in turn over the errors.
        for call in (1, (2, 4, 9)[list(ERRORS).index(name) % 3]):
            out = tmp_path / f"{function}{call}"
            with pytest.MonkeyPatch.context() as patch:
                calls = failing_at(patch, function, call, ERRORS[name])
                try:
                    report = fr.align(text, image, out, bad_shards="skip", fsync=False)
                except FastRealignError as error:
                    assert not isinstance(error, InputError), error
                    assert SAID.search(str(error)) and "\n" not in str(error), error
                    failed += 1
                    continue
                except OSError:
                    raise AssertionError(f"{function}, call {call}: not reported") from None
            assert report.left_out == [] and report.rows_out == 120
            assert calls[0] < call
    assert failed


@pytest.mark.parametrize("sides", [suffix for suffix in FORMATS if suffix not in BY_ARROW], indirect=True)
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_what_is_wrong_with_the_file_itself_is_left_out(sides, tmp_path, number):
    text, image, _ = sides
    path = sorted(text.iterdir())[1]
    opened = os.open

    def fail(name, *args, **kwargs):
        if os.fspath(name) == str(path):
            raise OSError(number, os.strerror(number))
        return opened(name, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", fail)
        report = fr.align(text, image, tmp_path / "out", bad_shards="skip", fsync=False)
    assert len(report.left_out) == 1 and path.name in report.left_out[0] and report.rows_out == 80


def test_what_tells_nothing_of_a_shortage():
    for error in (
        ValueError("x"),
        OSError(errno.EIO, "Input/output error"),
        FileNotFoundError(2, "no"),
        InputError("memory"),
    ):
        assert shortage(error) is None
    # What asks for more than any machine has is damaged.
    assert shortage(_numpys_own().__class__((1 << 57,), np.dtype("f4"))) is None


CODE = """
import resource, sys
from pathlib import Path
import fastrealign as fr
from fastrealign.cli.main import main
text, image, suffix = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[4]
fr.align(text / f"small{suffix}", image / f"small{suffix}", sys.argv[3] + "warm", fsync=False, threads=2)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for extra in (1, 4, 8, 16, 32):
    resource.setrlimit(resource.RLIMIT_AS, (used + (extra << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
    words = ["align", str(text), "--target", str(image), "--out", f"{sys.argv[3]}{extra}", "--bad-shards", "skip"]
    print("exit", main([*words, "--no-fsync", "--threads", "2", "--quiet", "--json"]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pkl", ".parquet", ".pt"])
def test_under_a_limit_of_memory_all_is_written_or_it_is_reported(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    make, _ = FORMATS[suffix]
    for side, seed in (("text", 1), ("image", 2)):
        (tmp_path / side).mkdir()
        make(tmp_path / side / f"small{suffix}", corpus.rows(50, seed, 64))
        make(tmp_path / side / f"large{suffix}", corpus.rows(50_000, seed, 64))
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        CODE,
        tmp_path / "text",
        tmp_path / "image",
        tmp_path / "out",
        suffix,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    codes = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("exit ")]
    assert len(codes) == 5 and set(codes) <= {0, 1} and 1 in codes, (codes, done.stderr)
    said = done.stderr.splitlines()
    assert len(said) == codes.count(1) and all("not enough memory" in line for line in said), done.stderr
    for extra, code in zip((1, 4, 8, 16, 32), codes, strict=True):
        manifest = tmp_path / f"out{extra}" / "manifest.json"
        assert manifest.exists() == (code == 0)
        assert code or json.loads(manifest.read_bytes())["left_out"] == {}
