"""python -m bench.paper.noise --real DIR: train on text, use on images: which method, and how much noise.

A classifier and a decoder of words (a linear captioner: one logistic regression a word) are trained on embeddings of captions,
mapped by a method, with noise of a length, and tested on embeddings of images. In the real world (`DIR`, made by
bench/paper/real/) for every head and seed; in the rendered world on random halves of the shipped captions. Needs the
extra `sklearn`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.paper.common import NAMES, Reproduction, Results, Setting, difference, main, plus_minus, table
from bench.paper.real import made
from fastrealign.cli.demo.samples import SEEDS, load, sample_scene
from fastrealign.core.errors import FitWarning
from fastrealign.core.reference import project
from fastrealign.methods.baselines import fit_baseline
from fastrealign.methods.method import Method

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from sklearn.linear_model import LogisticRegression

PAGE = "docs/train-on-text.md"
SHOWN = ("none", "anchor", "realign", "bca", "c3")
BANDS = ("none", "realign")  # whose spread the picture shows: five bands hide each other
LENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
# Inverse strength of the classifier's penalty; STRENGTHS: whether a stronger one does what noise does.
STRENGTH, STRENGTHS = 10.0, (0.1, 1.0, 10.0, 100.0)
# Rows with noise of their own that a caption becomes, as a loop that draws new noise in each epoch makes them.
COPIES = 8
WORDS, HALVES = 40, 3
KINDS = {kind: f"real, {says}" for kind, says in made.KINDS.items()}


@dataclass(frozen=True, eq=False)
class Known:
    """Rows (n, d), their classes (n,), and which words are true of them, bool (n, w)."""

    rows: np.ndarray
    labels: np.ndarray
    words: np.ndarray

    def of(self, which: np.ndarray) -> Known:
        return Known(self.rows[which], self.labels[which], self.words[which])


@dataclass(frozen=True, eq=False)
class Task:
    """One encoder. text: captions to train on; image: as many images, which only the upper bound reads; test: images.

    fit         text and images of other pictures than each other, that methods are fitted on
    test_text   the captions of the test images, for search
    """

    text: Known
    image: Known
    test: Known
    fit: tuple[np.ndarray, np.ndarray]
    test_text: np.ndarray


def measure(setting: Setting) -> Results:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # small problems: threads would wait for each other
        found = {name: _world(list(tasks), setting, name) for name, tasks in worlds(setting)}
    return {"worlds": found, "copies": COPIES, "strength": STRENGTH}


def worlds(setting: Setting) -> Iterator[tuple[str, Iterator[Task]]]:
    yield "rendered", _rendered(setting)
    if setting.real is not None:
        for letter, name in KINDS.items():
            yield name, _real(setting.real, letter)


def _rendered(setting: Setting) -> Iterator[Task]:
    """Random halves of the shipped captions; the class is the number of objects, the words are nouns and colours."""
    scenes = {name: [sample_scene(seed) for seed in seeds] for name, seeds in SEEDS.items()}
    named = {
        name: [{w for o in of.objects for w in (o.colour, o.noun)} for of in them] for name, them in scenes.items()
    }
    vocabulary = _vocabulary(named["text"])
    sides = {
        name: Known(
            load(name).astype(np.float32), np.array([len(of.objects) for of in them]), _hot(named[name], vocabulary)
        )
        for name, them in scenes.items()
    }
    for seed in range(1 if setting.quick else HALVES):
        half = np.sort(np.random.default_rng(seed).permutation(len(named["text"]))[: 150 if setting.quick else 2000])
        fit = sides["text"].rows[half], sides["image"].rows
        yield Task(sides["text"].of(half), sides["image"].of(half), sides["pairs_image"], fit, sides["pairs_text"].rows)


def _real(folder: Path, letter: str) -> Iterator[Task]:
    """A head of each seed, on pictures that no head was trained on; the class is the category, the words are of the titles."""
    heads = made.heads_of(folder, letter, ("image", "title"))
    split, category = np.load(folder / "split.npy"), made.labels(folder)
    titles = [set(_plain(title).split()) for title in np.load(folder / "titles.npy")]
    own, test = (np.flatnonzero((split == of) & (category != "")) for of in ("fit", "test"))
    words = _hot(titles, _vocabulary([titles[i] for i in own]))
    first, second = made.unpaired(folder)
    for of in heads.values():
        image, text = (Known(of[side], category, words) for side in ("image", "title"))
        yield Task(text.of(own), image.of(own), image.of(test), (text.rows[first], image.rows[second]), text.rows[test])


def _plain(title: str) -> str:
    return "".join(c if c.isalpha() else " " for c in str(title).lower())


def _vocabulary(named: list[set[str]]) -> list[str]:
    """The most frequent words of more than two letters."""
    every = [word for of in named for word in of if len(word) > 2]
    words, counts = np.unique(every, return_counts=True)
    return [str(word) for word in words[np.argsort(-counts, kind="stable")[:WORDS]]]


def _hot(named: list[set[str]], vocabulary: list[str]) -> np.ndarray:
    return np.array([[word in of for word in vocabulary] for of in named])


def _world(tasks: list[Task], setting: Setting, name: str) -> Results:
    """Each figure: a value for every head seed, or half."""
    lengths = LENGTHS[::4] if setting.quick else LENGTHS
    methods = SHOWN[:3:2] if setting.quick else SHOWN
    curves: Results = {method: {f"{length:g}": [] for length in lengths} for method in methods}
    words: Results = {method: {f"{length:g}": [] for length in lengths[::2]} for method in ("none", "realign")}
    found: Results = {"upper": [], "words upper": [], "gap": [], "once": {}, "strengths": {}, "search": {}}
    for seed, of in enumerate(tasks):
        fitted = {method: _fitted(method, of) for method in methods}
        found["gap"].append(fitted["none"].gap_before)
        found["upper"].append(_accuracy(project(of.image.rows), of.image.labels, of))
        found["words upper"].append(_word_score(project(of.image.rows), of.image.words, of))
        for method in methods:
            for length in lengths:
                rows = _noisy(fitted[method], of, length, seed)
                curves[method][f"{length:g}"].append(_accuracy(rows, of.text.labels, of))
                if method in words and f"{length:g}" in words[method]:
                    words[method][f"{length:g}"].append(_word_score(rows, of.text.words, of))
        for method in ("none", "realign"):
            once = fitted[method](of.text.rows, noise=1.0, seed=seed)
            found["once"].setdefault(method, []).append(_accuracy(once, of.text.labels, of))
            for length in (0.0, 1.0):
                rows = _noisy(fitted[method], of, length, seed)
                for strength in STRENGTHS[::3] if setting.quick else STRENGTHS:
                    key = f"{method} {length:g} {strength:g}"
                    found["strengths"].setdefault(key, []).append(_accuracy(rows, of.text.labels, of, strength))
                queries = fitted[method](of.test_text, noise=length, seed=seed)
                found["search"].setdefault(f"{method} {length:g}", []).append(_recall(queries, of.test.rows))
        setting.say(f"{name}, {seed}: images {found['upper'][-1]:.3f}, raw {curves['none']['0'][-1]:.3f}")
    first = tasks[0]
    _, counts = np.unique(first.test.labels, return_counts=True)
    shape = {"train": len(first.text.rows), "test": len(first.test.rows), "classes": len(counts)}
    return {**shape, "largest class": float(counts.max() / counts.sum()), "curves": curves, "words": words, **found}


def _fitted(method: str, of: Task) -> Method:
    """C3 without noise of its own: noise sets its length."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # heads leave some directions nearly empty
        return fit_baseline(method, *of.fit, **({"sigma": 0.0} if method == "c3" else {}))


def _noisy(method: Method, of: Task, length: float, seed: int) -> np.ndarray:
    """The mapped captions; with noise COPIES times, each with other noise, since the numbers of the rows differ."""
    rows = of.text.rows
    copies = range(COPIES if length else 1)
    return np.concatenate([method(rows, noise=length, seed=seed, first=i * len(rows)) for i in copies])


def _model(rows: np.ndarray, labels: np.ndarray, strength: float) -> LogisticRegression:
    """A logistic regression on rows that may be several copies of what is labelled; the penalty is that of one copy."""
    from sklearn.linear_model import LogisticRegression

    copies = len(rows) // len(labels)
    return LogisticRegression(C=strength / copies, max_iter=1000).fit(rows, np.tile(labels, copies))


def _accuracy(rows: np.ndarray, labels: np.ndarray, of: Task, strength: float = STRENGTH) -> float:
    """On test images."""
    return float(_model(rows, labels, strength).score(project(of.test.rows), of.test.labels))


def _word_score(rows: np.ndarray, words: np.ndarray, of: Task) -> float:
    """Mean average precision over words: whether images that the word is true of come first."""
    from sklearn.metrics import average_precision_score

    images = project(of.test.rows)
    scores = [
        average_precision_score(test, _model(rows, word, STRENGTH).decision_function(images))
        for word, test in zip(words.T, of.test.words.T, strict=True)
        if 0 < word.sum() < len(word) and test.any()
    ]
    return float(np.mean(scores))


def _recall(queries: np.ndarray, images: np.ndarray) -> float:
    """Share of captions whose own image is the nearest."""
    return float(np.mean((queries @ project(images).T).argmax(axis=1) == np.arange(len(queries))))


# --- the page ----------------------------------------------------------------------------------------------------------


def tell(results: Results) -> str:
    worlds, copies = results["worlds"], results["copies"]
    parts = [
        "Accuracy in per cent of a logistic regression (C = 10) trained on embeddings of captions and tested on embeddings of "
        "images, by the length of the noise; mean ± standard deviation over the seeds of the encoder's heads (rendered world: "
        "over random halves of the captions). With noise, each caption counts "
        f"{copies} times with other noise, as in a loop that draws new noise in every epoch. *On images*: trained on as "
        "many images. Methods are fitted on captions and images of different pictures. The test images are the same for all "
        f"seeds: their choice alone is worth {_sampling(worlds)} points (standard error), which the deviation does not show."
    ]
    for name, of in worlds.items():
        lengths = list(of["curves"]["none"])
        rows = [[NAMES[m], *(_cell(curve[length]) for length in lengths)] for m, curve in of["curves"].items()]
        seeds = len(of["upper"])
        parts.append(
            f"**{name}**: gap {np.mean(of['gap']):.2f}, {seeds} {'seed' if seeds == 1 else 'seeds'}, {of['train']:,} captions, "
            f"{of['test']:,} test images, {of['classes']} classes, the largest {100 * of['largest class']:.0f} % of the test. "
            f"On images {_cell(of['upper'])}."
        )
        parts.append(table(["noise length", *lengths], rows))
    parts.append(
        "*Noise against a penalty.* What noise of length 1 gains over none, in points, within seeds (mean ± standard error, "
        "and in how many seeds it is positive): drawn once, as files hold it; drawn "
        f"{copies} times; and what the best of four penalties (C = 0.1, 1, 10, 100) gains without noise, and with it. "
        "The best penalty is chosen on the test images, so these two are upper bounds:"
    )
    rows = [_gains(name, of, m) for name, of in worlds.items() for m in ("none", "realign")]
    head = ["encoder", "method", "once", f"{copies} times", "best penalty alone", "best penalty and noise"]
    parts.append(table(head, rows, left=2))
    parts.append(
        f"The decoder of words ({WORDS} frequent words of the captions, one logistic regression each): mean average precision "
        "on images, in per cent:"
    )
    rows = [
        [name, NAMES[m], *(_cell(of["words"][m][length]) for length in of["words"][m]), _cell(of["words upper"])]
        for name, of in worlds.items()
        for m in of["words"]
    ]
    lengths = list(next(iter(worlds.values()))["words"]["none"])
    parts.append(table(["encoder", "method", *(f"noise {length}" for length in lengths), "on images"], rows, left=2))
    parts.append(
        "Search, recall@1 of a caption's image among the test images, in per cent, without and with noise of length 1:"
    )
    rows = [
        [name, *(_cell(of["search"][f"{m} {length}"]) for m in ("none", "realign") for length in ("0", "1"))]
        for name, of in worlds.items()
    ]
    parts.append(table(["encoder", "none", "none + noise", "ReAlign", "ReAlign + noise"], rows))
    return "\n\n".join(parts)


def _cell(values: list[float]) -> str:
    return plus_minus([100 * value for value in values], lambda value: f"{value:.1f}")


def _gains(name: str, of: Results, method: str) -> list[str]:
    """A row of the table of gains."""
    curve, strengths = of["curves"][method], of["strengths"]
    best = [
        max((values for key, values in strengths.items() if key.startswith(f"{method} {length} ")), key=np.mean)
        for length in ("0", "1")
    ]
    columns = (of["once"][method], curve["1"], *best)
    return [name, NAMES[method], *(difference(np.array(values) - np.array(curve["0"])) for values in columns)]


def _sampling(worlds: Results) -> str:
    """The largest standard error of a share of the test images."""
    return f"{max(100 * np.sqrt(u * (1 - u) / of['test']) for of in worlds.values() for u in of['upper']):.1f}"


def draw(results: Results) -> Figure:
    """Accuracy by the length of the noise: a panel a world, the mean over seeds of each method."""
    from bench.drawing import COLOURS, INK, canvas, legend_above, look

    worlds = results["worlds"]
    rows = -(-len(worlds) // 2)
    figure = canvas(2.3 * rows + 0.9)
    panels = figure.subplots(rows, 2, squeeze=False, sharex=True).ravel()
    for panel, (name, of) in zip(panels, worlds.items(), strict=False):
        panel.axhline(100 * np.mean(of["upper"]), color=INK, lw=1, ls=":", label="trained on images")
        for method, curve in of["curves"].items():
            lengths, values = [float(length) for length in curve], 100 * np.array(list(curve.values()))
            mean = values.mean(axis=1)
            panel.plot(lengths, mean, **look(method) | {"markersize": 3.5}, label=NAMES[method])
            if method in BANDS and values.shape[1] > 1:
                error = values.std(axis=1, ddof=1)
                panel.fill_between(lengths, mean - error, mean + error, color=COLOURS[method], alpha=0.18, lw=0)
        panel.set_title(f"{name} (gap {np.mean(of['gap']):.2f})", fontsize=9)
    for panel in panels[len(worlds) :]:
        panel.set_visible(False)
    grid = panels.reshape(rows, 2)
    for panel in grid[:, 0]:
        panel.set_ylabel("accuracy on images, %")
    for panel in grid[-1]:
        panel.set_xlabel("length of the noise (rows are 1 long)")
    legend_above(figure, panels[0], 3, "Bands: standard deviation over seeds of none and ReAlign")
    return figure


REPRODUCTION = Reproduction(
    "noise", "train on text, use on images: which method, how much noise", measure, tell, draw, PAGE
)

if __name__ == "__main__":
    sys.exit(main(REPRODUCTION))
