"""Arrays that users hand over: of NumPy, lists, tensors on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.text import one_line
from fastrealign.storage.paths import AnyPath

if TYPE_CHECKING:
    import torch

KINDS = {"f": "floats", "iu": "integers", "fiu": "numbers", "iuU": "text or integers", "b": "bool"}


# What may be given where an array is asked for.
ArrayLike: TypeAlias = Union[np.ndarray, "torch.Tensor", Sequence[Any]]
# Ids of rows in their order: a file, or the ids themselves.
IdsLike: TypeAlias = AnyPath | np.ndarray | Sequence[Any]
# Judgements: a file or folder, or grades of document ids by query id.
QrelsLike: TypeAlias = AnyPath | Mapping[str, Mapping[str, int]]


def array_of(given: Any, name: str, kinds: str) -> np.ndarray:
    """As an array whose kind of element is one of NumPy's `kinds`, a key of KINDS. InputError with `name` first otherwise.

    An empty list has any kind; texts or integers that NumPy takes for objects, such as a column of a table, are what they are.
    """
    try:
        found = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors elsewhere, or of bfloat16
        raise InputError(f"{name}: no array of {KINDS[kinds]}: {one_line(error)}") from None
    if found.dtype == object and "U" in kinds:
        types = {type(one) for one in found.flat}
        if all(issubclass(one, str) for one in types):
            found = found.astype(str)
        elif all(issubclass(one, (int, np.integer)) for one in types):
            found = np.array(found.tolist())
            if found.dtype.kind in "Of":
                raise InputError(f"{name}: integers of more than 64 bits, expected {KINDS[kinds]}; give them as text")
        elif len(types) > 1:
            mixed = " and ".join(sorted(one.__name__ for one in types))
            raise InputError(f"{name}: a mix of {mixed}, expected all text or all integers")
    if found.dtype.kind not in kinds and found.size:
        kind = types.pop().__name__ if found.dtype == object and "U" in kinds else found.dtype
        raise InputError(f"{name}: element type {kind}, expected {KINDS[kinds]}")
    return found
