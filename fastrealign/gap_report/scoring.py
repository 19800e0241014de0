"""Every method scored on the same rows: mixing and neighbours kept, and with pairs and labels search and a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.formatting import count
from fastrealign.data.sources import ArraySource
from fastrealign.diagnostics.unit_rows import draw, picked
from fastrealign.gap_report.copies import by_thing, first_rows, halves, numbered, things
from fastrealign.gap_report.outcomes import (
    ACCURACY,
    GAP,
    KEPT,
    MIXING,
    NAMES,
    SEARCH,
    Classes,
    Means,
    Outcome,
    Scores,
    Search,
    gap_outcome,
    outcome,
)
from fastrealign.gap_report.sides import Labels, Sides
from fastrealign.gap_report.tasks import fitted_classifier, hits

# Pairs that are searched among, and those that are queries; rows that train a classifier, and those that test it.
POOL, QUERIES = 10_000, 2000
TRAIN, TEST = 5000, 10_000


class Judge:
    """Scores by outcome and method, and the outcomes that follow from them."""

    def __init__(self, sides: Sides, seed: int) -> None:
        self._sides, self._seed = sides, seed
        self._scores: dict[str, dict[str, Scores]] = {}
        self.search: Search | None = None
        self.classes: Classes | None = None
        if sides.pairs is not None:
            self._pool = draw(sides.pairs[0].rows, POOL, seed)
            self._queries = draw(len(self._pool), QUERIES, seed)
            of_x, of_y = (picked(side, self._pool) for side in sides.pairs)
            # Copies are one document.
            self._answers, self._selves = numbered(of_x), numbered(of_y)
            self._targets, self._sources = of_x[first_rows(self._answers)], first_rows(self._selves)
            self._asking = things(self._answers, self._selves)[self._queries]
            self.search = Search(len(self._queries), len(self._targets), len(self._sources) - 1)
        if sides.labels is not None:
            self._prepare_classes(sides.labels)

    @property
    def judged(self) -> int:
        """How many figures of a method are compared with doing nothing: all but the neighbours kept."""
        return 2 + (self.classes is not None) + len(SEARCH) * (self.search is not None)

    def neighbours(
        self, method: str, rows: Sequence[np.ndarray], of_x: np.ndarray, of_y: np.ndarray, kept: np.ndarray
    ) -> None:
        """The shares of foreign neighbours of sampled rows of both sides, and of neighbours kept. rows: which these are."""
        weight = self._sides.x.rows / (self._sides.x.rows + self._sides.y.rows)
        in_x, in_y = (of[at] for of, at in zip(self._sides.numbers, rows, strict=True))
        self._add(MIXING, method, [(weight, by_thing(of_x, in_x)), (1 - weight, by_thing(of_y, in_y))])
        self._add(KEPT, method, [(1.0, by_thing(kept, in_y))])

    def pairs(self, method: str, after: ArraySource) -> None:
        """Search: each query for its own target row. after: the source rows of the pairs, as mapped."""
        mapped = picked(after, self._pool)
        answers, selves = self._answers[self._queries], self._selves[self._queries]
        alone, both = hits(mapped[self._queries], answers, selves, self._targets, mapped[self._sources])
        for name, scores in zip(SEARCH, [*alone, both], strict=True):
            self._add(name, method, [(1.0, by_thing(scores, self._asking))])

    def classifier(self, method: str, mapped: Callable[[], ArraySource]) -> None:
        """A classifier trained on source rows, tested on target rows. mapped: all source rows that methods are fitted on."""
        if self._sides.labels is not None:
            trained = fitted_classifier(picked(mapped(), self._train), self._taught)
            self._add(ACCURACY, method, [(1.0, by_thing(self._right(trained), self._tested))])

    def outcomes(self, gaps: dict[str, float], means: Means, tests: int) -> dict[str, Outcome]:
        """All of them, in the order of the page."""
        x, y = self._sides.x.rows, self._sides.y.rows
        found = {
            name: outcome(name, scores, tests, limits=fully_mixed(x, y) if name == MIXING else None)
            for name, scores in self._scores.items()
        }
        found[GAP] = gap_outcome(gaps, means, min(x, y), tests)
        return {name: found[name] for name in NAMES if name in found}

    def _add(self, name: str, method: str, scores: Scores) -> None:
        self._scores.setdefault(name, {})[method] = scores

    def _prepare_classes(self, labels: Labels) -> None:
        """Which rows train and test. Where rows of both sides are one thing, a thing that trains does not test."""
        sides, seed = self._sides, self._seed
        fit_x, fit_y = labels.to_fit
        own, test, train = np.arange(len(fit_x)), np.arange(sides.x.rows), np.arange(len(fit_y))
        if not sides.held_out[0]:
            of = things(*sides.numbers) if labels.matched else sides.numbers[0]
            own, test = halves(of, np.random.default_rng([seed, 1]))
            train = own if labels.matched else train

        def known(numbers: np.ndarray, of: np.ndarray, most: int) -> np.ndarray:
            numbers = numbers[of >= 0]
            if len(numbers) >= 2:
                numbers = numbers[draw(len(numbers), most, seed)]
            return numbers

        test = known(test, labels.x[test], TEST)
        own, self._train = known(own, fit_x[own], TRAIN), known(train, fit_y[train], TRAIN)
        self._taught, self._asked = fit_y[self._train], labels.x[test]
        for side, taught in (("source", self._taught), ("target", fit_x[own]), ("target", self._asked)):
            if (classes := len(set(taught.tolist()))) < 2:
                raise InputError(
                    f"labels of the {side}: {count(len(taught), 'row', 'have')} a class that both sides have: "
                    f"{count(classes, 'class')}, expected at least 2; label more rows"
                )
        self._test, self._tested = picked(sides.x, test), sides.numbers[0][test]
        by_own = fitted_classifier(picked(sides.to_fit[0], own), fit_x[own])
        share = np.bincount(self._asked).max() / len(test)
        right = float(self._right(by_own).mean())
        self.classes = Classes(labels.names, len(self._train), len(test), right, float(share))

    def _right(self, trained: Any) -> np.ndarray:
        return (trained.predict(self._test) == self._asked).astype(np.float64)


def fully_mixed(x: int, y: int) -> tuple[float, float]:
    """The share of foreign neighbours of x target and of y source rows of one cloud, in which a neighbour's side is chance."""
    return y / (x + y - 1), x / (x + y - 1)
