"""python -m bench.paper.one_stage [--real DIR]: text and images in one stage, mixed, against text first and images second.

In miniature: a small network on frozen embeddings learns classes from captions and few images, and is tested on other images.
Every recipe makes the same number of updates from the same first weights. Needs the extra `torch`.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrealign as fr
from bench.paper.common import Reproduction, Results, Setting, main, percent, plus_minus, table
from bench.paper.two_worlds import Labelled, labelled
from fastrealign.core.errors import FitWarning

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = (30, 100, 300)
SEEDS = 6
UPDATES, BATCH, RATE = 300, 64, 2e-3
ALIGNMENTS = ("none", "realign")
NAMES = {"none": "raw text", "realign": "ReAlign"}
TWO_STAGES = ("text, then images", "images at a tenth of the rate")
RECIPES = ("text alone", "images alone", *TWO_STAGES, "mixed")


def measure(setting: Setting) -> Results:
    found: dict[str, Any] = {}
    seeds, sizes, updates = (2, IMAGES[:1], 4) if setting.quick else (SEEDS, IMAGES, UPDATES)
    for name, heads in labelled(setting).items():
        by_size: dict[int, dict[str, dict[str, list[float]]]] = {}
        for n in sizes:
            for seed in range(seeds):
                for alignment, scores in _run(heads[seed % len(heads)], n, updates, seed).items():
                    for recipe, value in scores.items():
                        by_size.setdefault(n, {}).setdefault(alignment, {}).setdefault(recipe, []).append(value)
        found[name] = {"sizes": by_size, "classes": len(np.unique(heads[0].held_label)), "heads": len(heads)}
        setting.say(f"{name} is done")
    return {"worlds": found, "updates": updates, "seeds": seeds}


def _run(of: Labelled, n: int, updates: int, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy on held-out images, by alignment of the text and recipe; n: images of the training."""
    names = np.unique(of.held_label)
    few = np.random.default_rng(seed).permutation(len(of.image))[:n]
    image = _unit(of.image[few]), np.searchsorted(names, of.image_label[few])
    held = _unit(of.held), np.searchsorted(names, of.held_label)
    found = {}
    for alignment in ALIGNMENTS:
        rows = _unit(of.text)
        if alignment != "none":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FitWarning)
                rows = fr.fit(of.text, of.image)(rows, dtype=np.float64)  # all images, without their labels
        text = rows, np.searchsorted(names, of.text_label)
        half = updates // 2
        recipes = {
            "text alone": [(updates, RATE, [text])],
            "images alone": [(updates, RATE, [image])],
            "text, then images": [(half, RATE, [text]), (half, RATE, [image])],
            "images at a tenth of the rate": [(half, RATE, [text]), (half, RATE / 10, [image])],
            "mixed": [(updates, RATE, [text, image])],
        }
        found[alignment] = {name: _train(stages, held, len(names), seed) for name, stages in recipes.items()}
    return found


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


Rows = tuple[np.ndarray, np.ndarray]


def _train(stages: Iterable[tuple[int, float, list[Rows]]], held: Rows, classes: int, seed: int) -> float:
    """Train in stages of (updates, rate, sets in equal parts of a batch); accuracy on the held-out rows."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = nn.Sequential(nn.Linear(held[0].shape[1], 128), nn.GELU(), nn.Linear(128, classes))
    for updates, peak, sets in stages:  # each stage has its own schedule, as ReVision's stages have
        optimizer = torch.optim.AdamW(net.parameters(), peak, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
        tensors = [(torch.from_numpy(rows).float(), torch.from_numpy(label)) for rows, label in sets]
        for _ in range(updates):
            drawn = [torch.from_numpy(rng.integers(0, len(label), BATCH // len(sets))) for _, label in tensors]
            rows = torch.cat([of[at] for (of, _), at in zip(tensors, drawn, strict=True)])
            label = torch.cat([of[at] for (_, of), at in zip(tensors, drawn, strict=True)])
            loss = nn.functional.cross_entropy(net(rows), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return float(np.mean(net(torch.from_numpy(held[0]).float()).argmax(1).numpy() == held[1]))


def tell(results: Results) -> str:
    parts = []
    for name, of in results["worlds"].items():
        rows = []
        for n, by_alignment in of["sizes"].items():
            for alignment, scores in by_alignment.items():
                better = max(TWO_STAGES, key=lambda recipe: np.mean(scores[recipe]))
                apart = 100 * (np.array(scores["mixed"]) - np.array(scores[better]))
                error = apart.std(ddof=1) / math.sqrt(len(apart))
                rows.append(
                    [
                        f"{n} images, {NAMES[alignment]}",
                        *(plus_minus(scores[recipe], percent) for recipe in RECIPES),
                        f"{apart.mean():+.1f} ± {error:.1f}, {np.sum(apart > 0)} of {len(apart)}",
                    ]
                )
        some = f", {of['heads']} heads" if of["heads"] > 1 else ""
        parts += [
            f"**{name}**, {of['classes']} classes, {results['updates']} updates each; accuracy on held-out images, mean ± "
            f"standard deviation over {results['seeds']} seeds{some}; last column: points against the better of the two "
            "recipes in stages, mean ± standard error within seeds, and in how many mixed is above.",
            table(["trained on", *RECIPES, "mixed minus two stages"], rows),
        ]
    return "\n\n".join(parts)


def draw(results: Results) -> Figure:
    """Accuracy by labelled images, a panel a world: a colour a recipe; raw text dashed, aligned text solid."""
    from bench.drawing import COLOURS, canvas, key, legend_above

    worlds = results["worlds"]
    figure = canvas(3.5)
    panels = np.atleast_1d(figure.subplots(1, len(worlds)))
    dashes = {"none": (0, (4, 2)), "realign": "-"}
    looks = dict(
        zip(
            RECIPES[1:],
            zip((COLOURS[name] for name in ("none", "bca", "c3", "realign")), "X^vo", strict=True),
            strict=True,
        )
    )
    for axes, (name, of) in zip(panels, worlds.items(), strict=True):
        sizes = list(of["sizes"])
        for alignment in ALIGNMENTS:
            for recipe, (colour, mark) in looks.items():
                if recipe == "images alone" and alignment == "none":
                    continue
                values = [100 * np.mean(of["sizes"][n][alignment][recipe]) for n in sizes]
                line = dashes["realign" if recipe == "images alone" else alignment]
                axes.plot([int(n) for n in sizes], values, marker=mark, ls=line, color=colour)
        axes.set_xscale("log")
        axes.set_xticks([int(n) for n in sizes], sizes, minor=False)
        axes.minorticks_off()
        axes.set_xlabel("labelled images")
        axes.set_title(name)
    panels[0].set_ylabel("accuracy on images, %")
    for recipe, (colour, mark) in looks.items():
        key(panels[0], recipe, mark, color=colour)
    for alignment, line in dashes.items():
        key(panels[0], NAMES[alignment], linestyle=line)
    legend_above(figure, panels[0], 2)
    return figure


REPRODUCTION = Reproduction(
    "one_stage", "open question: text and images in one stage or in two", measure, tell, draw, "docs/open-questions.md"
)

if __name__ == "__main__":
    sys.exit(main(REPRODUCTION))
