"""The four element types of embeddings: their names, and their numbers in the compiled core."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

import ml_dtypes
import numpy as np

import fastrealign._core as _core
from fastrealign.core.errors import InputError
from fastrealign.core.libraries import torch

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

# An element type as public functions take it: "bf16", np.float16, torch.float32.
ElementType: TypeAlias = "DTypeLike | torch.dtype"
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# DType of csrc/element.h.
CODES: dict[np.dtype, int] = {
    np.dtype(np.float32): _core.FLOAT32,
    np.dtype(np.float16): _core.FLOAT16,
    BFLOAT16: _core.BFLOAT16,
    np.dtype(np.float64): _core.FLOAT64,
}
NAMES: dict[str, np.dtype] = {dtype.name: dtype for dtype in CODES}
_ALIASES = NAMES | {
    "fp32": np.dtype("f4"),
    "fp16": np.dtype("f2"),
    "bf16": BFLOAT16,
    "fp64": np.dtype("f8"),
    "half": np.dtype("f2"),
    "single": np.dtype("f4"),
    "double": np.dtype("f8"),
}
EXPECTED = "expected float16, bfloat16, float32 or float64"


def as_dtype(dtype: ElementType) -> np.dtype:
    """The NumPy dtype of a name, a NumPy dtype or a torch dtype.

    Parameters
    ----------
    dtype : str, numpy.dtype or torch.dtype
        Such as "float32" or "bf16".

    Returns
    -------
    numpy.dtype
        float16, bfloat16, float32 or float64.

    Raises
    ------
    InputError
        It is another type.

    Examples
    --------
    >>> as_dtype("bf16").name
    'bfloat16'
    """
    if isinstance(dtype, str) and (named := dtype.lower().removeprefix("torch.")) in _ALIASES:
        return _ALIASES[named]
    name = str(dtype).removeprefix("torch.") if type(dtype).__module__ == "torch" else None
    try:
        found = _ALIASES[name] if name in _ALIASES else np.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    if found not in CODES:
        raise InputError(f"element type {dtype}: {EXPECTED}")
    return found


def common_dtype(dtypes: Iterable[np.dtype]) -> np.dtype:
    """The narrowest element type that holds the values of each of these."""
    kinds = set(dtypes)
    widest = max(kinds, key=lambda dtype: dtype.itemsize)
    # Neither float16 nor bfloat16 holds the other.
    return np.dtype(np.float32) if widest.itemsize == 2 and len(kinds) > 1 else widest
