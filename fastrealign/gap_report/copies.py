"""Rows that are copies: a picture with five captions is in the target five times, and is still one picture.

Search has one document for it, its rows do not both train and test, and intervals count it once. Rows are copies where they are
equal, or nearly: the same picture in another element type, or embedded twice.
"""

from __future__ import annotations

import numpy as np

from fastrealign.core.formatting import does
from fastrealign.data.row_source import RowSource
from fastrealign.diagnostics.second_moments import Covariance
from fastrealign.diagnostics.unit_rows import unit_blocks

# Above this share of rows that are copies, the report says so.
MANY = 0.01
# From this share of rows that are on both sides, the sides count as the same.
SAME_SIDES = 0.5
# Rows are near where their squared distance is less than this share of that of any two.
_NEAR = 1e-4
# Rows that are compared with all others, so many at once, to see whether there are near copies.
_SAMPLE, _AT_ONCE = 256, 64
# Pairs of rows that are subtracted at once.
_BLOCK = 4096
# Of rows that are near, the projections on random directions are compared first. That of a difference exceeds _DEVIATIONS
# standard deviations in one of 16,000.
_DIRECTIONS, _DEVIATIONS = 6, 4.0
# The search ends without near copies after so many comparisons a row: whole rows, and projections. A cluster of rows that are
# somewhat further apart than near copies would take as many as it has pairs.
_COMPARED, _PROJECTED = 20, (1000, 0.1)


def numbered(rows: np.ndarray) -> np.ndarray:
    """A number for each unit row, the same for copies: int64 (n,), from 0 in the order of their first rows."""
    numbers: dict[bytes, int] = {}
    plain = np.ascontiguousarray(rows, np.float32) + np.float32(0)  # -0.0 is 0.0
    equal = np.fromiter((numbers.setdefault(row.tobytes(), len(numbers)) for row in plain), np.int64, len(plain))
    if len(numbers) < len(plain):
        plain = plain[first_rows(equal)]
    if len(plain) < 2:
        return equal
    plain -= plain.mean(axis=0, dtype=np.float64)  # distances of rows in a narrow cone are then exact enough
    return _near_copies(plain)[equal]


def _near_copies(rows: np.ndarray) -> np.ndarray:
    """A number for each of different rows whose mean is zero, the same for near copies; of rows without such, 0 to n - 1.

    Rows are near copies where they are near and, in all of the rows, few others are up to twice as far apart. Where rows are so
    dense that they are near by chance, there are at least as many of those.
    """
    n, d = rows.shape
    own, squares = np.arange(n), np.einsum("ij,ij->i", rows, rows)
    near = _NEAR * 2.0 * float(squares.mean())
    within = twice = -min(n, _SAMPLE)  # each row is near itself
    for at in np.array_split(np.random.default_rng(0).permutation(n)[:_SAMPLE], _SAMPLE // _AT_ONCE):
        distances = squares[at, None] + squares - 2.0 * rows[at] @ rows.T
        within += int((distances <= near).sum())
        twice += int((distances <= 4.0 * near).sum())
    if _dense(within, twice):
        return own
    directions = np.random.default_rng(0).standard_normal((d, _DIRECTIONS)).astype(np.float32)
    places = (rows @ (directions / np.linalg.norm(directions, axis=0))).T
    order = places[0].argsort()
    first, *others = places[:, order]
    most = np.sqrt(near) * min(1.0, _DEVIATIONS / np.sqrt(d))
    # Of each row, in this order, one before it that is near. What is near the one is near the other.
    linked = own.copy()
    left, last = _COMPARED * n, _PROJECTED[0] + int(_PROJECTED[1] * n)
    for step in range(1, n):
        close = first[step:] - first[:-step] <= most
        if not close.any():
            break
        here = np.flatnonzero(close & (linked[step:] == own[step:]))
        for place in others:
            here = here[np.abs(place[here + step] - place[here]) <= most]
        left -= len(here)
        if left < 0 or step > last:
            return own
        here = here[_apart(rows, order[here], order[here + step]) <= near]
        linked[here + step] = here
    while not np.array_equal(linked, linked[linked]):
        linked = linked[linked]
    found, least = order[linked][order.argsort()], np.full(n, n)
    np.minimum.at(least, found, own)
    return np.unique(least[found], return_inverse=True)[1]


def share_in(rows: np.ndarray, side: RowSource, of: Covariance) -> float:
    """The share of unit rows (q, d) that have a near copy on a side, of its covariance; 0 where rows are near by chance.

    As for `_near_copies`: where others are up to twice as far apart, rows are dense, as those of a few columns.
    """
    near = _NEAR * 2.0 * of.trace
    centred = (rows - of.mean).astype(np.float32)
    squares = np.einsum("ij,ij->i", centred, centred)
    found, within, twice = np.zeros(len(rows), bool), 0, 0
    for _, block in unit_blocks(side):
        others = (block - of.mean).astype(np.float32)
        distances = squares[:, None] + np.einsum("ij,ij->i", others, others) - 2.0 * centred @ others.T
        found |= (distances <= near).any(axis=1)
        within += int((distances <= near).sum())
        twice += int((distances <= 4.0 * near).sum())
    return 0.0 if _dense(within, twice) else float(found.mean())


def _dense(within: int, twice: int) -> bool:
    """Whether rows are near by chance, as those of a few columns: as many pairs are somewhat further apart.

    within, twice   pairs of rows that are near, and those at up to twice that distance
    """
    return within <= 2 * (twice - within)


def _apart(rows: np.ndarray, some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared distances of pairs of rows."""
    found = np.empty(len(some), rows.dtype)
    for at in range(0, len(some), _BLOCK):
        part = slice(at, at + _BLOCK)
        difference = rows[some[part]] - rows[others[part]]
        found[part] = np.einsum("ij,ij->i", difference, difference)
    return found


def first_rows(numbers: np.ndarray) -> np.ndarray:
    """The first row of each number of `numbered`: int64, ascending."""
    return np.unique(numbers, return_index=True)[1]


def things(*sides: np.ndarray) -> np.ndarray:
    """A number for each thing: row i of all sides is one thing, and so are rows that are equal on a side. int64 (n,), from 0.

    sides   numbers of rows, as `numbered` returns them
    """
    found = sides[0]
    while True:
        before = found
        for side in sides:
            least = np.full(int(side.max()) + 1, len(side))
            np.minimum.at(least, side, found)
            found = least[side]
        if np.array_equal(found, before):
            return np.unique(found, return_inverse=True)[1]


def halves(numbers: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two random halves of the things: ascending, and no thing in both."""
    order = rng.permutation(int(numbers.max()) + 1)
    return np.flatnonzero(np.isin(numbers, order[::2])), np.flatnonzero(np.isin(numbers, order[1::2]))


def by_thing(scores: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """A score for each thing: their mean is that of the rows, and their variance that of a mean of rows that come in things.

    scores, numbers   (n,), of each row its score and its thing. Linear in scores; of things of one row, the scores.
    """
    which, of = np.unique(numbers, return_inverse=True)
    mean = scores.mean()
    return mean + len(which) / len(scores) * np.bincount(of, scores - mean)


def independent(numbers: np.ndarray) -> int:
    """How many independent rows have a mean as uncertain as that of these: the number of things where all have as many rows."""
    sizes = np.bincount(numbers)
    return max(int(len(numbers) ** 2 / (sizes.astype(float) ** 2).sum()), 3)


def copies_of(name: str, numbers: np.ndarray) -> str:
    """A note about the rows of a side that are copies; "" where they are few."""
    copies = len(numbers) - len(np.unique(numbers))
    if copies <= MANY * len(numbers):
        return ""
    return (
        f"{name}: {copies:,} of its {len(numbers):,} rows {does(copies, 'are')} copies of others, equal or "
        "nearly; copies count once in search and in intervals, and do not both train and test"
    )
