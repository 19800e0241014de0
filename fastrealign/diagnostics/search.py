"""Exact nearest neighbours on the sphere.

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

from fastrealign.core.checks import whole
from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.text import one_line
from fastrealign.data.row_source import RowsLike, RowSource
from fastrealign.data.sources import open_rows
from fastrealign.diagnostics.unit_rows import BLOCK_ROWS, Apply, count_rows, pick, to_unit, unit_blocks

ENGINES = ("faiss", "numpy")
# Candidates of float32 beyond those asked for.
MARGIN = 12
# Rows of the pool that are searched at a time.
POOL_ROWS = 16384
# Below this number of cosines, importing faiss takes longer than the search.
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

    def first(self, k: int) -> Nearest:
        """The k nearest of these."""
        return Nearest(self.numbers[:, :k], self.cosines[:, :k])


@computes
def nearest(
    queries: np.ndarray,
    pool: RowsLike,
    k: int,
    *,
    own: np.ndarray | None = None,
    engine: str | None = None,
    apply: Apply = to_unit,
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
    apply : callable
        Maps the pool's rows as they are read, such as the `apply` of a method; by default to unit length only.

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
    k = whole("k", k, 1)
    pool = open_rows(pool, "pool")
    rows = count_rows(pool)
    available = rows - (own is not None)
    if k > available:
        raise InputError(f"{pool.name}: {rows} rows, expected more for k={k} neighbours of each")
    best = _candidates(queries, pool, min(k + MARGIN, available), (own, engine, apply))
    found = _in_order(queries, pool, best.numbers, (k, apply))
    # No row left out has more than the least candidate's cosine and the rounding of a float32 dot product.
    certain = best.cosines[:, -1].astype(np.float64) + (pool.d + 2) * 2.0**-23
    doubtful = np.flatnonzero((found.cosines[:, -1] <= certain) & (best.k < available))
    if len(doubtful):
        again = _Best(len(doubtful), k, np.float64)
        for first, block in unit_blocks(pool, size=POOL_ROWS // 4, apply=apply):
            cosines = np.rint(queries[doubtful] @ block.T / _STEP) * _STEP
            again.add(first, cosines, None if own is None else own[doubtful])
        found.numbers[doubtful], found.cosines[doubtful] = again.numbers, again.cosines
    return found


class _Best:
    """The k greatest cosines of each query so far; of equal ones, those seen first."""

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
            # Without candidates every row is better: sort only the k best of the block.
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


def _candidates(
    queries: np.ndarray, pool: RowSource, k: int, how: tuple[np.ndarray | None, str | None, Apply]
) -> _Best:
    """The k nearest in float32; how: own, engine and apply of `nearest`."""
    own, engine, apply = how
    if engine is not None and engine not in ENGINES:
        raise InputError(f"engine={engine!r}: expected one of {', '.join(ENGINES)}")
    many = engine is None and len(queries) * count_rows(pool) > FEW
    faiss = _faiss(engine) if many or engine == "faiss" else None
    best = _Best(len(queries), k, np.float32)
    single = queries.astype(np.float32)
    blocks = unit_blocks(pool, size=min(POOL_ROWS, count_rows(pool)), dtype=np.float32, apply=apply)
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


def _in_order(queries: np.ndarray, pool: RowSource, candidates: np.ndarray, how: tuple[int, Apply]) -> Nearest:
    """The k nearest among each query's candidates (q, m), by cosines in float64; how: k and apply of `nearest`."""
    k, apply = how
    q, m = candidates.shape
    by_row = np.argsort(candidates, axis=None, kind="stable")
    wanted, start = np.unique(candidates.ravel()[by_row], return_index=True)
    ends = np.append(start[1:], q * m)
    cosines = np.empty(q * m)
    for here, rows in pick(pool, wanted, apply):
        pairs = by_row[start[here][0] : ends[here][-1]]
        row = np.repeat(np.arange(len(rows)), ends[here] - start[here])
        for lo in range(0, len(pairs), BLOCK_ROWS):
            part = pairs[lo : lo + BLOCK_ROWS]
            dots = np.einsum("ij,ij->i", queries[part // m], rows[row[lo : lo + BLOCK_ROWS]])
            cosines[part] = np.rint(dots / _STEP) * _STEP
    cosines = cosines.reshape(q, m)
    order = np.lexsort((candidates, -cosines), axis=1)[:, :k]
    return Nearest(np.take_along_axis(candidates, order, 1), np.take_along_axis(cosines, order, 1))
