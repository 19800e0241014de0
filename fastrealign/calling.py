"""Calling a map on a user's rows: any kind of array in, the same kind out. What an Alignment and a baseline have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastrealign import ops
from fastrealign.errors import BadRowsError, InputError
from fastrealign.ops import Counts
from fastrealign.pipeline import check_bad_rows

# (rows, where to store the result, uint8 states of the rows or None) -> what was counted, as `ops.apply` does it
Kernel = Callable[[Any, Any, np.ndarray | None], Counts]


def call(x: Any, d: int, kernel: Kernel, *, dtype: Any = None, out: Any = None, bad_rows: str = "error") -> Any:
    """The rows of x (n, d) through `kernel`; the arguments are those of `Alignment.__call__`."""
    check_bad_rows(bad_rows)
    if ops.is_tensor(x) and x.requires_grad:
        raise InputError("this call does not record gradients; use fastrealign.nn.as_module, or pass x.detach()")
    given, x = x, ops.native(x)
    rows = ops.rows_anywhere(x)
    if rows.shape[1] != d:
        raise InputError(f"rows are {rows.shape[1]} wide, the alignment was fitted on {d}")
    tensor = ops.is_tensor(x)
    if out is not None:
        result = ops.native(out) if ops.on_device(rows) else ops.as_output(out)
        if dtype is not None and ops.as_dtype(dtype) != ops.as_dtype(result.dtype):
            raise InputError(f"dtype={dtype} and an out of type {result.dtype} contradict each other")
        if bad_rows == "skip":
            raise InputError("bad_rows='skip' changes the number of rows, which out= fixes")
    else:
        wanted = ops.as_dtype(rows.dtype if dtype is None else dtype)
        result = _empty_like(x, rows.shape, wanted) if tensor else ops.empty_rows(*rows.shape, wanted)
    view = result if ops.on_device(rows) else ops.as_output(result)
    flags = np.empty(len(rows), dtype=np.uint8) if bad_rows == "skip" else None
    found = kernel(rows, view, flags)
    if found.bad and bad_rows == "error":
        raise BadRowsError(f"row {found.first_bad} {found.why}; mend it, or pass bad_rows='skip' or 'keep'")
    if out is not None:
        return out
    if found.bad and flags is not None:
        good = flags == ops.GOOD
        result = result[ops.as_tensor(good).to(result.device)] if tensor else result[good]
    return ops.as_caller_has_it(result, given)


def _empty_like(x: Any, shape: tuple[int, int], dtype: np.dtype) -> Any:
    import torch

    return torch.empty(tuple(shape), dtype=getattr(torch, dtype.name), device=x.device)
