"""Rows and outputs as the kernels take them: checks of element types, shapes and memory.

Rows are of any kind of arrays.py, of float16, bfloat16, float32 or float64, two-dimensional, with any row stride (views, memory
maps, reversed rows). The elements of a row must be contiguous, else they are copied; nothing else of size rows x width is
allocated.
"""

from __future__ import annotations

import numpy as np

import fastrealign._core as _core
from fastrealign.core import arrays
from fastrealign.core.dtypes import CODES, EXPECTED, as_dtype
from fastrealign.core.errors import InputError
from fastrealign.core.row_argument import Rows, unmasked
from fastrealign.core.tensors import checked_output, is_tensor, on_device, view_of
from fastrealign.core.text import described


def rows_anywhere(x: object, name: str = "embeddings") -> Rows:
    """Like `as_rows`, but a tensor on a device stays there, for the kernels of that device."""
    return taken_rows(arrays.take(x, name).rows, name, x)


def taken_rows(x: Rows, name: str = "embeddings", given: object = None) -> Rows:
    """`rows_anywhere` of the rows that `arrays.take` returned for `given`."""
    if not on_device(x):
        return _rows(x, name, given)
    if x.ndim != 2 or x.shape[1] == 0:
        raise InputError(f"{name}: shape {tuple(x.shape)}, expected two dimensions (rows, width)")
    as_dtype(x.dtype)
    return x


def as_rows(x: object, name: str = "embeddings") -> np.ndarray:
    """A (rows, width) NumPy view of `x`.

    Parameters
    ----------
    x : array, tensor or any other kind of arrays.py
        Of two dimensions and one of the four element types, in the CPU's memory.
    name : str
        How messages refer to it.

    Returns
    -------
    array (n, d)
        A view where the elements of each row are contiguous, else a copy.

    Raises
    ------
    InputError
        Another element type or number of dimensions, or a tensor on a device.

    Examples
    --------
    >>> as_rows([[3.0, 4.0]])
    array([[3., 4.]])
    """
    known = type(x) is np.ndarray and x.dtype in CODES
    return _rows(x if known else arrays.take(x, name).rows, name, x)


def _rows(x: Rows, name: str, given: object) -> np.ndarray:
    if is_tensor(x):
        x = view_of(x, name)
    elif type(x) is not np.ndarray:
        x = unmasked(x, name)
    if x.dtype not in CODES:
        x = x.astype(x.dtype.newbyteorder("=")) if x.dtype.newbyteorder("=") in CODES else x
    if x.dtype not in CODES:
        raise InputError(f"{name}: element type {x.dtype}, {EXPECTED}{_conversion(given, x)}")
    if x.ndim != 2:
        one = "; one row is x[None, :]" if x.ndim == 1 and (given is x or is_tensor(given)) else ""
        raise InputError(f"{name}: shape {x.shape}, expected two dimensions (rows, width){one}")
    if x.shape[1] == 0:
        raise InputError(f"{name}: shape {x.shape}, expected a width of at least 1")
    if x.shape[1] > 1 and x.strides[1] != x.itemsize:
        x = np.ascontiguousarray(x)
    return x


def _conversion(given: object, x: np.ndarray) -> str:
    """How to convert numbers of another type to floats, as the end of a message; empty if they are none."""
    if x.dtype.names:
        whole = next((name for name in x.dtype.names if x.dtype[name].shape), None)
        return f"; pass {'numpy.lib.recfunctions.structured_to_unstructured(x)' if whole is None else f'x[{whole!r}]'}"
    if x.dtype.kind in "cmMSU":
        return ""
    try:
        (x if x.dtype.kind == "O" else x[:1]).astype(np.float32)
    except (TypeError, ValueError):
        return ""
    how = ".float()" if is_tensor(given) else ".astype('float32')" if hasattr(given, "astype") else None
    return "; convert with " + (how or "numpy.asarray(x, 'float32')")


def as_output(out: object) -> np.ndarray:
    """A NumPy view of the caller's output, for `apply` to check and write to; never a copy, which the caller would not see."""
    if is_tensor(out):
        return view_of(checked_output(out), "out")
    if not isinstance(out, np.ndarray):
        raise InputError(f"out is {described(out)}, expected a NumPy array or a torch tensor")
    return out if type(out) is np.ndarray else unmasked(out, "out")


def check_output(x: np.ndarray, out: np.ndarray, width: int | None = None) -> None:
    """Raise InputError where the results of the rows `x`, `width` wide or as wide as `x`, cannot be stored in `out`."""
    shape = (len(x), width or x.shape[1])
    contiguous = out.size == 0 or out.shape[-1] == 1 or out.strides[-1] == out.itemsize
    if out.shape != shape or out.dtype not in CODES or not contiguous:
        raise InputError(
            f"out has shape {out.shape} and type {out.dtype}, expected {shape} in a float type, rows together"
        )
    if not out.flags.writeable:
        raise InputError("out is read-only")
    if len(out) > 1 and abs(out.strides[0]) < out.shape[1] * out.itemsize:
        raise InputError("the rows of out overlap in memory; pass separate memory for each row")
    # Memory of its own is the rule, and its bounds show it at once.
    if np.may_share_memory(x, out) and not _in_place(x, out) and np.shares_memory(x, out):
        raise InputError("out and the rows overlap in memory; pass the rows themselves as out, or separate memory")


def _in_place(x: np.ndarray, out: np.ndarray) -> bool:
    return (x.ctypes.data, x.strides, x.dtype) == (out.ctypes.data, out.strides, out.dtype)


def empty_rows(rows: int, d: int, dtype: np.dtype) -> np.ndarray:
    """An uninitialised (rows, d) array, aligned to cache lines so that kernels can store whole lines past the cache."""
    size = rows * d * dtype.itemsize
    memory = np.empty(size + _core.CACHE_LINE, dtype=np.uint8)
    start = -memory.ctypes.data % _core.CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(rows, d)
