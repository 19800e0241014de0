"""The two kernels on arrays: `reduce` adds the row map over rows, `apply` stores it. Checks here, arithmetic in `_core`.

Arrays in: every kind of arrays.py, of float16, bfloat16, float32 or
float64, two-dimensional, rows at any stride (views, memory maps, reversed rows); elements of a row must lie together, or a
copy is made. Nothing else of size rows x width is allocated.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from fastrealign import _core
from fastrealign.core import arrays, reference
from fastrealign.core.arrays import is_tensor
from fastrealign.core.backend import choose
from fastrealign.core.errors import InputError
from fastrealign.core.exact_sum import FRACTION_BITS, ExactSum
from fastrealign.core.float_state import computes

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# The element types that the kernels take, and their numbers (csrc/element.h).
CODES: dict[np.dtype, int] = {
    np.dtype(np.float32): _core.FLOAT32,
    np.dtype(np.float16): _core.FLOAT16,
    BFLOAT16: _core.BFLOAT16,
    np.dtype(np.float64): _core.FLOAT64,
}
_NAMES = {dtype.name: dtype for dtype in CODES} | {
    "fp32": np.dtype("f4"),
    "fp16": np.dtype("f2"),
    "bf16": BFLOAT16,
    "fp64": np.dtype("f8"),
    "half": np.dtype("f2"),
    "single": np.dtype("f4"),
    "double": np.dtype("f8"),
}

# RowState of csrc/row_map.h.
GOOD: int = _core.GOOD
ZERO: int = _core.ZERO
NOT_FINITE: int = _core.NOT_FINITE
COLLAPSED: int = _core.COLLAPSED
REASONS = {
    ZERO: "is all zeros",
    NOT_FINITE: "has a NaN or Inf",
    COLLAPSED: "is sent to zero by the map",
}


@dataclass(frozen=True)
class RowMap:
    """f(y; s, b, c) = pi(pi(s pi(y) + b) + c). b and c: float64 (d,), or None for zero."""

    s: float = 1.0
    b: np.ndarray | None = None
    c: np.ndarray | None = None

    @property
    def terms(self) -> int:
        """Which of b and c it has: Terms of csrc/row_map.h. A scale alone is a map with b = 0."""
        if self.c is not None:
            return _core.TERMS_BC
        return _core.TERMS_B if self.b is not None or self.s != 1.0 else _core.TERMS_NONE


@dataclass(frozen=True)
class Counts:
    """Rows without a direction are counted and the first is located, in the same pass."""

    good: int = 0
    bad: int = 0
    first_bad: int = -1
    reason: int = GOOD

    @property
    def why(self) -> str:
        return REASONS[self.reason]


UNIT = RowMap()


def as_dtype(dtype: Any) -> np.dtype:
    """The NumPy dtype named by a string ("float32", "bf16", …), a NumPy or a torch dtype. Raises InputError for others."""
    if isinstance(dtype, str) and (named := dtype.lower().removeprefix("torch.")) in _NAMES:
        return _NAMES[named]
    name = str(dtype).removeprefix("torch.") if type(dtype).__module__ == "torch" else None
    try:
        found = _NAMES[name] if name in _NAMES else np.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    if found not in CODES:
        raise InputError(f"element type {dtype}: expected float16, bfloat16, float32 or float64")
    return found


def default_threads() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(threads: int | None) -> int:
    """`threads`, or as many as there are processors for None. Raises InputError for what is no number of threads."""
    if threads is None:
        return default_threads()
    if not isinstance(threads, numbers.Integral) or not 1 <= threads < 1 << 31:
        raise InputError(f"threads={threads!r}: expected a whole number of at least 1")
    return int(threads)


def common_dtype(dtypes: Iterable[np.dtype]) -> np.dtype:
    """The narrowest element type that holds each of these."""
    kinds = set(dtypes)
    widest = max(kinds, key=lambda dtype: dtype.itemsize)
    # Neither float16 nor bfloat16 holds the other.
    return np.dtype(np.float32) if widest.itemsize == 2 and len(kinds) > 1 else widest


def on_device(x: Any) -> bool:
    """Whether x is a torch tensor somewhere else than in memory."""
    return is_tensor(x) and x.device.type != "cpu"


def rows_anywhere(x: Any, name: str = "embeddings") -> Any:
    """`as_rows`, but a tensor on a device stays there, and its kernels check it."""
    return taken_rows(arrays.take(x, name).rows, name, x)


def taken_rows(x: Any, name: str = "embeddings", given: Any = None) -> Any:
    """`rows_anywhere` of what `arrays.take` made of what was given."""
    if not on_device(x):
        return _rows(x, name, given)
    if x.ndim != 2 or x.shape[1] == 0:
        raise InputError(f"{name}: shape {tuple(x.shape)}, expected two dimensions (rows, width)")
    as_dtype(x.dtype)
    return x


def as_rows(x: Any, name: str = "embeddings") -> np.ndarray:
    """A (rows, width) NumPy view of `x`, of any kind of arrays.py, copied only where one row's elements do not lie together.

    Raises InputError for element types other than the four, other than two dimensions, or a tensor on a device.
    """
    known = type(x) is np.ndarray and x.dtype in CODES
    return _rows(x if known else arrays.take(x, name).rows, name, x)


def _rows(x: Any, name: str, given: Any) -> np.ndarray:
    if is_tensor(x):
        x = _tensor_view(x, name)
    elif type(x) is not np.ndarray:
        x = arrays.unmasked(x, name)
    if x.dtype not in CODES:
        x = x.astype(x.dtype.newbyteorder("=")) if x.dtype.newbyteorder("=") in CODES else x
    if x.dtype not in CODES:
        raise InputError(
            f"{name}: element type {x.dtype}, expected float16, bfloat16, float32 or float64{_conversion(given, x)}"
        )
    if x.ndim != 2:
        one = "; one row is x[None, :]" if x.ndim == 1 and (given is x or is_tensor(given)) else ""
        raise InputError(f"{name}: shape {x.shape}, expected two dimensions (rows, width){one}")
    if x.shape[1] == 0:
        raise InputError(f"{name}: shape {x.shape}, expected a width of at least 1")
    if x.shape[1] > 1 and x.strides[1] != x.itemsize:
        x = np.ascontiguousarray(x)
    return x


def _conversion(given: Any, x: np.ndarray) -> str:
    """What makes numbers of another type floats, if anything does."""
    if x.dtype.kind in "cmMSU":
        return ""
    try:
        (x if x.dtype.kind == "O" else x[:1]).astype(np.float32)
    except (TypeError, ValueError):
        return ""
    how = ".float()" if is_tensor(given) else ".astype('float32')" if hasattr(given, "astype") else None
    return "; convert with " + (how or "numpy.asarray(x, 'float32')")


def as_output(out: Any) -> np.ndarray:
    """A NumPy view of the caller's own memory, for `apply` to check and write to: never a copy, which nobody would see."""
    if is_tensor(out):
        return _tensor_view(checked_output(out), "out")
    if not isinstance(out, np.ndarray):
        raise InputError(f"out is a {type(out).__name__}, expected a NumPy array or a torch tensor")
    return out if type(out) is np.ndarray else arrays.unmasked(out, "out")


def checked_output(out: Any) -> Any:
    """A tensor to write to, as the memory that it is."""
    if out.is_neg():
        raise InputError("out is a negated view of other memory; pass that memory")
    if out.requires_grad:
        raise InputError("out requires a gradient, which is not recorded; pass out.detach()")
    return arrays.plain(out, "out")


def as_tensor(x: np.ndarray) -> Any:
    """A CPU torch tensor on the memory of `x`; a copy of an array that is only read, of which torch knows none."""
    import torch

    if not x.flags.writeable:
        x = x.copy()
    return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) if x.dtype == BFLOAT16 else torch.from_numpy(x)


def _tensor_view(x: Any, name: str) -> np.ndarray:
    """Of a tensor that `arrays.plain` gave."""
    import torch

    if x.device.type != "cpu":
        raise InputError(f"{name}: a tensor on {x.device}, expected one on the CPU; move it with .cpu()")
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(BFLOAT16)
    try:
        return x.numpy()
    except TypeError:  # NumPy has no such type
        raise InputError(
            f"{name}: element type {x.dtype}, expected float16, bfloat16, float32 or float64; convert with .float()"
        ) from None


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
        return self.s, *(0 if v is None else v.ctypes.data for v in self._held)


def _flags_address(flags: np.ndarray | None, rows: int) -> int:
    if flags is None:
        return 0
    assert flags.dtype == np.uint8 and flags.shape == (rows,) and flags.flags.c_contiguous
    return flags.ctypes.data


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
    """Add f(x; s, b, c) over the rows of `x` (n, d) to `into`, exactly.

    flags: uint8 (n,), set to the state of each row (GOOD, ZERO, NOT_FINITE, COLLAPSED). Rows that are not good are left out.
    isa: "avx512", "avx2" or "baseline"; the best one by default (or the environment's FASTREALIGN_ISA).
    backend: see backend.py. x may be a torch tensor on a GPU.
    """
    if on_device(x):
        from fastrealign.core import torch_ops

        return torch_ops.reduce_rows(x, row_map, into, flags=flags, backend=backend)
    x = as_rows(x)
    if into.d != x.shape[1]:
        raise InputError(f"rows are {x.shape[1]} wide, the sums {into.d}")
    if _host_backend(backend) == "reference":
        return _by_reference(x, row_map, None, into, flags)
    vectors = _Vectors(row_map, x.shape[1])
    answer = _core.reduce(
        _matrix(x),
        vectors.addresses,
        into.addresses,
        _flags_address(flags, len(x)),
        thread_count(threads),
        _isa(isa),
    )
    counts = Counts(*answer)
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
    """Store f(x; s, b, c) in `out` (n, d), and add up what was stored in `into` if it is given.

    A row without a direction is stored as it came (in the type of `out`), counted and left out of the sums. `out` may be `x`
    itself. Flags, threads, isa and backend as for `reduce`.
    """
    if on_device(x):
        from fastrealign.core import torch_ops

        return torch_ops.apply_rows(x, row_map, out, into=into, flags=flags, backend=backend)
    x = as_rows(x)
    check_output(x, out)
    if into is not None and into.d != x.shape[1]:
        raise InputError(f"rows are {x.shape[1]} wide, the sums {into.d}")
    if _host_backend(backend) == "reference":
        return _by_reference(x, row_map, out, into, flags)
    vectors = _Vectors(row_map, x.shape[1])
    answer = _core.apply(
        _matrix(x),
        _matrix(out),
        vectors.addresses,
        into.addresses if into is not None else (0, 0),
        _flags_address(flags, len(x)),
        thread_count(threads),
        _isa(isa),
    )
    counts = Counts(*answer)
    if into is not None:
        into.count += counts.good
    return counts


def check_output(x: np.ndarray, out: np.ndarray) -> None:
    """Raises InputError where the results of the rows `x` cannot be stored in `out`."""
    together = out.size == 0 or out.shape[-1] == 1 or out.strides[-1] == out.itemsize
    if out.shape != x.shape or out.dtype not in CODES or not together:
        raise InputError(
            f"out has shape {out.shape} and type {out.dtype}, expected {x.shape} in a float type, rows together"
        )
    if not out.flags.writeable:
        raise InputError("out is read-only")
    if len(out) > 1 and abs(out.strides[0]) < out.shape[1] * out.itemsize:
        raise InputError("the rows of out overlap each other in memory; pass memory of its own for each")
    in_place = (x.ctypes.data, x.strides, x.dtype) == (out.ctypes.data, out.strides, out.dtype)
    if not in_place and np.shares_memory(x, out):
        raise InputError("out and the rows overlap in memory; pass the rows themselves as out, or memory of its own")


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
    """Store J(x)^T gradient in `out`, J the Jacobian of f at each row; all three (n, d) and of one element type.

    Rows without a direction get zeros. Threads, isa and backend as for `reduce`.
    """
    if not (x.shape == gradient.shape == out.shape and x.dtype == gradient.dtype == out.dtype):
        raise InputError(
            f"rows {x.shape} {x.dtype}, gradient {gradient.shape} {gradient.dtype} and out {out.shape} {out.dtype} "
            "must have one shape and one element type"
        )
    if _host_backend(backend) == "reference":
        state = reference.has_direction(x, row_map.s, row_map.b, row_map.c)
        good = state == GOOD
        out[~good] = 0
        out[good] = reference.vjp(x[good], gradient[good], row_map.s, row_map.b, row_map.c)
        return counted(state)
    vectors = _Vectors(row_map, x.shape[1])
    matrices = (_matrix(v) for v in (x, gradient, out))
    return Counts(*_core.vjp(*matrices, vectors.addresses, thread_count(threads), _isa(isa)))


def _host_backend(asked: str | None) -> str:
    name = choose("cpu", asked=asked).name
    if name == "triton":
        raise InputError("the Triton kernels take torch tensors; pass torch.from_numpy(rows)")
    return name


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
        steps = np.rint(np.ldexp(rows, FRACTION_BITS)).astype(np.int64).astype(object)
        into.add_steps(steps.sum(axis=0).tolist() if len(rows) else [0] * x.shape[1])
        into.count += len(rows)
    if flags is not None:
        flags[:] = state
    return counted(state)


def counted(state: np.ndarray) -> Counts:
    """The counts of rows in these states (uint8)."""
    bad = np.flatnonzero(state)
    if not len(bad):
        return Counts(len(state))
    return Counts(len(state) - len(bad), len(bad), int(bad[0]), int(state[bad[0]]))


def empty_rows(rows: int, d: int, dtype: np.dtype) -> np.ndarray:
    """An uninitialised (rows, d) array that starts on a 64-byte line, so that whole lines can be written past the cache."""
    size = rows * d * dtype.itemsize
    memory = np.empty(size + _core.CACHE_LINE, dtype=np.uint8)
    start = -memory.ctypes.data % _core.CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(rows, d)


def instruction_sets() -> list[str]:
    """The instruction sets that this machine can run, best first."""
    return _core.instruction_sets()


def _isa(asked: str | None) -> str:
    chosen = asked or os.environ.get("FASTREALIGN_ISA", "")
    if chosen and chosen not in instruction_sets():
        raise InputError(
            f"instruction set {chosen!r} cannot run here; this machine has {', '.join(instruction_sets())}"
        )
    return chosen
