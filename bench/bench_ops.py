"""The same operations as cases of pytest-benchmark: `pytest -o addopts= bench/bench_ops.py` (not collected otherwise).

For following one operation while working on it. The figures that are published come from `python -m bench`, which runs
ceilings and peers in turn with it.
"""

from __future__ import annotations

import pytest

from bench import apply, reduce
from bench.common import DTYPES, SHORT, WIDTHS, last_level_cache
from bench.peers import PEERS, NotComparable, prepare
from bench.problem import Memory
from fastrealign.core.cpu import default_threads

OPS = (apply, reduce)
CASES = [(op, variant) for op in OPS for variant in op.VARIANTS]
COMPARED = [(op, variant) for op in OPS for variant in op.COMPARED]


@pytest.fixture(scope="module")
def memory():
    return Memory(4 * last_level_cache())


def problem(memory, op, variant, d, dtype):
    return memory.problem(op.OP, variant, d, dtype, op.VARIANTS[variant], default_threads())


@pytest.mark.parametrize("dtype", DTYPES, ids=SHORT.get)
@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize(("op", "variant"), CASES, ids=lambda x: getattr(x, "OP", x))
def test_ours(benchmark, memory, op, variant, d, dtype):
    given = problem(memory, op, variant, d, dtype)
    result = benchmark(op.ours(given))
    assert given.error(result) <= 1.0
    benchmark.extra_info["GB/s"] = given.case.bytes / benchmark.stats.stats.median / 1e9


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize(("op", "variant"), COMPARED, ids=lambda x: getattr(x, "OP", x))
def test_peer(benchmark, memory, op, variant, peer):
    given = problem(memory, op, variant, 768, "float32")
    try:
        work, smaller = prepare(peer, given)
    except NotComparable as reason:
        pytest.skip(f"{peer.name}: {reason}")
    benchmark(work)
    benchmark.extra_info["GB/s"] = smaller.case.bytes / benchmark.stats.stats.median / 1e9
