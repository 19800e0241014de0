"""Exact nearest neighbours on the sphere, and the metrics that use them.

Neighbours are the rows of greatest cosine in float64. Cosines that agree to 2^-40 are a tie, which the lower row number wins,
so the result does not depend on the library that searched: a search in float32 (faiss where it is installed, otherwise NumPy)
finds more candidates than needed, and float64 orders them. A query whose candidates may not suffice, as among rows that are
nearly equal, is searched again in float64. Rounding decides only between rows whose cosines differ by about 2^-40 without
being equal: one in a few thousand of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.text import one_line
from fastrealign.data.row_source import RowSource
from fastrealign.data.sources import open_rows
from fastrealign.diagnostics.rows import (
    BLOCK_ROWS,
    Estimate,
    RowsLike,
    count_rows,
    mean_estimate,
    open_sides,
    pick,
    sample,
    unit_blocks,
)

ENGINES = ("faiss", "numpy")
# Candidates of float32 beyond those asked for.
MARGIN = 12
# Rows of the pool that are searched at a time.
POOL_ROWS = 16384
# Below so many cosines, importing faiss takes longer than the search.
FEW = 1 << 26
_STEP = 2.0**-40


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest rows of each query.

    Attributes
    ----------
    numbers : ndarray
        int64 (q, k): row numbers in the pool, nearest first.
    cosines : ndarray
        float64 (q, k).
    """

    numbers: np.ndarray
    cosines: np.ndarray


@computes
def nearest(
    queries: np.ndarray, pool: RowsLike, k: int, *, own: np.ndarray | None = None, engine: str | None = None
) -> Nearest:
    """The k rows of a pool nearest to each query.

    Parameters
    ----------
    queries : ndarray
        float64 (q, d), unit rows.
    pool : RowsLike
        Rows (n, d).
    k : int
        At least 1.
    own : ndarray, optional
        int64 (q,): the row of the pool that each query is itself, and which is not its neighbour; -1 for none.
    engine : {"faiss", "numpy"}, optional
        Of the search in float32; the result is the same. By default faiss for large searches, where it is installed.

    Returns
    -------
    Nearest

    Raises
    ------
    InputError
        The pool has too few rows; an engine that is unknown or cannot be imported.

    Examples
    --------
    >>> import numpy as np
    >>> angle = np.arange(10) / 10
    >>> rows = np.column_stack([np.cos(angle), np.sin(angle)])
    >>> nearest(rows[:2], rows, 2, own=np.arange(2)).numbers
    array([[1, 2],
           [0, 2]])
    """
    pool = open_rows(pool, "pool")
    rows = count_rows(pool)
    available = rows - (own is not None)
    if not 1 <= k <= available:
        raise InputError(f"{pool.name}: {rows} rows, expected more for k={k} neighbours of each (k: 1 or more)")
    best = _candidates(queries, pool, min(k + MARGIN, available), own, engine)
    found = _in_order(queries, pool, best.numbers, k)
    # No row left out has more than the least candidate's cosine and the rounding of a float32 dot product.
    certain = best.cosines[:, -1].astype(np.float64) + (pool.d + 2) * 2.0**-23
    doubtful = np.flatnonzero((found.cosines[:, -1] <= certain) & (best.k < available))
    if len(doubtful):
        again = _Best(len(doubtful), k, np.float64)
        for first, block in unit_blocks(pool, size=POOL_ROWS // 4):
            cosines = np.rint(queries[doubtful] @ block.T / _STEP) * _STEP
            again.add(first, cosines, None if own is None else own[doubtful])
        found.numbers[doubtful], found.cosines[doubtful] = again.numbers, again.cosines
    return found


def foreign_share(own: Nearest, other: Nearest, k: int) -> np.ndarray:
    """float64 (q,): share of each query's k nearest, of its own and the other side together, that are of the other.

    Both with at least k neighbours, or with all there are. Of a tie the own side's row is nearer.
    """
    cosines = np.concatenate([own.cosines, other.cosines], axis=1)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return (order >= own.cosines.shape[1]).mean(axis=1)


def kept_share(before: Nearest, after: Nearest) -> np.ndarray:
    """float64 (q,): share of each query's neighbours `before` that are among those `after`; both with as many."""
    same = before.numbers[:, :, None] == after.numbers[:, None, :]
    return same.any(axis=2).mean(axis=1)


@dataclass(frozen=True)
class Mixing:
    """Shares of the k nearest neighbours that are on the other side, 0 to 1.

    Attributes
    ----------
    rate : Estimate
        Mean over the rows of both sides: the mixing rate of arXiv 2602.07026 (0.32 % before, 4.35 % with ReAlign).
    x, y : Estimate
        Mean over the rows of the target, and over those of the source. The support balance M_k of AnisoAlign (arXiv
        2605.07825, appendix B.2) is the normalised binary entropy of such shares.
    k : int
    """

    rate: Estimate
    x: Estimate
    y: Estimate
    k: int


@computes
def mixing(
    x: RowsLike, y: RowsLike, *, k: int = 20, rows: int | None = 1000, seed: int = 0, engine: str | None = None
) -> Mixing:
    """Mixing rate: the share of the k nearest neighbours among both sides that are on the other side (arXiv 2602.07026).

    With as many rows on both sides, a `rate` of 0.5 means fully mixed.

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
    sides = open_sides(x, y)
    for side, of in zip(sides, sides[::-1], strict=True):
        if k > count_rows(side) - 1 + count_rows(of) or k < 1:
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
    rate = Estimate(
        weight * a.value + (1 - weight) * b.value,
        float(np.hypot(weight * a.error, (1 - weight) * b.error)),
        a.n + b.n,
        a.seed if a.seed is not None else b.seed,
    )
    return Mixing(rate, a, b, k)


@computes
def overlap(
    before: RowsLike, after: RowsLike, *, k: int = 10, rows: int | None = 1000, seed: int = 0, engine: str | None = None
) -> Estimate:
    """Neighbourhood overlap, also Omega_k: the share of a row's k nearest neighbours that a map keeps.

    arXiv 2602.07026 (ReAlign 87.3 %, blockwise 10.1 %) and AnisoAlign (arXiv 2605.07825).

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
    for side in sides:  # of as many rows, the same are drawn
        numbers, queries = sample(side, rows, seed)
        found.append(nearest(queries, side, k, own=numbers, engine=engine))
    return mean_estimate(kept_share(*found), count_rows(sides[0]), seed)


class _Best:
    """The k greatest cosines of each query so far; among equal ones, those seen first."""

    def __init__(self, queries: int, k: int, dtype: type) -> None:
        self.k = k
        self.cosines: np.ndarray = np.full((queries, k), -np.inf, dtype)
        self.numbers = np.full((queries, k), -1, np.int64)

    def add(self, first: int, cosines: np.ndarray, own: np.ndarray | None) -> None:
        """Look at a block of the pool that starts with row `first`: cosines (q, rows), changed in place."""
        rows = cosines.shape[1]
        if own is not None:
            here = np.flatnonzero((own >= first) & (own < first + rows))
            cosines[here, own[here] - first] = -np.inf
        better = cosines > self.cosines[:, -1:]
        empty = np.flatnonzero(self.cosines[:, -1] == -np.inf)
        if len(empty) and rows > self.k:
            # At first everything beats nothing: only the block's own k best are worth sorting.
            of = cosines[empty]
            least = np.partition(of, -self.k, axis=1)[:, -self.k, None]
            better[empty], ties = of > least, of == least
            missing = self.k - better[empty].sum(axis=1, keepdims=True)
            if np.count_nonzero(ties) > missing.sum():  # more tie for the last places than there are
                ties &= ties.cumsum(axis=1, dtype=np.int32) <= missing
            better[empty] |= ties
        query, column = np.nonzero(better)
        self._merge(query, cosines[query, column], column + first)

    def add_found(self, first: int, cosines: np.ndarray, columns: np.ndarray, own: np.ndarray | None) -> None:
        """The same of a block that was searched elsewhere: cosines and columns (q, any number)."""
        numbers = columns + first
        new = (cosines > self.cosines[:, -1:]) & (columns >= 0)
        if own is not None:
            new &= numbers != own[:, None]
        query, column = np.nonzero(new)
        self._merge(query, cosines[query, column], numbers[query, column])

    def _merge(self, query: np.ndarray, cosines: np.ndarray, numbers: np.ndarray) -> None:
        touched, slot = np.unique(query, return_inverse=True)
        if not len(touched):
            return
        slots = np.concatenate([np.repeat(np.arange(len(touched)), self.k), slot])
        values = np.concatenate([self.cosines[touched].ravel(), cosines])
        rows = np.concatenate([self.numbers[touched].ravel(), numbers])
        order = np.lexsort((rows, -values, slots))
        starts = np.searchsorted(slots[order], np.arange(len(touched)))
        best = order[starts[:, None] + np.arange(self.k)]
        self.cosines[touched], self.numbers[touched] = values[best], rows[best]


def _candidates(queries: np.ndarray, pool: RowSource, k: int, own: np.ndarray | None, engine: str | None) -> _Best:
    """The k nearest in float32."""
    if engine is not None and engine not in ENGINES:
        raise InputError(f"engine={engine!r}: expected one of {', '.join(ENGINES)}")
    many = engine is None and len(queries) * count_rows(pool) > FEW
    faiss = _faiss(engine) if many or engine == "faiss" else None
    best = _Best(len(queries), k, np.float32)
    single = queries.astype(np.float32)
    blocks = unit_blocks(pool, size=min(POOL_ROWS, count_rows(pool)), dtype=np.float32)
    if faiss is None:
        for first, block in blocks:
            best.add(first, single @ block.T, own)
        return best
    for first, block in blocks:
        among = min(k + (own is not None), len(block))
        cosines, columns = faiss.knn(single, block, among, metric=faiss.METRIC_INNER_PRODUCT)
        best.add_found(first, cosines, columns, own)
    return best


def _faiss(engine: str | None) -> ModuleType | None:
    """The library; where it cannot be imported None, or InputError if it was asked for."""
    try:
        return import_module("faiss")
    except Exception as error:  # a wheel that does not fit NumPy or the system fails in any way
        if engine is None:
            return None
        raise InputError(f"engine='faiss': cannot be imported ({one_line(error)}); pip install faiss-cpu") from None


def _in_order(queries: np.ndarray, pool: RowSource, candidates: np.ndarray, k: int) -> Nearest:
    """The k nearest among each query's candidates (q, m), by cosines in float64."""
    q, m = candidates.shape
    by_row = np.argsort(candidates, axis=None, kind="stable")
    wanted, start = np.unique(candidates.ravel()[by_row], return_index=True)
    ends = np.append(start[1:], q * m)
    cosines = np.empty(q * m)
    for here, rows in pick(pool, wanted):
        pairs = by_row[start[here][0] : ends[here][-1]]
        row = np.repeat(np.arange(len(rows)), ends[here] - start[here])
        for lo in range(0, len(pairs), BLOCK_ROWS):
            part = pairs[lo : lo + BLOCK_ROWS]
            dots = np.einsum("ij,ij->i", queries[part // m], rows[row[lo : lo + BLOCK_ROWS]])
            cosines[part] = np.rint(dots / _STEP) * _STEP
    cosines = cosines.reshape(q, m)
    order = np.lexsort((candidates, -cosines), axis=1)[:, :k]
    return Nearest(np.take_along_axis(candidates, order, 1), np.take_along_axis(cosines, order, 1))
