"""Tasks on the real pictures: classify images by text alone, search one index, see the best pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastrealign.cli.demo.real_world import RealWorld
from fastrealign.core.reference import project
from fastrealign.methods.method import Method

# As docs/train-on-text.md advises: half as long as a row, and other noise whenever a title is read again.
NOISE = 0.5
COPIES = 8
RIDGE = 1.0  # for each copy of the rows
LEAST = 20  # pictures of a category, among those that the classifier learns from
NO_SUBJECT = ("special", "unsorted")
TOP, BEST = 10, 5
QUERIES = 4


@dataclass(frozen=True)
class Share:
    """A share of n trials and its standard error."""

    value: float
    error: float

    @staticmethod
    def of(hits: np.ndarray) -> Share:
        value = float(hits.mean())
        return Share(value, float(np.sqrt(value * (1 - value) / len(hits))))

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.error:.3f}"


@dataclass(frozen=True)
class Search:
    """Titles search one index that holds half of the pictures and the long captions of the others.

    Attributes
    ----------
    found
        Share of titles whose own picture or caption is among the TOP.
    pictures_found
        The same, of the titles whose picture is in the index.
    images
        Share of images among the TOP.
    """

    found: Share
    pictures_found: Share
    images: float


@dataclass(frozen=True)
class Best:
    """The BEST pictures of a query: numbers of rows of the part "test", the best first."""

    query: int
    before: list[int]
    after: list[int]


def categories(fit: RealWorld) -> list[str]:
    """Categories that are a subject and of which there are enough pictures."""
    names, counts = np.unique(fit.categories, return_counts=True)
    return [str(n) for n, count in zip(names, counts, strict=True) if count >= LEAST and n not in NO_SUBJECT]


def classifier(fit: RealWorld, test: RealWorld, alignment: Method) -> dict[str, Share]:
    """Accuracy on held-out images, by what the classifier was trained on: titles, raw or aligned, or the images themselves."""
    names = categories(fit)
    known, asked = (np.isin(of.categories, names) for of in (fit, test))
    titles, labels = fit.title[known].astype(np.float64), np.searchsorted(names, fit.categories[known])
    trained_on = {
        "raw titles": titles,
        "titles, ReAlign": alignment(titles),
        f"titles {COPIES} times, ReAlign, noise of length {NOISE:g}": alignment(
            np.tile(titles, (COPIES, 1)), noise=NOISE
        ),
        "images (upper bound)": fit.image[known].astype(np.float64),
    }
    truth = np.searchsorted(names, test.categories[asked])
    return {
        name: Share.of(ridge(rows, labels, test.image[asked].astype(np.float64)) == truth)
        for name, rows in trained_on.items()
    }


def ridge(rows: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Labels (m,) of the rows `asked`, by least squares on one column a class, with a free intercept.

    rows: (copies n, d), of the n labels, one copy after the other
    """
    copies = len(rows) // len(labels)
    mean, target = rows.mean(0), np.tile(np.eye(labels.max() + 1)[labels], (copies, 1))
    centred = rows - mean
    penalty = copies * RIDGE * np.eye(rows.shape[1])
    weights = np.linalg.solve(centred.T @ centred + penalty, centred.T @ (target - target.mean(0)))
    return np.argmax((asked - mean) @ weights + target.mean(0), axis=1)


def is_picture(n: int) -> np.ndarray:
    """Which documents of the index are pictures, (n,) bool: those of even number; the others are captions."""
    return np.arange(n) % 2 == 0


def ranked(queries: np.ndarray, captions: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The TOP documents of each query, (n, TOP), in an index with the picture or the caption of each number."""
    queries, captions, images = map(project, (queries, captions, images))
    index = np.where(is_picture(len(queries))[:, None], images, captions)
    return np.argsort(-(queries @ index.T), axis=1, kind="stable")[:, :TOP]


def search(queries: np.ndarray, captions: np.ndarray, images: np.ndarray) -> Search:
    """One index: images of the even rows, captions of the odd ones; row i of each belongs to query i."""
    return figures(ranked(queries, captions, images))


def figures(top: np.ndarray) -> Search:
    """Of what `ranked` gives."""
    found, picture = finds(top), is_picture(len(top))
    return Search(Share.of(found), Share.of(found[picture]), float(picture[top].mean()))


def finds(top: np.ndarray) -> np.ndarray:
    """Which queries have the document of their own number among the best: bool (n,)."""
    return (top == np.arange(len(top))[:, None]).any(1)


def best(test: RealWorld, aligned: np.ndarray) -> tuple[list[Best], int]:
    """Titles search all held-out pictures: one title of each of the first QUERIES categories that are a subject.

    It is the first of the category whose own picture is among the BEST before or after, since most titles find nothing. Also
    the number of titles, of all categories, that do.
    """
    before, after = (
        np.argsort(-(project(titles) @ project(test.image).T), axis=1, kind="stable")[:, :BEST]
        for titles in (test.title, aligned)
    )
    rows = np.arange(len(test.ids))[:, None]
    finding = ((before == rows) | (after == rows)).any(1)
    chosen = np.flatnonzero(finding & ~np.isin(test.categories, NO_SUBJECT))
    _, first = np.unique(test.categories[chosen], return_index=True)
    shown = [Best(int(i), before[i].tolist(), after[i].tolist()) for i in chosen[first][:QUERIES]]
    return shown, int(finding.sum())
