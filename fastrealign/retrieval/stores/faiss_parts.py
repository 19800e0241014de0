"""What a FAISS index is made of: its ids and rows, whether these are exact, and what it has learnt from rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.optional import Lazy
from fastrealign.retrieval.stores.base import batch_rows

faiss: Any = Lazy("faiss", "faiss", "FAISS")

FLAT = ("IndexFlat", "IndexFlatIP", "IndexFlatL2")
# Inner indexes that hold float32 rows unchanged.
_EXACT = (*FLAT, "IndexIVFFlat", "IndexHNSWFlat", "IndexNSGFlat", "IndexRefineFlat")
_LEARNS = re.compile("IVF|PQ|ScalarQuantizer|SQ|Residual|Refine|PreTransform|IDMap|LSH")
# Rows that an index learns from, at most, and for each centroid, below which FAISS advises more.
LEARNT_ROWS, ROWS_A_CENTROID = 200_000, 39
# What Alignment.to_faiss puts before an index.
_TO_FAISS = [*("NormalizationTransform", "CenteringTransform") * 2, "NormalizationTransform"]


def inner(index: Any) -> Any:
    """The index inside an id map; otherwise the index itself."""
    outer = faiss.downcast_index(index)
    return faiss.downcast_index(outer.index) if type(outer).__name__.startswith("IndexIDMap") else index


def is_exact(index: Any) -> bool:
    """Whether it holds rows, or their directions, unchanged."""
    at = faiss.downcast_index(inner(index))
    if type(at).__name__ == "IndexPreTransform":
        return all(map(_keeps, _chain(at))) and is_exact(at.index)
    return type(at).__name__ in _EXACT


def aligns(index: Any) -> bool:
    """Whether it aligns rows where they are added."""
    at = faiss.downcast_index(inner(index))
    return type(at).__name__ == "IndexPreTransform" and [type(step).__name__ for step in _chain(at)] == _TO_FAISS


def learns(index: Any) -> bool:
    """Whether it learns from rows before it takes any."""
    return bool(_LEARNS.search(type(faiss.downcast_index(inner(index))).__name__))


def forget(index: Any) -> None:
    """Mark what an index has learnt as not known, down to the indexes inside it."""
    at = faiss.downcast_index(index)
    if not _LEARNS.search(type(at).__name__):
        return
    at.is_trained = False
    if isinstance(at, faiss.IndexIVF):
        at.quantizer.reset()
    elif isinstance(at, faiss.IndexPreTransform):
        for step in _chain(at):
            if isinstance(step, (faiss.PCAMatrix, faiss.CenteringTransform)):
                step.is_trained = False
        forget(at.index)
    elif hasattr(at, "base_index"):
        forget(at.base_index)
    elif hasattr(at, "index"):
        forget(at.index)


def clusterings(index: Any) -> Iterator[tuple[int, Any]]:
    """Number of centroids and settings of each k-means by which an index learns, in the indexes inside it too.

    Not those of a quantizer that learns by itself (IMI), which has far fewer centroids than lists.
    """
    at = faiss.downcast_index(index)
    if isinstance(at, faiss.IndexIVF) and at.quantizer_trains_alone != 1:
        yield at.nlist, at.cp
    if hasattr(at, "pq"):
        yield at.pq.ksub, at.pq.cp
    for name in ("index", "base_index", "refine_index", "storage"):
        if hasattr(at, name):
            yield from clusterings(getattr(at, name))


def filled(flat: Any, rows: Iterator[tuple[np.ndarray, np.ndarray]], most: int) -> Any:
    """An empty flat index with these rows, at most `most`; its memory is taken once, where add would move what is there."""
    flat.codes.resize(most * flat.code_size)
    held, n = faiss.rev_swig_ptr(flat.get_xb(), most * flat.d).reshape(most, flat.d), 0
    for part, _ in rows:
        held[n : n + len(part)] = part
        n += len(part)
    flat.codes.resize(n * flat.code_size)
    flat.ntotal = n
    return flat


def learnt(file: Any, rows: Iterator[Any], made: Any, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same rows in batches of `step`, when the index has learnt from a sample of them."""
    ids = [np.zeros(0, np.int64)]
    for part, numbers in rows:
        file.write(part.data)
        ids.append(numbers)
    file.flush()
    every = np.concatenate(ids)
    if not len(every):
        return
    whole = np.memmap(file, np.float32, "r", shape=(len(every), made.d))
    forget(made)
    for _, settings in clusterings(made):
        # With fewer rows for a centroid FAISS writes a line for each k-means to stderr; `index` warns once.
        settings.min_points_per_centroid = 1
    some = np.random.default_rng(0).choice(len(whole), min(len(whole), LEARNT_ROWS), replace=False)
    made.train(np.ascontiguousarray(whole[np.sort(some)]))
    for first in range(0, len(whole), step):
        yield np.ascontiguousarray(whole[first : first + step]), every[first : first + step]


def _decodable(lists: Any) -> Any:
    """The given inverted lists, changed so that they can reconstruct rows: those of IVF…PQ…fs crash as faiss reads them."""
    if hasattr(lists, "pq") and getattr(lists, "fine_quantizer", lists) is None:
        lists.fine_quantizer = lists.pq
    return lists


def ids_of(index: Any) -> np.ndarray:
    """The ids (int64) of all rows, in the order of `rows_of`."""
    lists = _lists(index)
    numbers = np.arange(index.ntotal) if lists is None else _listed(lists)
    outer = faiss.downcast_index(index)
    return faiss.vector_to_array(outer.id_map)[numbers] if type(outer).__name__.startswith("IndexIDMap") else numbers


def rows_of(index: Any, n: int, where: str) -> Iterator[tuple[int, np.ndarray]]:
    """The first n rows, reconstructed, in batches with the number of the first. `where` names the index in messages."""
    at, lists, step = inner(index), _lists(index), batch_rows(index.d)
    if lists is not None:
        numbers = _listed(lists)
        if len(np.unique(numbers)) != len(numbers):
            raise InputError(f"{where}: ids occur more than once in its lists; build it with an IndexIDMap")
        _decodable(lists).set_direct_map_type(faiss.DirectMap.Hashtable)
    for first in range(0, n, step):
        end = min(first + step, n)
        many = at.reconstruct_n(first, end - first) if lists is None else at.reconstruct_batch(numbers[first:end])
        yield first, many


def _lists(index: Any) -> Any:
    """The inverted lists, where rows are found through them."""
    at = faiss.downcast_index(inner(index))
    at = faiss.downcast_index(at.index) if type(at).__name__ == "IndexPreTransform" else at
    return at if isinstance(at, faiss.IndexIVF) else None


def _listed(index: Any) -> np.ndarray:
    """The ids in the inverted lists, ascending."""
    lists, parts = index.invlists, [np.zeros(0, np.int64)]
    for number in range(lists.nlist):
        size = lists.list_size(number)
        if size:
            parts.append(faiss.rev_swig_ptr(lists.get_ids(number), size).copy())
    return np.sort(np.concatenate(parts))


def _chain(index: Any) -> list[Any]:
    """The transforms before an index."""
    return [faiss.downcast_VectorTransform(index.chain.at(number)) for number in range(index.chain.size())]


def _keeps(step: Any) -> bool:
    """Whether a transform can be undone, but for the length of rows."""
    if isinstance(step, faiss.NormalizationTransform):
        return True
    turns = isinstance(step, faiss.RemapDimensionsTransform) or getattr(step, "is_orthonormal", False)
    return turns and step.d_out >= step.d_in
