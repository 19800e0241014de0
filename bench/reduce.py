"""reduce: f(y; s, b, c) added up over the rows, nothing stored. Its ceiling is a plain sum of the same bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.ceilings import Ceilings
from bench.problem import Problem
from fastrealign.core import ops
from fastrealign.core.exact_sum import ExactSum

OP = "reduce"
# name -> terms of the map (problem.py)
VARIANTS = {"moments": "", "centring": "b", "gap": "bc"}
# The ones that the peers are timed on.
COMPARED = ("moments", "gap")
CEILING = "read"


def ours(problem: Problem) -> Callable[[], np.ndarray]:
    """What is timed; returns the mean row."""

    def work() -> np.ndarray:
        sums = ExactSum(problem.case.d)
        ops.reduce(problem.x, problem.map, sums, threads=problem.threads)
        return sums.mean

    return work


def ceiling(problem: Problem, ceilings: Ceilings, plain: bool) -> Callable[[], object]:
    return lambda: ceilings.read(problem.x, plain)
