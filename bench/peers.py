"""The same map by other means. Each peer gets s, b and c, and memory for its output where its interface takes some.

A peer is a function of a Problem that returns the work to be timed, which returns the mapped rows (where they are
stored) or their mean. 16-bit rows are computed in float32 and rounded at the end, as `apply` does; a mean is summed in
the peer's own way. `NotComparable` gives the reason why a peer is left out, in one line.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from bench.common import CannotBenchmark
from bench.native import INTEGER, POINTER, SIZE, compiled
from bench.problem import Problem
from fastrealign.core.row_map import RowMap

Work = Callable[[], np.ndarray]

# Float32 bytes of a block of rows whose temporaries stay in the second-level cache.
BLOCK_BYTES = 256 * 1024


class NotComparable(Exception):
    """The peer is not installed, or cannot compute the map; the message gives the reason."""


@dataclass(frozen=True)
class Peer:
    """prepare: see above. share: part of the rows it is timed on, less than all for those that take long."""

    name: str
    prepare: Callable[[Problem], Work]
    share: float


def prepare(peer: Peer, problem: Problem) -> tuple[Work, Problem]:
    """The peer's work, warmed up and checked against the reference, and the problem it is on (fewer rows).

    Raises NotComparable if the peer is missing or its result is wrong: a wrong result is not worth timing.
    """
    smaller = problem.first(int(problem.case.rows * peer.share))
    work = peer.prepare(smaller)
    error = smaller.error(work())
    if not error <= 1.0:
        raise NotComparable(f"its result is off by {error:.1f} times what float32 and rounding explain")
    return work, smaller


def blocks(problem: Problem) -> list[slice]:
    rows = max(1, BLOCK_BYTES // (problem.case.d * 4))
    return [slice(i, i + rows) for i in range(0, len(problem.x), rows)]


# --- C++ --------------------------------------------------------------------------------------------------------------


def fast_math(problem: Problem) -> Work:
    """fast_math.cpp: plain loops, auto-vectorised."""
    try:
        run = compiled("fast_math.cpp", "-ffast-math").fast_math
    except CannotBenchmark as error:
        raise NotComparable(str(error)) from None
    pointers = [POINTER] * 3
    run.argtypes = [INTEGER, *pointers[:2], SIZE, SIZE, ctypes.c_float, *pointers, INTEGER]
    run.restype = None
    s, b, c = _float32_map(problem)
    x, out = problem.x, problem.out
    n, d = x.shape
    itemsize = x.itemsize * (-1 if x.dtype.name == "bfloat16" else 1)
    summed = out is None or problem.case.variant == "with sums"

    def work() -> np.ndarray:
        sums = np.zeros(d) if summed else None
        run(itemsize, *map(_address, (x, out)), n, d, s, *map(_address, (b, c, sums)), problem.threads)
        return sums / n if out is None else out

    return work


def _address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


# --- NumPy ------------------------------------------------------------------------------------------------------------


def numpy_plain(problem: Problem) -> Work:
    """As it is usually written: one expression a step, over all rows."""
    s, b, c = _float32_map(problem)

    def project(v: np.ndarray) -> np.ndarray:
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    def work() -> np.ndarray:
        v = project(problem.x.astype(np.float32, copy=False))
        if b is not None:
            v = project(s * v + b)
        if c is not None:
            v = project(v + c)
        if problem.out is None:
            return v.mean(axis=0)
        problem.out[:] = v
        return problem.out

    return work


def numpy_blocked(problem: Problem) -> Work:
    """As fast as we could write it: blocks that stay in the cache, no temporaries but one."""
    s, b, c = _float32_map(problem)
    parts = blocks(problem)
    d = problem.case.d
    buffer = np.empty((len(problem.x[parts[0]]), d), np.float32)

    def scale(v: np.ndarray, by: np.float32) -> None:
        v *= (by / np.sqrt(np.einsum("ij,ij->i", v, v)))[:, None]

    def work() -> np.ndarray:
        total = np.zeros(d)
        for part in parts:
            rows = problem.x[part]
            v = buffer[: len(rows)]
            v[:] = rows
            scale(v, s)
            if b is not None:
                v += b
                scale(v, np.float32(1))
            if c is not None:
                v += c
                scale(v, np.float32(1))
            if problem.out is None:
                total += v.sum(axis=0)
            else:
                problem.out[part] = v
        return total / len(problem.x) if problem.out is None else problem.out

    return work


def _float32_map(problem: Problem) -> tuple[np.float32, np.ndarray | None, np.ndarray | None]:
    vectors = (None if v is None else v.astype(np.float32) for v in (problem.map.b, problem.map.c))
    return np.float32(problem.map.s), *vectors


# --- torch ------------------------------------------------------------------------------------------------------------


def torch_eager(problem: Problem) -> Work:
    """As it is usually written, over all rows."""
    torch, x, out, function = _torch(problem)

    def work() -> np.ndarray:
        with torch.inference_mode():
            return _result(function(x, out), problem)

    return work


def torch_blocked(problem: Problem) -> Work:
    """The same in blocks that stay in the cache."""
    torch, x, out, function = _torch(problem)
    parts = blocks(problem)

    def work() -> np.ndarray:
        with torch.inference_mode():
            if out is not None:
                for part in parts:
                    function(x[part], out[part])
                return _result(out, problem)
            total = torch.zeros(problem.case.d, dtype=torch.float64)
            for part in parts:
                rows = x[part]
                total += function(rows, None) * len(rows)
            return (total / len(x)).numpy()

    return work


def torch_compiled(problem: Problem, mode: str = "default") -> Work:
    """The same through torch.compile for exactly this shape."""
    torch, x, out, function = _torch(problem)
    # Compiled again for each case: with a cache, torch would reach its recompilation limit and silently run eagerly.
    torch._dynamo.reset()
    compiled = torch.compile(function, dynamic=False, fullgraph=True, mode=mode)

    def work() -> np.ndarray:
        with torch.inference_mode():
            return _result(compiled(x, out), problem)

    return work


def _torch(problem: Problem):
    """(torch, x, out, function): function(x, out) stores the mapped rows in out; without an out it returns the mean."""
    try:
        import torch
    except ImportError:
        raise NotComparable("torch is not installed") from None
    torch.set_num_threads(problem.threads)
    function = torch_function(problem.map, "cpu")
    return torch, _tensor(problem.x), None if problem.out is None else _tensor(problem.out), function


def torch_function(row_map: RowMap, device):
    """function(x, out) on tensors of a device: stores the mapped rows in out; without an out it returns their mean."""
    import torch
    from torch.nn.functional import normalize

    s = row_map.s
    b, c = (None if v is None else torch.tensor(v, dtype=torch.float32, device=device) for v in (row_map.b, row_map.c))

    def function(x, out):
        v = normalize(x.float(), dim=1)
        if b is not None:
            v = normalize(s * v + b, dim=1)
        if c is not None:
            v = normalize(v + c, dim=1)
        return v.mean(dim=0) if out is None else out.copy_(v)

    return function


def _tensor(array: np.ndarray):
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _result(found, problem: Problem) -> np.ndarray:
    return found.numpy() if problem.out is None else problem.out


# --- scikit-learn -----------------------------------------------------------------------------------------------------


def sklearn_steps(problem: Problem) -> Work:
    """Normalizer, StandardScaler (mean -b/s, scale 1/s), Normalizer, StandardScaler (mean -c), Normalizer, in place.

    A mean is taken by StandardScaler.partial_fit.
    """
    try:
        from sklearn.preprocessing import Normalizer, StandardScaler
    except ImportError:
        raise NotComparable("scikit-learn is not installed") from None
    s, b, c = _float32_map(problem)
    d = problem.case.d

    def scaler(mean: np.ndarray, scale: np.float32) -> StandardScaler:
        step = StandardScaler(copy=False)
        step.mean_, step.scale_ = mean, np.full(d, scale)
        step.var_, step.n_features_in_, step.n_samples_seen_ = step.scale_**2, d, 1
        return step

    normalizer = Normalizer(copy=False)
    steps = [normalizer]
    if b is not None:
        steps += [scaler(-b / s, 1 / s), normalizer]
    if c is not None:
        steps += [scaler(-c, np.float32(1)), normalizer]
    in_place = problem.out is not None and problem.out.dtype == np.float32
    v = problem.out if in_place else np.empty(problem.x.shape, np.float32)

    def work() -> np.ndarray:
        v[:] = problem.x
        for step in steps:
            step.transform(v)
        if problem.out is None:
            return StandardScaler(copy=False).partial_fit(v).mean_
        if not in_place:
            problem.out[:] = v
        return problem.out

    return work


# --- FAISS ------------------------------------------------------------------------------------------------------------


def faiss_transforms(problem: Problem) -> Work:
    """NormalizationTransform and CenteringTransform (mean -b/s, then -c) by turns, between two buffers.

    pi(s e + b) = pi(e + b/s), so nothing has to be scaled, which only a LinearTransform could, with d^2 products a row.
    A mean is taken by CenteringTransform.train. All of them take float32 rows only.
    """
    try:
        import faiss
    except ImportError:
        raise NotComparable("faiss is not installed") from None
    if problem.x.dtype != np.float32:
        raise NotComparable(f"FAISS's transforms take float32 rows, not {problem.x.dtype}")
    faiss.omp_set_num_threads(problem.threads)
    s, b, c = _float32_map(problem)
    n, d = problem.x.shape

    def shift(by: np.ndarray) -> faiss.CenteringTransform:
        step = faiss.CenteringTransform(d)
        faiss.copy_array_to_vector(-by, step.mean)
        step.is_trained = True
        return step

    normalization = faiss.NormalizationTransform(d)
    steps = [normalization]
    if b is not None:
        steps += [shift(b / s), normalization]
    if c is not None:
        steps += [shift(c), normalization]
    other = np.empty((n, d), np.float32)
    # An odd number of steps: the last one writes to `target`.
    target = np.empty((n, d), np.float32) if problem.out is None else problem.out

    def work() -> np.ndarray:
        source = problem.x
        for i, step in enumerate(steps):
            to = other if i % 2 else target
            step.apply_noalloc(n, faiss.swig_ptr(source), faiss.swig_ptr(to))
            source = to
        if problem.out is not None:
            return problem.out
        mean = faiss.CenteringTransform(d)
        mean.train(target)
        return faiss.vector_to_array(mean.mean)

    return work


PEERS = (
    Peer("fast-math loop", fast_math, 1.0),
    Peer("torch.compile", torch_compiled, 1.0),
    Peer("torch.compile, max-autotune", partial(torch_compiled, mode="max-autotune"), 1.0),
    Peer("torch eager", torch_eager, 0.25),
    Peer("torch eager, blocked", torch_blocked, 0.25),
    Peer("NumPy", numpy_plain, 0.25),
    Peer("NumPy, blocked", numpy_blocked, 0.25),
    Peer("scikit-learn", sklearn_steps, 0.25),
    Peer("FAISS", faiss_transforms, 0.25),
)
