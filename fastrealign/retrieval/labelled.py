"""The rows of one modality pair, all their scores block by block, and what is counted over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fastrealign.core.checks import SEED, whole
from fastrealign.core.errors import InputError, warn
from fastrealign.core.formatting import count, does
from fastrealign.data.row_source import RowsLike, RowSource
from fastrealign.data.sources import names_files, open_rows
from fastrealign.diagnostics.unit_rows import BLOCK_ROWS, count_rows, sample, unit_blocks
from fastrealign.retrieval.array_arguments import ArrayLike, array_of
from fastrealign.retrieval.calibration import LABELLED, Calibration, fit_background, fit_labelled
from fastrealign.retrieval.thresholds import Counting, Curve, candidates

# A modality pair: the role of the query, the role of the document.
Pair: TypeAlias = tuple[str, str]
# Rows of a side that random pairs are made of.
BACKGROUND_ROWS = 2000
# Scores of pairs that are not relevant that a labelled calibration is fitted on.
NEGATIVES = 1_000_000
# Scores of a block.
BLOCK_SCORES = 1 << 22
LEAST_ROWS, LEAST_LABELS = 10, 30
# A threshold lies this far below the cosine of its pair, so that rounding in float32 elsewhere does not lose it.
_BELOW = 1e-7


@dataclass(frozen=True, eq=False)
class ModalityPair:
    """Queries and documents of one modality pair.

    Attributes
    ----------
    queries : RowSource
    documents : RowSource
    labels : ndarray or None
        int64 (m, 2), sorted by document: the relevant pairs.
    weight : float
        How many documents of the collection each one stands for that is not relevant.
    seed : int
    """

    queries: RowSource
    documents: RowSource
    labels: np.ndarray | None
    weight: float
    seed: int

    def calibration(self, method: str) -> Calibration:
        """The fitted map of this pair."""
        if method in LABELLED:
            relevant, others, each = self.drawn()
            scores = np.concatenate([relevant, others])
            weights = np.r_[np.ones(len(relevant)), np.full(len(others), each)]
            return fit_labelled(method, scores, np.arange(len(scores)) < len(relevant), weights)
        query, document = (
            sample(side, BACKGROUND_ROWS, (self.seed + number) % SEED)[1]
            for number, side in enumerate((self.queries, self.documents))
        )
        return fit_background(method, (query @ document.T).ravel())

    def unit_queries(self) -> np.ndarray:
        """All queries, float64 unit rows."""
        return sample(self.queries, None, self.seed)[1]

    def drawn(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Cosines of all relevant pairs, of a random draw of the others, and how many each of those stands for."""
        assert self.labels is not None
        total = count_rows(self.queries) * count_rows(self.documents) - len(self.labels)
        share = min(1.0, NEGATIVES / total)
        rng = np.random.default_rng(self.seed)
        relevant, others = [], []
        for cosines, hit in self.blocks(self.unit_queries()):
            relevant.append(cosines[hit])
            rest = cosines[~hit]
            others.append(rest if share == 1.0 else rest[rng.random(len(rest)) < share])
        kept = np.concatenate(others)
        return np.concatenate(relevant), kept, self.weight * total / len(kept)

    def blocks(self, queries: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(cosines, whether relevant), both (queries, documents of a block)."""
        assert self.labels is not None
        size = max(1, min(BLOCK_ROWS, BLOCK_SCORES // len(queries)))
        for first, rows in unit_blocks(self.documents, size=size):
            here = slice(*np.searchsorted(self.labels[:, 1], [first, first + len(rows)]))
            hit = np.zeros((len(queries), len(rows)), bool)
            hit[self.labels[here, 0], self.labels[here, 1] - first] = True
            yield (queries @ rows.T).clip(-1.0, 1.0), hit


def open_pair(
    queries: RowsLike, documents: RowsLike, labels: ArrayLike | None, collection: int | None, seed: int
) -> ModalityPair:
    """Check and open what the user gave for one modality pair."""
    sides = (
        open_rows(queries, "source" if names_files(queries) else "queries"),
        open_rows(documents, "target" if names_files(documents) else "documents"),
    )
    counts = tuple(map(count_rows, sides))
    if sides[0].d != sides[1].d:
        raise InputError(f"queries are {sides[0].d} wide, documents {sides[1].d}; both must come from one encoder pair")
    for what, rows in zip(("queries", "documents"), counts, strict=True):
        if rows < LEAST_ROWS:
            raise InputError(
                f"{count(rows, 'row')} of {what} {does(rows, 'are')} too few for a distribution of scores; at least "
                f"{LEAST_ROWS} are needed"
            )
    checked = None if labels is None else _checked_labels(labels, counts)
    if checked is not None and (without := counts[0] - len(np.unique(checked[:, 0]))) > counts[0] / 2:
        warn(
            f"{without:,} of {counts[0]:,} queries {does(without, 'have')} no labelled document, and so nothing "
            f"relevant, but {does(without, 'count')} as judged; "
            "give the judged queries alone"
        )
    weight = 1.0
    if collection is not None and checked is not None:
        collection = whole("collection", collection, counts[1], why="all documents that are searched")
        weight = (counts[0] * collection - len(checked)) / (counts[0] * counts[1] - len(checked))
    return ModalityPair(*sides, checked, weight, seed)


def _checked_labels(labels: Any, counts: tuple[int, ...]) -> np.ndarray:
    found = array_of(labels, "labels", "iu")
    if not found.size:
        raise InputError("labels: hold no pair; give the rows of queries and documents that belong together")
    if found.ndim != 2 or found.shape[1] != 2:
        raise InputError(f"labels: shape {found.shape}, expected (pairs, 2): row of the query, row of the document")
    if len(found) < LEAST_LABELS:
        raise InputError(f"{count(len(found), 'labelled pair', 'are')} too few; at least {LEAST_LABELS} are needed")
    found = found.astype(np.int64)
    for column, what in enumerate(("queries", "documents")):
        wrong = np.flatnonzero((found[:, column] < 0) | (found[:, column] >= counts[column]))
        if len(wrong):
            raise InputError(
                f"labels: pair {wrong[0]} is {tuple(found[wrong[0]].tolist())}, but {what} are rows 0 to {counts[column] - 1}"
            )
    order = np.lexsort((found[:, 0], found[:, 1]))
    twice = np.flatnonzero((np.diff(found[order], axis=0) == 0).all(axis=1))
    if len(twice):
        raise InputError(f"labels: the pair {tuple(found[order[twice[0]]].tolist())} is there twice; remove one")
    if len(found) == counts[0] * counts[1]:
        raise InputError("labels: every pair is relevant; a threshold and a probability need documents that are not")
    return found[order]


def curves_of(opened: Mapping[Pair, ModalityPair], maps: Mapping[Pair, Calibration]) -> dict[Pair | None, Curve]:
    """The curve of each labelled pair, and of all together (None) where every pair is labelled."""
    labelled = {pair: one for pair, one in opened.items() if one.labels is not None}
    at = {pair: maps[pair](one.drawn()[0] - _BELOW) for pair, one in labelled.items()}
    together = Counting(candidates(np.concatenate(list(at.values())))) if 0 < len(labelled) == len(opened) else None
    curves: dict[Pair | None, Curve] = {}
    for queries, group in _by_queries(labelled):
        units, of_documents = _units(len(queries), group)
        for pair, one in group.items():
            counting, first = Counting(candidates(at[pair])), 0
            for cosines, hit in one.blocks(queries):
                here = of_documents[pair][first : first + hit.shape[1]]
                for each in (counting, together):
                    if each is not None:
                        each.add(units, maps[pair](cosines), hit, here, one.weight)
                first += hit.shape[1]
            curves[pair] = counting.curve()
    if together is not None:
        curves[None] = together.curve()
    return curves


def _by_queries(labelled: Mapping[Pair, ModalityPair]) -> Iterator[tuple[np.ndarray, dict[Pair, ModalityPair]]]:
    """Pairs of one query role and the same rows, whose results are not independent, with those rows."""
    left = dict(labelled)
    while left:
        (role, _), first = next(iter(left.items()))
        queries = first.unit_queries()
        same = {
            pair: one
            for pair, one in left.items()
            if one is first or (pair[0] == role and np.array_equal(one.unit_queries(), queries))
        }
        left = {pair: one for pair, one in left.items() if pair not in same}
        yield queries, same


def _units(queries: int, group: Mapping[Pair, ModalityPair]) -> tuple[np.ndarray, dict[Pair, np.ndarray]]:
    """The unit of each query, and of each document, -1 where it is relevant to no query.

    Queries with a relevant document in common are one unit. Where that leaves too few units, as with classes for labels, each
    query is one, and a document belongs to its first.
    """
    starts = np.cumsum([0, *(count_rows(one.documents) for one in group.values())])
    labels = [np.add(one.labels, (0, start)) for one, start in zip(group.values(), starts[:-1], strict=True)]  # type: ignore[arg-type]
    query, document = np.concatenate(labels).T
    unit, before = np.arange(queries), np.empty(0)
    alone = np.full(starts[-1], queries)
    np.minimum.at(alone, document, query)
    while not np.array_equal(unit, before):
        before, shared = unit.copy(), np.full(starts[-1], queries)
        np.minimum.at(shared, document, unit[query])
        np.minimum.at(unit, query, shared[document])
    if len(np.unique(unit[query])) < LEAST_LABELS:
        unit, shared = np.arange(queries), alone
    shared[shared == queries] = -1
    return unit, {pair: shared[lo:hi] for pair, lo, hi in zip(group, starts[:-1], starts[1:], strict=True)}


def pair_name(pair: Pair) -> str:
    return f"{pair[0]} to {pair[1]}"


@contextmanager
def naming(pair: Pair) -> Iterator[None]:
    """An InputError says which modality pair it concerns."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{pair_name(pair)}: {error}") from None
