"""The machine's limits, from ceilings.cpp: the fastest copy and read of a run's buffers, and the clock of a core."""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable

import numpy as np

from bench.common import stopwatch
from bench.native import INTEGER, POINTER, SIZE, compiled


def _library() -> ctypes.CDLL:
    library = compiled("ceilings.cpp")
    library.copy.argtypes = [INTEGER, POINTER, POINTER, SIZE, INTEGER]
    library.copy.restype = None
    library.read_sum.argtypes = [INTEGER, POINTER, SIZE, INTEGER]
    library.read_sum.restype = ctypes.c_uint64
    library.loop_name.restype = ctypes.c_char_p
    library.dependent_adds.argtypes = [SIZE]
    return library


def loop_names() -> list[str]:
    library = _library()
    return [library.loop_name(i).decode() for i in range(library.loop_count())]


def copy(loop: int, source: np.ndarray, out: np.ndarray, threads: int) -> None:
    """Copy all bytes of `source` to `out`, same size; both start on a 64-byte line and are contiguous."""
    assert source.nbytes == out.nbytes and source.ctypes.data % 64 == out.ctypes.data % 64 == 0
    _library().copy(loop, source.ctypes.data, out.ctypes.data, source.nbytes // 64 * 64, threads)


def read_sum(loop: int, source: np.ndarray, threads: int) -> int:
    """Sum of all 64-bit words of `source`, modulo 2^64; it starts on a 64-byte line and is contiguous."""
    assert source.ctypes.data % 64 == 0
    return _library().read_sum(loop, source.ctypes.data, source.nbytes // 64 * 64, threads)


class Ceilings:
    """The fastest loop of each kind on these buffers; its name is in `chosen`, all rates (GB/s) in `tried`.

    Bytes are bytes: the same buffers serve rows of every width and type, so one choice does for all of them.
    """

    def __init__(self, source: np.ndarray, out: np.ndarray, threads: int, rounds: int = 5) -> None:
        self.threads = threads
        self.tried = {
            "copy": self._try(lambda i: copy(i, source, out, threads), 2 * source.nbytes, rounds),
            "read": self._try(lambda i: read_sum(i, source, threads), source.nbytes, rounds),
        }
        self.chosen = {kind: max(rates, key=rates.__getitem__) for kind, rates in self.tried.items()}

    @staticmethod
    def _try(work: Callable[[int], object], nbytes: int, rounds: int) -> dict[str, float]:
        names = loop_names()
        seconds = [[stopwatch(lambda i=i: work(i))() for i in range(len(names))] for _ in range(rounds)]
        return {
            name: round(nbytes / statistics.median(of) / 1e9, 2)
            for name, of in zip(names, zip(*seconds, strict=True), strict=True)
        }

    def run(self, x: np.ndarray, out: np.ndarray | None) -> None:
        """Copy x to `out`, or without one read it, with the chosen loop."""
        loop = loop_names().index(self.chosen["read" if out is None else "copy"])
        if out is None:
            read_sum(loop, x, self.threads)
        else:
            copy(loop, x, out, self.threads)


def clock(adds: int = 32_000) -> float:
    """Cycles a second of the core that this thread is on, now: by additions that each take a cycle, the best of some runs."""
    run = stopwatch(lambda: _library().dependent_adds(adds))
    return adds / min(run() for _ in range(8))
