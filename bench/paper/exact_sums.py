"""python -m bench.paper.exact_sums [--real DIR]: float32 and float64 sums against exact ones (arXiv 2602.07026, figure 7).

The mean of synthetic unit rows, 768 wide, accumulated in float32, in float64 and by `fastrealign.Moments`, against sums in
extended precision; and the effect of the order of the rows. Time and memory of fits come from bench.scale
(bench/results/scale.json).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrealign as fr
from bench.common import BUSY
from bench.paper.common import ROOT, Reproduction, Results, Setting, main, small, table
from bench.paper.real.made import KINDS, heads_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

D = 768
SIZES = (1_000, 10_000, 50_000, 100_000, 500_000)
CHUNK = 1_000
# Rows that are added up in two orders.
REORDERED = 50_000
PAPER = {"float32": 9.6e-8, "float64": 1e-15}
PAPER_ROWS = 500_000
SCALE = ROOT / "bench/results/scale.json"
NAMES = {
    "rows": "float32, row by row",
    "float32": "float32, batches of 1,000",
    "float64": "float64, row by row",
    "exact": "fastrealign, exact",
}


class Sums:
    """Sums of the same unit rows, and the truth. rows, float64: one row after the other, along an axis NumPy does not do it
    otherwise; float32: a batch added up pairwise, its sum to the total, as a script on tensors does it."""

    def __init__(self, d: int) -> None:
        self.n = 0
        self.running = {"rows": np.zeros((1, d), np.float32), "float64": np.zeros((1, d))}
        self.batches = np.zeros(d, np.float32)
        self.exact = fr.Moments(d)
        self.truth = np.zeros(d, np.longdouble)

    def add(self, rows: np.ndarray) -> None:
        """float32 (n, d), of any length."""
        unit = rows.astype(np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        for total in self.running.values():
            total[0] = np.add.reduce(np.concatenate([total, unit.astype(total.dtype)]), axis=0)
        self.batches += np.add.reduce(np.ascontiguousarray(unit.T.astype(np.float32)), axis=1)
        self.exact.update(rows)
        self.truth += np.add.reduce(unit.astype(np.longdouble), axis=0)
        self.n += len(rows)

    def means(self) -> dict[str, np.ndarray]:
        sums = {name: total[0] for name, total in self.running.items()} | {"float32": self.batches}
        means = {name: (total / total.dtype.type(self.n)).astype(np.float64) for name, total in sums.items()}
        return means | {"exact": self.exact.mean}

    def errors(self) -> dict[str, float]:
        """|mean - truth|_2 of each."""
        truth = self.truth / self.n
        return {name: float(np.linalg.norm((mean - truth).astype(np.float64))) for name, mean in self.means().items()}


def chunk(number: int, rows: int, d: int) -> np.ndarray:
    """Synthetic rows, float32 (rows, d), around a mean of about 0.7 of their length."""
    rng = np.random.default_rng([1, number])
    found = rng.standard_normal((rows, d), np.float32)
    found += np.linspace(0.2, 2.0, d, dtype=np.float32)
    return found


def measure(setting: Setting) -> Results:
    d, sizes, reordered = (16, (1000, 2000), 2000) if setting.quick else (D, SIZES, REORDERED)
    sums, by_rows = Sums(d), []
    for number in range(sizes[-1] // CHUNK):
        sums.add(chunk(number, CHUNK, d))
        if sums.n in sizes:
            by_rows.append({"count": sums.n} | sums.errors())
            setting.say(f"{sums.n:,} rows: " + ", ".join(f"{name} {by_rows[-1][name]:.1e}" for name in NAMES))
    numbers = range(reordered // CHUNK)
    forwards, backwards = _means(numbers, d), _means(reversed(numbers), d)
    moved = {name: float(np.linalg.norm(forwards[name] - backwards[name])) for name in NAMES}
    found = {"d": d, "by rows": by_rows, "reordered": {"count": reordered, **moved}, "scale": _scale()}
    if setting.real:
        found["real"] = _of_heads(setting.real)
    return found


def _means(numbers: Iterable[int], d: int) -> dict[str, np.ndarray]:
    sums = Sums(d)
    for number in numbers:
        sums.add(chunk(number, CHUNK, d))
    return sums.means()


def _of_heads(folder: Path) -> dict[str, Any]:
    """By kind, of all images of seed 0: error of the mean, and how far it moves when the rows are reversed."""
    found = {}
    for kind in KINDS:
        rows = heads_of(folder, kind, ("image",))[0]["image"]
        forwards, backwards = Sums(rows.shape[1]), Sums(rows.shape[1])
        for lo in range(0, len(rows), 1_000):
            forwards.add(rows[lo : lo + 1_000])
            backwards.add(rows[::-1][lo : lo + 1_000])
        one, other = forwards.means(), backwards.means()
        moved = {name: float(np.linalg.norm(one[name] - other[name])) for name in NAMES}
        found[kind] = {"count": len(rows), "d": rows.shape[1], "error": forwards.errors(), "moved": moved}
    return found


def _scale() -> dict[str, Any]:
    """What is said here of bench.scale's figures."""
    scale = json.loads(SCALE.read_text())
    kept = ("rows", "seconds", "processor_seconds", "peak_bytes")
    series = {of["kind"]: [{key: point[key] for key in kept} for point in of["points"][1:]] for of in scale["series"]}
    return {"settings": scale["settings"], "machine": scale["machine"], "series": series}


def tell(results: Results) -> str:
    rows = []
    for of in results["by rows"]:
        theirs = {name: f" (paper: {PAPER[name]:.1e})" if of["count"] == PAPER_ROWS else "" for name in PAPER}
        rows.append([f"{of['count']:,}", *(f"{of[name]:.1e}{theirs.get(name, '')}" for name in NAMES)])
    again, scale = results["reordered"], results["scale"]
    machine, settings = scale["machine"], scale["settings"]
    busy = (
        f" **The machine was busy: other processes took {machine['others_cores']:.1f} of its {machine['cores']} cores, which "
        "widens the spread.**"
        if machine["others_cores"] > BUSY
        else ""
    )

    def seconds(of: dict[str, Any]) -> str:
        return f"{of['median']:.3g}" + (f" ({of['p10']:.3g} to {of['p90']:.3g}, {of['n']})" if of["n"] > 1 else "")

    times = [
        [
            kind,
            f"{point['rows']:,}",
            seconds(point["seconds"]),
            f"{point['processor_seconds']['median']:.3g}",
            f"{1e9 * point['seconds']['median'] / point['rows']:.0f}",
            f"{point['peak_bytes'] / 1e6:.0f}",
        ]
        for kind, points in scale["series"].items()
        for point in points
    ]
    return "\n\n".join(
        [
            f"Distance of the mean of N synthetic unit rows, {results['d']} wide, from the mean in extended precision:",
            table(["rows", *NAMES.values()], rows),
            f"With the batches of {again['count']:,} rows in reverse order, the mean moves by {small(again['rows'])} in "
            f"float32 row by row, {small(again['float32'])} in batches, {small(again['float64'])} in float64, and "
            f"{small(again['exact'])} in exact sums, which are bit-identical.",
            *([_heads_table(results["real"])] if "real" in results else []),
            f"Time and memory, rows {settings['width']} wide, {settings['dtype']}, {settings['threads']} threads, "
            f"{machine['cpu']} "
            f"(`python -m bench.scale`).{busy}",
            table(
                ["job", "rows", "seconds, median (10 to 90 %, runs)", "CPU seconds", "ns a row", "peak memory, MB"],
                times,
            ),
        ]
    )


def _heads_table(found: Mapping[str, Any]) -> str:
    """The text under figure 7."""
    rows = [
        [f"{kind}: {KINDS[kind]}, {of['count']:,} by {of['d']}", what, *(f"{of[key][name]:.1e}" for name in NAMES)]
        for kind, of in found.items()
        for key, what in (("error", "error"), ("moved", "rows reversed"))
    ]
    says = "The same of the embeddings of real images (heads of seed 0); how far the mean moves when the rows are reversed:"
    return f"{says}\n\n{table(['head', '', *NAMES.values()], rows, left=2)}"


def draw(results: Results) -> Figure:
    """Errors of the mean above; seconds and memory below."""
    from bench.drawing import COLOURS, QUIET, TARGET, canvas, log_ticks

    figure = canvas(6.4)
    above, below = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    errors = above.subplots()
    n = [of["count"] for of in results["by rows"]]
    for name, colour, style in (
        ("rows", QUIET, "^-."),
        ("float32", COLOURS["c3"], "v:"),
        ("float64", TARGET, "s--"),
        ("exact", COLOURS["realign"], "o-"),
    ):
        errors.loglog(n, [max(of[name], 1e-18) for of in results["by rows"]], style, color=colour, label=NAMES[name])
        if name in PAPER:
            errors.plot(PAPER_ROWS, PAPER[name], "D", mfc="none", mec=colour, ms=7, ls="none", label=f"{name}, paper")
    errors.set(ylim=(1e-16, 1e-4), xlabel="rows N", ylabel="error of the mean, ‖·‖₂")
    log_ticks(errors.xaxis)
    above.legend(*errors.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    seconds, memory = below.subplots(1, 2)
    looks = zip((TARGET, COLOURS["realign"], COLOURS["bca"]), ("o-", "s--", "^:"), strict=True)
    for (kind, points), (colour, style) in zip(results["scale"]["series"].items(), looks, strict=True):
        rows = [point["rows"] for point in points]
        seconds.loglog(rows, [point["seconds"]["median"] for point in points], style, color=colour, label=kind)
        ends = ([point["seconds"][end] for point in points] for end in ("p10", "p90"))
        seconds.fill_between(rows, *ends, color=colour, alpha=0.2, lw=0)
        memory.semilogx(rows, [point["peak_bytes"] / 1e6 for point in points], style, color=colour)
    seconds.set(xlabel="rows N", ylabel="seconds, median")
    log_ticks(seconds.yaxis)
    memory.set(xlabel="rows N", ylabel="peak memory, MB")
    most = max(point["peak_bytes"] for points in results["scale"]["series"].values() for point in points)
    memory.set_ylim(0, 1.15 * most / 1e6)
    for axes in (seconds, memory):
        axes.set_xticks(rows)
        axes.minorticks_off()
    below.legend(*seconds.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


REPRODUCTION = Reproduction(
    "exact_sums", "figure 7: float32, float64 and exact sums; time and memory", measure, tell, draw
)

if __name__ == "__main__":
    sys.exit(main(REPRODUCTION))
