"""The CPU's ceilings: ceilings.cpp compiled with the system's compiler, and the fastest copy and read in it."""

from __future__ import annotations

import ctypes
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from bench.common import CannotBenchmark, command, stopwatch

SOURCE = Path(__file__).with_name("ceilings.cpp")


def compiler() -> str:
    """$CXX, or the first of c++, g++, clang++ that exists. Raises CannotBenchmark if there is none."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            return name
    raise CannotBenchmark("no C++ compiler (c++, g++, clang++): the ceilings are compiled code; install one or set CXX")


@cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, "ceilings.so")
        flags = ["-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-pthread"]
        command([compiler(), *flags, str(SOURCE), "-o", str(built)], f"compiling {SOURCE.name}")
        library = ctypes.CDLL(str(built))
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    library.copy.argtypes = [ctypes.c_int, pointer, pointer, size, ctypes.c_int]
    library.copy.restype = None
    library.read_sum.argtypes = [ctypes.c_int, pointer, size, ctypes.c_int]
    library.read_sum.restype = ctypes.c_uint64
    library.copy_name.restype = library.read_name.restype = ctypes.c_char_p
    return library


def copy_names() -> list[str]:
    library = _library()
    return [library.copy_name(i).decode() for i in range(library.copy_variants())]


def read_names() -> list[str]:
    library = _library()
    return [library.read_name(i).decode() for i in range(library.read_variants())]


def copy(variant: int, source: np.ndarray, out: np.ndarray, threads: int) -> None:
    """Copy all bytes of `source` to `out`, same size; both start on a 64-byte line and are contiguous."""
    assert source.nbytes == out.nbytes and source.ctypes.data % 64 == out.ctypes.data % 64 == 0
    _library().copy(variant, source.ctypes.data, out.ctypes.data, source.nbytes // 64 * 64, threads)


def read_sum(variant: int, source: np.ndarray, threads: int) -> int:
    """Sum of all 64-bit words of `source`, modulo 2^64; it starts on a 64-byte line and is contiguous."""
    assert source.ctypes.data % 64 == 0
    return _library().read_sum(variant, source.ctypes.data, source.nbytes // 64 * 64, threads)


class Ceilings:
    """The fastest loops of each kind on these buffers; which they were is in `chosen`, all rates (GB/s) in `tried`.

    Besides, `plain=True` is the first of each kind, the loop that anybody would write.
    """

    def __init__(self, source: np.ndarray, out: np.ndarray, threads: int, rounds: int = 15) -> None:
        self.threads = threads
        self.tried = {
            "copy": self._try(copy_names(), lambda i: copy(i, source, out, threads), 2 * source.nbytes, rounds),
            "read": self._try(read_names(), lambda i: read_sum(i, source, threads), source.nbytes, rounds),
        }
        self.chosen = {kind: max(rates, key=rates.__getitem__) for kind, rates in self.tried.items()}

    @staticmethod
    def _try(names: list[str], work: Callable[[int], object], nbytes: int, rounds: int) -> dict[str, float]:
        runs = [stopwatch(lambda i=i: work(i)) for i in range(len(names))]
        seconds: list[list[float]] = [[] for _ in names]
        for _ in range(rounds):
            for i, run in enumerate(runs):
                seconds[i].append(run())
        return {name: round(nbytes / statistics.median(s) / 1e9, 2) for name, s in zip(names, seconds, strict=True)}

    def copy(self, source: np.ndarray, out: np.ndarray, plain: bool) -> None:
        copy(0 if plain else copy_names().index(self.chosen["copy"]), source, out, self.threads)

    def read(self, source: np.ndarray, plain: bool) -> None:
        read_sum(0 if plain else read_names().index(self.chosen["read"]), source, self.threads)
