"""What the demo reads off two sets of paired embeddings: gap, retrieval, mixing. NumPy, brute force, for small sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    text, image = unit(text), unit(image)
    return Reading(gap=gap(text, image), recall=recall(text, image), mixing=mixing(text, image))


def unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def gap(text: np.ndarray, image: np.ndarray) -> float:
    return float(np.linalg.norm(text.mean(0) - image.mean(0)))


def recall(text: np.ndarray, image: np.ndarray) -> dict[int, float]:
    """A tie counts against the true picture."""
    similarity = text @ image.T
    rank = (similarity >= np.diag(similarity)[:, None]).sum(1)
    return {k: float(np.mean(rank <= k)) for k in RECALL_AT}


def mixing(text: np.ndarray, image: np.ndarray) -> float:
    rows = np.concatenate([text, image])
    is_image = np.arange(len(rows)) >= len(text)
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)  # a row is not its own neighbour
    nearest = np.argpartition(-similarity, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    return float(np.mean(is_image[nearest] != is_image[:, None]))
