"""Our side: which cases a name selects, what is timed of each, and its cycles a line in cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from bench.ceilings import clock
from bench.common import DTYPES, SHORT, WIDTHS, Spread, second_level_cache
from bench.problem import OPS, Op, Problem
from fastrealign.core import ops
from fastrealign.core.exact_sum import ExactSum

Shape = tuple[Op, int, str]


def shapes(wanted: Sequence[str], widths: Sequence[int] = WIDTHS, dtypes: Sequence[str] = DTYPES) -> list[Shape]:
    """The cases (op, d, dtype) that a name like apply-float32, gap-bf16-768 or sums selects; all for no names.

    A word is an operation, a variant (of "with sums" the last word), an element type or a width; what is not said is free.
    Raises ValueError for any other word.
    """
    chosen: dict[Shape, None] = {}
    for name in wanted or ("",):
        kinds, types, d = list(OPS), list(dtypes), list(widths)
        for word in filter(None, name.split("-")):
            if word.isdecimal() and int(word):
                d = [int(word)]
            elif found := [op for op in OPS if word in (op.op, op.variant.split()[-1])]:
                kinds = [op for op in kinds if op in found]
            elif named := [dtype for dtype in DTYPES if word in (dtype, SHORT[dtype])]:
                types = named
            else:
                raise ValueError(f"{name}: {word} is no operation, variant, element type or width")
        chosen |= dict.fromkeys((op, width, dtype) for width, dtype, op in product(d, types, kinds))
    return list(chosen)


def ours(problem: Problem) -> Callable[[], np.ndarray]:
    """What is timed; returns the rows as stored, or their mean."""
    d, threads = problem.case.d, problem.threads
    if (out := problem.out) is None:

        def reduce() -> np.ndarray:
            sums = ExactSum(d)
            ops.reduce(problem.x, problem.map, sums, threads=threads)
            return sums.mean

        return reduce
    sums = ExactSum(d) if problem.case.variant == "with sums" else None

    def apply() -> np.ndarray:
        ops.apply(problem.x, problem.map, out, into=sums, threads=threads)
        return out

    return apply


def cycles_a_line(problem: Problem, rounds: int = 75) -> Spread:
    """Cycles of one core for each 64-byte line of rows, while rows and results stay in its second-level cache.

    Memory has no part in it, so it can be compared between machines. What a call costs besides is not counted: the time is
    that of many rows less that of an eighth of them.
    """
    row = problem.case.d * problem.x.itemsize
    many = max(16, second_level_cache() // 2 // (row if problem.out is None else 2 * row) // 8 * 8)
    few = max(8, many // 64 * 8)

    def seconds(rows: int) -> Callable[[], float]:
        out = None if problem.out is None else problem.out[:rows]
        work = ours(replace(problem, x=problem.x[:rows], out=out, threads=1))
        runs = range(4 * many // rows)

        def run() -> float:
            start = time.perf_counter()
            for _ in runs:
                work()
            return (time.perf_counter() - start) / len(runs)

        run()
        return run

    of_many, of_few = seconds(many), seconds(few)
    lines = row * (many - few) / 64
    return Spread.of([(of_many() - of_few()) * clock() / lines for _ in range(rounds)])
