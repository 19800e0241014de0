"""python -m bench.scale [--quick] [--most N] [--only KIND] [--threads N] [--patience S] [--in DIR] [--out FILE]: cost of a row.

Fits, and files to files, of 10^6 to 10^9 rows (`--quick`: to 10^7), each point in a separate process (bench/scale_point.py).
A time is flat when it is the same per row at every size. Small points carry what a run costs however few its rows are: it is
measured with 10^5 rows, stated, and taken off (the dotted lines have it). Wants a quiet machine; a point during which others
were busy is measured again. `--only` measures one kind of work and keeps the others that `--out` has, so that a machine need
be quiet for minutes only. `python -m bench.pictures` draws what is committed.
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
from typing import TYPE_CHECKING, Any

from bench import scale_point
from bench.common import BUSY, CannotBenchmark, Others, Spread, machine, plain, publish
from fastrealign import __version__
from fastrealign.core.cpu import default_threads, instruction_sets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DECADES = (10**6, 10**7, 10**8, 10**9)
QUICK = DECADES[:2]
# Fewest rows for a time per row: enough to include everything that a run does once.
FEW = 10**5
ROUNDS = 5
FEWER_ROUNDS = {10**8: 2, 10**9: 1}
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
    parser.add_argument(
        "--most", type=int, choices=DECADES, default=DECADES[-1], metavar="ROWS", help="largest size (default: 10^9)"
    )
    parser.add_argument("--only", choices=list(scale_point.KINDS), help="this kind alone; --out keeps its others")
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
    given = parser.parse_args(arguments)
    sizes, rounds = (QUICK, 1) if given.quick else ([rows for rows in DECADES if rows <= given.most], ROUNDS)
    kinds = [given.only] if given.only else list(scale_point.KINDS)
    try:
        results = run(
            sizes, rounds, given.threads, given.patience, given.where, lambda line: print(line, flush=True), kinds
        )
        if given.only and given.out and given.out.exists():
            results = joined(json.loads(given.out.read_text()), results, str(given.out))
    except CannotBenchmark as error:
        print(f"bench.scale: {error}", file=sys.stderr)
        return 1
    publish(results, given.out)
    return 0


def joined(kept: dict[str, Any], new: dict[str, Any], name: str) -> dict[str, Any]:
    """The new results, and of the kept ones (of the file `name`) the kinds that are not measured again, ordered as KINDS."""
    for what, of in (
        ("machine", lambda results: results["machine"]["cpu"]),
        ("settings", lambda results: results["settings"]),
    ):
        if of(kept) != of(new):
            raise CannotBenchmark(f"{name}: other {what} ({of(kept)}), expected {of(new)}; give another --out")
    by_kind = {series["kind"]: series for results in (kept, new) for series in results["series"]}
    series = [by_kind[kind] for kind in scale_point.KINDS if kind in by_kind]
    return new | {"machine": new["machine"] | {"others_cores": most_others(series)}, "series": series}


def most_others(series: Sequence[dict[str, Any]]) -> float:
    """Cores that others took, at the busiest point."""
    return max(point["others_cores"] for of in series for point in of["points"])


def run(
    sizes: Sequence[int],
    rounds: int,
    threads: int,
    patience: float,
    where: str | None,
    say: Say,
    kinds: Sequence[str] = tuple(scale_point.KINDS),
) -> dict[str, Any]:
    """One entry a kind of work. 10^9 rows are measured once, 10^8 at most twice."""
    results: dict[str, Any] = {
        "kind": "scale",
        "machine": machine(("numpy",), fastrealign=__version__, isa=instruction_sets()[0]),
        "settings": {"threads": threads, "width": scale_point.WIDTH, "dtype": scale_point.DTYPE.name, "few": FEW},
        "series": [],
    }
    for kind in kinds:
        found: dict[int, list[dict[str, Any]]] = {rows: [] for rows in (FEW, *sizes)}
        for i in range(rounds):
            for rows in found:
                if i < FEWER_ROUNDS.get(rows, rounds):
                    found[rows].append(quiet_point(kind, rows, threads, patience, where))
        series = {"kind": kind, "points": [_point(rows, points) for rows, points in found.items()]}
        series |= flatness(series["points"])
        results["series"].append(series)
        say(summary(series))
    results["machine"]["others_cores"] = most_others(results["series"])
    return results


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
    """The rounds of a size together: the quiet ones, if there are any."""
    points = [point for point in points if point["others_cores"] <= BUSY] or points
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


def summary(series: dict[str, Any]) -> str:
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


def draw(results: dict[str, Any]) -> Figure:
    """Time per row above, peak memory below, against the number of rows."""
    from bench.drawing import COLOURS, INK, TARGET, canvas, key, legend_above

    m, settings = results["machine"], results["settings"]
    figure = canvas(5.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
    looks = zip((TARGET, COLOURS["realign"], COLOURS["bca"]), "os^", ("-", (0, (4, 1.5)), (0, (1.5, 1))), strict=True)
    for series, (colour, mark, line) in zip(results["series"], looks, strict=True):
        points = series["points"][1:]
        rows = [point["rows"] for point in points]
        style = {"color": colour, "marker": mark, "linestyle": line, "label": series["kind"]}
        above.plot(rows, series["wall"]["ns_a_row"], **style)
        once = series["wall"]["once_seconds"]
        low, high = ([1e9 * (p["seconds"][end] - once) / p["rows"] for p in points] for end in ("p10", "p90"))
        above.plot(rows, [1e9 * p["seconds"]["median"] / p["rows"] for p in points], ":", color=colour, linewidth=1)
        above.fill_between(rows, low, high, color=colour, alpha=0.15, linewidth=0)
        below.plot(rows, [point["peak_bytes"] / 1e6 for point in points], **style)
    key(above, "with the fixed cost of a run", linestyle=":", linewidth=1)
    above.set_ylabel("time per row, ns")
    below.set_ylabel("peak memory, MB")
    below.axhline(MEMORY_MB, color=INK, linewidth=1, linestyle="--")
    below.annotate(f"limit {MEMORY_MB} MB", (rows[0], MEMORY_MB), (0, -11), textcoords="offset points", fontsize=9)
    below.set(xlabel="rows", xscale="log", xticks=rows)
    below.minorticks_off()
    for panel in (above, below):
        panel.set_ylim(bottom=0)
    others = m["others_cores"]
    busy = f"\nBusy machine: other processes took {others:.1f} cores." if others > BUSY else ""
    note = (
        f"Rows of {settings['width']} {settings['dtype']}, {settings['threads']} threads, {m['cpu']}, {m['date'][:10]}.\n"
        f"Bands: 10th to 90th percentile.{busy}"
    )
    legend_above(figure, above, 2, note)
    return figure


if __name__ == "__main__":
    sys.exit(main())
