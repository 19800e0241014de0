"""python -m bench.paper.uses --real DIR: what users are after, on real heads: search and text-trained classifiers, by method.

Needs the extras `sklearn` and `torch`. Heads at other logit scales (bench.paper.real --scales) tell why encoders differ.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.paper.aniso import Refinement, Rotation
from bench.paper.common import Reproduction, Results, Setting, main, plus_minus, small, table
from bench.paper.noise import STRENGTH
from bench.paper.real.made import KINDS, heads_of, labels, unpaired
from fastrealign.core.errors import FitWarning, InputError
from fastrealign.core.reference import project
from fastrealign.diagnostics import covariance, effective_rank, gap, mixing, overlap
from fastrealign.methods.baselines import fit_baseline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {
    "none": "none",
    "none+noise": "none + noise",
    "anchor": "anchor",
    "realign": "ReAlign",
    "realign-exact": "ReAlign, exact",
    "realign+noise": "ReAlign + noise",
    "c3": "C3",
    "two-sided": "both less own mean",
    "bca": "blockwise",
    "rotation": "ReAlign, rotated",
    "aniso": "ReAlign, refined",
}
PLAIN = ("anchor", "realign", "realign-exact", "c3", "bca")
NOISE = 1.0
SCALED = "S"  # kinds of heads at other scales: S10-, S20-, ...
SCALED_METHODS = ("none", "realign", "two-sided")

# A method on one head: maps of text and of images, and of text to train a classifier on.
Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Maps:
    text: Map
    image: Map = project
    training: Map | None = None


@dataclass(frozen=True, eq=False)
class Head:
    """fit: text and images of other pictures than each other; the others of the pictures of the parts fit and test."""

    fit: tuple[np.ndarray, np.ndarray]
    captions: np.ndarray
    pictures: np.ndarray
    labels: np.ndarray
    titles: np.ndarray
    longs: np.ndarray
    images: np.ndarray
    test_labels: np.ndarray


def heads(folder: Path, kind: str) -> list[Head]:
    """Of one kind, by seed. Labels are made.labels."""
    split, label = np.load(folder / "split.npy"), labels(folder)
    fit, test = (np.flatnonzero(split == part) for part in ("fit", "test"))
    first, second = unpaired(folder)
    return [
        Head(
            (of["title"][first], of["image"][second]),
            of["title"][fit],
            of["image"][fit],
            label[fit],
            of["title"][test],
            of["long"][test],
            of["image"][test],
            label[test],
        )
        for of in heads_of(folder, kind).values()
    ]


def methods(of: Head, seed: int, names: Sequence[str]) -> dict[str, Maps]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # heads leave some directions nearly empty
        fitted = {name: fit_baseline(name, *of.fit) for name in ("none", *PLAIN)}
        own = [fit_baseline("mean-shift", rows, other) for rows, other in (of.fit, of.fit[::-1])]
    maps = {"none": Maps(project), "none+noise": Maps(project, training=_noisy(fitted["none"], seed))}
    maps |= {name: Maps(_plain(fitted[name])) for name in PLAIN}
    maps["realign+noise"] = Maps(maps["realign"].text, training=_noisy(fitted["realign"], seed))
    maps["two-sided"] = Maps(*(lambda rows, m=m: project(m(rows, dtype=np.float64)) for m in own))
    aligned = maps["realign-exact"].text
    refinements = {"rotation": Rotation, "aniso": lambda *sides: Refinement(*sides, seed=seed)}
    for name in refinements.keys() & names:
        refined = refinements[name](aligned(of.fit[0]), project(of.fit[1]))
        maps[name] = Maps(lambda rows, refined=refined: refined(aligned(rows)))
    return {name: maps[name] for name in names}


def _plain(method: Any) -> Map:
    return lambda rows: method(rows, dtype=np.float64)


def _noisy(method: Any, seed: int) -> Map:
    return lambda rows: method(rows, dtype=np.float64, noise=NOISE, seed=seed)


def read(of: Head, maps: Maps) -> dict[str, float]:
    """mixing, R@1 and R@10 of images by titles, neighbours kept, one index of both, accuracy on images."""
    titles, longs, images = maps.text(of.titles), maps.text(of.longs), maps.image(of.images)
    n = len(titles)
    ranks = _ranks(titles @ images.T)
    # One index: every other document is an image, the others are long captions.
    shown = np.arange(n) % 2 == 0
    mixed = titles @ np.where(shown[:, None], images, longs).T
    top = _ranks(mixed) < 10
    best = np.argsort(-mixed, axis=1)[:, :10]
    return {
        "gap": gap(images, titles),
        "mixing": mixing(images, titles, k=20, rows=None).rate.value,
        "R@1": float(np.mean(ranks == 0)),
        "R@10": float(np.mean(ranks < 10)),
        "kept": overlap(of.titles, titles, k=10, rows=None).value,
        "one index": float(np.mean(top)),
        "images in one index": float(np.mean(top[shown])),
        "images in ten": float(np.mean(shown[best])),
        "accuracy": accuracy((maps.training or maps.text)(of.captions), of.labels, images, of.test_labels),
    }


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Of document i for query i, from 0."""
    return np.sum(scores > np.diagonal(scores)[:, None], axis=1)


def accuracy(rows: np.ndarray, labels: np.ndarray, images: np.ndarray, test_labels: np.ndarray) -> float:
    """Of a logistic regression trained on rows, on images."""
    from sklearn.linear_model import LogisticRegression

    known, asked = labels != "", test_labels != ""
    model = LogisticRegression(C=STRENGTH, max_iter=1000).fit(rows[known], labels[known])
    return float(model.score(images[asked], test_labels[asked]))


def measure(setting: Setting) -> Results:
    if setting.real is None:
        raise InputError("expected --real DIR, a folder that python -m bench.paper.real --out DIR made")
    scales = sorted(
        {float(path.name[1:].split("-")[0]) for path in (setting.real / "heads").glob(f"{SCALED}*-0_image.npy")}
    )
    kinds = {kind: f"{kind}: {says}" for kind, says in KINDS.items()}
    kinds |= {f"{SCALED}{scale:g}-": f"scale {scale:g}" for scale in scales}
    found: dict[str, Results] = {}
    for kind, says in kinds.items():
        of_kind = heads(setting.real, kind)[: 1 if setting.quick else None]
        found[kind] = {"says": says, "n": len(of_kind[0].images), "seeds": []}
        for seed, of in enumerate(of_kind):
            found[kind]["seeds"].append(figures_of(of, seed, tuple(LABELS) if kind in KINDS else SCALED_METHODS))
            setting.say(f"{says}: seed {seed} is done")
    return {"heads": found, "noise": NOISE}


def figures_of(of: Head, seed: int, names: Sequence[str]) -> Results:
    """What is measured of one head: by method, and of its rows as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        spectra = [covariance(rows) for rows in (of.images, of.titles, of.longs)]
    upper = accuracy(project(of.pictures), of.labels, project(of.images), of.test_labels)
    return {
        "images": upper,
        "traces": [float(np.sum(c.eigenvalues)) for c in spectra],
        "ranks": [effective_rank(c.eigenvalues) for c in spectra],
        "methods": {name: read(of, maps) for name, maps in methods(of, seed, names).items()},
    }


# --- what it says ----------------------------------------------------------------------------------------------------

FIGURES = ("mixing", "kept", "R@1", "one index", "images in one index", "accuracy")


def tell(results: Results) -> str:
    found: Mapping[str, Any] = results["heads"]
    parts = []
    for kind in KINDS:
        of = found[kind]
        parts += [f"**{of['says']}**, {len(of['seeds'])} seeds, {of['n']:,} held-out pairs:", table_of(of["seeds"])]
    parts += [
        "The refinement minus ReAlign, exact, which it starts from, within seeds (points, mean ± standard error):",
        _gains(found),
    ]
    scaled = [of for kind, of in found.items() if kind not in KINDS]
    if scaled:
        parts += ["The same head at logit scales that are held:", _why(scaled)]
    return "\n\n".join(parts)


def _values(seeds: Sequence[Any], method: str, figure: str) -> list[float]:
    return [seed["methods"][method][figure] for seed in seeds]


def _three(value: float) -> str:
    return f"{value:.3f}"


def figure_cell(seeds: Sequence[Any], method: str, figure: str) -> str:
    return plus_minus(_values(seeds, method, figure), _three)


def table_of(seeds: Sequence[Any]) -> str:
    """A row a method of those that were measured."""
    rows = [[LABELS[name], *(figure_cell(seeds, name, figure) for figure in FIGURES)] for name in seeds[0]["methods"]]
    rows.append(["images", *[""] * (len(FIGURES) - 1), plus_minus([seed["images"] for seed in seeds], _three)])
    return table(["method", *FIGURES], rows)


def _gains(found: Mapping[str, Any]) -> str:
    """Of the learned refinement, and in how many seeds it is above."""
    shown = ("kept", "R@1", "one index", "accuracy")
    rows = []
    for kind in KINDS:
        seeds, cells = found[kind]["seeds"], []
        for figure in shown:
            apart = 100 * np.subtract(*(_values(seeds, name, figure) for name in ("aniso", "realign-exact")))
            error = apart.std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else 0.0
            cells.append(f"{apart.mean():+.1f} ± {error:.1f} ({np.sum(apart > 0)} of {len(apart)})")
        rows.append([found[kind]["says"], *cells])
    return table(["head", *shown], rows)


def _why(scaled: Sequence[Any]) -> str:
    head = ["", "gap", "trace, image / text", "effective rank, image", "mixing", "R@1", "one index", "accuracy"]
    rows = []
    for of in scaled:
        seeds = of["seeds"]
        rows.append(
            [
                of["says"],
                plus_minus(_values(seeds, "none", "gap"), small),
                plus_minus([seed["traces"][0] / seed["traces"][1] for seed in seeds], lambda v: f"{v:.2f}"),
                plus_minus([seed["ranks"][0] for seed in seeds], lambda v: f"{v:.1f}"),
                *(
                    f"{plus_minus(_values(seeds, 'none', figure), _three)} → "
                    f"{plus_minus(_values(seeds, 'realign', figure), _three)}"
                    for figure in ("mixing", "R@1", "one index", "accuracy")
                ),
            ]
        )
    return table(head, rows)


def draw(results: Results) -> Figure:
    """Recall in one index and accuracy: a row a method, a mark a seed, its shape and colour the kind of head."""
    from bench.drawing import COLOURS, TARGET, canvas, key, legend_above

    figure = canvas(4.4)
    titles = {"one index": "R@10 in one index", "accuracy": "accuracy on images"}
    panels = figure.subplots(1, len(titles), sharey=True)
    looks = dict(zip(KINDS, ((TARGET, "o"), (COLOURS["realign"], "^"), (COLOURS["anchor"], "s")), strict=False))
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for i, (kind, (colour, mark)) in enumerate(looks.items()):
            for at, method in enumerate(LABELS):
                values = _values(results["heads"][kind]["seeds"], method, name)
                axes.plot(values, [at + 0.24 * (i - 1)] * len(values), mark, color=colour, mew=0)
        axes.set_title(title)
        axes.grid(False, axis="y")
        for at in range(1, len(LABELS)):
            axes.axhline(at - 0.5, color="#d5d9de", lw=0.5)
    panels[0].set_yticks(range(len(LABELS)), list(LABELS.values()))
    panels[0].set_ylim(len(LABELS) - 0.5, -0.5)
    for kind, (colour, mark) in looks.items():
        key(panels[0], results["heads"][kind]["says"], mark, color=colour)
    legend_above(figure, panels[0])
    return figure


REPRODUCTION = Reproduction("uses", "search and text-trained classifiers on real heads, by method", measure, tell, draw)

if __name__ == "__main__":
    sys.exit(main(REPRODUCTION))
