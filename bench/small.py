"""What a call costs on few rows, and what starting costs: seconds, not GB/s."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.common import Case, Rounds, Spread, command, plain, stopwatch
from bench.peers import NotComparable, Work, numpy_plain, torch_eager
from bench.problem import Problem, encodings
from fastrealign import Alignment, _core, fit

ROWS = (1, 64, 4096)
WIDTH = 768
# Calls are timed together until they take this long, so that the clock's own cost does not count.
SECONDS_A_RUN = 2e-3
PAIRS_A_ROUND = 8

CLI = "import sys; from fastrealign.cli.main import main; sys.exit(main())"


def run(rows: tuple[int, ...], threads: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """{"batches": [one entry a number of rows, in microseconds], "one_row": {call: microseconds}, "startup": {"nothing",
    "import", "help"} in seconds of a whole process}."""
    text, images = encodings(2 * WIDTH, WIDTH)
    alignment = fit(text, images, threads=threads)
    return {
        "d": WIDTH,
        "dtype": "fp32",
        "batches": [_batch(n, alignment, threads, rounds, say) for n in rows],
        "one_row": _one_row(alignment, rounds, say),
        "startup": _startup(rounds, say),
    }


def _batch(n: int, alignment: Alignment, threads: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    x = np.resize(encodings(min(n, 64), WIDTH)[0], (n, WIDTH))
    timing = Rounds()
    timing.add("ours", _repeated(lambda: alignment(x, threads=threads)), n)
    timing.add("NumPy", _repeated(numpy_plain(_problem(x, alignment, threads))), n)
    order = ["NumPy", "ours"] * PAIRS_A_ROUND
    left_out: dict[str, str] = {}
    try:
        timing.add("torch eager", _repeated(torch_eager(_problem(x, alignment, threads))), n)
        order += ["torch eager", "ours"] * PAIRS_A_ROUND
    except NotComparable as reason:
        left_out["torch eager"] = str(reason)
    timing.go(order, rounds)
    found = {name: timing.seconds(name) for name in dict.fromkeys(order)}
    entry = {"rows": n, "us": plain({name: _microseconds(s) for name, s in found.items()}), "left_out": left_out}
    if not left_out:
        entry |= plain({"ours_is": timing.ratio("ours", "torch eager")})
    say(f"{n} rows: " + ", ".join(f"{name} {_microseconds(s).text(1)} us" for name, s in found.items()))
    return entry


def _problem(x: np.ndarray, alignment: Alignment, threads: int) -> Problem:
    case = Case("apply", "plain", WIDTH, len(x), "float32", "float32")
    return Problem(case, x, np.empty_like(x), alignment.row_map, len(x), threads)


def _one_row(alignment: Alignment, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Microseconds of one row through each entrance, and of what no entrance can avoid: the core on no rows, an operator of
    torch that computes nothing."""
    x = encodings(1, WIDTH)[0]
    nothing, half, out, prepared = x[:0], x.astype(np.float16), np.empty_like(x), alignment.row_map.prepared(WIDTH)
    calls: dict[str, Work] = {
        "core, no rows": lambda: _core.apply(nothing, 0, nothing, 0, prepared, None, None, None, 1, ""),
        "core": lambda: _core.apply(x, 0, out, 0, prepared, None, None, None, 1, ""),
        "array (1, d)": lambda: alignment(x),
        "vector (d,)": lambda: alignment(x[0]),
        "float16": lambda: alignment(half),
        **_torch_calls(alignment, x),
    }
    timing = Rounds()
    for name, work in calls.items():
        timing.add(name, _repeated(work), 1)
    timing.go(list(calls) * PAIRS_A_ROUND, rounds)
    found = {name: _microseconds(timing.seconds(name)) for name in calls}
    say("one row: " + ", ".join(f"{name} {us.text(1)} us" for name, us in found.items()))
    return plain(found)


def _torch_calls(alignment: Alignment, x: np.ndarray) -> dict[str, Work]:
    try:
        import torch

        from fastrealign import nn
    except ImportError:
        return {}

    schema = "(Tensor rows, Tensor map, int terms) -> Tensor"

    @torch.library.custom_op("fastrealign_bench::nothing", mutates_args=(), schema=schema)
    def nothing(rows: torch.Tensor, map: torch.Tensor, terms: int) -> torch.Tensor:
        return torch.empty(rows.shape, dtype=rows.dtype)

    nothing.register_autograd(lambda ctx, gradient: (gradient, None, None), setup_context=lambda *_, **__: None)
    row, module = torch.from_numpy(x), nn.ReAlign(alignment)
    module(torch.from_numpy(encodings(1024, WIDTH)[0]))  # the first rows are looked at

    def without_gradient(function: Callable[..., object], *arguments: object) -> Work:
        def work() -> None:
            with torch.inference_mode():
                function(*arguments)

        return work

    return {
        "tensor": lambda: alignment(row),
        "torch, an operator that does nothing": without_gradient(
            torch.ops.fastrealign_bench.nothing, row, module.map, 2
        ),
        "operator": without_gradient(torch.ops.fastrealign.apply, row, module.map, 2),
        "module": without_gradient(module, row),
    }


def _repeated(work: Callable[[], object]) -> Callable[[], float]:
    """Seconds a call, from as many calls together as SECONDS_A_RUN holds."""
    work()
    start = time.perf_counter()
    work()
    calls = max(1, int(SECONDS_A_RUN / max(time.perf_counter() - start, 1e-7)))

    def run() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - start) / calls

    return run


def _microseconds(seconds: Spread) -> Spread:
    return Spread(seconds.median * 1e6, seconds.p10 * 1e6, seconds.p90 * 1e6, seconds.n)


def _startup(rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds of a fresh interpreter that does nothing, imports fastrealign, prints the help; each as a whole."""
    timing = Rounds()
    commands = {"nothing": ["pass"], "import": ["import fastrealign"], "help": [CLI, "--help"]}
    for name, words in commands.items():
        timing.add(name, stopwatch(partial(command, [sys.executable, "-c", *words], name)), 1)
    timing.go(list(commands), rounds + 1)
    nothing, imported, helped = (timing.seconds(name) for name in commands)
    found = {"nothing": nothing, "import": imported, "help": helped}
    say(f"start-up: interpreter {nothing.text()} s, import fastrealign {imported.text()} s, --help {helped.text()} s")
    return plain(found)
