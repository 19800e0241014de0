"""The two ops on rows of any kind: `reduce` adds the row map over rows, `apply` stores it. Rows stay on their device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastrealign.core import cpu
from fastrealign.core.bad_rows import Counts
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.libraries import torch
from fastrealign.core.optional import Lazy
from fastrealign.core.row_argument import Rows
from fastrealign.core.row_map import UNIT, RowMap
from fastrealign.core.rows import as_rows
from fastrealign.core.tensors import on_device

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from fastrealign.core import device_ops
else:
    device_ops = Lazy("fastrealign.core.device_ops", "torch", "a tensor on a device")


def reduce(
    x: ArrayLike | torch.Tensor,
    row_map: RowMap,
    into: ExactSum,
    *,
    flags: np.ndarray | None = None,
    threads: int | None = None,
    isa: str | None = None,
    backend: str | None = None,
) -> Counts:
    """Add f(x; s, b, c) over the rows of `x` to `into`, exactly.

    Parameters
    ----------
    x : array or tensor (n, d)
        Rows of any kind that `as_rows` takes, or a torch tensor on a device. Rows that are not good are left out.
    row_map : RowMap
        f.
    into : ExactSum
        Sums of width d.
    flags : uint8 array (n,), optional
        Receives the state of each row: GOOD, ZERO, NOT_FINITE or COLLAPSED.
    threads : int, optional
        Number of CPU threads; all CPUs by default.
    isa : {"avx512", "avx512vl", "avx2", "baseline"}, optional
        Instruction set; by default the environment's FASTREALIGN_ISA, else the best one.
    backend : {"cuda", "triton", "cpu", "reference"}, optional
        See backend.py.

    Returns
    -------
    Counts
        Good and bad rows, and the first bad one.

    Raises
    ------
    InputError
        Rows, map and sums differ in width, or the kernels do not take such rows.

    Examples
    --------
    >>> sums = ExactSum(2)
    >>> reduce([[3.0, 4.0], [0.0, 0.0]], RowMap(), sums)
    Counts(good=1, bad=1, first_bad=1, reason=1)
    >>> sums.mean
    array([0.6, 0.8])
    """
    if on_device(x):
        return device_ops.reduce_rows(x, row_map, into, flags=flags, backend=backend)
    return cpu.reduce(as_rows(x), row_map, into, flags=flags, threads=threads, isa=isa, backend=backend)


def apply(
    x: ArrayLike | torch.Tensor,
    row_map: RowMap,
    out: Rows,
    *,
    into: ExactSum | None = None,
    flags: np.ndarray | None = None,
    threads: int | None = None,
    isa: str | None = None,
    backend: str | None = None,
) -> Counts:
    """Store f(x; s, b, c) in `out`, and add the stored rows to `into` if it is given.

    Parameters
    ----------
    x : array or tensor (n, d)
        As for `reduce`.
    row_map : RowMap
        f.
    out : array (n, d), or a tensor on the device of x
        Of any of the four element types. It may be `x` itself. A row without a direction is stored unchanged (in the type of
        `out`), counted, and left out of the sums.
    into : ExactSum, optional
        Sums of width d.
    flags, threads, isa, backend
        As for `reduce`.

    Returns
    -------
    Counts

    Raises
    ------
    InputError
        As for `reduce`, or `out` cannot hold the result.

    Examples
    --------
    >>> out = np.empty((1, 2), np.float32)
    >>> apply(np.array([[3.0, 4.0]]), RowMap(), out).good
    1
    >>> out
    array([[0.6, 0.8]], dtype=float32)
    """
    if on_device(x):
        return device_ops.apply_rows(x, row_map, out, into=into, flags=flags, backend=backend)
    rows = as_rows(x)
    return cpu.apply(rows, row_map, out, into=into, flags=flags, threads=threads, isa=isa, backend=backend)


def row_states(rows: np.ndarray) -> np.ndarray:
    """The state of each row (core/bad_rows.py): uint8 (n,)."""
    states = np.empty(len(rows), np.uint8)
    reduce(rows, UNIT, ExactSum(rows.shape[1]), flags=states)
    return states
