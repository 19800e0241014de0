"""Shared by all tests: fresh random data whose seed is printed, and every element type and instruction set there is."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import stat
import tempfile
import zlib
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fences import Fenced

from fastrealign.core.cpu import instruction_sets
from fastrealign.core.dtypes import BFLOAT16
from fastrealign.core.row_map import RowMap

# In tests/support, which pyproject.toml puts on the path.
pytest_plugins = ["file_fixtures", "embed_fixtures", "report_fixtures", "quick"]

SEED = int(os.environ.get("FASTREALIGN_TEST_SEED") or int.from_bytes(os.urandom(4), "little"))
# The processes that share the tests, and those that tests start, draw the same.
os.environ["FASTREALIGN_TEST_SEED"] = str(SEED)

DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BFLOAT16, np.dtype(np.float64)]


# The files that take longest, or wait for one long step: begun last, one of them would keep a single process busy at the end.
BEGUN_FIRST = (
    "unit/kernels/test_interpreted.py",
    "unit/cuda/test_compile.py",
    "unit/cuda/test_shim.py",
    "unit/core/test_apply.py",
    "contract/test_same_bytes.py",
    "scenario/test_ray.py",
    "unit/methods/test_certified.py",
    "unit/revision/test_train.py",
    "unit/test_nn.py",
    "unit/test_layers.py",
    "unit/test_build.py",
    "unit/storage/test_system.py",
)


def pytest_configure(config):
    """Processes that share the tests share the cores: torch's threads of one would wait for those of the others."""
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    begun = {Path(__file__).parent / name: place for place, name in enumerate(BEGUN_FIRST)}
    items.sort(key=lambda item: begun.get(item.path, len(begun)))


def pytest_collection_finish(session):
    """Leave the source tree: a child process would import fastrealign from there, where it may not have been compiled."""
    # The libraries and cases that are loaded by now stay: a search for cycles need not go through them again and again.
    gc.collect()
    gc.freeze()
    folder = tempfile.TemporaryDirectory(prefix="fastrealign-tests-")
    session.config.add_cleanup(folder.cleanup)
    session.config.add_cleanup(partial(os.chdir, os.getcwd()))
    os.chdir(folder.name)


def pytest_terminal_summary(terminalreporter):
    """What was skipped and what it takes to run it, in one line."""
    skipped = (report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", []))
    counts = Counter(re.sub(r"^could not import '(\w+).*", r"pip install \1", reason) for reason in skipped)
    if counts:
        terminalreporter.write_line("skipped: " + ", ".join(f"{n} ({reason})" for reason, n in counts.most_common()))


def pytest_report_header():
    return f"random data: FASTREALIGN_TEST_SEED={SEED}; instruction sets: {', '.join(instruction_sets())}"


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk():
    """`os.fsync` of files and folders returns at once: a power cut, for which it waits, is no part of any test.

    A test of what is flushed puts its own function in its place. Commands that run as processes of their own do flush.
    """
    real = os.fsync

    def fsync(fd):
        mode = os.fstat(fd if isinstance(fd, int) else fd.fileno()).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            real(fd)  # which fails on what cannot be flushed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


@pytest.fixture
def rng(request):
    """Fresh data each run; one test alone gets the same as in the whole run when the seed is given."""
    return np.random.default_rng([SEED, zlib.crc32(request.node.nodeid.encode())])


@pytest.fixture(params=DTYPES, ids=str)
def in_dtype(request):
    return request.param


@pytest.fixture(params=DTYPES, ids=str)
def out_dtype(request):
    return request.param


# The set that differs from avx512 in `reduce` alone: tests of reduce ask for all sets.
@pytest.fixture(params=[isa for isa in instruction_sets() if isa != "avx512vl"])
def isa(request):
    return request.param


@pytest.fixture
def no_garbage_collection():
    """Garbage is collected after the test, not during it.

    In CPython 3.11 `ast.parse`, which Triton calls, raises SystemError where a finalizer formats a traceback meanwhile.
    """
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="module")
def little_to_collect():
    """What is there by now stays: a test that calls `gc.collect` does not go through all that was imported since the start."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_network(monkeypatch):
    """A list of the hosts that were asked for; a test fails where there is one at its end. Nothing says that it is offline."""
    import socket

    asked = []

    def refuse(*to, **_):
        asked.append(to)
        raise OSError("no network in this test")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with contextlib.suppress(ImportError):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield asked
    assert not asked


@pytest.fixture
def rows_of(rng):
    """rows_of(n, d, dtype): random rows of all lengths; the first entry keeps every row away from zero."""

    def rows_of(n, d, dtype=np.float32):
        rows = rng.standard_normal((n, d))
        rows[:, 0] += np.copysign(0.5, rows[:, 0])
        return (rows * rng.uniform(0.1, 10, (n, 1))).astype(dtype)

    return rows_of


@pytest.fixture
def map_of(rng):
    """map_of(d, terms): a random row map with terms "unit" (none), "s", "b" or "bc"; b and c as long as real ones."""

    def map_of(d, terms="bc"):
        def vector(length):
            v = rng.standard_normal(d) * length / np.sqrt(d)
            return v * min(1.0, length / np.linalg.norm(v))

        # No row is sent near zero, where a rounding error grows: |s pi(y) + b| >= 0.2.
        s = 1.0 if terms == "unit" else float(rng.uniform(0.7, 1.5))
        b = vector(0.5) if terms in ("b", "bc") else None
        c = vector(0.3) if terms == "bc" else None
        return RowMap(s, b, c)

    return map_of


@pytest.fixture
def layouts(tmp_path):
    """layouts(rows): the same rows as views of other memory (name, array): what NumPy users really pass."""

    def layouts(rows):
        n, d = rows.shape
        wide = np.zeros((n, d + 5), rows.dtype)
        wide[:, 2 : 2 + d] = rows
        yield "columns of a wider array", wide[:, 2 : 2 + d]
        every_other = np.zeros((2 * n, d), rows.dtype)
        every_other[::2] = rows
        yield "every other row", every_other[::2]
        yield "rows backwards", np.ascontiguousarray(rows[::-1])[::-1]
        yield "wider and backwards", np.ascontiguousarray(wide[::-1])[::-1, 2 : 2 + d]
        shifted = np.ndarray((n, d), rows.dtype, np.zeros(rows.nbytes + 1, np.uint8), offset=1)
        shifted[:] = rows
        yield "one byte off alignment", shifted
        frozen = rows.copy()
        frozen.setflags(write=False)
        yield "read-only", frozen
        path = tmp_path / "rows.bin"
        path.write_bytes(b"x" * 3 + np.ascontiguousarray(rows).tobytes())
        yield "memory map", np.memmap(path, rows.dtype, "r", offset=3, shape=(n, d))
        fenced = Fenced(rows.nbytes).array(rows.shape, rows.dtype)
        fenced[:] = rows
        yield "at the end of the mapped memory", fenced
        yield "Fortran order", np.asfortranarray(rows)
        spread = np.zeros((n, 2 * d), rows.dtype)
        spread[:, ::2] = rows
        yield "every other column", spread[:, ::2]
        yield "columns backwards", np.ascontiguousarray(rows[:, ::-1])[:, ::-1]
        if rows.dtype != BFLOAT16:
            yield "other byte order", rows.astype(rows.dtype.newbyteorder())

    return layouts
