"""Near-duplicates grouped, and groups parted, so that no picture of one part is nearly one of another."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

SIMILAR = 0.95  # cosine of the features less their mean
SHARES = {"test": 0.25, "fit": 0.25}  # of the groups; the rest is "train"
MOST = {"test": 1, "fit": 4, "train": 4}  # pictures of a group; further ones are "duplicate"
BLOCK = 1024


def groups(features: np.ndarray, titles: Sequence[str]) -> np.ndarray:
    """Number of the group of each picture (n,).

    Two pictures are of one group if the cosine of their features is above SIMILAR or their titles are equal without numbers and
    punctuation, or through others.
    """
    root = list(range(len(titles)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    first: dict[str, int] = {}
    for i, title in enumerate(titles):
        key = " ".join(re.sub(r"[\W\d_]+", " ", title.lower()).split()) or title.lower()
        root[find(i)] = find(first.setdefault(key, i))
    rows = features - features.mean(0)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    for start in range(0, len(rows), BLOCK):
        near = np.argwhere(rows[start : start + BLOCK] @ rows.T > SIMILAR)
        for i, j in near[near[:, 0] + start < near[:, 1]]:
            root[find(int(i) + start)] = find(int(j))
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(find(i), len(numbers)) for i in range(len(root))])


def split(group: np.ndarray, seed: int = 0) -> np.ndarray:
    """Part of each picture (n,): "train" (of the heads), "fit" (of alignments), "test" (one of a group) or "duplicate"."""
    rng = np.random.default_rng(seed)
    n = int(group.max()) + 1
    order = rng.permutation(len(group))
    ends = np.cumsum([int(share * n) for share in SHARES.values()])
    of_group = np.full(n, "train", "U9")
    for part, numbers in zip(SHARES, np.split(rng.permutation(n), ends), strict=False):
        of_group[numbers] = part
    parts = of_group[group]
    taken = np.zeros(n, int)
    for i in order:
        taken[group[i]] += 1
        if taken[group[i]] > MOST[of_group[group[i]]]:
            parts[i] = "duplicate"
    return parts
