"""How much of the recall of re-embedding a map keeps: search in mapped rows against search in really re-embedded ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.wording import option
from fastrealign.diagnostics.search import nearest
from fastrealign.storage.record_rules import COUNT, NOT_NEGATIVE, Rule, or_none

# Results that a search shows.
TOP = 10
# A search among fewer documents than this is no test.
FEWEST = 2 * TOP
# Among fewer, a document is easily one of the ten: no advice to use a map rests on them.
_ENOUGH = 20 * TOP
CONFIDENCE = 0.95
_RESAMPLES = 1000
# The share above which a map keeps the recall of re-embedding, and below which it does not.
KEEPS, LOSES = 0.95, 0.9
# Where fewer mapped rows find their own re-embedded one, something else is wrong than the map.
_STRANGERS = 0.5
# Where the interval is wider than this, more held-out pairs come first.
_WIDE = 0.1

RECORD: dict[str, Rule] = {
    "documents": COUNT,
    "kept": NOT_NEGATIVE,
    "low": NOT_NEGATIVE,
    "high": NOT_NEGATIVE,
    "own": NOT_NEGATIVE,
    "neighbours": NOT_NEGATIVE,
    "mapped": or_none(NOT_NEGATIVE),
    "re_embedded": or_none(NOT_NEGATIVE),
}


@dataclass(frozen=True)
class Kept:
    """Recall on held-out pairs, whose documents are searched with queries of the new encoder.

    Attributes
    ----------
    documents : int
        Held-out pairs: so many documents are searched.
    kept, low, high : float
        The share of the recall of re-embedding that is kept, and its 95 % bootstrap interval over queries. With queries:
        `mapped` / `re_embedded`. Without: `neighbours`.
    own : float
        R@10 of each mapped row, as a query, among the re-embedded rows: how often its own is found.
    neighbours : float
        The share of the ten nearest re-embedded documents that the ten nearest mapped ones hold, each re-embedded row being a
        query and not a result. Harsher than recall: documents that are nearly as near change places.
    mapped, re_embedded : float or None
        R@10 of the queries in mapped and in re-embedded documents: how often a query's own document is found.
    """

    documents: int
    kept: float
    low: float
    high: float
    own: float
    neighbours: float
    mapped: float | None = None
    re_embedded: float | None = None

    @property
    def advice(self) -> str:
        """What to do, from the interval."""
        share = f"{self.kept:.1%}"
        if self.own < _STRANGERS:
            return (
                f"only {self.own:.0%} of the mapped rows find their own re-embedded row among the ten nearest: are the pairs "
                "matched, and all of one modality?"
            )
        if self.documents < _ENOUGH and self.high >= LOSES:
            return (
                f"{self.documents} held-out documents are too few to tell: ten of them are found easily; give more pairs, for "
                f"{_ENOUGH} or more"
            )
        if self.low >= KEEPS:
            return f"use the map: it keeps {share} of the recall of re-embedding"
        if self.high < LOSES and self.re_embedded is None:
            return (
                f"the map keeps {share} of the nearest documents: re-embed, or measure the recall that users see, with queries "
                "of the new encoder"
            )
        if self.high < LOSES:
            return f"re-embed: the map keeps only {share}"
        if self.high - self.low > _WIDE:
            return f"{self.documents} held-out pairs do not tell: the interval is wide; give more pairs"
        return f"between: the map keeps {share}; more pairs or the other method may keep more, re-embedding keeps all"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "advice": self.advice}

    def __str__(self) -> str:
        interval = f"{CONFIDENCE:.0%} interval {self.low:.3f} to {self.high:.3f}"
        if self.re_embedded is None:
            what = f"of the {TOP} nearest of {self.documents:,} re-embedded documents"
        else:
            what = (
                f"R@{TOP} {self.mapped:.3f} in {self.documents:,} mapped documents, {self.re_embedded:.3f} re-embedded"
            )
        return f"{self.kept:.3f} ({interval}): {what}"


def recall_kept(mapped: np.ndarray, new: np.ndarray, queries: np.ndarray | None = None, seed: int = 0) -> Kept:
    """Measure on held-out pairs: float64 unit rows (n, d) of the mapped and the re-embedded documents, and of their queries.

    Raises InputError for fewer than FEWEST pairs, and where no query finds its document in the re-embedded ones.
    """
    n = len(new)
    if n < FEWEST:
        raise InputError(
            f"{n} held-out pairs, expected at least {FEWEST} to measure the recall that a map keeps; give more pairs, or "
            f"{option('held_out', 0)} for a map that is not measured"
        )
    number = np.arange(n)
    own = _found(mapped, new, number).mean()
    truth = nearest(new, new, TOP, own=number).numbers
    got = nearest(new, mapped, TOP, own=number).numbers
    overlap = (truth[:, :, None] == got[:, None, :]).any(2).mean(1)
    shares = float(own), float(overlap.mean())
    if queries is None:
        low, high = _interval(overlap, np.ones(n), seed)
        return Kept(n, shares[1], low, high, *shares)
    there, here = _found(queries, new, number), _found(queries, mapped, number)
    if not there.any():
        raise InputError(
            f"none of {n} queries finds its document among the {TOP} nearest re-embedded ones: are the queries of the new "
            "encoder, row i of them for row i of new?"
        )
    low, high = _interval(here.astype(float), there.astype(float), seed)
    return Kept(n, float(here.mean() / there.mean()), low, high, *shares, float(here.mean()), float(there.mean()))


def _found(queries: np.ndarray, documents: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Whether the document of each query's number is among the nearest: bool (n,)."""
    return (nearest(queries, documents, TOP).numbers == number[:, None]).any(1)


def _interval(above: np.ndarray, below: np.ndarray, seed: int) -> tuple[float, float]:
    """The percentile bootstrap interval of sum(above) / sum(below), over queries."""
    rng, n = np.random.default_rng(seed), len(above)
    ratios = []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(n, size=n)
        if (total := below[drawn].sum()) > 0:
            ratios.append(above[drawn].sum() / total)
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(ratios, [tail, 1.0 - tail])
    return float(low), float(high)
