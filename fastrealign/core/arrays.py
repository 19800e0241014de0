"""Rows of every kind that holds them, and results as the kind that was given.

An object is recognised by the protocols that it has, or by the library that its class is from.

    given                                                       taken as          given back
    NumPy array, buffer, `__array__`, `__array_interface__`     NumPy array       NumPy array
    torch tensor                                                itself            tensor, of its subclass where torch makes one
    CuPy, `__cuda_array_interface__`                            tensor            CuPy array, tensor
    `__dlpack__`: JAX, array API                                NumPy array, or   array of its namespace; without one a NumPy
                                                                tensor (device)   array or a tensor
    list or tuple of rows or of numbers                         array, tensor     list or tuple of the same

formats/table_objects.py adds the libraries of tables: pandas, pyarrow, polars, datasets, dask, scipy and sparse.
Missing rows (null, None) are taken as rows of NaN, which `bad_rows` decides about.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from fastrealign.core.dtypes import NAMES
from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.optional import Lazy
from fastrealign.core.row_map import Counts
from fastrealign.core.tensors import is_tensor, plain
from fastrealign.core.text import one_line

if TYPE_CHECKING:
    import torch

    Rows: TypeAlias = np.ndarray | torch.Tensor
else:
    torch = Lazy("torch", "torch", "a tensor")

# (the result, bool (n,) of the rows that are left in it or None for all) -> it as the kind that was given
Back: TypeAlias = Callable[[Any, np.ndarray | None], Any]

# DLDeviceType of dlpack.h: memory that the CPU can read, pinned or not.
_IN_MEMORY = (1, 3)


class Taken(NamedTuple):
    """Rows as a NumPy array or a torch tensor.

    Parameters
    ----------
    rows : array or tensor (n, d), or (d,) for one vector
        The rows, without a copy where that is possible.
    back : function, optional
        Converts a result to the kind that was given; None where it is of that kind already.
    nulls : bool array (n,), optional
        The rows that were missing, and are NaN here; None where none was.
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


def take(x: object, name: str = "embeddings") -> Taken:
    """The rows of x.

    Parameters
    ----------
    x : any kind of the table above
        Two-dimensional, or one vector.
    name : str
        How messages refer to it.

    Returns
    -------
    Taken

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
        return Taken(x)
    if is_tensor(x):
        return Taken(plain(x, name))
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
    """The result as the kind that was given. Raises InputError where that has no such element type."""
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


def unmasked(x: object, name: str) -> np.ndarray:
    """x as a NumPy array. Raises InputError where it has a mask that masks something: no kernel looks at masks."""
    array = np.asanyarray(x)
    mask = getattr(array, "mask", None)
    mask = getattr(x, "mask", None) if mask is None else mask
    if mask is not None and not callable(mask) and np.shape(mask) in (array.shape, array.shape[:1]) and np.any(mask):
        whole = isinstance(x, np.ma.MaskedArray) and x.ndim == 2
        example = ", for example with x[~numpy.ma.getmaskarray(x).any(axis=1)]" if whole else ""
        raise InputError(
            f"{name}: {np.count_nonzero(mask)} numbers are masked, and a mask is not looked at; leave such rows out{example}"
        )
    return np.asarray(array)


def as_rows_of(x: object, name: str) -> np.ndarray:
    """x as a NumPy array of any element type, copied from its device."""
    rows = take(x, name).rows
    if not is_tensor(rows):
        return unmasked(rows, name)
    rows = rows.cpu()
    return rows.float().numpy() if rows.dtype == torch.bfloat16 else rows.numpy()


# --- the kinds ------------------------------------------------------------------------------------------------------------

# Readers of objects of other libraries, by the library's name: (x, name) -> its rows, or None for one that holds none.
KINDS: dict[str, Callable[[Any, str], Taken | None]] = {}
_PROTOCOLS = ("__dlpack__", "__cuda_array_interface__", "__array_interface__", "__array_struct__", "__array__")


def _library(x: Any) -> str:
    """The library of the first class of x, or of its bases, that is in KINDS; else that of its class."""
    libraries = [kind.__module__.partition(".")[0] for kind in type(x).__mro__]
    return next((library for library in libraries if library in KINDS), libraries[0])


def described(x: object) -> str:
    """The type of x with its article: "a Series", "an Index"."""
    name = type(x).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _taken(x: Any, name: str) -> Taken | None:
    if isinstance(x, (list, tuple, np.ndarray)):
        return of_list(x, name)
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
            raise InputError(f"{name}: {described(x)} with a mask, which is not looked at; leave such rows out")
        return Taken(plain(torch.as_tensor(x, device="cuda"), name))
    if hasattr(x, "__array_interface__"):
        mask = x.__array_interface__.get("mask")
        if mask is not None and np.any(mask):
            raise InputError(f"{name}: {described(x)} with a mask, which is not looked at; leave such rows out")
    if any(hasattr(x, protocol) for protocol in _PROTOCOLS) or _buffer(x):
        array = unmasked(x, name)
        return of_list(array, name) if array.dtype == object and array.ndim == 1 else Taken(array)
    return None


def _buffer(x: Any) -> bool:
    try:
        return memoryview(x).ndim > 0 and not isinstance(x, bytes)
    except TypeError:
        return False


def named(names: Iterable[Any]) -> str:
    """The first names of some, quoted and separated by commas."""
    shown = [repr(name) for name in itertools.islice(names, 9)]
    return ", ".join(shown[:8] + ["..."] * (len(shown) > 8)) or "nothing in it"


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


# --- rows one by one --------------------------------------------------------------------------------------------------


def of_list(x: Any, name: str) -> Taken:
    """A list, a tuple or an array of objects: of rows, or of the numbers of one."""
    kind = next((k for k in (list, tuple) if isinstance(x, k)), None)
    nulls = np.array([_missing(row) for row in x], dtype=bool)
    held = [row for row, null in zip(x, nulls, strict=True) if not null]
    if not held:
        raise InputError(f"{name}: {described(x)} of {len(x)} rows, none of which is there")
    if all(isinstance(number, (int, float, np.number)) for number in held):
        # NumPy scalars keep their type; Python's numbers are float64
        kinds = {type(number) for number in held}
        row = np.array([np.nan if null else number for number, null in zip(x, nulls, strict=True)])
        row = row if all(issubclass(k, np.number) for k in kinds) else row.astype(np.float64)
        return Taken(row, None if kind is None else lambda result, left: kind(result.tolist()))
    if any(isinstance(row, (str, bytes, Mapping)) for row in held):
        odd = next(row for row in held if isinstance(row, (str, bytes, Mapping)))
        raise InputError(f"{name}: {described(x)} that holds {described(odd)}, expected rows of numbers")
    rows, back = _stacked(held, np.flatnonzero(~nulls), name)
    if nulls.any():
        rows = spread(rows, nulls)

    missing = nulls if nulls.any() else None
    return Taken(rows, (lambda r, left: kind(with_none(back(r), missing, left))) if kind else None, missing)


def with_none(rows: Iterable[Any], nulls: np.ndarray | None, left: np.ndarray | None) -> list[Any]:
    """The rows as a list, with None for those that were missing; `left` as for `Back`."""
    if nulls is None:
        return list(rows)
    return [None if null else row for row, null in zip(rows, nulls if left is None else nulls[left], strict=True)]


def _missing(row: Any) -> bool:
    return row is None or (isinstance(row, float) and row != row) or type(row).__name__ == "NAType"


def _stacked(held: list[Any], numbers: np.ndarray, name: str) -> tuple[Any, Callable[[Any], list[Any]]]:
    """Rows of one width stacked to (n, d), and a function that makes a list of such rows from a result.

    numbers: the index of each row, for messages.
    """
    if all(type(row) is list for row in held):
        with suppress(ValueError, TypeError):  # the checks row by row below say which one is wrong
            table = np.array(held)
            if table.ndim == 2 and table.dtype.kind in "iuf":
                return table if table.dtype.kind == "f" else table.astype(np.float64), lambda result: result.tolist()
    taken = [_one(row, number, name) for row, number in zip(held, numbers, strict=True)]
    widths = [len(one.rows) for one in taken]
    other = next((i for i, width in enumerate(widths) if width != widths[0]), None)
    if other is not None:
        raise InputError(
            f"{name}: row {numbers[other]} is {widths[other]} wide, row {numbers[0]} {widths[0]}; all must be of one width"
        )
    rows: list[Any] = [one.rows for one in taken]
    if all(is_tensor(row) for row in rows):
        kind = type(held[0])
        stacked = torch.stack([row.detach().to(rows[0].device) for row in rows])
        back = (lambda result: [row.as_subclass(kind) for row in result]) if _simple(kind) else list
        return stacked, back
    arrays = [row.cpu().float().numpy() if is_tensor(row) else row for row in rows]
    first = taken[0].back
    return np.stack(arrays), (lambda result: [first(row, None) for row in result]) if first else list


def _simple(kind: Any) -> bool:
    """Whether torch's operations on this tensor subclass return the subclass."""
    return (
        kind is not torch.nn.Parameter and kind.__torch_function__.__func__ is torch.Tensor.__torch_function__.__func__
    )


def _one(row: Any, number: int, name: str) -> Taken:
    if type(row) is np.ndarray:
        taken = Taken(row)
    elif is_tensor(row):
        if row.requires_grad:
            raise InputError(f"{name}: row {number} requires a gradient, which is not recorded; pass its .detach()")
        taken = Taken(plain(row, f"{name}: row {number}"))
    else:
        taken = take(row, f"{name}: row {number}")
        if not is_tensor(taken.rows):
            taken = Taken(unmasked(taken.rows, f"{name}: row {number}"), taken.back)
    if taken.rows.ndim != 1:
        raise InputError(
            f"{name}: row {number} of a list has shape {tuple(taken.rows.shape)}, expected one dimension; pass one array of "
            "all rows (numpy.concatenate, torch.cat)"
        )
    return taken


def spread(rows: Any, nulls: np.ndarray) -> Any:
    """The rows (n, d) at the places that are not null, and NaN at the others."""
    if is_tensor(rows):
        out = rows.new_full((len(nulls), rows.shape[1]), torch.nan)
        out[torch.from_numpy(~nulls).to(rows.device)] = rows
        return out
    dtype = rows.dtype if rows.dtype.name in NAMES else np.float64
    out = np.full((len(nulls), rows.shape[1]), np.nan, dtype)
    out[~nulls] = rows
    return out


# --- DLPack -----------------------------------------------------------------------------------------------


def _of_dlpack(x: Any, name: str) -> Taken:
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
    return Taken(rows, back)
