"""python -m bench.scale [--quick] [--threads N] [--patience S] [--in DIR] [--out FILE] [--plot FILE]: cost of a row.

Fits, and files to files, of 10^6 to 10^9 rows (`--quick`: to 10^7), each point in a separate process (bench/scale_point.py).
A time is flat when it is the same per row at every size. Small points carry what a run costs however few its rows are: it is
measured with 10^5 rows, stated, and taken off (the dotted lines have it). Wants a quiet machine; a point during which others
were busy is measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import scale_point
from bench.common import BUSY, CannotBenchmark, Others, Spread, machine, plain, publish
from fastrealign import __version__
from fastrealign.core.cpu import default_threads, instruction_sets

DECADES = (10**6, 10**7, 10**8, 10**9)
QUICK = DECADES[:2]
# Fewest rows for a time per row: enough to include everything that a run does once.
FEW = 10**5
ROUNDS = 5
# Tries for a point that other processes disturbed; the quietest is kept.
TRIES = 3
QUIET_SECONDS = 3.0
# Limits: peak memory, and the ratio of the largest to the smallest time per row.
MEMORY_MB = 400
FLAT = 1.05

# Runs bench/scale_point.py with this folder as `bench`, wherever the process was started from.
POINT = """
import importlib.util, runpy, sys
here = sys.argv.pop(1)
spec = importlib.util.spec_from_file_location("bench", here + "/__init__.py", submodule_search_locations=[here])
sys.modules["bench"] = importlib.util.module_from_spec(spec)
runpy.run_module("bench.scale_point", run_name="__main__")
"""

Say = Callable[[str], None]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description="Time and memory per row, 10^6 to 10^9.")
    parser.add_argument("--quick", action="store_true", help="to 10^7 rows, one round")
    parser.add_argument("--threads", type=int, default=default_threads(), metavar="N", help="default: one per core")
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="to wait for a quiet machine before a point (default: 0)",
    )
    parser.add_argument(
        "--in", dest="where", metavar="DIR", help="where files are written (default: the temporary folder)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the JSON there too")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it (needs matplotlib)")
    given = parser.parse_args(arguments)
    try:
        sizes, rounds = (QUICK, 1) if given.quick else (DECADES, ROUNDS)
        results = run(sizes, rounds, given.threads, given.patience, given.where, lambda line: print(line, flush=True))
    except CannotBenchmark as error:
        print(f"bench.scale: {error}", file=sys.stderr)
        return 1
    publish(results, given.out)
    if given.plot:
        draw(results, given.plot)
    return 0


def run(
    sizes: Sequence[int], rounds: int, threads: int, patience: float, where: str | None, say: Say
) -> dict[str, Any]:
    """One entry a kind of work. The largest size is measured once, the one below it at most twice."""
    results: dict[str, Any] = {
        "kind": "scale",
        "machine": machine(("numpy",), fastrealign=__version__, isa=instruction_sets()[0]),
        "settings": {"threads": threads, "width": scale_point.WIDTH, "dtype": scale_point.DTYPE.name, "few": FEW},
        "series": [],
    }
    for kind in scale_point.KINDS:
        found: dict[int, list[dict[str, Any]]] = {rows: [] for rows in (FEW, *sizes)}
        for i in range(rounds):
            for rows in found:
                if i < _rounds(rows, sizes, rounds):
                    found[rows].append(quiet_point(kind, rows, threads, patience, where))
        series = {"kind": kind, "points": [_point(rows, points) for rows, points in found.items()]}
        series |= flatness(series["points"])
        results["series"].append(series)
        say(told(series))
    results["machine"]["others_cores"] = max(
        point["others_cores"] for series in results["series"] for point in series["points"]
    )
    return results


def _rounds(rows: int, sizes: Sequence[int], rounds: int) -> int:
    if rows < 10**8:
        return rounds
    return 1 if rows == sizes[-1] else 2


def quiet_point(kind: str, rows: int, threads: int, patience: float, where: str | None) -> dict[str, Any]:
    """A point measured while others were quiet, or the quietest of TRIES."""
    tried = []
    for _ in range(TRIES):
        wait_for_quiet(patience)
        others = Others()
        tried.append(one_point(kind, rows, threads, where))
        tried[-1]["others_cores"] = others.cores() or 0.0
        if tried[-1]["others_cores"] <= BUSY:
            break
    return min(tried, key=lambda point: point["others_cores"])


def wait_for_quiet(patience: float) -> None:
    """Wait until others have left the cores alone for some seconds, or until `patience` seconds have passed."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        others = Others()
        time.sleep(QUIET_SECONDS)
        if (others.cores() or 0.0) <= BUSY:
            return


def one_point(kind: str, rows: int, threads: int, where: str | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fastrealign-scale-", dir=where) as folder:
        here = str(Path(__file__).parent)
        words = [sys.executable, "-c", POINT, here, kind, str(rows), str(threads), folder]
        done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise CannotBenchmark(f"{kind}, {rows} rows: exit {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _point(rows: int, points: list[dict[str, Any]]) -> dict[str, Any]:
    """The rounds of a size together."""
    return {
        "rows": rows,
        **plain(
            {name: Spread.of([value for p in points for value in p[name]]) for name in ("seconds", "processor_seconds")}
        ),
        "peak_bytes": max(p["peak_bytes"] for p in points),
        "others_cores": max(p["others_cores"] for p in points),
    }


def flatness(points: list[dict[str, Any]]) -> dict[str, Any]:
    """What a run costs once, nanoseconds a row at each size without that, and the largest over the smallest of them."""
    few, *rest = points
    found: dict[str, Any] = {}
    for name, short in (("seconds", "wall"), ("processor_seconds", "processor")):
        first, last = few[name]["median"], rest[-1][name]["median"]
        once = first - few["rows"] * (last - first) / (rest[-1]["rows"] - few["rows"])
        ns = [1e9 * (point[name]["median"] - once) / point["rows"] for point in rest]
        found[short] = {"once_seconds": once, "ns_a_row": ns, "largest_over_smallest": max(ns) / min(ns)}
    return found


def told(series: dict[str, Any]) -> str:
    ns = ", ".join(f"{value:.1f}" for value in series["wall"]["ns_a_row"])
    rest = series["points"][1:]
    peak = max(point["peak_bytes"] for point in rest)
    return (
        f"{series['kind']}: {ns} ns a row for {', '.join(power(point['rows']) for point in rest)} rows, largest over smallest "
        f"{series['wall']['largest_over_smallest']:.3f} (processor time {series['processor']['largest_over_smallest']:.3f}), "
        f"once {1e3 * series['wall']['once_seconds']:.1f} ms, peak {peak / 1e6:.0f} MB, "
        f"others {max(point['others_cores'] for point in series['points']):.2f} processors"
    )


def power(rows: int) -> str:
    return f"10^{len(str(rows)) - 1}"


def draw(results: dict[str, Any], path: Path) -> None:
    """Time per row above, peak memory below, against the number of rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from fastrealign.cli.demo.picture import INK, PAPER

    m, settings = results["machine"], results["settings"]
    figure = Figure(figsize=(8, 7), dpi=150, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    for series, colour, mark in zip(results["series"], ("#2f6db5", "#d9661f", "#2e8b57"), "os^", strict=True):
        points = series["points"][1:]
        rows = [point["rows"] for point in points]
        style = {"color": colour, "marker": mark, "label": series["kind"], "linewidth": 1.8}
        above.plot(rows, series["wall"]["ns_a_row"], **style)
        once = series["wall"]["once_seconds"]
        low, high = ([1e9 * (p["seconds"][end] - once) / p["rows"] for p in points] for end in ("p10", "p90"))
        above.plot(rows, [1e9 * p["seconds"]["median"] / p["rows"] for p in points], ":", color=colour, linewidth=1.2)
        above.fill_between(rows, low, high, color=colour, alpha=0.15, linewidth=0)
        below.plot(rows, [point["peak_bytes"] / 1e6 for point in points], **style)
    above.set_ylabel("time per row, ns", color=INK)
    below.set_ylabel("peak resident memory, MB", color=INK)
    below.axhline(MEMORY_MB, color=INK, linewidth=1, linestyle="--")
    below.annotate(
        f"limit {MEMORY_MB} MB", (rows[0], MEMORY_MB), (0, 4), textcoords="offset points", color=INK, fontsize=9
    )
    below.set_xlabel("rows", color=INK)
    below.set_xscale("log")
    for panel in (above, below):
        panel.set_ylim(bottom=0)
        panel.grid(color="#d0d7de", linewidth=0.6)
        panel.tick_params(colors=INK)
        panel.spines[["top", "right"]].set_visible(False)
    above.legend(frameon=False, labelcolor=INK)
    others = m["others_cores"]
    busy = f"; busy machine: other processes took {others:.1f} cores" if others > BUSY else ""
    figure.suptitle(
        f"{rows[0]:,} to {rows[-1]:,} rows of {settings['width']} {settings['dtype']}, {settings['threads']} threads\n"
        f"{m['cpu']}, {m['date'][:10]}; bands: 10th to 90th percentile\ndotted: including the fixed cost of a run{busy}",
        color=INK,
        fontsize=11,
    )
    figure.savefig(path, format="png", facecolor=PAPER)


if __name__ == "__main__":
    sys.exit(main())
