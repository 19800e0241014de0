"""apply: f(y; s, b, c) stored. Its ceiling is a copy of the same bytes that writes past the cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.ceilings import Ceilings
from bench.problem import Problem
from fastrealign.core import ops
from fastrealign.core.exact_sum import ExactSum

OP = "apply"
# name -> terms of the map (problem.py)
VARIANTS = {"plain": "bc", "with sums": "bc"}
# The one that the peers are timed on.
COMPARED = ("plain",)
CEILING = "copy"


def ours(problem: Problem) -> Callable[[], np.ndarray]:
    """What is timed; returns the rows as stored."""
    sums = ExactSum(problem.case.d) if problem.case.variant == "with sums" else None

    def work() -> np.ndarray:
        ops.apply(problem.x, problem.map, problem.out, into=sums, threads=problem.threads)
        return problem.out

    return work


def ceiling(problem: Problem, ceilings: Ceilings, plain: bool) -> Callable[[], object]:
    return lambda: ceilings.copy(problem.x, problem.out, plain)
