"""python -m bench.paper.captioning --work DIR: captions of rendered images by models trained on text alone, by noise.

Stage 1 of `fastrealign train demo` (docs/train.md) with its encoder and small language model: an adapter is trained on
embeddings of captions, raw or aligned, with noise, and then describes images never seen. As in files, a caption has one and
the same noise in every epoch. What is in --work is not repeated. Needs the extras `revision`, `encoder` and `parquet`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrealign as fr
from bench.common import machine
from bench.paper.common import NAMES, ROOT, Reproduction, difference, plus_minus, table, write
from fastrealign.cli.demo import statements, world
from fastrealign.cli.demo.train import COMMON, STAGE_1, evaluate, fitted, rows_of, train_stage
from fastrealign.core.errors import FastRealignError
from fastrealign.revision.config import TrainConfig
from fastrealign.revision.evaluate import Scores, score
from fastrealign.storage.atomic import save_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS, LENGTHS, SEEDS = ("none", "realign"), (0.0, 0.25, 0.5, 1.0, 2.0), 3
# Half the captions of the demo; stage 1 reads neither of the last two.
SIZES = world.Sizes(pretrain=4_000, tuning=50, text_tuning=50)
FIGURES = {"caption/objects/f1": "objects, F1", "caption/colours/f1": "colours, F1", "caption": "attributes, F1"}


def measure(work: Path, sizes: world.Sizes, seeds: int) -> dict[str, Any]:
    """{"methods": {method: {length: [scores of each seed]}}}; seed by seed, so that lengths can be compared at any time."""
    of = world.World(work, sizes)
    world.make(of)
    found: dict[str, dict[str, list[Scores]]] = {
        method: {f"{length:g}": [] for length in LENGTHS} for method in METHODS
    }
    for seed, length, method in itertools.product(range(seeds), LENGTHS, METHODS):
        kept = work / f"scores-{method}-{length:g}-{seed}.json"
        if not kept.exists():
            config = TrainConfig(
                **COMMON,
                **STAGE_1,
                **rows_of(of, "pretrain_mixed"),
                alignment=fitted(method, of, "pretrain_mixed", work),
                noise=length,
                seed=seed,
                out=str(work / f"stage1-{method}-{length:g}-{seed}"),
            )
            train_stage(config, {})
            save_bytes(kept, json.dumps(score(evaluate(of, config), statements.said)).encode())
        scores = json.loads(kept.read_text())
        found[method][f"{length:g}"].append(scores)
        print(
            f"seed {seed}, {method}, noise {length:g}: " + ", ".join(f"{f} {scores[f]:.3f}" for f in FIGURES),
            flush=True,
        )
    return {"methods": found, "pretrain": sizes.pretrain, "held out": sizes.held_out, "epochs": STAGE_1["epochs"]}


def tell(results: dict[str, Any]) -> str:
    found = results["methods"]
    seeds = len(found["none"]["0"])
    rows = [
        [NAMES[method], title, *(_cell(scores, name) for scores in of.values())]
        for name, title in FIGURES.items()
        for method, of in found.items()
    ]
    every = [one for of in found.values() for scores in of.values() for one in scores]
    blind = ", ".join(f"{title} {_cell(every, f'blind/{name}')}" for name, title in FIGURES.items())
    says = (
        f"Captions by a small language model behind an adapter trained for {results['epochs']:g} epochs on "
        f"{results['pretrain']:,} captions, one noise a caption; {results['held out']:,} rendered images never seen, F1 in per "
        f"cent, mean ± standard deviation over seeds of the adapter ({seeds}). Without the image (all models): {blind}."
    )
    lengths = list(found["none"])
    head = [f"noise {length}" for length in lengths]
    apart = [["ReAlign minus none", *(_apart(found["realign"][at], found["none"][at]) for at in lengths)]]
    for method, of in found.items():
        apart.append([f"{NAMES[method]}, noise minus no noise", "", *(_apart(of[at], of["0"]) for at in lengths[1:])])
    return "\n\n".join(
        [
            says,
            table(["trained on", "facts", *head], rows, left=2),
            "Attributes, F1, within seeds, in points: mean ± standard error (in how many seeds it is positive).",
            table(["difference", *head], apart),
        ]
    )


def _apart(these: Sequence[Scores], those: Sequence[Scores]) -> str:
    return difference([one["caption"] - other["caption"] for one, other in zip(these, those, strict=True)])


def _cell(scores: Sequence[Scores], figure: str) -> str:
    return plus_minus([100 * of[figure] for of in scores], lambda value: f"{value:.1f}")


def draw(results: dict[str, Any]) -> Figure:
    """F1 by the length of the noise: a line a method, a dot a seed."""
    from bench.drawing import canvas, legend_above, look

    figure = canvas(2.8)
    panels = figure.subplots(1, len(FIGURES))
    for axes, (name, title) in zip(panels, FIGURES.items(), strict=True):
        for method, of in results["methods"].items():
            values = 100 * np.array([[scores[name] for scores in by_seed] for by_seed in of.values()])
            lengths = [float(length) for length in of]
            axes.plot(lengths, values.mean(axis=1), label=NAMES[method], **look(method))
            axes.plot(lengths, values, "o", color=look(method)["color"], markersize=2.5)
        axes.set_title(f"{title}, %")
        axes.set_xlabel("length of the noise")
    legend_above(figure, panels[0], note="Small dots: seeds")
    return figure


REPRODUCTION = Reproduction(
    "captioning", "captions of rendered images by length of noise", lambda _: {}, tell, draw, "docs/train-on-text.md"
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.paper.captioning", description=REPRODUCTION.says)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="for the world, models and scores")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--into", type=Path, default=ROOT, metavar="DIR", help="the folder that docs/ is in")
    given = parser.parse_args(arguments)
    try:
        found = measure(given.work, SIZES, given.seeds)
        about = machine(("numpy", "torch", "transformers"), fastrealign=fr.__version__)
        results = {"kind": REPRODUCTION.name, "machine": about, **found}
        write(given.into, REPRODUCTION, results, tell(results))
    except (OSError, FastRealignError) as error:
        print(f"bench.paper.captioning: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
