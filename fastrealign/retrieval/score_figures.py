"""Scores before and after alignment: how cosines are distributed by modality, and what a threshold on them keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fastrealign.diagnostics.unit_rows import draw, picked
from fastrealign.methods.method import Method
from fastrealign.retrieval.documents import IMAGE, TEXT, Judged, Rows
from fastrealign.retrieval.ranking import MIXED, Found

# Documents of each role whose cosines are counted, all pairs of them; edges of the bins; quantiles that are stated.
SAMPLE = 1000
EDGES = np.linspace(-1.0, 1.0, 201)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Thresholds of a curve.
STEPS = 60


@dataclass(frozen=True, eq=False)
class Distribution:
    """Cosines of pairs of documents: density over EDGES (200,), their QUANTILES, and rows sampled of each role."""

    density: np.ndarray
    quantiles: tuple[float, ...]
    rows: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision and recall of the results that score at least each threshold, over all queries: (k,) each, thresholds falling.

    Results are the first 100 of each query; precision counts what is not judged as not relevant.
    """

    threshold: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


def distributions(documents: Mapping[str, Rows], maps: Mapping[str, Method], seed: int) -> dict[str, Distribution]:
    """Of text with text, images with images, and images with text, as far as both are there; never of a row with itself."""
    rows = {}
    for role, side in documents.items():
        if side.rows > 1:
            rows[role] = picked(side.source, draw(side.rows, SAMPLE, seed), maps[role].apply)
    pairs = {"text–text": (TEXT, TEXT), "image–image": (IMAGE, IMAGE), "image–text": (IMAGE, TEXT)}
    found = {}
    for name, (one, other) in pairs.items():
        if one in rows and other in rows:
            cosines = rows[one] @ rows[other].T
            flat = cosines[np.triu_indices(len(cosines), 1)] if one == other else cosines.ravel()
            density = np.histogram(np.clip(flat, -1.0, 1.0), EDGES, density=True)[0]
            quantiles = tuple(map(float, np.quantile(flat, QUANTILES)))
            found[name] = Distribution(density, quantiles, (len(rows[one]), len(rows[other])))
    return found


def curves(found: Mapping[str, Found], judged: Judged) -> dict[str, Curve]:
    """Of the results of each role, and of both together by "mixed": one threshold for all."""
    results = {}
    for role, of in judged.relevant.items():
        best = found[role]
        # Rows of documents fit beside the query in 64 bits.
        keys = (of.query << 40) | of.document
        places = np.arange(len(best.documents))[:, None]
        relevant = np.isin((places << 40) | best.documents, keys)
        results[role] = (best.scores.ravel(), relevant.ravel(), len(keys))
    if len(results) > 1:
        scores, relevant, wanted = zip(*results.values(), strict=True)
        results[MIXED] = (np.concatenate(scores), np.concatenate(relevant), sum(wanted))
    return {role: _curve(*of) for role, of in results.items() if of[2]}


def _curve(scores: np.ndarray, relevant: np.ndarray, wanted: int) -> Curve:
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(relevant[order])
    # Equal scores are kept together: a threshold ends with the last of them. Half of the steps lie evenly by rank among all,
    # half among the relevant ones, which are few.
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    at_hits = np.searchsorted(ends, np.flatnonzero(relevant[order]))
    chosen = [np.linspace(0, len(ends) - 1, STEPS // 2).round().astype(int)]
    if len(at_hits):
        chosen.append(at_hits[np.linspace(0, len(at_hits) - 1, STEPS // 2).round().astype(int)])
    at = ends[np.unique(np.concatenate(chosen))]
    return Curve(scores[at], hits[at] / (at + 1), hits[at] / wanted)
