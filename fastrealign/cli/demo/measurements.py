"""Gap, retrieval and mixing of two small sets of paired embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastrealign.core.reference import project
from fastrealign.diagnostics import gap, mixing

RECALL_AT = (1, 5, 10)
NEIGHBOURS = 20


@dataclass(frozen=True)
class Measurement:
    """Metrics of paired embeddings.

    Attributes
    ----------
    gap
        |mean(text) - mean(image)| of the unit rows.
    recall
        By k of RECALL_AT: share of captions whose own image is among the k most similar.
    mixing
        Share of the 20 nearest neighbours that are of the other modality, over all rows of both; 0.5 is mixed.
    """

    gap: float
    recall: dict[int, float]
    mixing: float


def measure_pairs(text: np.ndarray, image: np.ndarray) -> Measurement:
    """Metrics, in float64, of two arrays (n, d) of any float dtype, whose rows i belong together."""
    return Measurement(
        gap=gap(image, text), recall=recall(text, image), mixing=mixing(image, text, k=NEIGHBOURS, rows=None).rate.value
    )


def recall(text: np.ndarray, image: np.ndarray) -> dict[int, float]:
    """Share of rows of `text` whose `image` is among the k most similar, by k; a tie counts as a miss."""
    similarity = project(text) @ project(image).T
    rank = (similarity >= np.diag(similarity)[:, None]).sum(1)
    return {k: float(np.mean(rank <= k)) for k in RECALL_AT}
