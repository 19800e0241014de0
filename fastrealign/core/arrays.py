"""Takes rows from arrays of any kind, and returns results as the kind that was given.

An object is recognised by its protocols, or by the library of its class.

    given                                                       taken as          given back
    NumPy array, buffer, `__array__`, `__array_interface__`     NumPy array       NumPy array
    torch tensor                                                itself            tensor, of its subclass where torch makes one
    CuPy, `__cuda_array_interface__`                            tensor            CuPy array, tensor
    `__dlpack__`: JAX, array API                                NumPy array, or   array of its namespace; without one a NumPy
                                                                tensor (device)   array or a tensor
    list or tuple of rows or of numbers                         array, tensor     list or tuple of the same

formats/table_objects.py adds the libraries of tables: pandas, pyarrow, polars, datasets, dask, scipy and sparse.
Missing rows (null, None) become rows of NaN, for which `bad_rows` applies.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.libraries import torch
from fastrealign.core.list_rows import of_list
from fastrealign.core.row_argument import Back, RowArgument, named, unmasked
from fastrealign.core.tensors import is_tensor, plain
from fastrealign.core.text import described, one_line

# DLDeviceType of dlpack.h: memory that the CPU can read, pinned or not.
_IN_MEMORY = (1, 3)


def take(x: object, name: str = "embeddings") -> RowArgument:
    """The rows of x.

    Parameters
    ----------
    x : any kind of the table above
        Two-dimensional, or one vector.
    name : str
        How messages refer to it.

    Returns
    -------
    RowArgument

    Raises
    ------
    InputError
        x holds no rows; the message begins with `name`.

    Examples
    --------
    >>> take([[1.0, 2.0], [3.0, 4.0]]).rows
    array([[1., 2.],
           [3., 4.]])
    """
    if isinstance(x, np.ndarray) and (x.dtype.kind != "O" or x.ndim != 1):
        return RowArgument(x)
    if is_tensor(x):
        return RowArgument(plain(x, name))
    try:
        taken = _taken(x, name)
    except (FastRealignError, MemoryError):
        raise
    except Exception as error:  # other libraries raise any exception
        raise InputError(
            f"{name}: {described(x)} cannot be read as rows: {type(error).__name__}: {one_line(error)}; pass a NumPy array"
        ) from error
    if taken is None:
        raise InputError(f"{name}: {described(x)}, expected rows: an array or a tensor (rows, width)")
    return taken


def given_back(back: Back, result: Any, left: np.ndarray | None, given: object) -> Any:
    """The result as the kind that was given. Raises InputError if that kind does not support its element type."""
    try:
        return back(result, left)
    except (FastRealignError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"{described(given)} of {result.dtype} cannot be made: {one_line(error)}; pass out=, or another dtype"
        ) from error


def holds_rows(x: object) -> bool:
    """Whether x is rows, rather than an iterable of chunks of rows."""
    if isinstance(x, (list, tuple)):
        first = next((row for row in x if row is not None), None)
        return first is not None and not isinstance(first, Mapping) and _axes(first) < 2
    if isinstance(x, Iterator):
        return False
    known = isinstance(x, np.ndarray) or is_tensor(x) or _library(x) in KINDS
    return known or any(hasattr(x, protocol) for protocol in _PROTOCOLS) or _buffer(x)


def as_rows_of(x: object, name: str) -> np.ndarray:
    """x as a NumPy array of any element type, copied from its device."""
    rows = take(x, name).rows
    if not is_tensor(rows):
        return unmasked(rows, name)
    rows = rows.cpu()
    return rows.float().numpy() if rows.dtype == torch.bfloat16 else rows.numpy()


# --- the kinds ------------------------------------------------------------------------------------------------------------

# Readers of objects of other libraries, by the library's name: (x, name) -> its rows, or None for one that holds none.
KINDS: dict[str, Callable[[Any, str], RowArgument | None]] = {}
_PROTOCOLS = ("__dlpack__", "__cuda_array_interface__", "__array_interface__", "__array_struct__", "__array__")


def _library(x: Any) -> str:
    """The library of the first class of x, or of its bases, that is in KINDS; else that of its class."""
    libraries = [kind.__module__.partition(".")[0] for kind in type(x).__mro__]
    return next((library for library in libraries if library in KINDS), libraries[0])


def _taken(x: Any, name: str) -> RowArgument | None:
    if isinstance(x, (list, tuple, np.ndarray)):
        return of_list(x, name, take)
    if isinstance(x, Mapping):
        raise InputError(f"{name}: {described(x)} with {named(x)}; pass the one that holds the embeddings, x[...]")
    kind = KINDS.get(_library(x))
    taken = None if kind is None else kind(x, name)
    if taken is not None:
        return taken
    if hasattr(x, "__dlpack__"):
        return _of_dlpack(x, name)
    if hasattr(x, "__cuda_array_interface__"):
        if x.__cuda_array_interface__.get("mask") is not None:
            raise InputError(f"{name}: {described(x)} with a mask, which is not supported; leave the masked rows out")
        return RowArgument(plain(torch.as_tensor(x, device="cuda"), name))
    if hasattr(x, "__array_interface__"):
        mask = x.__array_interface__.get("mask")
        if mask is not None and np.any(mask):
            raise InputError(f"{name}: {described(x)} with a mask, which is not supported; leave the masked rows out")
    if any(hasattr(x, protocol) for protocol in _PROTOCOLS) or _buffer(x):
        array = unmasked(x, name)
        return of_list(array, name, take) if array.dtype == object and array.ndim == 1 else RowArgument(array)
    return None


def _buffer(x: Any) -> bool:
    try:
        return memoryview(x).ndim > 0 and not isinstance(x, bytes)
    except TypeError:
        return False


def may_hold_rows(x: object) -> bool:
    """Whether this entry of a batch may be its rows: floats of at least two dimensions, or a list of arrays."""
    if isinstance(x, (list, tuple)):
        return len(x) > 0 and _axes(x) > 1
    if _axes(x) < 2:
        return False
    return x.is_floating_point() if is_tensor(x) else str(getattr(x, "dtype", "float")).startswith(("float", "bfloat"))


def _axes(x: Any) -> int:
    """The number of dimensions of x, judged by its first elements; 0 if it is no array."""
    if isinstance(x, (list, tuple)):
        return 1 + max((_axes(first) for first in itertools.islice(x, 1)), default=0)
    if is_tensor(x):
        return x.dim()
    if hasattr(x, "ndim"):
        return int(x.ndim)
    return len(getattr(x, "shape", ())) or int(holds_rows(x) and hasattr(x, "__len__"))


# --- DLPack -----------------------------------------------------------------------------------------------


def _of_dlpack(x: Any, name: str) -> RowArgument:
    in_memory = int(x.__dlpack_device__()[0]) in _IN_MEMORY
    space = x.__array_namespace__() if hasattr(x, "__array_namespace__") else None
    back: Back | None = None
    # First, because DLPack drops masks, and NumPy does not support bfloat16 from it.
    if in_memory and (hasattr(x, "__array__") or hasattr(x, "__array_interface__")):
        rows = unmasked(x, name)
    elif in_memory and (space is not None or find_spec("torch") is None):
        rows = unmasked(np.from_dlpack(x), name)
    else:
        rows = plain(torch.from_dlpack(x), name)
    if space is not None:
        back = (
            (lambda result, left: space.asarray(result))
            if in_memory
            else lambda result, left: space.from_dlpack(result)
        )
    if _library(x) == "cupy":
        cupy = sys.modules["cupy"]
        back = lambda result, left: cupy.from_dlpack(result)  # noqa: E731
    shape = getattr(x, "shape", None)
    if isinstance(shape, tuple) and shape != tuple(rows.shape):
        raise InputError(
            f"{name}: {described(x)} of shape {shape} that exports {tuple(rows.shape)}; pass a NumPy array"
        )
    return RowArgument(rows, back)
