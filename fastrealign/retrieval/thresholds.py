"""Thresholds of a stated precision, from the scores of labelled queries against a whole collection.

Precision is the share of relevant ones among all query-document pairs that score at least the threshold. It depends on how
rare relevant documents are, so it is counted on all documents that users search, never on balanced pairs. Each document given
that is not relevant may stand for `weight` of them, where users search more documents than are given.

The interval is that of Clopper and Pearson for an effective number of pairs (Korn and Graubard, Survey Methodology 24, 1998):
pairs of one query are not independent, nor are those of one document, which is similar to many queries. The variance of the
ratio is that of clusters in both directions (Cameron, Gelbach and Miller, J. Bus. Econ. Stat. 29, 2011). A bootstrap over
queries would see neither documents nor, where no pair is wrong, any spread.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.optional import optional

LEVEL = 0.95
# No threshold is told by fewer pairs.
LEAST = 30
# Most thresholds of a curve: they lie at scores of relevant pairs, evenly spaced by rank.
MOST = 256
# Columns of a curve, over the pairs at or above a threshold: relevant ones; others; others by weight, and by its square;
# then sums over queries and over documents of squares and products of relevant (t) and weighted other (w) counts.
COLUMNS = ("threshold", "relevant", "others", "weighted", "squares", "tt_q", "tw_q", "ww_q", "tt_d", "tw_d", "ww_d")


@dataclass(frozen=True)
class Threshold:
    """A threshold on calibrated scores; `float` of it is `value`, and it prints what it promises.

    Attributes
    ----------
    value : float
        Results with at least this score are kept.
    precision, interval : float, (float, float)
        The share of relevant ones among the query-document pairs kept, and its interval at level 0.95.
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
            f"(95 % interval {low:.3f} to {high:.3f}) and recall {self.recall:.3f}, by {self.labelled:,} labelled pairs"
        )


@dataclass(frozen=True, eq=False)
class Curve:
    """Counts at each threshold (k, COLUMNS), ascending; `relevant` labelled pairs, `weight` the largest of any document."""

    counts: np.ndarray
    relevant: int
    weight: float

    def threshold(self, precision: float, pair: str) -> Threshold:
        """The lowest threshold of at least this precision. InputError where none has it or labelled pairs are too few."""
        if isinstance(precision, bool) or not isinstance(precision, (int, float)) or not 0.0 < precision < 1.0:
            raise InputError(f"precision {precision!r}: expected a number between 0 and 1, such as 0.9")
        least = needed(precision)
        if self.relevant < least:
            raise InputError(
                f"{pair}: {self.relevant:,} labelled pairs are too few to tell a precision of {precision:g}; at least "
                f"{least:,} are needed"
            )
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in self.counts.tolist()]
        rows = [row for row in rows if row["relevant"] + row["others"] >= least]
        good = next((row for row in rows if _precision(row) >= precision), None)
        if good is None:
            best = max(rows, key=_precision)
            raise InputError(
                f"{pair}: no threshold that keeps {least:,} or more of the scored pairs has a precision of {precision:g}; the "
                f"highest is {_precision(best):.3f}, at {best['threshold']:.8g}"
            )
        kept = int(good["relevant"] + good["others"])
        recall = good["relevant"] / self.relevant
        interval = self._interval(good)
        return Threshold(good["threshold"], _precision(good), interval, recall, self.relevant, kept, pair)

    def _interval(self, row: dict[str, float]) -> tuple[float, float]:
        p, kept = _precision(row), row["relevant"] + row["weighted"]
        n = row["relevant"] + row["others"]
        if row["others"] == 0:  # no spread to measure: one other would count `weight` times
            effective = n / self.weight
        else:
            by_pair = (1 - p) ** 2 * row["relevant"] + p**2 * row["squares"]
            query, document = (
                (1 - p) ** 2 * row[f"tt_{by}"] - 2 * p * (1 - p) * row[f"tw_{by}"] + p**2 * row[f"ww_{by}"]
                for by in ("q", "d")
            )
            variance = max(query + document - by_pair, query, document) / kept**2
            effective = min(n, p * (1 - p) / variance) if variance > 0 else n
        return clopper_pearson(p, effective)


def _precision(row: dict[str, float]) -> float:
    return row["relevant"] / (row["relevant"] + row["weighted"])


def needed(precision: float) -> int:
    """The fewest pairs with which, were all right, the interval would exclude a lower precision; LEAST or more."""
    return max(LEAST, math.ceil(math.log((1 - LEVEL) / 2) / math.log(precision)))


def clopper_pearson(share: float, n: float) -> tuple[float, float]:
    """The interval of a share of n (which need not be whole) at LEVEL."""
    quantile = optional("scipy.special", "sklearn", "the interval of a threshold").betaincinv
    right, tail = share * n, (1 - LEVEL) / 2
    low = float(quantile(right, n - right + 1, tail)) if right > 0 else 0.0
    high = float(quantile(right + 1, n - right, 1 - tail)) if share < 1 else 1.0
    return low, high


def candidates(scores: np.ndarray) -> np.ndarray:
    """At most MOST of the scores (n,), distinct and ascending, the smallest and the largest among them."""
    distinct = np.unique(scores)
    return distinct[np.unique(np.linspace(0, len(distinct) - 1, MOST).round().astype(int))]


@dataclass
class Counting:
    """Adds up a Curve at given thresholds, block by block: all queries of a block of documents at a time."""

    thresholds: np.ndarray
    totals: np.ndarray = field(init=False)
    queries: dict[Hashable, np.ndarray] = field(default_factory=dict)
    relevant: int = 0
    weight: float = 1.0

    def __post_init__(self) -> None:
        self.totals = np.zeros((len(self.thresholds), len(COLUMNS)))
        self.totals[:, 0] = self.thresholds

    def add(self, group: Hashable, scores: np.ndarray, relevant: np.ndarray, weight: float) -> None:
        """A block: scores (q, d), which are relevant, and for how many of the collection each other one stands.

        Blocks of one `group` have the same queries. Of a document, all queries have to be in one block.
        """
        reached = [_reached(self.thresholds, scores, chosen) for chosen in (relevant, ~relevant)]
        by_query, by_document = zip(*reached, strict=True)
        mine = self.queries.setdefault(group, np.zeros((2, *by_query[0].shape)))
        mine += np.stack([by_query[0], weight * by_query[1]])
        others = by_query[1].sum(axis=0)
        self.totals[:, 1:5] += np.stack([by_query[0].sum(axis=0), others, weight * others, weight**2 * others], axis=1)
        self.totals[:, 8:11] += _products(by_document[0], weight * by_document[1])
        self.relevant += int(relevant.sum())
        self.weight = max(self.weight, weight)

    def curve(self) -> Curve:
        """What was added."""
        for right, wrong in self.queries.values():
            self.totals[:, 5:8] += _products(right, wrong)
        self.queries.clear()
        return Curve(self.totals, self.relevant, self.weight)


def _products(t: np.ndarray, w: np.ndarray) -> np.ndarray:
    return np.stack([(t * t).sum(axis=0), (t * w).sum(axis=0), (w * w).sum(axis=0)], axis=1)


def _reached(thresholds: np.ndarray, scores: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of the scores chosen reach each threshold, by query (q, k) and by document (d, k)."""
    at = np.nonzero(chosen & (scores >= thresholds[0]))
    level = np.searchsorted(thresholds, scores[at], side="right") - 1
    k = len(thresholds)
    query, document = (
        np.bincount(one * k + level, minlength=rows * k).reshape(rows, k)[:, ::-1].cumsum(axis=1)[:, ::-1]
        for one, rows in zip(at, scores.shape, strict=True)
    )
    return query.astype(np.float64), document.astype(np.float64)
