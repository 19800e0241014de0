"""Rows that are equal: a picture with five captions is in the target five times, and is still one picture.

Search has one document for it, its rows do not both train and test, and intervals count it once.
"""

from __future__ import annotations

import numpy as np

# Above this share of rows that are copies, the report says so.
MANY = 0.01


def numbered(rows: np.ndarray) -> np.ndarray:
    """A number for each unit row, the same for rows equal in float32: int64 (n,), from 0 in the order of their first rows."""
    numbers: dict[bytes, int] = {}
    plain = np.ascontiguousarray(rows, np.float32) + np.float32(0)  # -0.0 is 0.0
    return np.fromiter((numbers.setdefault(row.tobytes(), len(numbers)) for row in plain), np.int64, len(plain))


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
        f"{name}: {copies:,} of its {len(numbers):,} rows are copies of others; equal rows count once in search and in "
        "intervals, and do not both train and test"
    )
