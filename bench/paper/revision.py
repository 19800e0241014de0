"""ReVision in miniature (arXiv 2602.07026, table 1, table 5 and section 5): methods by seeds, judged on pictures never seen.

    python -m bench.paper.revision --worlds DIR            all comparisons, five seeds: hours on two cores
    python -m bench.paper.revision --worlds DIR --only text --seeds 2

A seed has its own scenes for every set, first weights and order of examples; encoder and language model are shared. What is
in DIR is not done again, so that it can be stopped and go on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrealign as fr
from bench.common import machine
from bench.paper.common import NAMES, ROOT, Reproduction, canvas, table, write
from fastrealign.errors import FastRealignError
from fastrealign.files import save_bytes
from fastrealign.revision.demo import PAIRED, Recipe, train_recipe
from fastrealign.revision.evaluate import over_seeds
from fastrealign.revision.world import Sizes, World, make

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = Sizes(encoder_steps=1_000, backbone_steps=2_200)
SEEDS = 5
LABELS = NAMES | {PAIRED: "paired images"}
FIGURES = ("caption", "vqa", "probe")


@dataclass(frozen=True)
class Comparison:
    """Recipes side by side. paper: what it says of the like; labels: of the rows, where the method is not what differs."""

    name: str
    title: str
    paper: str
    recipes: tuple[Recipe, ...]
    labels: tuple[str, ...] = ()

    def label(self, i: int) -> str:
        return self.labels[i] if self.labels else LABELS[self.recipes[i].method]


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
        "text 2 M 49.75 > paired 1 M 48.91 > text 1 M 48.05",
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
)


def run(recipe: Recipe, seed: int, worlds: Path, sizes: Sizes) -> dict[str, Any]:
    """One recipe in the world of a seed; what was done already is read."""
    world = World(worlds / str(seed), sizes, seed, parts=worlds / "0")
    folder = worlds / f"{seed}-trained"
    recipe = replace(recipe, seed=seed)
    kept = folder / f"scores-{recipe.tuning}-{recipe.conversations:g}-{recipe.name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    if not world.done:
        make(world)
    found = train_recipe(world, recipe, folder).to_json()
    save_bytes(kept, json.dumps(found, indent=1).encode())
    return found


def measure(comparisons: Iterable[Comparison], seeds: int, worlds: Path, sizes: Sizes) -> dict[str, Any]:
    """{"runs": {comparison: [[run of each seed] of each recipe]}}; seeds outermost, so that what is there can be told."""
    comparisons = tuple(comparisons)
    runs: dict[str, list[list[Any]]] = {c.name: [[] for _ in c.recipes] for c in comparisons}
    for seed in range(seeds):
        for c in comparisons:
            for i, recipe in enumerate(c.recipes):
                found = run(recipe, seed, worlds, sizes)
                runs[c.name][i].append(found)
                figures = ", ".join(f"{name} {found['scores'][name]:.3f}" for name in FIGURES)
                print(f"seed {seed}, {c.name}, {c.label(i)}: {figures}", flush=True)
    return {"runs": runs, "sizes": vars(sizes) if hasattr(sizes, "__dict__") else {}, "seeds": seeds}


def tell(results: dict[str, Any]) -> str:
    """Markdown: a table a comparison, each with the differences to its last or best-known row, seed by seed."""
    parts = [
        f"Mean ± standard deviation over {results['seeds']} seeds, in per cent: attribute F1 of captions; accuracy of answers "
        "and "
        "of yes/no probes; in brackets, how far above the same model without the picture."
    ]
    for c in COMPARISONS:
        if c.name not in results["runs"]:
            continue
        by_recipe = [[found["scores"] for found in runs] for runs in results["runs"][c.name]]
        rows = [[c.label(i), *_cells(scores)] for i, scores in enumerate(by_recipe)]
        head = ("", "captions, F1", "answers", "probes")
        parts.append(f"**{c.title}.** The paper: {c.paper}.\n\n{table(head, rows)}\n\n{_differences(c, by_recipe)}")
    return "\n\n".join(parts)


def _cells(scores: Sequence[dict[str, float]]) -> list[str]:
    found = over_seeds(scores)
    cells = [_percent(found["caption"])]
    for name in ("vqa", "probe"):
        above = 100 * (found[name][0] - found[f"blind/{name}"][0])
        cells.append(f"{_percent(found[name])} ({above:+.1f})")
    return cells


def _percent(value: tuple[float, float]) -> str:
    return f"{100 * value[0]:.1f} ± {100 * value[1]:.1f}"


def _differences(c: Comparison, by_recipe: Sequence[Sequence[dict[str, float]]]) -> str:
    """Row against the row that it is to be compared with, within each seed."""
    at = next((i for i, r in enumerate(c.recipes) if c.label(i) == LABELS["realign"]), len(c.recipes) - 1)
    lines = []
    for i, scores in enumerate(by_recipe):
        if i == at:
            continue
        told = []
        for name in FIGURES:
            apart = 100 * np.array([a[name] - b[name] for a, b in zip(by_recipe[at], scores, strict=True)])
            spread = apart.std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else float("nan")
            told.append(f"{name} {apart.mean():+.1f} ± {spread:.1f} (above in {np.sum(apart > 0)} of {len(apart)})")
        lines.append(f"- {c.label(at)} over {c.label(i)}: {', '.join(told)}")
    return "\n".join(["Differences within seeds, ± the error of their mean:", "", *lines])


def draw(results: dict[str, Any]) -> Figure:
    """A panel a comparison: each seed a dot, the mean a bar."""
    shown = [c for c in COMPARISONS if c.name in results["runs"]]
    figure = canvas(11, 2.6 * len(shown))
    axes = figure.subplots(len(shown), len(FIGURES), squeeze=False)
    for row, c in zip(axes, shown, strict=True):
        for axis, name in zip(row, FIGURES, strict=True):
            for i, runs in enumerate(results["runs"][c.name]):
                values = 100 * np.array([found["scores"][name] for found in runs])
                axis.barh(i, values.mean(), color="#2f6db5", alpha=0.35)
                axis.plot(values, np.full(len(values), i), "o", color="#2f6db5", markersize=3)
                blind = np.mean([100 * found["scores"].get(f"blind/{name}", np.nan) for found in runs])
                axis.plot([blind, blind], [i - 0.4, i + 0.4], color="#d9661f", linewidth=1.5)
            axis.set_yticks(range(len(c.recipes)), [c.label(i) for i in range(len(c.recipes))])
            axis.invert_yaxis()
            if axis is not row[0]:
                axis.set_yticklabels([])
            axis.set_title(f"{c.name}: {name}", fontsize=9)
            axis.set_xlabel("per cent; orange: without the picture", fontsize=8)
    return figure


REPRODUCTION = Reproduction(
    "revision", "ReVision in miniature: methods by seeds on real images", lambda _: {}, tell, draw
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.paper.revision", description=REPRODUCTION.says)
    parser.add_argument("--worlds", type=Path, required=True, metavar="DIR", help="for worlds and trained models")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--only", action="append", choices=[c.name for c in COMPARISONS])
    parser.add_argument("--into", type=Path, default=ROOT, metavar="DIR", help="the folder that docs/paper.md is in")
    given = parser.parse_args(arguments)
    chosen = [c for c in COMPARISONS if not given.only or c.name in given.only]
    try:
        make(World(given.worlds / "0", SIZES))
        results = measure(chosen, given.seeds, given.worlds, SIZES)
    except FastRealignError as error:
        print(f"bench.paper.revision: {error}", file=sys.stderr)
        return 2
    about = machine(("numpy", "torch", "transformers"), fastrealign=fr.__version__)
    results = {"kind": "revision", "machine": about, **results}
    write(given.into, REPRODUCTION, results, tell(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
