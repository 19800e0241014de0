"""Result lists of several indexes as one, by calibrated scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastrealign.core.checks import whole
from fastrealign.core.errors import InputError
from fastrealign.core.formatting import count
from fastrealign.retrieval.array_arguments import array_of


class Hits(NamedTuple):
    """A ranked list.

    Attributes
    ----------
    ids : ndarray
        (n,) of text or integers.
    scores : ndarray
        float64 (n,), highest first.
    roles : ndarray
        (n,) of text: the role of the document found, "" where its list named none.
    """

    ids: np.ndarray
    scores: np.ndarray
    roles: np.ndarray


def merge(lists: Iterable[Sequence[Any]], k: int) -> Hits:
    """The k best of several result lists for one query, each document once, with its best score.

    Parameters
    ----------
    lists : iterable of (ids, scores) or (ids, scores, role)
        Of each index or role: ids (n,) of text or integers, each once; calibrated scores (n,), so that lists are comparable
        (`Scores`); and the role, one text or one for each id. `Hits` of an earlier merge are such a list. Ids of -1, which
        FAISS fills short lists with, and of None, which a `Searcher` does, are left out.
    k : int
        How many to return; fewer where there are fewer.

    Returns
    -------
    Hits
        Scores are those given. Neither the order of lists nor that within them matters: equal scores are ordered by id, and of
        one document found twice with one score the role is the first by name.

    Raises
    ------
    InputError
        For an id that is twice in one list, ids of text and integers together, a NaN, or lists of different lengths.

    Examples
    --------
    >>> images, texts = (["cat.jpg", "dog.jpg"], [2.1, 0.4], "image"), (["about cats", "cat.jpg"], [1.7, 1.9], "text")
    >>> hits = merge([images, texts], k=2)
    >>> hits.ids.tolist(), hits.scores.tolist(), hits.roles.tolist()
    (['cat.jpg', 'about cats'], [2.1, 1.7], ['image', 'text'])
    """
    k = whole("k", k, 1)
    if not isinstance(lists, Iterable):
        raise InputError(f"lists: {type(lists).__name__}, expected a list of (ids, scores) or (ids, scores, role)")
    taken = [_taken(number, one) for number, one in enumerate(lists)]
    taken = [one for one in taken if len(one.ids)]
    if not taken:
        return Hits(np.array([], "<U1"), np.array([]), np.array([], "<U1"))
    if len({one.ids.dtype.kind in "iu" for one in taken}) == 2:
        raise InputError("lists to merge: some have ids of text and some integers; name documents in one way")
    ids, scores, roles = (np.concatenate(part) for part in zip(*taken, strict=True))
    order = np.lexsort((roles, ids, -scores))
    _, first = np.unique(ids[order], return_index=True)
    best = order[np.sort(first)[:k]]
    return Hits(ids[best], scores[best], roles[best])


def _taken(number: int, given: Sequence[Any]) -> Hits:
    where = f"list {number}"
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
        raise InputError(f"{where}: expected (ids, scores) or (ids, scores, role)")
    ids, there = _ids(given[0], f"{where}, ids")
    scores = array_of(given[1], f"{where}, scores", "fiu")
    if there.ndim != 1 or scores.shape != there.shape:
        raise InputError(
            f"{where}: ids of shape {there.shape} and scores of {scores.shape}, expected one score for each id of one query"
        )
    roles = np.asarray(given[2] if len(given) == 3 and given[2] is not None else "", dtype=str)
    if roles.shape not in ((), there.shape):
        raise InputError(
            f"{where}: {count(roles.size, 'role')} for {count(len(there), 'id')}; expected one text, or one for each id"
        )
    hits = Hits(ids, scores[there].astype(np.float64), np.broadcast_to(roles, there.shape)[there])
    if ids.dtype.kind == "i":
        hits = Hits(*(part[ids != -1] for part in hits))
    return _checked(where, hits)


def _ids(given: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The ids that are not None, and which of all those are (bool)."""
    if isinstance(given, (list, tuple)) or (
        isinstance(given, np.ndarray) and given.dtype == object and given.ndim == 1
    ):
        there = np.array([one is not None for one in given], bool)
        if not there.all():
            return array_of([one for one in given if one is not None], name, "iuU"), there
    ids = array_of(given, name, "iuU")
    return ids, np.ones(ids.shape, bool)


def _checked(where: str, hits: Hits) -> Hits:
    if np.isnan(hits.scores).any():
        at = int(np.flatnonzero(np.isnan(hits.scores))[0])
        raise InputError(f"{where}: the score of {hits.ids[at].item()!r} is NaN")
    distinct, counts = np.unique(hits.ids, return_counts=True)
    if (counts > 1).any():
        twice = distinct[counts > 1][0].item()
        raise InputError(
            f"{where}: the id {twice!r} is there {counts.max()} times; give each role or index a list of its own"
        )
    return hits
