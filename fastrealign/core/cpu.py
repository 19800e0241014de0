"""reduce, apply and vjp of NumPy arrays on the CPU, by the compiled core or the reference; the number of threads.

A call on one row takes a few microseconds, so what a map needs is made once (`RowMap.prepared`), and the environment is read
where it lies: it may change between calls.
"""

from __future__ import annotations

import os

import numpy as np

import fastrealign._core as _core
from fastrealign.core import reference
from fastrealign.core.backend import choose
from fastrealign.core.bad_rows import GOOD, Counts, counted
from fastrealign.core.checks import whole
from fastrealign.core.dtypes import CODES
from fastrealign.core.errors import InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.float_state import computes
from fastrealign.core.row_map import RowMap
from fastrealign.core.rows import check_output


def default_threads() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(threads: int | None) -> int:
    """`threads`, or the number of CPUs for None. Raises InputError unless it is a positive integer."""
    return default_threads() if threads is None else whole("threads", threads, 1, (1 << 31) - 1)


def instruction_sets() -> list[str]:
    """The instruction sets that this machine supports, best first."""
    names: list[str] = _core.instruction_sets()
    return names


def reduce(
    x: np.ndarray,
    row_map: RowMap,
    into: ExactSum,
    *,
    flags: np.ndarray | None = None,
    threads: int | None = None,
    isa: str | None = None,
    backend: str | None = None,
) -> Counts:
    """`ops.reduce` for rows that `as_rows` returned."""
    _check_sums(x, into)
    if _backend(backend) == "reference":
        return _by_reference(x, row_map, None, into, flags)
    _check_flags(x, flags)
    counts = Counts(
        *_core.reduce(
            x, CODES[x.dtype], row_map.prepared(x.shape[1]), into.low, into.high, flags, _threads(threads, x), _isa(isa)
        )
    )
    into.count += counts.good
    return counts


def apply(
    x: np.ndarray,
    row_map: RowMap,
    out: np.ndarray,
    *,
    into: ExactSum | None = None,
    flags: np.ndarray | None = None,
    threads: int | None = None,
    isa: str | None = None,
    backend: str | None = None,
) -> Counts:
    """`ops.apply` for rows that `as_rows` returned."""
    check_output(x, out)
    if into is not None:
        _check_sums(x, into)
    if _backend(backend) == "reference":
        return _by_reference(x, row_map, out, into, flags)
    _check_flags(x, flags)
    low, high = (None, None) if into is None else (into.low, into.high)
    prepared, many = row_map.prepared(x.shape[1]), _threads(threads, x)
    counts = Counts(*_core.apply(x, CODES[x.dtype], out, CODES[out.dtype], prepared, low, high, flags, many, _isa(isa)))
    if into is not None:
        into.count += counts.good
    return counts


@computes
def vjp(
    x: np.ndarray,
    gradient: np.ndarray,
    row_map: RowMap,
    out: np.ndarray,
    *,
    threads: int | None = None,
    isa: str | None = None,
    backend: str | None = None,
) -> Counts:
    """Store J(x)^T gradient in `out`, where J is the Jacobian of f at each row. Rows without a direction get zeros.

    Parameters
    ----------
    x, gradient, out : array (n, d)
        Of one element type.
    row_map : RowMap
        f.
    threads, isa, backend
        As for `ops.reduce`.

    Returns
    -------
    Counts

    Raises
    ------
    InputError
        The three differ in shape or element type.

    Examples
    --------
    >>> x, out = np.array([[3.0, 4.0]]), np.zeros((1, 2))
    >>> vjp(x, np.array([[1.0, 0.0]]), RowMap(), out).good
    1
    >>> out.round(3)
    array([[ 0.128, -0.096]])
    """
    if not (x.shape == gradient.shape == out.shape and x.dtype == gradient.dtype == out.dtype):
        raise InputError(
            f"rows {x.shape} {x.dtype}, gradient {gradient.shape} {gradient.dtype} and out {out.shape} {out.dtype} "
            "must have one shape and one element type"
        )
    if _backend(backend) == "reference":
        state = reference.has_direction(x, row_map.s, row_map.b, row_map.c)
        good = state == GOOD
        out[~good] = 0
        out[good] = reference.vjp(x[good], gradient[good], row_map.s, row_map.b, row_map.c)
        return counted(state)
    prepared = row_map.prepared(x.shape[1])
    return Counts(*_core.vjp(x, gradient, out, CODES[x.dtype], prepared, _threads(threads, x), _isa(isa)))


def _check_sums(x: np.ndarray, into: ExactSum) -> None:
    if into.d != x.shape[1]:
        raise InputError(f"rows are {x.shape[1]} wide, the sums {into.d}")


def _check_flags(x: np.ndarray, flags: np.ndarray | None) -> None:
    assert flags is None or (flags.dtype == np.uint8 and flags.shape == (len(x),) and flags.flags.c_contiguous)


def _threads(threads: int | None, x: np.ndarray) -> int:
    """`thread_count`; CPUs are not counted for rows that one thread maps alone."""
    return 1 if threads is None and x.nbytes < 2 * _core.BYTES_WORTH_A_THREAD else thread_count(threads)


def _backend(asked: str | None) -> str:
    name = choose("cpu", asked=asked).name
    if name == "triton":
        raise InputError("the Triton kernels take torch tensors; pass torch.from_numpy(rows)")
    return name


def _isa(asked: str | None) -> str:
    chosen: str = asked or _core.environment("FASTREALIGN_ISA")
    if chosen and chosen not in instruction_sets():
        raise InputError(
            f"instruction set {chosen!r} cannot run here; this machine has {', '.join(instruction_sets())}"
        )
    return chosen


@computes
def _by_reference(
    x: np.ndarray, row_map: RowMap, out: np.ndarray | None, into: ExactSum | None, flags: np.ndarray | None
) -> Counts:
    state = reference.has_direction(x, row_map.s, row_map.b, row_map.c)
    good = state == GOOD
    rows = reference.row_map(x[good], row_map.s, row_map.b, row_map.c)
    if out is not None:
        out[~good] = x[~good]
        out[good] = rows
        rows = out[good].astype(np.float64)
    if into is not None:
        into.add_rows(rows)
    if flags is not None:
        flags[:] = state
    return counted(state)
