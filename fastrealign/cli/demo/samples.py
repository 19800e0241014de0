"""The embeddings shipped with fastrealign, and the scenes and captions of their rows.

    image          images to fit on
    text           captions to fit on, of other scenes: unpaired
    pairs_image, pairs_text   held out: rows i are the image and a caption of the same scene

Rows are unit vectors in float16, made by bench/paper/world/shipped.py. A row's scene and caption follow from its
seed, so neither is stored.
"""

from __future__ import annotations

import random

import numpy as np

from fastrealign.cli.demo.captions import Caption, caption
from fastrealign.cli.demo.scenes import Scene, scene
from fastrealign.cli.demo.shipped import DATA, readable

SEEDS = {
    "image": range(4_000),
    "text": range(100_000, 104_000),
    "pairs_image": range(200_000, 201_000),
    "pairs_text": range(200_000, 201_000),
}
FIRST_TRAINING_SEED = 1_000_000  # training scenes count up from here

# Lengths of captions. What they omit keeps the gap open: with five to seven objects per scene, and half of the captions short,
# it was 0.87.
LENGTH_SHARES = {"short": 0.2, "long": 0.4, "complete": 0.4}


def sample_scene(seed: int) -> Scene:
    """The scene of a row or of a training example."""
    return scene(seed, "shapes")


def sample_caption(of: Scene, length: str | None = None) -> Caption:
    """A caption of the scene; its length, unless given, is drawn by LENGTH_SHARES, the same every time."""
    if length is None:
        length = random.Random(f"length {of.seed}").choices(list(LENGTH_SHARES), list(LENGTH_SHARES.values()))[0]
    return caption(of, length)


def load(name: str) -> np.ndarray:
    """One shipped set (a key of SEEDS): float16 (rows, width), row i of the scene SEEDS[name][i].

    >>> load("pairs_text").shape
    (1000, 128)
    """
    with readable(DATA / f"{name}.npy") as path:
        rows: np.ndarray = np.load(path)
    return rows
