"""Metrics of nearest neighbours: mixing of two sides, and the neighbourhoods that a map keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fastrealign.core.checks import whole
from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.data.row_source import RowsLike
from fastrealign.diagnostics.search import Nearest, nearest
from fastrealign.diagnostics.unit_rows import Estimate, count_rows, mean_estimate, open_sides, sample


def foreign_share(own: Nearest, other: Nearest, k: int) -> np.ndarray:
    """float64 (q,): share of each query's k nearest, of its own and the other side together, that are of the other.

    Both with at least k neighbours, or with all there are. In a tie, the row of the own side is nearer.
    """
    cosines = np.concatenate([own.cosines, other.cosines], axis=1)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return (order >= own.cosines.shape[1]).mean(axis=1)


def kept_share(before: Nearest, after: Nearest) -> np.ndarray:
    """float64 (q,): share of each query's neighbours `before` that are among those `after`; both with as many."""
    same = before.numbers[:, :, None] == after.numbers[:, None, :]
    return same.any(axis=2).mean(axis=1)


def binary_entropy(shares: np.ndarray) -> np.ndarray:
    """-p log2 p - (1 - p) log2 (1 - p) of shares, 0 to 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = shares * np.log2(shares) + (1 - shares) * np.log2(1 - shares)
    return np.where((shares > 0) & (shares < 1), -bits, 0.0)


def permuted_entropy(own: int, others: int, k: int) -> float:
    """The `binary_entropy` that a row's share of other-side neighbours has on average when all labels are permuted.

    Then the k neighbours are drawn from the own - 1 and the `others` remaining rows without regard to their side.
    """
    ways = [math.comb(others, j) * math.comb(own - 1, k - j) for j in range(k + 1)]
    total = math.comb(own - 1 + others, k)
    return float(np.dot([n / total for n in ways], binary_entropy(np.arange(k + 1) / k)))


@dataclass(frozen=True)
class Mixing:
    """How far the k nearest neighbours of a row, among the rows of both sides, are of the other side.

    Attributes
    ----------
    rate : Estimate
        Share of neighbours on the other side, mean over the rows of both sides, 0 to 1: the mixing rate of arXiv 2602.07026
        (0.32 % before, 4.35 % with ReAlign).
    share_x, share_y : Estimate
        The same over the rows of the target, and over those of the source.
    balance_x, balance_y : Estimate or None
        Support balance M_k^X of the target and M_k^Z of the source (AnisoAlign, arXiv 2605.07825, appendix B.2: ReAlign 0.305
        and 0.357, C3 0.075 and 0.410): mean over the rows of the binary entropy of their share, divided by its expectation
        under permuted labels (0.962 for k = 20 and sides of equal size). 0: no row has neighbours of both sides; 1: as
        mixed as permuted labels. None for k = 1, where every entropy is 0.
    k : int
    """

    rate: Estimate
    share_x: Estimate
    share_y: Estimate
    balance_x: Estimate | None
    balance_y: Estimate | None
    k: int


@computes
def mixing(
    x: RowsLike, y: RowsLike, *, k: int = 20, rows: int | None = 1000, seed: int = 0, engine: str | None = None
) -> Mixing:
    """Mixing rate: the share of the k nearest neighbours among both sides that are on the other side (arXiv 2602.07026).

    With as many rows on both sides, a `rate` of 0.5 means fully mixed. Also the support balance of AnisoAlign, from the same
    neighbours.

    Parameters
    ----------
    x, y : RowsLike
        Rows (n, d) and (m, d), not paired.
    k : int
        Neighbours of each row.
    rows : int or None
        Rows of each side to sample as queries, among all rows of both sides. None: all.
    seed : int
        Of the sample.
    engine : {"faiss", "numpy"}, optional
        As for `nearest`.

    Returns
    -------
    Mixing

    Raises
    ------
    InputError
        Too few rows for k, or widths that differ.

    Examples
    --------
    >>> import numpy as np
    >>> images, text = np.random.default_rng(0).normal(size=(2, 10, 3)) + [[[9, 0, 0]], [[0, 9, 0]]]
    >>> mixing(images, text, k=5).rate.value
    0.0
    >>> mixing(images, images[::-1], k=1).rate.value
    1.0
    """
    k = whole("k", k, 1)
    sides = open_sides(x, y)
    for side, of in zip(sides, sides[::-1], strict=True):
        if k > count_rows(side) - 1 + count_rows(of):
            raise InputError(
                f"{side.name} and {of.name}: {side.rows} and {of.rows} rows, expected more for k={k} neighbours"
            )
    taken = [sample(side, rows, seed) for side in sides]
    shares = []
    for (numbers, queries), side, other in zip(taken, sides, sides[::-1], strict=True):
        among_own = nearest(queries, side, min(k, count_rows(side) - 1), own=numbers, engine=engine)
        among_others = nearest(queries, other, min(k, count_rows(other)), engine=engine)
        shares.append(foreign_share(among_own, among_others, k))
    of_x, of_y = shares
    return mixing_of(of_x, of_y, count_rows(sides[0]), count_rows(sides[1]), k=k, seed=seed)


def mixing_of(x: np.ndarray, y: np.ndarray, rows_x: int, rows_y: int, *, k: int, seed: int) -> Mixing:
    """`mixing` from the foreign shares of sampled rows of each side, where the searches were done already."""
    a, b = mean_estimate(x, rows_x, seed), mean_estimate(y, rows_y, seed)
    weight = rows_x / (rows_x + rows_y)
    value = weight * a.value + (1 - weight) * b.value
    error = float(np.hypot(weight * a.error, (1 - weight) * b.error))
    rate = Estimate(value, error, a.n + b.n, a.seed if a.seed is not None else b.seed)
    balance_x, balance_y = (
        mean_estimate(binary_entropy(shares) / permuted_entropy(own, others, k), own, seed) if k > 1 else None
        for shares, own, others in ((x, rows_x, rows_y), (y, rows_y, rows_x))
    )
    return Mixing(rate, a, b, balance_x, balance_y, k)


@computes
def overlap(
    before: RowsLike, after: RowsLike, *, k: int = 10, rows: int | None = 1000, seed: int = 0, engine: str | None = None
) -> Estimate:
    """Neighbourhood overlap, also Omega_k: the share of a row's k nearest neighbours that a map keeps.

    arXiv 2602.07026 (k = 10: ReAlign 87.3 %, blockwise 10.1 %) and AnisoAlign (arXiv 2605.07825, k = 20).

    Parameters
    ----------
    before, after : RowsLike
        Rows (n, d): row i of one is the image of row i of the other.
    k : int
        Neighbours of each row.
    rows : int or None
        Rows to sample as queries, among all. None: all.
    seed : int
        Of the sample.
    engine : {"faiss", "numpy"}, optional
        As for `nearest`.

    Returns
    -------
    Estimate
        0 to 1.

    Raises
    ------
    InputError
        The numbers of rows differ, or there are too few for k.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.random.default_rng(0).normal(size=(10, 3))
    >>> overlap(rows, rows * [1, 1, 0], k=3).value
    0.9
    """
    sides = open_sides(before, after, "neighbourhood overlap")
    found = []
    for side in sides:  # both have as many rows, so the same ones are drawn
        numbers, queries = sample(side, rows, seed)
        found.append(nearest(queries, side, k, own=numbers, engine=engine))
    return mean_estimate(kept_share(*found), count_rows(sides[0]), seed)
