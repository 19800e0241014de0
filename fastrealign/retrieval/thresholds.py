"""Thresholds of a stated precision, from the scores of labelled queries against a whole collection.

Precision is the share of relevant ones among all query-document pairs that score at least the threshold. It depends on how
rare relevant documents are, so it is counted on all documents that users search, never on balanced pairs. Each document given
that is not relevant may stand for `weight` of them, where users search more documents than are given.

The interval is that of Clopper and Pearson for an effective number of pairs (Korn and Graubard, Survey Methodology 24, 1998),
since scored pairs are not independent: one query has many, one document is similar to many queries, and two documents with one
caption are each a wrong result for the other's query. What is sampled are units, a query with its relevant documents; counts
are sums over pairs of units, and their variance that of a U-statistic, by the sum of all pairs that a unit takes part in. A
bootstrap over queries would not see documents nor, where no result is wrong, any spread.

The interval is for the precision on other pairs, as many as these, since that is what a user meets. Two samples differ with
twice the variance of one, so the effective number is halved. Its lower end counts that the threshold was chosen on the same
pairs, of several of which any could have reached the precision by chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fastrealign.core import checks
from fastrealign.core.errors import InputError
from fastrealign.core.formatting import count
from fastrealign.core.optional import optional

LEVEL = 0.95
# No threshold is given from fewer pairs.
LEAST = 30
# Most thresholds of a curve: they lie at scores of relevant pairs, evenly spaced by rank.
MOST = 256
# Columns of a curve, over the pairs at or above a threshold: relevant; others; others by weight, and by its square; relevant
# ones, and others by the square of their weight, of two units; then sums over units of products of relevant (t) and weighted
# other (w) counts, about their means.
COLUMNS = ("threshold", "relevant", "others", "weighted", "squares", "across", "squares_across", "tt", "tw", "ww")


@dataclass(frozen=True)
class Threshold:
    """A threshold on calibrated scores; `float` of it is `value`, and it prints what it promises.

    Attributes
    ----------
    value : float
        Results with at least this score are kept.
    precision, interval : float, (float, float)
        The share of relevant ones among the query-document pairs kept, and the interval at level 0.95 for that share on other
        pairs, as many as these.
    recall : float
        The share of the labelled pairs kept.
    labelled, kept : int
        Labelled relevant pairs; pairs of the labelled queries at or above the threshold, relevant or not.
    pair : str
        Which scores it is for.
    """

    value: float
    precision: float
    interval: tuple[float, float]
    recall: float
    labelled: int
    kept: int
    pair: str

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.pair}: scores from {self.value:.8g} on have precision {self.precision:.3f} "
            f"(95 % interval on as many other pairs: {low:.3f} to {high:.3f}) and recall {self.recall:.3f}, "
            f"by {self.labelled:,} labelled pairs"
        )


@dataclass(frozen=True, eq=False)
class Curve:
    """Counts at each threshold (k, COLUMNS), ascending; `relevant` labelled pairs, `weight` the largest of any document."""

    counts: np.ndarray
    relevant: int
    weight: float

    def threshold(self, precision: float, pair: str) -> Threshold:
        """The lowest threshold of at least this precision. InputError where none has it or labelled pairs are too few."""
        precision = checks.number(
            "precision", precision, lambda share: 0.0 < share < 1.0, "between 0 and 1, such as 0.9"
        )
        least = needed(precision)
        if self.relevant < least:
            raise InputError(
                f"{pair}: {count(self.relevant, 'labelled pair', 'are')} too few to tell a precision of {precision:g}; at "
                f"least {least:,} are needed"
            )
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in self.counts.tolist()]
        rows = [row for row in rows if _kept(row) >= least]
        good = next((row for row in rows if _precision(row) >= precision), None)
        if good is None:
            best = max(rows, key=_precision)
            raise InputError(
                f"{pair}: no threshold that keeps {least:,} or more of the scored pairs has a precision of {precision:g}; the "
                f"highest is {_precision(best):.3f}, at {best['threshold']:.8g}"
            )
        # Thresholds below it that could have been chosen, had other pairs been drawn: about one for each halving of those kept.
        first = next(row for row in rows if self._interval(row)[1] >= precision)
        interval = self._interval(good, 1 + math.log2(_kept(first) / _kept(good)))
        recall = good["relevant"] / self.relevant
        return Threshold(good["threshold"], _precision(good), interval, recall, self.relevant, int(_kept(good)), pair)

    def _interval(self, row: dict[str, float], tried: float = 1.0) -> tuple[float, float]:
        """For the precision on as many other pairs; the lower end for the best of so many thresholds (Bonferroni)."""
        p, n = _precision(row), _kept(row)
        if row["others"] == 0:  # no spread to measure: one other would count `weight` times
            n /= self.weight
        else:
            # A pair of two units is in the sums of both; its square counts once.
            relevant, others = row["tt"] - row["across"], row["ww"] - row["squares_across"]
            units = (1 - p) ** 2 * relevant - 2 * p * (1 - p) * row["tw"] + p**2 * others
            variance = max(units, p**2 * row["squares"]) / (row["relevant"] + row["weighted"]) ** 2
            n = min(n, p * (1 - p) / variance)
        return clopper_pearson(p, n / 2, tried)


def _kept(row: dict[str, float]) -> float:
    return row["relevant"] + row["others"]


def _precision(row: dict[str, float]) -> float:
    return row["relevant"] / (row["relevant"] + row["weighted"])


def needed(precision: float) -> int:
    """The fewest pairs that, were all right, exclude a lower precision of the pairs they are drawn from; LEAST or more."""
    return max(LEAST, math.ceil(math.log((1 - LEVEL) / 2) / math.log(precision)))


def clopper_pearson(share: float, n: float, tried: float = 1.0) -> tuple[float, float]:
    """The interval of a share of n (which need not be whole) at LEVEL, the lower end at 1 - (1 - LEVEL) / tried."""
    quantile = optional("scipy.special", "sklearn", "the interval of a threshold").betaincinv
    right, tail = share * n, (1 - LEVEL) / 2
    low = float(quantile(right, n - right + 1, tail / tried)) if right > 0 else 0.0
    high = float(quantile(right + 1, n - right, 1 - tail)) if share < 1 else 1.0
    return low, high


def candidates(scores: np.ndarray) -> np.ndarray:
    """At most MOST of the scores (n,), distinct and ascending, the smallest and the largest among them."""
    distinct = np.unique(scores)
    return distinct[np.unique(np.linspace(0, len(distinct) - 1, MOST).round().astype(int))]


@dataclass
class Counting:
    """Adds up a Curve at given thresholds, block by block: all queries of a block of documents at a time.

    `units` says of each query which unit it belongs to; blocks with one array of units have the same queries.
    """

    thresholds: np.ndarray
    relevant: int = 0
    weight: float = 1.0

    def __post_init__(self) -> None:
        self._totals = np.zeros((len(self.thresholds), len(COLUMNS)))
        self._totals[:, 0] = self.thresholds
        # Of each array of units: it, and counts (relevant or others, rows, k) of queries, and of units by their documents.
        self._parts: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        # Of documents that are units of their own: how many, sums, and sums of products.
        self._alone, self._sums = 0, np.zeros((5, len(self.thresholds)))

    def add(
        self, units: np.ndarray, scores: np.ndarray, relevant: np.ndarray, documents: np.ndarray, weight: float = 1.0
    ) -> None:
        """A block: scores (q, d), which are relevant, the unit of each document (-1: its own), and how many documents of the
        collection each other one stands for."""
        k = len(self.thresholds)
        if id(units) not in self._parts:
            self._parts[id(units)] = units, np.zeros((2, len(units), k)), np.zeros((2, int(units.max()) + 1, k))
        _, by_query, by_unit = self._parts[id(units)]
        across = units[:, None] != documents
        right, wrong = (_reached(self.thresholds, scores, one, 0) for one in (relevant, ~relevant))
        t, w = (_reached(self.thresholds, scores, one & across, 1) for one in (relevant, ~relevant))
        by_query += np.stack([right, weight * wrong])
        others, across_others = wrong.sum(axis=0), w.sum(axis=0)
        columns = (right.sum(axis=0), others, weight * others, weight**2 * others)
        self._totals[:, 1:7] += np.stack([*columns, t.sum(axis=0), weight**2 * across_others], axis=1)
        linked = documents >= 0
        for number, one in enumerate((t, weight * w)):
            np.add.at(by_unit[number], documents[linked], one[linked])
        t, w = t[~linked], weight * w[~linked]
        self._alone += len(t)
        self._sums += np.stack([one.sum(axis=0) for one in (t, w, t * t, t * w, w * w)])
        self.relevant += int(relevant.sum())
        self.weight = max(self.weight, weight)

    def curve(self) -> Curve:
        """What was added. Sums of products are about the mean: how many queries and documents there are is no chance."""
        totals, n = self._totals.copy(), max(self._alone, 1)
        t, w, tt, tw, ww = self._sums
        totals[:, 7:] += np.stack([tt - t * t / n, tw - t * w / n, ww - w * w / n], axis=1)
        for units, by_query, by_unit in self._parts.values():
            both = by_unit.copy()
            for number, one in enumerate(by_query):
                np.add.at(both[number], units, one)
            t, w = both[:, np.unique(units)]
            t, w = t - t.mean(axis=0), w - w.mean(axis=0)
            totals[:, 7:] += np.stack([(t * t).sum(axis=0), (t * w).sum(axis=0), (w * w).sum(axis=0)], axis=1)
        return Curve(totals, self.relevant, self.weight)


def _reached(thresholds: np.ndarray, scores: np.ndarray, chosen: np.ndarray, axis: int) -> np.ndarray:
    """How many of the scores chosen reach each threshold, by query (axis 0) or by document (axis 1): (n, k)."""
    at = np.nonzero(chosen & (scores >= thresholds[0]))
    level = np.searchsorted(thresholds, scores[at], side="right") - 1
    rows, k = scores.shape[axis], len(thresholds)
    counts = np.bincount(at[axis] * k + level, minlength=rows * k).reshape(rows, k)
    return counts[:, ::-1].cumsum(axis=1)[:, ::-1].astype(np.float64)
