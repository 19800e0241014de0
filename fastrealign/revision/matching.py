"""The row of the embeddings that each example is about: by its id, or else by the path of its image (data/image_paths.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.image_paths import is_tail
from fastrealign.data.lookup import Embeddings
from fastrealign.data.options import check_choice
from fastrealign.revision.conversations import Example
from fastrealign.revision.examples import Rows

# Examples that are looked up at a time.
_STEP = 1 << 12
# What happens to an example without an embedding, or without a response within max_length.
MISSING = ("error", "skip")


class Selected(Rows):
    """The examples at some places of a sequence.

    Parameters
    ----------
    examples
        The whole sequence.
    chosen
        Places in it, int64 (n,), ascending.
    by_image
        How many of them were found by their image, since no row has their id.

    Attributes
    ----------
    left_out : int
        How many of the whole sequence are not among them.
    """

    def __init__(self, examples: Sequence[Example], chosen: np.ndarray, by_image: int = 0) -> None:
        self._examples, self._chosen, self.by_image = examples, chosen, by_image
        self.left_out = len(examples) - len(chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    def _at(self, i: int) -> Example:
        return self._examples[int(self._chosen[i])]


def available(
    examples: Sequence[Example], embeddings: Embeddings, missing: str = "error", progress: Progress = SILENT
) -> Selected:
    """The examples that have an embedding, looked up before training. Reads no embedding.

    Parameters
    ----------
    missing
        "error": an example without an embedding is an InputError, with the first id, their number and where they were looked
        for. "skip": they are left out, and counted in `left_out`.

    Raises
    ------
    InputError
        Also if none is left; if the id of an example is that of one row and its image's path that of another; and if one row
        is the nearest to two images.
    """
    check_choice("missing", missing, MISSING)
    there = np.zeros(len(examples), dtype=bool)
    found = _Found(embeddings)
    with progress.running("looking up ids", len(examples)):
        for lo in range(0, len(examples), _STEP):
            part = examples[lo : lo + _STEP]
            numbers = embeddings.find(*names_of(part, embeddings))
            there[lo : lo + len(part)] = numbers >= 0
            found.add(part, numbers)
            progress.advance(len(part), 0)
    without = np.flatnonzero(~there)
    if len(without) and (missing == "error" or len(without) == len(examples)):
        raise embeddings.missing(examples[int(without[0])].id, len(without), len(examples))
    return Selected(examples, np.flatnonzero(there), found.by_image)


class _Found:
    """The image by which each row was found. Two for one row are an error: a shortened path does not distinguish them."""

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings
        self._image_of: dict[int, str] = {}
        self.by_image = 0

    def add(self, examples: Sequence[Example], numbers: np.ndarray) -> None:
        own = self._embeddings.exact([example.id for example in examples])
        named = [i for i, example in enumerate(examples) if example.image is not None]
        for i, row in zip(named, self._embeddings.exact([str(examples[i].image) for i in named]), strict=True):
            if 0 <= row != own[i] >= 0:
                raise InputError(
                    f"{self._embeddings.name}: the id {examples[i].id!r} of an example is that of {self._where(own[i])}, its "
                    f"image {examples[i].image!r} that of {self._where(row)}; give it the id of its row, or leave image out"
                )
        for i in map(int, np.flatnonzero((own < 0) & (numbers >= 0))):
            self.by_image += 1
            image = examples[i].image or examples[i].id
            other = self._image_of.setdefault(int(numbers[i]), image)
            if other != image and not is_tail(other, image):
                raise InputError(
                    f"{self._where(numbers[i])}: is the nearest to two images, {other!r} and {image!r}; give the rows ids that "
                    "distinguish them, or give the examples the ids of their rows"
                )
            self._image_of[int(numbers[i])] = max(other, image, key=len)

    def _where(self, row: int) -> str:
        return self._embeddings.where(int(row))


def names_of(examples: Sequence[Example], embeddings: Embeddings) -> tuple[list[Any], ...]:
    """The keys by which examples are looked up: ids, and the paths of their images if `embeddings` can look these up."""
    ids = [example.id for example in examples]
    return (ids, [example.image for example in examples]) if isinstance(embeddings, Embeddings) else (ids,)
