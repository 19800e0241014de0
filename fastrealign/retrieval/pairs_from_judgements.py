"""Judgements as pairs of rows: what methods that choose by pairs are fitted with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fastrealign.core import checks
from fastrealign.core.errors import InputError
from fastrealign.data.row_source import RowsLike
from fastrealign.diagnostics.unit_rows import picked
from fastrealign.methods.role_pairs import MOST
from fastrealign.retrieval.array_arguments import IdsLike, QrelsLike
from fastrealign.retrieval.documents import IMAGE, QUERY, TEXT, judged_rows, open_sides


def judged_pairs(
    queries: RowsLike,
    *,
    text: RowsLike | None = None,
    images: RowsLike | None = None,
    qrels: QrelsLike,
    ids: Mapping[str, IdsLike] | None = None,
    column: str | None = None,
    image_column: str | None = None,
    seed: int = 0,
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """The rows of judged queries and of what is relevant to them, as `fastrealign.fit_roles` takes them for `pairs`.

    Parameters
    ----------
    queries, text, images, qrels, ids, column, image_column
        As `evaluate` takes them.
    seed : int
        Of the sample of pairs, of which at most 10,000 of each kind are drawn.

    Returns
    -------
    dict
        For ("query", "text") and ("query", "image"), as far as there are documents: two arrays (n, dim) of unit rows, row i of
        one belonging to row i of the other.

    Raises
    ------
    InputError
        As `evaluate` does.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrealign.retrieval import judged_pairs
    >>> rows = np.eye(3)
    >>> pairs = judged_pairs(rows, images=rows[::-1], qrels={"0": {"2": 1}, "1": {"1": 1}})
    >>> [side.shape for side in pairs["query", "image"]]
    [(2, 3), (2, 3)]
    """
    seed = checks.seed(seed)
    if text is None and images is None:
        raise InputError("there are no documents; give text, images or both")
    sides = open_sides({QUERY: queries, TEXT: text, IMAGE: images}, ids or {}, column, image_column)
    judged = judged_rows(sides, qrels)
    pairs = {}
    for role, of in judged.relevant.items():
        n = len(of.query)
        some = np.sort(np.random.default_rng(seed).choice(n, MOST, replace=False)) if n > MOST else np.arange(n)
        rows = []
        for side, numbers in ((sides[QUERY], judged.queries[of.query[some]]), (sides[role], of.document[some])):
            once, place = np.unique(numbers, return_inverse=True)
            rows.append(picked(side.source, once)[place])
        pairs[QUERY, role] = rows[0], rows[1]
    return pairs
