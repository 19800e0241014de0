"""ReVision in miniature (arXiv 2602.07026, table 1, table 5 and section 5): methods by seeds, evaluated on images never seen.

    python -m bench.paper.revision --worlds DIR            all comparisons, five seeds: hours on two cores
    python -m bench.paper.revision --worlds DIR --only text --seeds 2

A seed has its own scenes for every set, initial weights and order of examples; encoder and language model are those of seed 0.
What is in DIR is not repeated, so a run can be stopped and resumed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrealign as fr
from bench.common import machine
from bench.paper.common import NAMES, ROOT, Reproduction, table, write
from bench.paper.world.recipes import PAIRED, Recipe, train_recipe
from bench.paper.world.sets import Sizes, World, make
from fastrealign.core.errors import FastRealignError
from fastrealign.methods.loading import load
from fastrealign.revision.evaluate import over_seeds
from fastrealign.storage.atomic import save_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = Sizes(
    pretrain=10_000,
    statistics=6_000,
    tuning=5_000,
    text_tuning=5_000,
    held_out=400,
    encoder_steps=1_000,
    sibling_steps=1_500,
    backbone_steps=4_000,
)
SEEDS = 5
FAMILY = World.family  # of the scenes that are asked about
LABELS = NAMES | {PAIRED: "paired images"}
WHAT = {"caption": "captions, F1", "vqa": "answers", "probe": "probes"}
FIGURES = tuple(WHAT)


@dataclass(frozen=True)
class Comparison:
    """Recipes side by side. paper: what it says of the like; labels: of the rows, where the method is not what differs;
    statistics: the family of scenes that each is aligned to, where that differs."""

    name: str
    title: str
    paper: str
    recipes: tuple[Recipe, ...]
    labels: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()

    def label(self, i: int) -> str:
        return self.labels[i] if self.labels else LABELS[self.recipes[i].method]

    def recipe(self, i: int, seed: int, worlds: Path, sizes: Sizes) -> Recipe:
        """The recipe as it is trained with a seed."""
        other = self.statistics and self.statistics[i] != FAMILY
        statistics = world_of(seed, worlds, sizes, self.statistics[i]) if other else None
        return replace(self.recipes[i], seed=seed, statistics=statistics)


def of(*methods: str, **options: Any) -> tuple[Recipe, ...]:
    return tuple(Recipe(method, **options) for method in methods)


COMPARISONS = (
    Comparison(
        "text",
        "Text alone: stage 1 and stage 2 on text, then real images",
        "none 40.08 < C3 42.44 < mean shift (Unicorn) 42.57 < ReAlign 45.00",
        of("none", "mean-shift", "c3", "bca", "anchor", "anchor-trace", "realign", PAIRED, tuning="text"),
    ),
    Comparison(
        "image",
        "Pretraining on text, stage 2 on real images",
        "none 47.50 < C3 48.06 < blockwise 48.74 < ReAlign 50.16; anchor 46.68 < + trace 48.67 < + centroid 50.16; without "
        "stage 1 43.58",
        (
            *of("none", "mean-shift", "c3", "bca", "anchor", "anchor-trace", "realign", PAIRED),
            Recipe("none", length=None),
        ),
        (
            *(LABELS[m] for m in ("none", "mean-shift", "c3", "bca", "anchor", "anchor-trace", "realign", PAIRED)),
            "no stage 1",
        ),
    ),
    Comparison(
        "pairs",
        "Text against pairs, by the amount of pretraining",
        "text 2 M 49.75 > paired 1 M 48.91 > text 1 M 48.05, on a subset of 417,000 of its stage-2 examples; on all of them "
        "(arXiv 2605.07825, table 3) paired 1 M 52.72 > ReAlign text 1 M 50.16",
        (Recipe("realign", captions=0.5), Recipe(PAIRED, captions=0.5), Recipe("realign")),
        ("text, half", "paired, half", "text, all"),
    ),
    Comparison(
        "data",
        "The amount of stage 2",
        "30/60/100 %: 44.36 < 47.94 < 50.16",
        (Recipe(conversations=0.3), Recipe(conversations=0.6), Recipe()),
        ("30 %", "60 %", "100 %"),
    ),
    Comparison(
        "length",
        "Short and long captions to pretrain on",
        "short 50.16 > long 48.73",
        (Recipe(length="short"), Recipe(length="long")),
        ("short", "long"),
    ),
    Comparison(
        "domain",
        "Text alone, aligned by the statistics of its own scenes or of other ones",
        "statistics of another domain leave a far larger gap (figure 8)",
        of("realign", "realign", tuning="text"),
        ("the other family's", "own"),
        ("garden", FAMILY),
    ),
)


def world_of(seed: int, worlds: Path, sizes: Sizes, family: str = FAMILY) -> World:
    """The world of a seed and a family of scenes; encoder and language model are those of the first."""
    folder = worlds / (str(seed) if family == FAMILY else f"{seed}-{family}")
    return World(folder, sizes, seed, family, None if folder == worlds / "0" else worlds / "0")


def kept(recipe: Recipe, worlds: Path) -> Path:
    """Where the scores of a recipe are."""
    return worlds / f"{recipe.seed}-trained" / f"scores-{recipe.tuning}-{recipe.conversations:g}-{recipe.name}.json"


def run(recipe: Recipe, worlds: Path, sizes: Sizes) -> dict[str, Any]:
    """One recipe in the world of its seed; what was done already is read."""
    path = kept(recipe, worlds)
    if not path.exists():
        world = world_of(recipe.seed, worlds, sizes)
        for needed in (world, recipe.statistics):
            if needed is not None and not needed.done:
                make(needed)
        found = train_recipe(world, recipe, path.parent)
        save_bytes(path, json.dumps(found, indent=1).encode())
    return json.loads(path.read_text())


def measure(comparisons: Iterable[Comparison], seeds: int, worlds: Path, sizes: Sizes) -> None:
    """Train what is missing, seed by seed, so that methods can be compared at any time."""
    for seed in range(seeds):
        for c in comparisons:
            for i in range(len(c.recipes)):
                found = run(c.recipe(i, seed, worlds, sizes), worlds, sizes)
                figures = ", ".join(f"{name} {found['scores'][name]:.3f}" for name in FIGURES)
                print(f"seed {seed}, {c.name}, {c.label(i)}: {figures}", flush=True)


def collect(worlds: Path) -> dict[str, Any]:
    """{"runs": {comparison: {label: {seed: run}}}, "align share": {method: its least and largest part of a stage's time}} of
    all that is there."""
    runs: dict[str, dict[str, dict[str, Any]]] = {}
    for c in COMPARISONS:
        for i in range(len(c.recipes)):
            there = {str(seed): kept(c.recipe(i, seed, worlds, SIZES), worlds) for seed in range(100)}
            found = {seed: json.loads(path.read_text()) for seed, path in there.items() if path.exists()}
            if found:
                runs.setdefault(c.name, {})[c.label(i)] = found
    shares: dict[str, list[float]] = {}
    for path in sorted(worlds.glob("*-trained/stage*/run.json")):
        made = json.loads(path.read_text())
        if "result" in made and made["config"]["alignment"]:
            method = load(made["config"]["alignment"]).name
            shares.setdefault(method, []).append(made["result"]["align_share"])
    return {
        "runs": {name: by_label for name, by_label in runs.items() if len(by_label) > 1},
        "align share": {method: [min(of), max(of)] for method, of in shares.items()},
    }


Runs = dict[str, dict[str, dict[str, Any]]]


def tell(results: dict[str, Any]) -> str:
    """Markdown: a table a comparison, and its differences within seeds."""
    parts = [
        "In per cent, mean ± standard deviation over seeds: attribute F1 of captions; accuracy of answers and of yes/no "
        "probes; in brackets, the difference from the same model without the image."
    ]
    for c in COMPARISONS:
        runs: Runs = results["runs"].get(c.name, {})
        if not runs:
            continue
        rows = [[label, *_cells([found["scores"] for found in by_seed.values()])] for label, by_seed in runs.items()]
        head = ("", "seeds", "captions, F1", "answers", "probes")
        parts += [f"**{c.title}.** The paper: {c.paper}.", table(head, rows), _differences(c, runs)]
    shares = [
        f"{LABELS[method]} {100 * low:.2g} to {100 * high:.2g} %"
        for method, (low, high) in results["align share"].items()
    ]
    parts.append(f"Share of the time of a stage that is spent on alignment: {', '.join(shares)}." if shares else "")
    return "\n\n".join(part for part in parts if part)


def _cells(scores: Sequence[dict[str, float]]) -> list[str]:
    found = over_seeds(scores)
    cells = [str(len(scores)), _percent(found["caption"])]
    for name in ("vqa", "probe"):
        above = 100 * (found[name][0] - found[f"blind/{name}"][0])
        cells.append(f"{_percent(found[name])} ({above:+.1f})")
    return cells


def _percent(value: tuple[float, float]) -> str:
    mean, spread = value
    return f"{100 * mean:.1f}" if math.isnan(spread) else f"{100 * mean:.1f} ± {100 * spread:.1f}"


def _differences(c: Comparison, runs: Runs) -> str:
    """ReAlign, or the last row, minus each of the others, seed by seed."""
    labels = list(runs)
    against = LABELS["realign"] if LABELS["realign"] in runs else labels[-1]
    lines = []
    for label in labels:
        shared = [seed for seed in runs[against] if seed in runs[label]]
        if label == against or len(shared) < 2:
            continue
        parts = []
        for name in FIGURES:
            pairs = [(runs[against][seed]["scores"][name], runs[label][seed]["scores"][name]) for seed in shared]
            apart = 100 * np.array([a - b for a, b in pairs])
            error = apart.std(ddof=1) / math.sqrt(len(apart))
            what, above = WHAT[name].partition(",")[0], np.sum(apart > 0)
            parts.append(f"{what} {apart.mean():+.1f} ± {error:.1f}, positive in {above} of {len(apart)}")
        lines.append(f"- {against} minus {label}: {'; '.join(parts)}")
    return "\n".join(["Differences within seeds, mean ± standard error:", "", *lines]) if lines else ""


def draw(results: dict[str, Any]) -> Figure:
    """A row a comparison: each seed a dot, the mean a bar, the blind model a line."""
    from bench.drawing import SEEDS_NOTE, bars_of_seeds, canvas

    shown = [(c, results["runs"][c.name]) for c in COMPARISONS if c.name in results["runs"]]
    heights = [1.6 + len(runs) for _, runs in shown]
    figure = canvas(0.4 + 0.22 * sum(heights))
    grid = figure.subplots(len(shown), len(FIGURES), squeeze=False, height_ratios=heights)
    for row, (c, runs) in zip(grid, shown, strict=True):
        for axes, name in zip(row, FIGURES, strict=True):
            values = {
                label: [100 * found["scores"][name] for found in by_seed.values()] for label, by_seed in runs.items()
            }
            blind = [
                100 * float(np.mean([found["scores"][f"blind/{name}"] for found in by_seed.values()]))
                for by_seed in runs.values()
            ]
            bars_of_seeds(axes, values, blind)
            axes.set_title(f"{c.name}: {WHAT[name]}, %", fontsize=9)
            if axes is not row[0]:
                axes.set_yticklabels([])
    figure.suptitle(SEEDS_NOTE, x=0.01, ha="left", fontsize=9)
    return figure


REPRODUCTION = Reproduction(
    "revision", "ReVision in miniature: methods by seeds on real images", lambda _: {}, tell, draw
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.paper.revision", description=REPRODUCTION.says)
    parser.add_argument("--worlds", type=Path, required=True, metavar="DIR", help="for worlds and trained models")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--only", action="append", choices=[c.name for c in COMPARISONS], help="train for these alone")
    parser.add_argument("--redraw", action="store_true", help="train nothing: page and picture from what is there")
    parser.add_argument("--into", type=Path, default=ROOT, metavar="DIR", help="the folder that docs/paper.md is in")
    given = parser.parse_args(arguments)
    chosen = [c for c in COMPARISONS if not given.only or c.name in given.only]
    try:
        if not given.redraw:
            measure(chosen, given.seeds, given.worlds, SIZES)
        about = machine(("numpy", "torch", "transformers"), fastrealign=fr.__version__)
        results = {"kind": "revision", "machine": about, "sizes": asdict(SIZES), **collect(given.worlds)}
        write(given.into, REPRODUCTION, results, tell(results))
    except FastRealignError as error:
        print(f"bench.paper.revision: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
