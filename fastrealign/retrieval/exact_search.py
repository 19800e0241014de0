"""The best documents of each query, exactly and in bounded memory, from rows of any kind or from a FAISS index."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from fastrealign.core.bad_rows import Counts
from fastrealign.core.checks import whole
from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.row_source import RowsLike
from fastrealign.data.sources import open_rows
from fastrealign.diagnostics.search import Nearest, nearest
from fastrealign.diagnostics.unit_rows import count_rows, to_unit
from fastrealign.methods.method import Method
from fastrealign.retrieval.array_arguments import ArrayLike

# Queries searched in one pass over the documents: with 16,384 of these at a time, 256 MiB of scores.
QUERIES = 4096


@runtime_checkable
class FaissIndex(Protocol):
    """What a search needs of a FAISS index."""

    d: int
    ntotal: int
    metric_type: int

    def search(self, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and labels (rows of x, k)."""


@computes
def top_k(
    queries: ArrayLike,
    documents: RowsLike | FaissIndex,
    k: int,
    *,
    method: Method | None = None,
    progress: Progress = SILENT,
) -> Nearest:
    """The k documents with the greatest cosine to each query; of equal ones the lower row.

    Documents are read in blocks: memory does not grow with their number, and each 4,096 queries read them once more than the
    search itself (float32 finds candidates, float64 orders them).

    Parameters
    ----------
    queries : ndarray
        (q, d), mapped already; made unit here.
    documents : rows or faiss.Index
        Rows (n, d), as `fastrealign.fit` takes them: an array, a tensor, paths. Or a FAISS index in memory, searched as it is:
        its numbers are its labels (-1 where it found fewer), and its results as exact as its kind.
    k : int
        At least 1; with fewer documents all of them are returned.
    method : Method, optional
        Maps the documents as they are read: `roles["image"]`. Not with an index, whose rows are mapped before they are added.
    progress : Progress
        Called with each block of documents, once for each 4,096 queries.

    Returns
    -------
    Nearest
        numbers int64 (q, k) and cosines float64 (q, k), best first.

    Raises
    ------
    InputError
        Another width, k below 1, an index with a method, or one of another metric than inner product.
    BadRowsError
        A document without a direction.

    Examples
    --------
    >>> import numpy as np
    >>> angle = np.arange(10) / 10
    >>> rows = np.column_stack([np.cos(angle), np.sin(angle)])
    >>> top_k(rows[4:5], rows, 3).numbers
    array([[4, 3, 5]])
    """
    queries = np.asarray(queries, np.float64)
    if queries.ndim != 2 or not len(queries):
        raise InputError(f"queries: shape {queries.shape}, expected (queries, width)")
    k = whole("k", k, 1)
    lengths = np.linalg.norm(queries, axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        raise InputError(f"queries: row {bad[0]} has no direction (zero, NaN or Inf); leave out such rows")
    queries = queries / lengths[:, None]
    if isinstance(documents, FaissIndex):
        return _of_index(queries, documents, k, method)
    source = open_rows(documents, "target")
    if source.d != queries.shape[1]:
        raise InputError(f"{source.name}: rows are {source.d} wide, queries {queries.shape[1]}")
    if not count_rows(source):
        raise InputError(f"{source.name}: holds no rows to search; add documents first")
    k = min(k, count_rows(source))
    groups = range(0, len(queries), QUERIES)
    left = count_rows(source) * len(groups)

    def apply(rows: np.ndarray, out: np.ndarray) -> Counts:
        nonlocal left
        # Rows that are read again, to order candidates, do not count.
        progress.advance(min(len(rows), left), 0)
        left -= min(len(rows), left)
        return to_unit(rows, out) if method is None else method.apply(rows, out)

    with progress.running(f"searching {source.name}", left):
        found = [nearest(queries[lo : lo + QUERIES], source, k, apply=apply) for lo in groups]
    return Nearest(*(np.concatenate([getattr(one, name) for one in found]) for name in ("numbers", "cosines")))


def _of_index(queries: np.ndarray, index: FaissIndex, k: int, method: Method | None) -> Nearest:
    if method is not None:
        raise InputError("a FAISS index holds rows that were mapped before they were added; leave out method")
    if index.d != queries.shape[1]:
        raise InputError(f"the FAISS index: rows are {index.d} wide, queries {queries.shape[1]}")
    if index.metric_type != 0:  # faiss.METRIC_INNER_PRODUCT
        raise InputError("the FAISS index: its metric is not the inner product; build it with METRIC_INNER_PRODUCT")
    scores, labels = index.search(queries.astype(np.float32), min(k, index.ntotal))
    return Nearest(labels.astype(np.int64), scores.astype(np.float64))
