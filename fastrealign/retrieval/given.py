"""Arrays that users hand over: of NumPy, lists, tensors on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.text import one_line

KINDS = {"f": "floats", "iu": "integers", "fiu": "numbers", "iuU": "text or integers", "b": "bool"}


def array_of(given: Any, name: str, kinds: str) -> np.ndarray:
    """As an array whose kind of element is one of NumPy's `kinds`, a key of KINDS. InputError with `name` first otherwise.

    An empty list has any kind; a column of texts of a table, which NumPy takes for objects, is text.
    """
    try:
        found = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors elsewhere, or of bfloat16
        raise InputError(f"{name}: no array of {KINDS[kinds]}: {one_line(error)}") from None
    if found.dtype == object and "U" in kinds and all(isinstance(one, str) for one in found.flat):
        found = found.astype(str)
    if found.dtype.kind not in kinds and found.size:
        raise InputError(f"{name}: element type {found.dtype}, expected {KINDS[kinds]}")
    return found
