"""reduce, apply and vjp of NumPy arrays on the CPU, by the compiled core or the reference; the number of threads."""

from __future__ import annotations

import numbers
import os

import numpy as np

import fastrealign._core as _core
from fastrealign.core import reference
from fastrealign.core.backend import choose
from fastrealign.core.bad_rows import GOOD, Counts, counted
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
    if threads is None:
        return default_threads()
    if not isinstance(threads, numbers.Integral) or not 1 <= threads < 1 << 31:
        raise InputError(f"threads={threads!r}: expected a whole number of at least 1")
    return int(threads)


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
    vectors = _Vectors(row_map, x.shape[1])
    found = _core.reduce(
        _matrix(x), vectors.addresses, into.addresses, _flags_address(flags, len(x)), thread_count(threads), _isa(isa)
    )
    counts = Counts(*found)
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
    vectors = _Vectors(row_map, x.shape[1])
    found = _core.apply(
        _matrix(x),
        _matrix(out),
        vectors.addresses,
        into.addresses if into is not None else (0, 0),
        _flags_address(flags, len(x)),
        thread_count(threads),
        _isa(isa),
    )
    counts = Counts(*found)
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
    vectors = _Vectors(row_map, x.shape[1])
    matrices = (_matrix(v) for v in (x, gradient, out))
    return Counts(*_core.vjp(*matrices, vectors.addresses, thread_count(threads), _isa(isa)))


def _check_sums(x: np.ndarray, into: ExactSum) -> None:
    if into.d != x.shape[1]:
        raise InputError(f"rows are {x.shape[1]} wide, the sums {into.d}")


def _matrix(x: np.ndarray) -> tuple[int, int, int, int, int]:
    return x.ctypes.data, CODES[x.dtype], x.shape[0], x.shape[1], x.strides[0]


class _Vectors:
    """Addresses of b and c as contiguous float64; keeps them alive for the call."""

    def __init__(self, row_map: RowMap, d: int) -> None:
        self.s = float(row_map.s)
        self._held = [self._checked(v, label, d) for v, label in ((row_map.b, "b"), (row_map.c, "c"))]

    @staticmethod
    def _checked(v: np.ndarray | None, label: str, d: int) -> np.ndarray | None:
        if v is None:
            return None
        v = np.ascontiguousarray(v, dtype=np.float64)
        if v.shape != (d,):
            raise InputError(
                f"rows are {d} wide, but the map's {label} has shape {v.shape}: it was fitted on another encoder"
            )
        return v

    @property
    def addresses(self) -> tuple[float, int, int]:
        b, c = (0 if v is None else v.ctypes.data for v in self._held)
        return self.s, b, c


def _flags_address(flags: np.ndarray | None, rows: int) -> int:
    if flags is None:
        return 0
    assert flags.dtype == np.uint8 and flags.shape == (rows,) and flags.flags.c_contiguous
    return flags.ctypes.data


def _backend(asked: str | None) -> str:
    name = choose("cpu", asked=asked).name
    if name == "triton":
        raise InputError("the Triton kernels take torch tensors; pass torch.from_numpy(rows)")
    return name


def _isa(asked: str | None) -> str:
    chosen = asked or os.environ.get("FASTREALIGN_ISA", "")
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
