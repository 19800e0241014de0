"""Rows found by the path of an image, where ids and paths differ in the folders before it or in its suffix.

An example about "coco/train2017/000000033471.jpg" matches a row "train2017/000000033471.jpg", "000000033471.jpg",
"000000033471" or "/data/coco/train2017/000000033471.jpg": one path is the tail of the other, with or without the suffix of an
image file. "val2017/000000033471.jpg" is another image. Two names without such a suffix are compared only as a whole.

Of several rows the nearest counts, in this order: the same path; a longer one; shorter ones, the longest first; then the same
without suffixes. Two equally near rows are an error that names both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fastrealign.data.id_index import IdIndex, RowNumbers

_SUFFIX = re.compile(r"(?<=[^/\\])\.(?:jpe?g|jfif|png|webp|bmp|gif|tiff?|ppm|heic|avif)$", re.IGNORECASE)
# Paths of more parts are looked up as a whole only.
_DEEPEST = 16
_BLOCK = 1024
# Prefix of a key, by what it is of: a whole path without its suffix; part of one with it; part of one that has none.
_WHOLE, _PART, _BARE = "=", "<", "~"


class Near:
    """An index of the tails of row ids, a few of each row.

    tails    from the hash of a tail to its number; the tails of one row are consecutive
    counts   uint8 (n,): how many tails each row has
    """

    def __init__(self, tails: IdIndex, counts: np.ndarray) -> None:
        self._tails, self._counts = tails, counts
        self._starts = np.zeros(-(-len(counts) // _BLOCK) + 1, np.int64)
        if len(counts):
            sums = np.add.reduceat(counts, np.arange(0, len(counts), _BLOCK), dtype=np.int64)
            np.cumsum(sums, out=self._starts[1:])

    @classmethod
    def make(cls, batches: Iterable[list[str]]) -> Near:
        """Build the index of the ids of all rows, given in batches in the order of the rows."""
        counts: list[np.ndarray] = [np.empty(0, np.uint8)]

        def tails() -> Iterator[list[str]]:
            for ids in batches:
                of_each = [_tails(id) for id in ids]
                counts.append(np.array([len(one) for one in of_each], np.uint8))
                yield [tail for one in of_each for tail in one]

        return cls(IdIndex.of_many(tails()), np.concatenate(counts))

    def find(self, names: Sequence[str], ids: IdIndex | RowNumbers) -> tuple[np.ndarray, np.ndarray]:
        """Two int64 (n,): the row that matches each name, and another one that is equally near; -1 for none.

        ids   the index of whole ids
        """
        keys = [(i, *key) for i, name in enumerate(names) for key in _wanted(name)]
        of, whole = np.array([i for i, _, _ in keys], int), np.array([is_id for _, _, is_id in keys], bool)
        first, last = np.full(len(keys), -1), np.full(len(keys), -1)
        first[whole] = ids.find([key for _, key, is_id in keys if is_id])
        first[~whole], last[~whole] = self._tails.both([key for _, key, is_id in keys if not is_id])
        row, other = np.full(len(names), -1), np.full(len(names), -1)
        hits = np.flatnonzero(first >= 0)
        found, nearest = np.unique(of[hits], return_index=True)
        for i, at in zip(found, hits[nearest], strict=True):
            row[i] = first[at] if whole[at] else self._row(int(first[at]))
            if last[at] > first[at]:
                other[i] = self._row(int(last[at]))
        return row, other

    def _row(self, tail: int) -> int:
        block = int(np.searchsorted(self._starts, tail, side="right")) - 1
        ends = np.cumsum(self._counts[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.int64) + self._starts[block]
        return block * _BLOCK + int(np.searchsorted(ends, tail, side="right"))


def is_tail(one: str, other: str) -> bool:
    """Whether one of two paths is the tail of the other, or both are the same."""
    short, long = sorted((_split(one), _split(other)), key=len)
    return bool(short) and short[0] in long


def _tails(id: str) -> list[str]:
    """The keys under which a row with this id is found, besides the id itself."""
    suffix = _SUFFIX.search(id)
    if suffix is None:
        return [] if "/" not in id and "\\" not in id else [_BARE + tail for tail in _split(id)[1:]]
    full, *shorter = _split(id) or [id]
    bare = len(suffix[0])
    return [_WHOLE + full[:-bare], *(_PART + tail[:end] for tail in shorter for end in (None, -bare))]


def _wanted(name: str) -> list[tuple[str, bool]]:
    """The keys to look up, the nearest first, and whether each is a whole id."""
    full, *shorter = _split(name) or [name]
    suffix = _SUFFIX.search(name)
    if suffix is None:
        return [(_WHOLE + full, False), (_PART + full, False), *((_WHOLE + tail, False) for tail in shorter)]
    bare = len(suffix[0])
    keys = [(full, True), (_PART + full, False), *((tail, True) for tail in shorter)]
    keys += [(full[:-bare], True), (_WHOLE + full[:-bare], False)]
    keys += [(_PART + full[:-bare], False), (_BARE + full[:-bare], False)]
    for tail in shorter:
        keys += [(tail[:-bare], True), (_WHOLE + tail[:-bare], False)]
    return keys


def _split(path: str) -> list[str]:
    """The path and its tails, the longest first: a/b/c, b/c, c; [] for one of no parts, or of too many."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    if len(parts) > _DEEPEST:
        return []
    return ["/".join(parts[at:]) for at in range(len(parts))]
