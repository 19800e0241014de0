"""Documents of two parts, a picture and its caption: one fused row (early), or both searched and their scores joined (late)."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrealign.core import ops
from fastrealign.core.checks import number
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.float_state import computes
from fastrealign.core.row_map import UNIT
from fastrealign.core.rows import as_rows
from fastrealign.retrieval.array_arguments import ArrayLike, array_of

# A sum of unit rows shorter than this has no direction but that of rounding.
_SHORT = 1e-6


@computes
def fuse(
    image_rows: ArrayLike | None,
    text_rows: ArrayLike | None,
    *,
    weight: float = 0.5,
    has_image: ArrayLike | None = None,
    has_text: ArrayLike | None = None,
) -> np.ndarray:
    """One unit row for each document of a picture and a text: pi(weight pi(i) + (1 - weight) pi(t)).

    Parameters
    ----------
    image_rows, text_rows : array (n, d) or None
        Row i of both is of document i, after the maps of their roles (`fastrealign.fit_roles`): raw, the sum lies between the
        modalities. Rows are divided by their norms first. None where no document has that part.
    weight : float
        Of the image, from 0 to 1. Choose it on held-out pairs: raise it where captions say little.
    has_image, has_text : bool array (n,), optional
        Which documents have that part; the row of one that has not is ignored. A document with one part gets that row, whatever
        the weight.

    Returns
    -------
    ndarray (n, d)
        Unit rows, of the wider of both element types; at least float32.

    Raises
    ------
    InputError
        For different shapes, a weight outside 0 to 1, a document without any part, or one whose parts cancel out.
    BadRowsError
        For a row that is needed and has no direction.

    Examples
    --------
    >>> fuse(np.array([[2.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 0.0]]), has_text=[True, False]).round(3)
    array([[0.707, 0.707],
           [1.   , 0.   ]])
    """
    weight = _weight(weight)
    given = {"image_rows": (image_rows, has_image), "text_rows": (text_rows, has_text)}
    rows = {name: as_rows(part, name) for name, (part, _) in given.items() if part is not None}
    if not rows:
        raise InputError("fuse: image_rows and text_rows are both None; give at least one")
    shape = next(iter(rows.values())).shape
    for name, part in rows.items():
        if part.shape != shape:
            raise InputError(
                f"{name}: shape {part.shape}, but image_rows have {shape}; row i of both is of one document"
            )
    masks = {name: _mask(name, name in rows, mask, shape[0]) for name, (_, mask) in given.items()}
    both = np.logical_and(*masks.values())
    neither = ~np.logical_or(*masks.values())
    if neither.any():
        raise InputError(
            f"document {np.flatnonzero(neither)[0]} has neither an image nor a text; leave out such documents"
        )
    total = np.zeros(shape)
    for name, share in (("image_rows", weight), ("text_rows", 1.0 - weight)):
        if name in rows:
            total[masks[name]] += _unit(name, rows[name], masks[name]) * np.where(both, share, 1.0)[masks[name], None]
    short = np.linalg.norm(total, axis=1) < _SHORT
    if short.any():
        raise InputError(
            f"document {np.flatnonzero(short)[0]}: image and text cancel out at weight {weight:g}; choose another weight"
        )
    out = np.empty(shape, np.result_type(np.float32, *(part.dtype for part in rows.values() if part.dtype.kind == "f")))
    ops.apply(total, UNIT, out)
    return out


def _weight(weight: float) -> float:
    return number("weight", weight, lambda share: 0.0 <= share <= 1.0, "from 0 (text alone) to 1 (image alone)")


def _mask(name: str, given: bool, mask: Any, n: int) -> np.ndarray:
    if not given:
        return np.zeros(n, bool)
    if mask is None:
        return np.ones(n, bool)
    found = array_of(mask, f"has_{name.removesuffix('_rows')}", "b")
    if found.shape != (n,):
        raise InputError(
            f"has_{name.removesuffix('_rows')}: shape {found.shape}, expected ({n},), one for each document"
        )
    return found


def _unit(name: str, rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    out = np.empty((int(mask.sum()), rows.shape[1]))
    found = ops.apply(np.ascontiguousarray(rows[mask]), UNIT, out)
    if found.bad:
        row = int(np.flatnonzero(mask)[found.first_bad])
        raise BadRowsError(
            f"{name}: row {row} {found.why}; where a document lacks that part, say so by has_{name.removesuffix('_rows')}"
        )
    return out


def fuse_scores(image_scores: ArrayLike, text_scores: ArrayLike, *, weight: float | None = None) -> np.ndarray:
    """Scores of documents of which both parts were searched, from the calibrated scores of each part.

    Parameters
    ----------
    image_scores, text_scores : array
        Calibrated scores of the same documents, of one shape; NaN where a document lacks that part.
    weight : float, optional
        Of the image's score in a weighted mean. Without it, the better of the two.

    Returns
    -------
    ndarray of float64
        A document with one part has the score of that part.

    Raises
    ------
    InputError
        For different shapes, a weight outside 0 to 1, or a document without any part.

    Examples
    --------
    >>> fuse_scores(np.array([2.0, 0.5]), np.array([1.0, np.nan])), fuse_scores([2.0], [1.0], weight=0.25)
    (array([2. , 0.5]), array([1.25]))
    """
    image, text = (
        array_of(given, name, "fiu").astype(np.float64)
        for name, given in (("image_scores", image_scores), ("text_scores", text_scores))
    )
    if image.shape != text.shape:
        raise InputError(
            f"scores of images have shape {image.shape}, those of texts {text.shape}; expected one document each"
        )
    weight = None if weight is None else _weight(weight)
    neither = np.isnan(image) & np.isnan(text)
    if neither.any():
        raise InputError(
            f"document {tuple(np.argwhere(neither)[0].tolist())} has neither a score of its image nor of its text"
        )
    if weight is None:
        return np.fmax(image, text)
    mean = weight * image + (1.0 - weight) * text
    return np.where(np.isnan(image), text, np.where(np.isnan(text), image, mean))
