"""docs/use.png: what aligning changes for search, for classifiers and for ReVision, from bench/results/paper/ alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.drawing import COLOURS, INK, PAPER, QUIET, canvas, results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Marker, colour and name of what is compared; colour alone distinguishes no two.
LOOKS = {
    "raw": ("X", COLOURS["none"], "text as it is"),
    "realign": ("o", COLOURS["realign"], "ReAlign"),
    "roles": ("D", COLOURS["anchor"], "a map for each role"),
    "images": ("|", INK, "trained on pictures"),
}


@dataclass(frozen=True)
class Use:
    """A row: its group and name, and values of each of LOOKS that was measured, one a seed (or division of the index)."""

    group: str
    name: str
    values: dict[str, Sequence[float]]

    def percent(self, what: str) -> str:
        """The mean, as it is written: "13 %", below a tenth "7.2 %"."""
        mean = 100 * float(np.mean(self.values[what]))
        return f"{mean:.1f}" if 0 < mean < 9.95 else f"{mean:.0f}"

    def said(self) -> str:
        """ "0 → 13 → 27": raw text and what replaces it."""
        return " → ".join(self.percent(what) for what in self.values if what != "images")


@cache
def uses() -> tuple[Use, ...]:
    noise, of_uses, revision, real, roles = (
        results(f"paper/{name}") for name in ("noise", "uses", "revision", "real_revision", "roles")
    )
    found = next(one for one in roles["searches"] if (one["head"], one["query"]) == ("shipped", "title"))["methods"]
    pictures = {what: [split[1] for split in found[name]["splits"]] for what, name in _ROLES.items()}
    heads = of_uses["heads"]["C"]["seeds"]
    alone = {what: [seed["methods"][name]["R@1"] for seed in heads] for what, name in _METHODS.items()}
    answers = {
        what: [run["scores"]["vqa"] for run in revision["runs"]["text"][name].values()]
        for what, name in (("raw", "none"), ("realign", "ReAlign"))
    }
    named = {
        what: [score["caption/category/f1"] for score in real["arms"]["C"][name]]
        for what, name in (("raw", "raw text"), ("realign", "ReAlign"))
    }
    search = "Search by titles"
    classify, train = (
        "Accuracy on pictures of a classifier trained on text",
        "ReVision: a language model trained on text",
    )
    return (
        Use(search, "pictures and texts in one index: its picture is in the first 10", pictures),
        Use(search, "pictures alone: its picture is first", alone),
        Use(classify, "clip art, 11 categories", _accuracy(noise["worlds"]["real, MLP, scale 60"])),
        Use(classify, "rendered scenes, 3 classes", _accuracy(noise["worlds"]["rendered"])),
        Use(train, "rendered scenes: right answers", answers),
        Use(train, "clip art: category named", named),
    )


_METHODS = {"raw": "none", "realign": "realign"}
_ROLES = {**_METHODS, "roles": "auto"}


def _accuracy(world: dict[str, Any]) -> dict[str, Sequence[float]]:
    """Without noise."""
    return {what: world["curves"][name]["0"] for what, name in _METHODS.items()} | {"images": world["upper"]}


def draw() -> Figure:
    """A row a use: means, whiskers of a standard deviation over the seeds; the numbers at the right."""
    figure = canvas(4.3)
    axes = figure.subplots()
    at, group = 0.0, ""
    for use in uses():
        if use.group != group:
            group = use.group
            axes.text(0, at - 0.05, group, weight="bold", va="center")
            at += 0.75
        axes.text(0, at, use.name, va="center", fontsize=9)
        axes.text(100, at, f"{use.said()} %", va="center", ha="right", fontsize=9)
        at += 0.62
        means = {what: 100 * float(np.mean(of)) for what, of in use.values.items()}
        axes.plot([0, 100], [at, at], color=QUIET, linewidth=0.5, alpha=0.5)
        last = [what for what in means if what != "images"][-1]
        axes.annotate(
            "", (means[last], at), (means["raw"], at), arrowprops={"arrowstyle": "-", "color": QUIET, "linewidth": 2}
        )
        for what, mean in means.items():
            marker, colour, _ = LOOKS[what]
            error = 100 * float(np.std(use.values[what], ddof=1))
            axes.errorbar(mean, at, xerr=error, color=colour, linewidth=1, capsize=2, zorder=3)
            axes.plot(mean, at, marker, color=colour, zorder=4, **_edge(marker, colour))
        at += 0.78
    for marker, colour, name in LOOKS.values():
        axes.plot([], [], marker, color=colour, label=name, **_edge(marker, colour))
    figure.legend(loc="outside upper left", ncols=4, columnspacing=1.0, handletextpad=0.2)
    axes.set(xlim=(-2, 102), ylim=(at - 0.3, -0.5), yticks=[], xlabel="% (whiskers: standard deviation over seeds)")
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    return figure


def _edge(marker: str, colour: str) -> dict[str, Any]:
    line = marker == "|"
    return {"markersize": 11 if line else 7, "mec": colour if line else PAPER, "mew": 2 if line else 0.6}


def text() -> str:
    listed = "; ".join(f"{use.group}, {use.name}: {use.said()} %" for use in uses())
    return f"![Text as it is → ReAlign → a map for each role. {listed}](docs/use.png)"
