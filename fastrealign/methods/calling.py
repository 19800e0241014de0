"""Calling a map on a user's rows: any kind of array in, the same kind out. What an Alignment and a baseline have in common."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from fastrealign.core.arrays import given_back
from fastrealign.core.dtypes import as_dtype
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.row_map import GOOD, Counts
from fastrealign.core.rows import as_output, empty_rows, taken_rows
from fastrealign.core.tensors import as_tensor, checked_output, is_tensor, on_device
from fastrealign.data.options import BAD_ROWS, check_choice
from fastrealign.formats.table_objects import take

# (rows, where to store the result, uint8 states of the rows or None) -> what was counted, as `ops.apply` does it
Kernel = Callable[[Any, Any, np.ndarray | None], Counts]


def call(x: Any, d: int, kernel: Kernel, *, dtype: Any = None, out: Any = None, bad_rows: str = "error") -> Any:
    """The rows of x (n, d), or one vector (d,), through `kernel`; the arguments are those of `Alignment.__call__`."""
    check_choice("bad_rows", bad_rows, BAD_ROWS)
    given = x
    if is_tensor(x) and x.requires_grad:
        raise InputError("this call does not record gradients; use fastrealign.nn.as_module, or pass x.detach()")
    taken = take(x)
    x = taken.rows
    single = x.ndim == 1
    rows = taken_rows(x[None] if single else x, given=given)
    if rows.shape[1] != d:
        raise InputError(f"rows are {rows.shape[1]} wide, the alignment was fitted on {d}")
    if single and bad_rows == "skip":
        raise InputError(
            "bad_rows='skip' leaves out rows, of one vector nothing would be left; choose 'error' or 'keep'"
        )
    tensor = is_tensor(x)
    if out is not None:
        result = out[None] if single and hasattr(out, "ndim") and out.ndim == 1 else out
        if dtype is not None and as_dtype(dtype) != as_dtype(result.dtype):
            raise InputError(f"dtype={dtype} and an out of type {result.dtype} contradict each other")
        if bad_rows == "skip":
            raise InputError("bad_rows='skip' changes the number of rows, which out= fixes")
    else:
        wanted = as_dtype(rows.dtype if dtype is None else dtype)
        result = _empty_like(given, x, rows.shape, wanted) if tensor else empty_rows(len(rows), d, wanted)
    view = checked_output(result) if on_device(rows) and is_tensor(result) else as_output(result)
    flags = np.empty(len(rows), dtype=np.uint8) if bad_rows == "skip" else None
    found = kernel(rows, view, flags)
    if found.bad and bad_rows == "error":
        raise BadRowsError(f"row {found.first_bad} {taken.why(found)}; fix it, or pass bad_rows='skip' or 'keep'")
    if out is not None:
        return out
    left = flags == GOOD if found.bad and flags is not None else None
    if left is not None:
        result = result[as_tensor(left).to(result.device)] if tensor else result[left]
    result = result[0] if single else result
    return result if taken.back is None else given_back(taken.back, result, left, given)


def _empty_like(given: Any, x: Any, shape: tuple[int, int], dtype: np.dtype) -> Any:
    import torch

    kind = getattr(torch, dtype.name)
    if is_tensor(given) and type(given) is not torch.Tensor:
        # A subclass decides itself what an operation on it gives.
        with suppress(Exception):
            made = given.new_empty(tuple(shape), dtype=kind)
            if is_tensor(made) and made.shape == tuple(shape) and made.dtype == kind:
                return made
    return torch.empty(tuple(shape), dtype=kind, device=x.device)
