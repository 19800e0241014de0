"""Reading what `python -m bench.paper.real` made."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastrealign.core.errors import InputError

KINDS = {"A": "MLP, learned scale", "B": "linear, learned scale", "C": "MLP, scale 60"}


def heads_of(folder: Path, kind: str) -> dict[int, dict[str, np.ndarray]]:
    """Embeddings of all pictures by the heads of one kind, by seed: image, title and long (n, d)."""
    found = sorted(
        int(path.name[len(kind) :].split("_")[0]) for path in (folder / "heads").glob(f"{kind}[0-9]*_image.npy")
    )
    if not found:
        raise InputError(f"{folder}/heads: no {kind}SEED_image.npy; python -m bench.paper.real --out {folder}")
    return {
        seed: {side: np.load(folder / "heads" / f"{kind}{seed}_{side}.npy") for side in ("image", "title", "long")}
        for seed in found
    }
