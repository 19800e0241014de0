"""What the demo reads off two sets of paired embeddings: gap, retrieval, mixing. For small sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastrealign.core.reference import project
from fastrealign.diagnostics import gap, mixing

RECALL_AT = (1, 5, 10)
NEIGHBOURS = 20


@dataclass(frozen=True)
class Reading:
    """gap      |mean(text) - mean(image)| of the unit rows
    recall   share of captions whose own picture is among the k most similar, for each k of RECALL_AT
    mixing   share of the 20 nearest neighbours that are of the other modality, over all rows of both; 0.5 is mixed
    """

    gap: float
    recall: dict[int, float]
    mixing: float


def read(text: np.ndarray, image: np.ndarray) -> Reading:
    """Readings of two (n, d) arrays, any float type; row i of one belongs to row i of the other. In float64."""
    return Reading(
        gap=gap(image, text),
        recall=recall(text, image),
        mixing=mixing(image, text, k=NEIGHBOURS, rows=None).rate.value,
    )


def recall(text: np.ndarray, image: np.ndarray) -> dict[int, float]:
    """A tie counts against the true picture."""
    similarity = project(text) @ project(image).T
    rank = (similarity >= np.diag(similarity)[:, None]).sum(1)
    return {k: float(np.mean(rank <= k)) for k in RECALL_AT}
