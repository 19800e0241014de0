"""Real pictures and their titles, embedded by a real pair of encoders: what ships with fastrealign.

6,827 clip-art pictures in the public domain (Debian's openclipart 0.18), embedded by the CLIP-like head of `python -m
bench.paper.real` over two frozen towers: a thin ResNet-50 for pictures, bge-small-en for text. data/real_about.txt states
licences and provenance.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from fastrealign.cli.demo.shipped import DATA, readable
from fastrealign.core.optional import optional

if TYPE_CHECKING:
    from PIL.Image import Image

SIDES = ("image", "title", "long")
COLUMNS = ("id", "category", "split", "title", "long")
WORDS, SHEET = "real_words.tsv.gz", "real_thumbs.webp"
THUMB, WIDE = 56, 32  # pixels of a small picture, pictures in a row of the sheet


@dataclass(frozen=True, eq=False)
class RealWorld:
    """Pictures with two captions each; row i of everything is of one picture.

    Attributes
    ----------
    image, title, long
        Unit rows of the pictures, their titles, and their long captions (title, keywords, description): float16 (n, 128).
    ids, categories, titles, longs
        Path in the packages, without the ending; the first folder of it; the two captions: str (n,).
    split
        "train": the encoder's head was trained on these; "fit": to fit alignments on; "test": held out; "duplicate": more of a
        group of near-duplicates, to leave out. A group of near-duplicates lies in one part.
    """

    image: np.ndarray
    title: np.ndarray
    long: np.ndarray
    ids: np.ndarray
    categories: np.ndarray
    split: np.ndarray
    titles: np.ndarray
    longs: np.ndarray

    def part(self, name: str) -> RealWorld:
        """Its rows of one part of the split."""
        at = self.split == name
        return RealWorld(**{field: rows[at] for field, rows in vars(self).items()})


def load() -> RealWorld:
    """All shipped pictures.

    >>> world = load()
    >>> world.image.shape, sorted(set(world.split.tolist()))
    ((6827, 128), ['duplicate', 'fit', 'test', 'train'])
    """
    with readable(DATA / WORDS) as path:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()[1:]
        ids, categories, split, titles, longs = map(np.array, zip(*(line.split("\t") for line in lines), strict=True))
    rows = {}
    for side in SIDES:
        with readable(DATA / f"real_{side}.npy") as path:
            rows[side] = np.load(path)
    return RealWorld(ids=ids, categories=categories, split=split, titles=titles, longs=longs, **rows)


def thumbnail(number: int) -> Image:
    """A small picture, 56 pixels wide and high: of row `number` of the part "test". Needs Pillow, which matplotlib brings."""
    left, top = number % WIDE * THUMB, number // WIDE * THUMB
    return _sheet().crop((left, top, left + THUMB, top + THUMB))


@cache
def _sheet() -> Image:
    pillow = optional("PIL.Image", "demo", "a picture")
    with readable(DATA / SHEET) as path:
        image: Image = pillow.open(path).convert("RGB")
    return image
