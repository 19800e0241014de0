"""How the GPU is timed, and its ceilings: a copy of the rows, and two kernels that only read them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from itertools import cycle
from typing import Any

import torch

from bench.common import Run, stopwatch

# Back to back: the launch of one is hidden behind the one before.
CALLS = 6

Work = Callable[[], object]


def timed(device: str, work: Work, calls: int = CALLS) -> Run:
    """Seconds of `calls` calls back to back, between two events; by the clock on a CPU (a trial run)."""

    def many() -> None:
        for _ in range(calls):
            work()

    if device == "cpu":
        return stopwatch(many)

    def run() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        many()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    return run


def graphed(call: Work, calls: int = 1) -> Work:
    """`calls` calls captured in a CUDA graph: its replay needs nothing of the host."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return graph.replay


def ceilings(problem: Any) -> dict[str, tuple[Work, int]]:
    """Work on the next buffers and the bytes that it moves: the copy and, for `reduce`, reads of the same bytes.

    The copy of `reduce` is from one buffer of rows to the next.
    """
    x = [rows.view(torch.float32) for rows in problem.x]
    out = (
        [x[i - 1] for i in range(len(x))] if problem.out is None else [rows.view(torch.float32) for rows in problem.out]
    )
    turn = cycle(range(len(x)))
    nbytes = x[0].numel() * 4

    def copy() -> None:
        i = next(turn)
        out[i].copy_(x[i])

    found: dict[str, tuple[Work, int]] = {"copy": (copy, 2 * nbytes)}
    if problem.out is None:
        found["read, torch's sum"] = (lambda: x[next(turn)].sum(), nbytes)
        if x[0].is_cuda and find_spec("triton") is not None:
            from bench import gpu_read

            programs = gpu_read.programs_on(x[0].device)
            found["read, plain kernel"] = (
                lambda: gpu_read.read(x[next(turn)], programs),
                nbytes // (4 * gpu_read.BLOCK) * 4 * gpu_read.BLOCK,
            )
    return found
