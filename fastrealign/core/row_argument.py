"""RowArgument: rows that a caller passed, as an array or a tensor; and the parts that messages about them share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastrealign.core.bad_rows import Counts
from fastrealign.core.errors import InputError
from fastrealign.core.libraries import torch

Rows: TypeAlias = "np.ndarray | torch.Tensor"
# (the result, bool (n,) of the rows that are left in it or None for all) -> it as the kind that was given
Back: TypeAlias = Callable[[Any, np.ndarray | None], Any]


class RowArgument(NamedTuple):
    """Rows that a caller passed, as a NumPy array or a torch tensor.

    Parameters
    ----------
    rows : array or tensor (n, d), or (d,) for one vector
        The rows, without a copy where that is possible.
    back : function, optional
        Converts a result to the kind that was given; None if it is of that kind already.
    nulls : bool array (n,), optional
        The rows that were missing, and are NaN here; None if none was missing.
    """

    rows: Rows
    back: Back | None = None
    nulls: np.ndarray | None = None

    def why(self, found: Counts) -> str:
        """What is wrong with the first bad row, as the end of a sentence."""
        return (
            "is missing, or holds missing numbers"
            if self.nulls is not None and self.nulls[found.first_bad]
            else found.why
        )


def unmasked(x: object, name: str) -> np.ndarray:
    """x as a NumPy array. Raises InputError if it has masked numbers: no kernel supports masks."""
    array = np.asanyarray(x)
    mask = getattr(array, "mask", None)
    mask = getattr(x, "mask", None) if mask is None else mask
    if mask is not None and not callable(mask) and np.shape(mask) in (array.shape, array.shape[:1]) and np.any(mask):
        whole = isinstance(x, np.ma.MaskedArray) and x.ndim == 2
        example = ", for example with x[~numpy.ma.getmaskarray(x).any(axis=1)]" if whole else ""
        raise InputError(
            f"{name}: {np.count_nonzero(mask)} numbers are masked, and masks are not supported; leave such rows out{example}"
        )
    return np.asarray(array)


def named(names: Iterable[Any]) -> str:
    """The first few names, quoted and separated by commas."""
    shown = [repr(name) for name in itertools.islice(names, 9)]
    return ", ".join(shown[:8] + ["..."] * (len(shown) > 8)) or "nothing in it"
