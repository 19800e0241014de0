"""The CUDA kernels on the CPU: csrc/cuda/*.cu compiled by the C++ compiler against cuda_shim/, called through ctypes.

A block's threads run one after the other, so indices, guards, barriers, shuffles and reductions are the kernels' own;
what a GPU's compiler, memory system and timing add is not seen here.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from compiled import kept

from fastrealign import _core
from fastrealign.core.dtypes import BFLOAT16, CODES
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import RowMap

CSRC = Path(__file__).resolve().parents[2] / "csrc"
SHIM = Path(__file__).resolve().parent / "cuda_shim"
# So that sums are flushed in the middle of a test's few rows: 64-bit sums after so many rows of a block, accumulators
# after rows of this weight.
FLUSH_AFTER = 64
FLUSH_WEIGHT = 520

DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BFLOAT16, np.dtype(np.float64)]
SHARED_LIMIT = 227 * 1024
_REPLACED = (
    ("exact_sum.h", "weight_before_flush = 2040.0", f"weight_before_flush = {FLUSH_WEIGHT}"),
    ("cuda/rows.cuh", "block_rows_before_flush = 1 << 13", f"block_rows_before_flush = {FLUSH_AFTER}"),
)


class _Matrix(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int),
        ("rows", ctypes.c_int64),
        ("d", ctypes.c_int64),
        ("stride", ctypes.c_int64),
    ]


class _Map(ctypes.Structure):
    _fields_ = [("values", ctypes.c_void_p), ("terms", ctypes.c_int)]


class _Results(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("low", "high", "bad", "flags")]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("device", ctypes.c_int),
        ("stream", ctypes.c_void_p),
        ("first_row", ctypes.c_int64),
        ("blocks", ctypes.c_int),
    ]


def _matrix(x: np.ndarray) -> _Matrix:
    return _Matrix(x.ctypes.data, CODES[x.dtype], x.shape[0], x.shape[1], x.strides[0])


class Results:
    """What a kernel adds to: sums, how many rows are bad and which is the first, the state of each row."""

    def __init__(self, n: int, d: int) -> None:
        self.sums = ExactSum(d)
        self.bad = np.zeros(2, np.uint64)
        self.flags = np.full(n, 77, np.uint8)

    def view(self, sums: bool) -> _Results:
        low, high = (limb.ctypes.data if sums else None for limb in (self.sums.low, self.sums.high))
        return _Results(low, high, self.bad.ctypes.data, self.flags.ctypes.data)

    @property
    def first_bad(self) -> tuple[int, int] | None:
        """(row, state)"""
        packed = _core.FIRST_BAD_BASE - int(self.bad[1])
        return None if self.bad[1] == 0 else (packed >> _core.STATE_BITS, packed & (1 << _core.STATE_BITS) - 1)


class Kernels:
    """The kernels with NumPy arrays as device memory."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name in ("prepare", "reduce", "apply", "vjp"):
            getattr(library, f"shim_{name}").restype = ctypes.c_char_p
        self.settings()

    def settings(self, *, backwards: bool = False, shared_limit: int = SHARED_LIMIT, device: int | None = None) -> None:
        """device: a number for each `shared_limit`, since a device is asked once; by default one of its own."""
        self._library.shim_settings(int(backwards), ctypes.c_size_t(shared_limit))
        self._prepared: tuple[RowMap, np.ndarray] | None = None  # maps are prepared again in the new order of threads
        self._device = shared_limit if device is None else device

    @property
    def questions(self) -> int:
        """How often the runtime was asked about devices and kernels."""
        return self._library.shim_questions()

    @property
    def grid(self) -> int:
        """Blocks of the last launch."""
        return self._library.shim_grid()

    def ask_from_threads(self, device: int, threads: int) -> None:
        self._library.shim_ask_from_threads(device, threads)

    def _call(self, name: str, *arguments) -> None:
        message = getattr(self._library, f"shim_{name}")(*arguments)
        if message is not None:
            raise RuntimeError(message.decode())

    def device_map(self, row_map: RowMap, d: int) -> tuple[np.ndarray, _Map]:
        """Prepared once for the launches in a row that use it, as callers do."""
        if (
            self._prepared is not None
            and self._prepared[0] is row_map
            and len(self._prepared[1]) == _core.MAP_HEADER + 2 * d
        ):
            values = self._prepared[1]
            return values, _Map(values.ctypes.data, row_map.terms)
        values = np.zeros(_core.MAP_HEADER + 2 * d)
        values[_core.MAP_S] = row_map.s
        for at, vector in ((_core.MAP_HEADER, row_map.b), (_core.MAP_HEADER + d, row_map.c)):
            if vector is not None:
                values[at : at + d] = vector
        self._call("prepare", ctypes.c_void_p(values.ctypes.data), ctypes.c_int64(d))
        self._prepared = row_map, values
        return values, _Map(values.ctypes.data, row_map.terms)

    def reduce(self, x, row_map, *, blocks: int = 0, first_row: int = 0, into: Results | None = None) -> Results:
        results = into or Results(*x.shape)
        values, device_map = self.device_map(row_map, x.shape[1])
        self._call(
            "reduce",
            *map(
                ctypes.byref,
                (_matrix(x), device_map, results.view(True), _Launch(self._device, None, first_row, blocks)),
            ),
        )
        del values
        return results

    def apply(self, x, row_map, out, *, sums: bool = False, blocks: int = 0) -> Results:
        results = Results(*x.shape)
        values, device_map = self.device_map(row_map, x.shape[1])
        self._call(
            "apply",
            *map(
                ctypes.byref,
                (_matrix(x), _matrix(out), device_map, results.view(sums), _Launch(self._device, None, 0, blocks)),
            ),
        )
        del values
        return results

    def vjp(self, x, gradient, row_map, out, *, blocks: int = 0) -> None:
        values, device_map = self.device_map(row_map, x.shape[1])
        matrices = (_matrix(x), _matrix(gradient), _matrix(out), device_map, _Launch(self._device, None, 0, blocks))
        self._call("vjp", *map(ctypes.byref, matrices))
        del values


def build_library(config: pytest.Config) -> ctypes.CDLL | None:
    """The kernels, compiled; None where there is no C++ compiler."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        return None
    # Fortified, as some distributions compile, longjmp refuses to change stacks, as the shim's threads do.
    flags = [
        "-std=gnu++17",
        "-Og",
        "-U_FORTIFY_SOURCE",
        "-fPIC",
        "-pthread",
        "-ffp-contract=off",
        "-Wno-unknown-pragmas",
    ]
    build = partial(_build, compiler, flags)
    return ctypes.CDLL(str(kept(config, "shim", compiler, [*flags, _REPLACED], (CSRC, SHIM), build) / "libkernels.so"))


def _build(compiler: str, flags: list[str], build: Path) -> None:
    sources = build / "csrc"
    shutil.copytree(CSRC, sources)
    for name, before, after in _REPLACED:
        text = (sources / name).read_text()
        assert before in text, f"{name}: {before} has moved"
        (sources / name).write_text(text.replace(before, after))
    includes = [f"-I{path}" for path in (SHIM, sources, sources / "cuda")]

    def compiled(source: Path) -> Path:
        target = build / f"{source.stem}.o"
        subprocess.run([compiler, *flags, *includes, "-x", "c++", "-c", str(source), "-o", str(target)], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(
            pool.map(compiled, [*sorted((sources / "cuda").glob("*.cu"), reverse=True), SHIM / "runtime.cpp"])
        )
    subprocess.run(
        [compiler, "-shared", "-pthread", "-o", str(build / "libkernels.so"), *map(str, objects)], check=True
    )
