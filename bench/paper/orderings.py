"""python -m bench.paper.orderings [--encoders DIR] [--real DIR]: the paper's orderings of the methods, over encoders.

A seed is a random half of the shipped embeddings and a seed of C3's noise; with --encoders, an encoder trained from its own
initial weights; with --real, a head of each kind of the real world. An ordering is counted seed by seed: it holds if every
inequality does.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.paper import encoders
from bench.paper.common import (
    NAMES,
    Reproduction,
    Results,
    Setting,
    Sides,
    fitted,
    half,
    main,
    mapped,
    percent,
    plus_minus,
    shipped,
    small,
    table,
)
from bench.paper.real.made import KINDS, heads_of, unpaired
from fastrealign.cli.demo.samples import SEEDS
from fastrealign.diagnostics import angular_topology, covariance, gap, mixing, overlap, power_law

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("none", "c3", "bca", "realign", "realign-exact")
SEED_COUNT = 5
ANGLE_ROWS = 1500
# A slope that stays within this part of itself is kept.
KEPT = 0.05

# Figures of one seed: [method][figure].
Read = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Ordering:
    """says: what is claimed; figure: of which of FIGURES; methods: whose are shown; holds: for one seed; paper: its figures."""

    says: str
    figure: str
    methods: tuple[str, ...]
    holds: Callable[[Read], bool]
    paper: str


def _rising(figure: str, *methods: str) -> Callable[[Read], bool]:
    return lambda of: all(of[a][figure] < of[b][figure] for a, b in itertools.pairwise(methods))


def _slope_kept(of: Read) -> bool:
    none, c3, realign = (of[name]["alpha"] for name in ("none", "c3", "realign"))
    return abs(realign - none) <= KEPT * none and c3 < (1 - KEPT) * none


FIGURES: dict[str, Callable[[float], str]] = {
    "gap": small,
    "js": small,
    "mixing": percent,
    "kept": percent,
    "alpha": lambda v: f"{v:.2f}",
}
ORDERINGS = (
    Ordering(
        "gap: none > C3 > ReAlign > exact",
        "gap",
        ("none", "c3", "realign", "realign-exact"),
        _rising("gap", "realign-exact", "realign", "c3", "none"),
        "0.392, 0.0023, 2.6e-04, –",
    ),
    Ordering("angles, JS: C3 ≫ ReAlign", "js", ("c3", "realign"), _rising("js", "realign", "c3"), "0.192, 0.0066"),
    Ordering(
        "mixing: none < C3 < ReAlign",
        "mixing",
        ("none", "c3", "realign"),
        _rising("mixing", "none", "c3", "realign"),
        "0.32 %, 1.31 %, 4.35 %",
    ),
    Ordering(
        "neighbours kept: blockwise ≪ ReAlign",
        "kept",
        ("bca", "realign"),
        _rising("kept", "bca", "realign"),
        "10.1 %, 87.3 %",
    ),
    Ordering("α: kept by ReAlign, lowered by C3", "alpha", ("none", "c3", "realign"), _slope_kept, "1.33, 1.06, 1.33"),
)


def measure(setting: Setting) -> Results:
    sides = shipped(250 if setting.quick else None)
    results: Results = {"halves": {}}
    for seed in range(2 if setting.quick else SEED_COUNT):
        results["halves"][seed] = _read(half(sides, seed), seed)
        setting.say(f"half {seed} is done")
    if setting.encoders:
        results["encoders"], results["about"] = {}, encoders.about(setting.encoders)
        for seed in encoders.seeds(setting.encoders):
            results["encoders"][seed] = _read(_embedded(seed, setting), seed)
            setting.say(f"encoder {seed} is done")
    if setting.real:
        results["heads"] = {}
        for kind in KINDS:
            results["heads"][kind] = {seed: _read(sides, seed) for seed, sides in _heads(kind, setting.real).items()}
            setting.say(f"heads {kind} are done")
    return results


def _heads(kind: str, folder: Path) -> dict[int, Sides]:
    """Text and images of different pictures to fit on, and held-out pairs, of each seed."""
    split = np.load(folder / "split.npy")
    first, second = unpaired(folder)
    return {
        seed: Sides(of["title"][first], of["image"][second], of["title"][split == "test"], of["image"][split == "test"])
        for seed, of in heads_of(folder, kind).items()
    }


def _embedded(seed: int, setting: Setting) -> Sides:
    n = encoders.QUICK_ROWS if setting.quick else encoders.ROWS
    wanted = {
        side: encoders.Rows(side, "shapes", range(SEEDS[side].start, SEEDS[side].start + n))
        for side in ("text", "image")
    }
    of = encoders.embedded(seed, wanted, setting.encoders)
    return Sides(of["text"], of["image"], of["text"], of["image"])


def _read(sides: Sides, seed: int) -> Read:
    found = {}
    for name in SHOWN:
        moved = mapped(fitted(name, sides, seed), sides.text)
        found[name] = {
            "gap": gap(sides.image, moved),
            "js": angular_topology(sides.image, moved, rows=ANGLE_ROWS, seed=seed).divergence.value,
            "mixing": mixing(sides.image, moved, k=20, rows=None).rate.value,
            "kept": overlap(sides.text, moved, k=10, rows=None).value,
            "alpha": power_law(covariance(moved).eigenvalues).alpha,
        }
    return found


def tell(results: Results) -> str:
    parts = []
    for key in ("encoders", "halves"):
        if key not in results:
            continue
        reads = list(results[key].values())
        held = [sum(map(ordering.holds, reads)) for ordering in ORDERINGS]
        halves = f"{len(reads)} random halves of the shipped embeddings"
        what = f"{results['about']}, {encoders.ROWS:,} rows a side" if key == "encoders" else halves
        parts += [f"{what}; mean ± standard deviation:", _table(reads, held)]
        failed = [of.says for of, count in zip(ORDERINGS, held, strict=True) if count < len(reads)]
        parts.append(f"Not in every seed: {'; '.join(failed)}." if failed else "Every ordering holds in every seed.")
    if "heads" in results:
        for kind, of in results["heads"].items():
            reads = list(of.values())
            what = f"real pictures and titles, {KINDS[kind]} ({kind}), {len(reads)} seeds; mean ± standard deviation:"
            parts += [what, _table(reads, [sum(map(ordering.holds, reads)) for ordering in ORDERINGS])]
        parts += ["Holds in, over encoders:", _holds_in(results)]
    parts.append("≫ and ≪ are counted as > and <; the columns show the size of the difference.")
    return "\n\n".join(parts)


def _holds_in(results: Results) -> str:
    """Of each ordering: in how many seeds of each encoder."""
    encoders_of = {"rendered, encoders": results.get("encoders"), "rendered, halves": results["halves"]}
    columns = {name: of for name, of in encoders_of.items() if of}
    columns |= {f"real, {KINDS[kind]}": of for kind, of in results["heads"].items()}
    rows = [
        [ordering.says, *(f"{sum(map(ordering.holds, of.values()))} of {len(of)}" for of in columns.values())]
        for ordering in ORDERINGS
    ]
    return table(["ordering", *columns], rows)


def _table(reads: Sequence[Read], held: Sequence[int]) -> str:
    rows = []
    for ordering, count in zip(ORDERINGS, held, strict=True):
        shown = FIGURES[ordering.figure]
        values = [plus_minus([of[name][ordering.figure] for of in reads], shown) for name in ordering.methods]
        rows.append([ordering.says, ordering.paper, ", ".join(values), f"{count} of {len(reads)}"])
    return table(["ordering", "paper, in that order", "measured", "holds in"], rows, left=3)


def draw(results: Results) -> Figure:
    """A panel a figure, a row a method, a mark an encoder or a random half."""
    from bench.drawing import COLOURS, INK, canvas, log_ticks

    kinds = [kind for kind in ("encoders", "halves") if kind in results]
    figure = canvas(4.4)
    grid = figure.subplots(2, 3, sharey=True).ravel()
    labels = {
        "gap": "gap left",
        "js": "JS of angles",
        "mixing": "mixing",
        "kept": "neighbours kept",
        "alpha": "slope α",
    }
    for axes, (name, label) in zip(grid, labels.items(), strict=False):
        for i, kind in enumerate(kinds):
            for at, method in enumerate(SHOWN):
                values = [of[method][name] for of in results[kind].values()]
                shift = 0.0 if len(kinds) == 1 else 0.36 * (i - 0.5)
                axes.plot(values, [at + shift] * len(values), "oD"[i], color=COLOURS[method], ms=4, alpha=0.8, mew=0)
        if name in ("gap", "js"):
            axes.set_xscale("log")
            log_ticks(axes.xaxis)
            axes.minorticks_off()
        else:
            axes.set_xlim(left=0)
        axes.set_title(label)
    grid[0].set_xticks([1e-14, 1e-7, 1])
    grid[0].set_yticks(range(len(SHOWN)), [NAMES[m] for m in SHOWN])
    grid[0].invert_yaxis()
    for kind, mark in zip(kinds, "oD", strict=False):
        grid[-1].plot([], [], mark, color=INK, ms=4.5, label={"encoders": "encoders", "halves": "random halves"}[kind])
    grid[-1].set_axis_off()
    grid[-1].legend(loc="center left", handletextpad=0.1)
    return figure


REPRODUCTION = Reproduction("orderings", "the paper's orderings of the methods, over seeds", measure, tell, draw)

if __name__ == "__main__":
    sys.exit(main(REPRODUCTION))
