"""python -m bench.paper.caption_length [--real DIR]: length, content and style of captions, and the gap.

By number of words (what `fastrealign report --by-length` shows); what explains how near a caption lies to the images' mean, a
regression judged on the other half of the captions; and what an alignment leaves and finds when it is fitted on captions of
another length than those that it maps.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrealign as fr
from bench.paper.common import Reproduction, Results, Setting, main, percent, plus_minus, small, table
from bench.paper.two_worlds import Captions, captions
from fastrealign.core.errors import FitWarning
from fastrealign.data.sources import ArraySource
from fastrealign.diagnostics import gap
from fastrealign.gap_report.by_length import lengths_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BIN = ("gap", "gap_error", "effective_rank", "left", "left_own", "radius")
ESTIMATES = ("mixing", "mixing_after", "kept")


def measure(setting: Setting) -> Results:
    found: dict[str, Any] = {}
    for name, heads in captions(setting).items():
        found[name] = [_read(of, seed) for seed, of in enumerate(heads)]
        setting.say(f"{name} is done")
    return {"worlds": found}


def _read(of: Captions, seed: int) -> dict[str, Any]:
    by_length = lengths_of(ArraySource(of.image, "images"), ArraySource(of.text, "text"), of.words, seed)
    bins = [
        {key: getattr(one, key) for key in ("least", "most", "rows", *BIN)}
        | {key: getattr(one, key).value for key in ESTIMATES}
        for one in by_length.bins
    ]
    return {
        "bins": bins,
        "image rank": by_length.target_rank,
        "trend": [by_length.trend, by_length.trend_error],
        "explained": _explained(of, seed),
        "across": _across(of),
    }


def _explained(of: Captions, seed: int) -> dict[str, list[float]]:
    """Of a caption's cosine with the images' mean: R^2 on the other half of the captions, alone and what is lost without."""
    mean = _unit(of.image).mean(axis=0)
    cosine = _unit(of.text) @ mean
    factors = {
        "length: words": of.words,
        "length: log words": np.log(of.words + 1),
        "length: kind": of.kind,
        **of.factors,
    }
    columns = {name: _columns(values) for name, values in factors.items()}
    order = np.random.default_rng(seed).permutation(len(cosine))
    halves = np.array_split(order, 2)

    def score(names: Sequence[str]) -> float:
        x = np.concatenate([np.ones((len(cosine), 1)), *(columns[name] for name in names)], axis=1)
        found = []
        for fit, test in (halves, halves[::-1]):
            slope = np.linalg.lstsq(x[fit], cosine[fit], rcond=None)[0]
            left = cosine[test] - x[test] @ slope
            found.append(1 - np.mean(left**2) / np.var(cosine[test]))
        return float(np.mean(found))

    groups = {group: [name for name in columns if name.startswith(group)] for group in ("length", "style", "content")}
    every = score(list(columns))
    result = {
        group: [score(names), every - score([name for name in columns if name not in names])]
        for group, names in groups.items()
    }
    return {**result, "all": [every, 0.0]}


def _columns(values: np.ndarray) -> np.ndarray:
    """Numbers standardised; names as indicators of all but one of those with at least 20 captions."""
    if values.dtype.kind == "f":
        spread = values.std()
        return ((values - values.mean()) / (spread if spread > 0 else 1.0))[:, None]
    names, counts = np.unique(values, return_counts=True)
    kept = names[counts >= 20][1:]
    return (values[:, None] == kept[None]).astype(float)


def _across(of: Captions) -> dict[str, dict[str, list[float]]]:
    """By the captions fitted on (a kind, or all) and those mapped: gap left on, and recall at 1 of, the pairs of that kind."""
    kinds = list(dict.fromkeys(of.pairs_kind))
    found: dict[str, dict[str, list[float]]] = {}
    image = _unit(of.pairs_image)
    for fitted_on in ("none", "all", *kinds):
        rows = of.text if fitted_on == "all" else of.text[of.kind == fitted_on]
        for kind in kinds:
            here = of.pairs_kind == kind
            text = _unit(of.pairs_text[here])
            if fitted_on != "none":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FitWarning)
                    text = fr.fit(rows, of.image)(text, dtype=np.float64)
            cosines = text @ image[here].T
            recall = float(np.mean(cosines.argmax(1) == np.arange(len(text))))
            found.setdefault(str(fitted_on), {})[str(kind)] = [gap(image[here], text), recall]
    return found


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def tell(results: Results) -> str:
    parts = []
    for name, heads in results["worlds"].items():
        some = f", {len(heads)} seeds" if len(heads) > 1 else ""
        rows = []
        for at, first in enumerate(heads[0]["bins"]):
            of = [head["bins"][at] for head in heads]
            shown = dict.fromkeys(ESTIMATES, percent) | {"effective_rank": "{:.1f}".format}
            rows.append(
                [
                    f"{first['least']:g} to {first['most']:g}",
                    f"{first['rows']:,}",
                    *(
                        plus_minus([one[key] for one in of], shown.get(key, small))
                        for key in (
                            "gap",
                            "radius",
                            "effective_rank",
                            "mixing",
                            "mixing_after",
                            "kept",
                            "left",
                            "left_own",
                        )
                    ),
                ]
            )
        error = np.mean([one["gap_error"] for head in heads for one in head["bins"]])
        trend = plus_minus([head["trend"][0] for head in heads], "{:+.2f}".format)
        parts += [
            f"**{name}**{some}. Words and cosine with the images' mean: rank correlation {trend} (± "
            f"{heads[0]['trend'][1]:.2f} by chance). Standard error of a gap {error:.2g}; effective rank of as many images "
            f"{plus_minus([head['image rank'] for head in heads], '{:.1f}'.format)}.",
            table(
                [
                    "words", "captions", "gap", "length of the mean", "effective rank", "mixing", "after ReAlign",
                    "neighbours kept", "gap left", "fitted on the bin",
                ],
                rows,
            ),
        ]  # fmt: skip
    head = ["R² on other captions", "length", "lost without", "style", "lost without", "content", "lost without", "all"]
    rows = []
    for name, heads in results["worlds"].items():
        cells = [
            plus_minus([of["explained"][group][i] for of in heads], "{:.3f}".format)
            for group in ("length", "style", "content")
            for i in (0, 1)
        ]
        rows.append([name, *cells, plus_minus([of["explained"]["all"][0] for of in heads], "{:.3f}".format)])
    parts += [
        "What explains a caption's cosine with the images' mean (regression, judged on the other half):",
        table(head, rows),
    ]
    for name, heads in results["worlds"].items():
        across = heads[0]["across"]
        kinds = list(across["all"])
        rows = [
            [
                "no alignment" if fitted_on == "none" else f"fitted on {fitted_on}",
                *(
                    plus_minus([of["across"][fitted_on][kind][i] for of in heads], percent if i else small)
                    for i in (0, 1)
                    for kind in kinds
                ),
            ]
            for fitted_on in across
        ]
        parts += [
            f"**{name}**: held-out pairs, mapped by fits on captions of one kind.",
            table([name, *(f"gap left, {kind}" for kind in kinds), *(f"R@1, {kind}" for kind in kinds)], rows),
        ]
    return "\n\n".join(parts)


def draw(results: Results) -> Figure:
    """The gap by words of a caption, a panel a world: a mark a head, lines of their means."""
    from bench.drawing import COLOURS, TARGET, canvas, legend_above

    worlds = results["worlds"]
    rows = -(-len(worlds) // 2)
    figure = canvas(2.3 * rows + 0.6)
    panels = figure.subplots(rows, 2, squeeze=False, sharey=True).ravel()
    for axes, (name, heads) in zip(panels, worlds.items(), strict=False):
        bins = [(f"{one['least']:g}", f"{one['most']:g}") for one in heads[0]["bins"]]
        labels = [least if least == most else f"{least}–{most}" for least, most in bins]
        for key, colour, mark, label in (
            ("gap", TARGET, "o", "before"),
            ("left", COLOURS["realign"], "s", "one fit for all"),
            ("left_own", COLOURS["bca"], "^", "a fit for each length"),
        ):
            values = np.array([[one[key] for one in head["bins"]] for head in heads])
            axes.plot(labels, values.mean(axis=0), f"{mark}-", color=colour, label=label)
            for one in values if len(values) > 1 else []:
                axes.plot(labels, one, "_", color=colour, ms=8)
        axes.set_title(name)
        axes.set_xlabel("words in the caption")
        axes.margins(x=0.12)
    for axes in panels[len(worlds) :]:
        axes.set_visible(False)
    for axes in panels[::2]:
        axes.set_ylabel("gap")
    panels[0].set_ylim(bottom=0)
    legend_above(figure, panels[0], note="Lines: means over the heads; short strokes: single heads.")
    return figure


REPRODUCTION = Reproduction(
    "caption_length",
    "open question: length, content and style of captions",
    measure,
    tell,
    draw,
    "docs/open-questions.md",
)

if __name__ == "__main__":
    sys.exit(main(REPRODUCTION))
