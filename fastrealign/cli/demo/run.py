"""`fastrealign demo`: align the titles of real pictures to the pictures, and show what it changes on held-out pairs."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastrealign as fr
from fastrealign.cli.demo import real_world, uses
from fastrealign.cli.demo.gap_picture import draw
from fastrealign.cli.demo.measurements import NEIGHBOURS, Measurement, measure_pairs
from fastrealign.cli.demo.real_world import RealWorld
from fastrealign.cli.demo.uses import BEST, TOP, Search, Share
from fastrealign.core.text import printable

# The shipped encoder is the first of five seeds (bench/results/paper/noise.json).
NOTHING_GAINED = (
    "Here raw titles do as well: none is better by more than two standard errors.",
    "Of five such encoders this is the one that gains nothing; with a logistic regression their mean",
    "goes from 53 to 58 % (docs/train-on-text.md).",
)
TERMINAL = 3  # queries that the terminal shows; the picture shows all


@dataclass(frozen=True)
class Ranking:
    """A title that searches the held-out pictures: their titles, the best first, before and after."""

    query: str
    before: list[str]
    after: list[str]


@dataclass(frozen=True)
class DemoResult:
    """Result of the demo.

    Attributes
    ----------
    before, after
        Metrics of the held-out pairs, with the titles as the encoder gives them and aligned.
    fitted_gap_before, fitted_gap_left
        Gap of the rows that the alignment was fitted on.
    classifier
        Accuracy on held-out images, by what the classifier was trained on.
    categories
        How many it tells apart.
    search
        One index of pictures and captions, by what was done to the text.
    rankings
        The best pictures of some queries, of those that find their own before or after.
    finding
        How many of the held-out titles do.
    texts, images, pairs, dim
        Rows to fit on (of different pictures), held-out pairs, width.
    centroid
        How the centroid was found: "paper" or "exact".
    seconds
        Time of fitting and aligning, without reading files and the metrics.
    picture
        File of the picture, if one was asked for.
    """

    before: Measurement
    after: Measurement
    fitted_gap_before: float
    fitted_gap_left: float
    classifier: dict[str, Share]
    categories: int
    search: dict[str, Search]
    rankings: list[Ranking]
    finding: int
    texts: int
    images: int
    pairs: int
    dim: int
    centroid: str
    seconds: float
    picture: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps."""
        return asdict(self)

    def summary(self) -> str:
        """Some fifty lines of text."""
        lines = [
            f"Clip art and its titles, {self.dim} wide: {self.texts:,} titles aligned to {self.images:,} other pictures in "
            f"{1000 * self.seconds:.0f} ms.",
            f"Gap of these rows: {self.fitted_gap_before:.3f} before, {self.fitted_gap_left:.1e} left.",
            "",
            *self._pairs(),
            "",
            *self._classifier(),
            "",
            *self._search(),
            "",
            *self._rankings(),
            *(["", f"Picture: {self.picture}"] if self.picture else []),
            "",
            "With your own embeddings (.npy, .parquet or pickles; text and image of one encoder pair):",
            "    fastrealign align text_emb/ --target img_emb/ --out aligned/",
        ]
        return "\n".join(lines)

    def _pairs(self) -> list[str]:
        before, after = self.before, self.after
        rows = [
            ("gap  |mean(text) - mean(image)|", f"{before.gap:.3f}", f"{after.gap:.3f}"),
            (f"mixing of {NEIGHBOURS} neighbours (0.5 = mixed)", f"{before.mixing:.4f}", f"{after.mixing:.4f}"),
            *(
                (f"title to picture, recall@{k} (chance {k / self.pairs:.3f})", f"{b:.3f}", f"{a:.3f}")
                for (k, b), a in zip(before.recall.items(), after.recall.values(), strict=True)
            ),
        ]
        return [
            f"{f'On {self.pairs:,} held-out pairs':48}{'before':>9}{'after':>9}",
            *(f"{name:48}{b:>9}{a:>9}" for name, b, a in rows),
            *(
                ["Among pictures alone, titles as they are find more."]
                if after.recall[TOP] < before.recall[TOP]
                else []
            ),
        ]

    def _classifier(self) -> list[str]:
        raw, *others, _ = self.classifier.values()
        helps = any(one.value > raw.value + 2 * one.error for one in others)
        return [
            f"Name the category ({self.categories}) of a held-out picture, trained on",
            *(f"    {name:44}{share!s:>18}" for name, share in self.classifier.items()),
            *([] if helps else NOTHING_GAINED),
        ]

    def _search(self) -> list[str]:
        head = f"{'One index, half pictures, half captions':40}"
        return [
            f"{head}{f'found in top {TOP}':>16}{'pictures found':>18}{f'pictures in top {TOP}':>20}",
            *(f"    {n:36}{s.found!s:>16}{s.pictures_found!s:>18}{s.images:>20.1%}" for n, s in self.search.items()),
        ]

    def _rankings(self) -> list[str]:
        lines = [
            "Best of all held-out pictures for a title, by their own titles (* its own picture)",
            f"Shown: titles whose own picture is among the {BEST} best before or after ({self.finding} of {self.pairs:,}).",
        ]
        for one in self.rankings[:TERMINAL]:
            lines.append(f"  “{printable(one.query)}”")
            for name, titles in (("before", one.before), ("after", one.after)):
                shown = (f"{printable(t)[:24]}{'*' if t == one.query else ''}" for t in titles)
                lines.append(f"    {name:7}{', '.join(shown)}")
        return lines


def unpaired(fit: RealWorld) -> tuple[np.ndarray, np.ndarray]:
    """Titles of every other picture, and the remaining pictures."""
    half = np.arange(len(fit.ids)) % 2 == 0
    return fit.title[half], fit.image[~half]


def run(*, centroid: str = "paper", picture: str | Path | None = None) -> DemoResult:
    """Fit on unpaired titles and pictures, align, and measure the held-out pairs before and after.

    Parameters
    ----------
    centroid
        "paper" or "exact".
    picture
        PNG to draw: both modalities in a plane, and best pictures, before and after. Needs matplotlib.
    """
    world = real_world.load()
    fit, test = world.part("fit"), world.part("test")
    text, image = unpaired(fit)
    start = time.perf_counter()
    alignment = fr.fit(text, image, centroid=centroid)
    aligned = alignment(test.title)
    seconds = time.perf_counter() - start

    before, after = measure_pairs(test.title, test.image), measure_pairs(aligned, test.image)
    found, finding = uses.best(test, aligned)
    if picture is not None:
        draw(picture, test, aligned, (before, after), found)
    return DemoResult(
        before=before,
        after=after,
        fitted_gap_before=alignment.gap_before,
        fitted_gap_left=alignment.gap_left,
        classifier=uses.classifier(fit, test, alignment),
        categories=len(uses.categories(fit)),
        search={
            "as they are": uses.search(test.title, test.long, test.image),
            "ReAlign on all text": uses.search(aligned, alignment(test.long), test.image),
            "ReAlign on queries alone": uses.search(aligned, test.long, test.image),
        },
        rankings=[
            Ranking(str(test.titles[f.query]), test.titles[f.before].tolist(), test.titles[f.after].tolist())
            for f in found
        ],
        finding=finding,
        texts=len(text),
        images=len(image),
        pairs=len(test.ids),
        dim=alignment.dim,
        centroid=centroid,
        seconds=seconds,
        picture=None if picture is None else str(picture),
    )
