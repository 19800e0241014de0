"""What a call costs on few rows, and what starting costs: seconds, not GB/s."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.common import Case, Rounds, Spread, command, plain, stopwatch
from bench.peers import NotComparable, Work, torch_eager
from bench.problem import Problem, encodings
from fastrealign import Alignment, fit
from fastrealign.core.row_map import RowMap

ROWS = (1, 64, 4096)
WIDTH = 768
# Calls are timed together until they take this long, so that the clock's own cost does not count.
SECONDS_A_RUN = 2e-3
PAIRS_A_ROUND = 8

CLI = "import sys; from fastrealign.cli.main import main; sys.exit(main())"


def run(rows: tuple[int, ...], threads: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """{"batches": [one entry a number of rows, in microseconds], "startup": {"nothing", "import", "help"} in
    seconds of a whole process}."""
    text, images = encodings(2 * WIDTH, WIDTH)
    alignment = fit(text, images, threads=threads)
    return {
        "d": WIDTH,
        "dtype": "fp32",
        "batches": [_batch(n, alignment, threads, rounds, say) for n in rows],
        "startup": _startup(rounds, say),
    }


def _batch(n: int, alignment: Alignment, threads: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    x = np.resize(encodings(min(n, 64), WIDTH)[0], (n, WIDTH))
    timing = Rounds()
    timing.add("ours", _repeated(lambda: alignment(x, threads=threads)), n)
    order = ["ours"] * PAIRS_A_ROUND
    left_out: dict[str, str] = {}
    try:
        timing.add("torch eager", _repeated(_eager(x, alignment, threads)), n)
        order = ["torch eager", "ours"] * PAIRS_A_ROUND
    except NotComparable as reason:
        left_out["torch eager"] = str(reason)
    timing.go(order, rounds)
    found = {name: timing.seconds(name) for name in dict.fromkeys(order)}
    entry = {"rows": n, "us": plain({name: _microseconds(s) for name, s in found.items()}), "left_out": left_out}
    if not left_out:
        entry |= plain({"ours_is": timing.ratio("ours", "torch eager")})
    say(f"{n} rows: " + ", ".join(f"{name} {_microseconds(s).text(1)} us" for name, s in found.items()))
    return entry


def _eager(x: np.ndarray, alignment: Alignment, threads: int) -> Work:
    row_map = RowMap(alignment.s, alignment.b, alignment.c)
    case = Case("apply", "plain", WIDTH, len(x), "float32", "float32")
    return torch_eager(Problem(case, x, np.empty_like(x), row_map, len(x), threads))


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
