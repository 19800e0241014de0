"""The same map on a GPU by other means: torch eager, torch.compile, CuPy. A peer prepares work(i) on the i-th buffers.

16-bit rows are computed in float32 and rounded at the end, as `apply` does; a mean is summed in the peer's own way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.peers import NotComparable, torch_function

Work = Callable[[int], torch.Tensor]


def _over(problem: Any, function: Callable[..., torch.Tensor]) -> Work:
    def work(i: int) -> torch.Tensor:
        with torch.inference_mode():
            return function(problem.x[i], None if problem.out is None else problem.out[i])

    return work


def eager(problem: Any) -> Work:
    return _over(problem, torch_function(problem.map, problem.packed.device))


def compiled(mode: str) -> Callable[[Any], Work]:
    def prepare(problem: Any) -> Work:
        # Compiled again for each case: with a cache, torch would reach its recompilation limit and silently run eagerly.
        torch._dynamo.reset()
        try:
            function = torch.compile(
                torch_function(problem.map, problem.packed.device), dynamic=False, fullgraph=True, mode=mode
            )
            work = _over(problem, function)
            work(0)
        except Exception as error:  # whatever a compiler meets on this machine
            raise NotComparable(f"{type(error).__name__}: {str(error).splitlines()[0]}") from None
        return work

    return prepare


def cupy_fused(problem: Any) -> Work:
    """Norms by ReductionKernels, the steps by ElementwiseKernels, one of each a projection."""
    try:
        import cupy
    except ImportError:
        raise NotComparable("cupy is not installed") from None
    if problem.case.dtype == "bfloat16":
        raise NotComparable("cupy has no bfloat16")
    norm = cupy.ReductionKernel(
        "T x", "float32 y", "(float)x * (float)x", "a + b", "y = rsqrtf(a)", "0", "fr_rsqrt_norm"
    )
    first = cupy.ElementwiseKernel(
        "T x, float32 r, float32 s, float32 b", "float32 y", "y = s * ((float)x * r) + b", "fr_u"
    )
    second = cupy.ElementwiseKernel("float32 x, float32 r, float32 c", "float32 y", "y = x * r + c", "fr_v")
    last = cupy.ElementwiseKernel("float32 x, float32 r", "T y", "y = x * r", "fr_out")
    x = [cupy.from_dlpack(t) for t in problem.x]
    out = None if problem.out is None else [cupy.from_dlpack(t) for t in problem.out]
    d = problem.case.d
    b, c = (cupy.zeros(d, "f4") if v is None else cupy.asarray(v, "f4") for v in (problem.map.b, problem.map.c))
    s = cupy.float32(problem.map.s)

    def work(i: int) -> torch.Tensor:
        rows = x[i]
        u = first(rows, norm(rows, axis=1)[:, None], s, b)
        if problem.map.c is not None:
            u = second(u, norm(u, axis=1)[:, None], c)
        if out is None:
            return torch.from_dlpack(
                u.mean(axis=0) if problem.map.b is None else (u * norm(u, axis=1)[:, None]).mean(axis=0)
            )
        last(u, norm(u, axis=1)[:, None], out[i])
        return problem.out[i]

    return work


PEERS: dict[str, Callable[[Any], Work]] = {
    "torch eager": eager,
    "torch.compile": compiled("default"),
    "torch.compile, max-autotune": compiled("max-autotune-no-cudagraphs"),
    "cupy": cupy_fused,
}
