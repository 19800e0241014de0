"""Maps from pairs, for a change of encoder without embedding everything again: old rows to where the new encoder puts them.

A sample of items is embedded with both encoders; the map that is fitted on these pairs moves the rows of all other items.
Drift-Adapter (arXiv 2509.23471) measures such maps on encoders of text and of pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fastrealign.core import checks
from fastrealign.core.errors import InputError, warn
from fastrealign.core.float_state import computes
from fastrealign.core.formatting import count, does
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.wording import option
from fastrealign.data.options import check_choice
from fastrealign.data.row_source import RowsLike
from fastrealign.methods import recall_kept
from fastrealign.methods.fit_options import PAIRED_METHODS
from fastrealign.methods.pair_moments import PairMoments, pair_blocks, shares
from fastrealign.methods.pair_solutions import one_thread, procrustes, ridge
from fastrealign.methods.pair_sources import open_pairs
from fastrealign.methods.paired_map import PairedMap

# Held-out pairs at most: they are kept in memory, and searched by each other.
MOST_HELD_OUT = 5000
# Of the pairs that a ridge is fitted on, those that choose its strength.
_CHOOSING = 0.15
# Below so many pairs a column, more pairs still raise the recall by much.
_FEW = 4


@computes
def fit_map(
    old: RowsLike,
    new: RowsLike,
    *,
    method: str = "procrustes",
    pairs: str = "auto",
    queries: RowsLike | None = None,
    held_out: float = 0.2,
    seed: int = 0,
    bad_rows: str = "error",
    column: str | None = None,
    target_column: str | None = None,
    progress: Progress = SILENT,
) -> PairedMap:
    """Fit a map from the rows of an old encoder to those of a new one, from items that both embedded.

    One pass in bounded memory: six matrices of the widths at most, and the held-out pairs. Sums are exact, so chunks and
    threads do not change the result; the decomposition of their matrix runs on one thread where threadpoolctl is installed
    (scikit-learn brings it), else its last digits may depend on the number of BLAS threads.

    Parameters
    ----------
    old, new : rows (n, d_old) and (n, d_new)
        Embeddings of the same items, as `fastrealign.fit` takes them: arrays, tensors, files, folders, iterables of chunks. The
        widths may differ. In a folder with text and images, name the folder of one.
    method : {"procrustes", "ridge"}
        procrustes: the scaled rotation, with a translation, that brings old rows nearest to new ones; semi-orthogonal for
        unequal widths. ridge: the affine map of least squares; its strength is chosen on a part of the pairs.
    pairs : {"auto", "rows", "ids"}
        rows: row i of `old` and row i of `new` are of one item. ids: rows with the same id, where both are files that hold ids;
        ids that only one side has are left out. auto: ids where both sides have them.
    queries : rows (n, d_new), optional
        Queries by the new encoder (such as captions, where old and new are pictures), row i for row i of `new`: then the
        recall kept is that of these queries.
    held_out : float, default 0.2
        Share of the pairs, at most 5,000, that measures the recall kept. 0: none, `kept` is None.
    seed : int
        Decides which pairs are held out, and the resampling of the interval.
    bad_rows : {"error", "skip"}
        A row with NaN, Inf or only zeros: BadRowsError, or its pair is left out.
    column, target_column : str, optional
        The column, key or tensor that holds the embeddings in files of `old` and of `new`, where that is ambiguous.
    progress : Progress
        Called as the pass advances; by default nothing is shown.

    Returns
    -------
    PairedMap

    Raises
    ------
    InputError
        For another method, different numbers of rows, old and new that are the same rows, and no more pairs to fit on that
        differ than the lesser width: the rotation is then not determined.
    BadRowsError
        For a row without a direction, where bad_rows is "error".

    Examples
    --------
    >>> import fastrealign as fr, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> items, turn = rng.standard_normal((400, 8)), np.linalg.qr(rng.standard_normal((8, 8)))[0]
    >>> found = fr.fit_map(items, items @ turn + 0.01 * rng.standard_normal((400, 8)))
    >>> found
    PairedMap('procrustes', 8 -> 8, 326 pairs, recall kept 0.992)
    >>> found(items[:3]).shape
    (3, 8)
    """
    held_out, seed = _checked(method, held_out, seed, bad_rows)
    opened = open_pairs(old, new, queries, pairs, (column, target_column), progress)
    sides = opened.sides
    count = sides[0].rows
    part = min(held_out, MOST_HELD_OUT / count) if count else held_out
    moments, choosing = (PairMoments(sides[0].d, sides[1].d, method == "ridge") for _ in range(2))
    aside: list[list[np.ndarray]] = [[np.empty((0, side.d))] for side in sides]
    kept_aside, distinct = 0, _Distinct(_FEW * max(sides[0].d, sides[1].d))
    for at, blocks in pair_blocks(sides, bad_rows == "skip", progress):
        share = shares(at, seed)
        out = share < part
        out[np.flatnonzero(out)[max(MOST_HELD_OUT - kept_aside, 0) :]] = False
        kept_aside += np.count_nonzero(out)
        for rows, block in zip(aside, blocks, strict=True):
            rows.append(block[out])
        chooses = ~out & (share > 1.0 - _CHOOSING * (1.0 - part)) & (method == "ridge")
        distinct.add([block[~out] for block in blocks[:2]])
        for into, chosen in ((moments, ~out & ~chooses), (choosing, chooses)):
            into.add(blocks[0][chosen], blocks[1][chosen])
    _check_enough((sides[0].d, sides[1].d), moments.count + choosing.count, distinct, kept_aside)
    with one_thread():
        solved = procrustes(moments) if method == "procrustes" else ridge(moments, choosing)
    found = PairedMap(
        method,
        solved.matrix,
        solved.shift,
        moments.means[1],
        moments.count,
        opened.matched,
        solved.strength,
        None,
        sides[0].encoder,
        sides[1].encoder,
    )
    return found if not held_out else _measured(found, [np.concatenate(rows) for rows in aside], seed)


def _measured(found: PairedMap, aside: list[np.ndarray], seed: int) -> PairedMap:
    """The map with the recall that it keeps on these pairs."""
    old, *others = aside
    mapped = np.empty((len(old), found.dim_out))
    found.apply(old, mapped)
    return replace(found, kept=recall_kept.recall_kept(mapped, others[0], others[1] if others[1:] else None, seed))


def _checked(method: str, held_out: float, seed: int, bad_rows: str) -> tuple[float, int]:
    """`held_out` and `seed`; InputError for an option that is none."""
    check_choice("method", method, PAIRED_METHODS)
    check_choice("bad_rows", bad_rows, ("error", "skip"))
    held_out = checks.number(
        "held_out", held_out, lambda share: 0.0 <= share <= 0.9, "from 0 to 0.9, a share of the pairs"
    )
    return held_out, checks.seed(seed)


class _Distinct:
    """Counts how many rows of a side differ, up to `enough`; the least of both sides."""

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._seen: tuple[set[int], set[int]] = set(), set()

    def add(self, sides: Sequence[np.ndarray]) -> None:
        """Rows of old and of new."""
        for seen, rows in zip(self._seen, sides, strict=True):
            for first in range(0, len(rows), self._enough):
                if len(seen) < self._enough:
                    seen.update(hash(row.tobytes()) for row in rows[first : first + self._enough])

    def among(self, pairs: int) -> int:
        """How many of so many pairs determine a map; all of them, if enough do."""
        least = min(map(len, self._seen))
        return pairs if least >= self._enough else min(pairs, least)


def _check_enough(widths: tuple[int, int], pairs: int, distinct: _Distinct, aside: int) -> None:
    """InputError where the pairs do not determine a map; a warning where more would still help much."""
    least, wanted = min(widths) + 1, _FEW * max(widths)
    beside = f" beside {aside:,} held out ({option('held_out')} sets their share)" if aside else ""
    differ = distinct.among(pairs)
    copies = f", of which {differ:,} {does(differ, 'differ')}" if differ < pairs else ""
    said = f"{count(pairs, 'pair')} to fit on{beside}{copies}"
    # Rows that are all alike have a message of their own.
    if pairs < least or 1 < differ < least:
        raise InputError(
            f"{said}, expected at least {least:,} for rows {widths[0]} and {widths[1]} wide: fewer do not determine the "
            f"rotation; embed a sample of about {wanted:,} items with both encoders"
        )
    if 1 < differ < wanted:
        warn(
            f"{said}, for rows {widths[0]} and {widths[1]} wide: more still raise the recall kept, aim for {wanted:,} or more"
        )
