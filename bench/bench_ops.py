"""The same operations as cases of pytest-benchmark: `pytest -o addopts= bench/bench_ops.py` (not collected otherwise).

For following one operation while working on it. The figures that are published come from `python -m bench`, which runs
ceilings and peers in turn with it.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.common import last_level_cache
from bench.ops import Shape, ours, shapes
from bench.peers import PEERS, NotComparable, Peer, prepare
from bench.problem import Memory
from fastrealign.core.cpu import default_threads


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory(min(400_000_000, 4 * last_level_cache()) // 64 * 64)


def label(value: Any) -> str:
    """An operation or a peer by its name."""
    return getattr(value, "variant", None) or getattr(value, "name", None) or str(value)


@pytest.mark.parametrize(("op", "d", "dtype"), shapes([]), ids=label)
def test_ours(benchmark: Any, memory: Memory, op: Any, d: int, dtype: str) -> None:
    problem = memory.problem(op, d, dtype, default_threads())
    assert problem.error(benchmark(ours(problem))) <= 1.0
    benchmark.extra_info["GB/s"] = problem.case.bytes / benchmark.stats.stats.median / 1e9


@pytest.mark.parametrize("peer", PEERS, ids=label)
@pytest.mark.parametrize("shape", shapes(["fp32-768"]), ids=lambda shape: label(shape[0]))
def test_peer(benchmark: Any, memory: Memory, shape: Shape, peer: Peer) -> None:
    try:
        work, smaller = prepare(peer, memory.problem(*shape, default_threads()))
    except NotComparable as reason:
        pytest.skip(f"{peer.name}: {reason}")
    benchmark(work)
    benchmark.extra_info["GB/s"] = smaller.case.bytes / benchmark.stats.stats.median / 1e9
