"""Reading what `python -m bench.paper.real` made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastrealign.core.errors import InputError

# Folders that are no subject, and the fewest pictures to fit on that make a category one of a classifier's.
NO_SUBJECT, LEAST = ("unsorted", "special", ""), 25
KINDS = {"A": "MLP, learned scale", "B": "linear, learned scale", "C": "MLP, scale 60"}


def heads_of(
    folder: Path, kind: str, sides: Sequence[str] = ("image", "title", "long")
) -> dict[int, dict[str, np.ndarray]]:
    """Embeddings of all pictures by the heads of one kind, by seed and side (n, d)."""
    found = sorted(
        int(path.name[len(kind) :].split("_")[0]) for path in (folder / "heads").glob(f"{kind}[0-9]*_image.npy")
    )
    if not found:
        raise InputError(f"{folder}/heads: no {kind}SEED_image.npy; python -m bench.paper.real makes them")
    return {seed: {side: np.load(folder / "heads" / f"{kind}{seed}_{side}.npy") for side in sides} for seed in found}


def labels(folder: Path) -> np.ndarray:
    """The category of each picture, "" where a classifier is not asked for it."""
    split, category = np.load(folder / "split.npy"), np.load(folder / "categories.npy")
    names, counts = np.unique(category[split == "fit"], return_counts=True)
    asked = [name for name, count in zip(names, counts, strict=True) if count >= LEAST and name not in NO_SUBJECT]
    return np.where(np.isin(category, asked), category, "")


def unpaired(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the pictures whose text, and of the others whose image, alignments are fitted on."""
    fit = np.random.default_rng(0).permutation(np.flatnonzero(np.load(folder / "split.npy") == "fit"))
    first, second = np.array_split(fit, 2)
    return first, second
