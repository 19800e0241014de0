"""The data of a CPU case: rows of a synthetic encoder in memory that was touched before, a row map, and the expected result."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bench.common import ITEMSIZE, Case
from fastrealign.core import reference
from fastrealign.core.dtypes import as_dtype
from fastrealign.core.row_map import RowMap

# Rows repeat after so many: memory has its full size, and the float64 reference is computed only once.
TILE = 1024

# How far a float32 result may be from the reference, on entries of some 0.03; where it is rounded to 16 bits, by half a
# unit in its last place more. A float32 mean over many rows drifts.
FLOAT32_ERROR = 1e-6
MEAN_ERROR = 1e-5
HALF_UNIT = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass(frozen=True)
class Op:
    """What is timed. `apply` stores f(y; s, b, c) of every row y, and may add up what it stored; `reduce` only adds up.

    terms     "" for the unit map, "b" for s and b, "bc" for s, b and c
    compared  timed against every peer, not only the plain loop
    """

    op: str
    variant: str
    terms: str
    compared: bool = True


OPS = (
    Op("apply", "plain", "bc"),
    Op("apply", "with sums", "bc", compared=False),
    Op("reduce", "moments", ""),
    Op("reduce", "centring", "b", compared=False),
    Op("reduce", "gap", "bc"),
)


@dataclass(frozen=True)
class Problem:
    """x (rows, d) to be mapped by `map`, to out (rows, d) if it is stored; tile: the first rows, which repeat."""

    case: Case
    x: np.ndarray
    out: np.ndarray | None
    map: RowMap
    tile: int
    threads: int

    def first(self, rows: int) -> Problem:
        """The same on the first `rows` rows, rounded down to whole repetitions (at least one)."""
        rows = max(self.tile, rows // self.tile * self.tile)
        out = None if self.out is None else self.out[:rows]
        return replace(self, case=replace(self.case, rows=rows), x=self.x[:rows], out=out)

    def error(self, result: np.ndarray) -> float:
        """Largest |result - reference|, in multiples of what is allowed: above 1 (or NaN) the result is wrong.

        result: the mapped rows (rows, d), or where none are stored their mean (d,).
        """
        expected = reference.row_map(self.x[: self.tile], self.map.s, self.map.b, self.map.c)
        if self.out is None:
            return float(np.abs(np.asarray(result, np.float64) - expected.mean(axis=0)).max()) / MEAN_ERROR
        allowed = FLOAT32_ERROR + HALF_UNIT[self.case.dtype] * np.abs(expected)
        ends = (slice(0, self.tile), slice(len(self.x) - self.tile, len(self.x)))
        return max(float((np.abs(result[rows].astype(np.float64) - expected) / allowed).max()) for rows in ends)


class Memory:
    """Input and output memory for all cases of a run: the kernels, the ceilings and the peers get the same pages."""

    def __init__(self, nbytes: int) -> None:
        self.source = _touched(nbytes)
        self.out = _touched(nbytes)

    def problem(self, op: Op, d: int, dtype: str, threads: int) -> Problem:
        """`apply` stores in the type of the input."""
        tile = min(TILE, len(self.source) // (d * ITEMSIZE[dtype]))
        rows = len(self.source) // (d * ITEMSIZE[dtype]) // tile * tile
        stored = op.op == "apply"
        case = Case(op.op, op.variant, d, rows, dtype, dtype if stored else None)
        size = rows * d * ITEMSIZE[dtype]
        x = self.source[:size].view(as_dtype(dtype)).reshape(rows, d)
        text, images = encodings(tile, d)
        x.reshape(-1, tile, d)[:] = text.astype(x.dtype)
        out = self.out[:size].view(x.dtype).reshape(rows, d) if stored else None
        fit = reference.fit(text, images)
        map_ = {"": RowMap(), "b": RowMap(fit.s, fit.b), "bc": RowMap(fit.s, fit.b, fit.c)}[op.terms]
        return Problem(case, x, out, map_, tile, threads)


def encodings(rows: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 (rows, d) twice: text and images of an encoder with a gap of some 0.5, not yet unit rows."""
    random = np.random.default_rng(d)
    centre, towards = random.standard_normal((2, d)).astype(np.float32)
    text, images = random.standard_normal((2, rows, d), dtype=np.float32)
    return 1.1 * text + 0.5 * centre - 0.3 * towards, images + 0.5 * centre + 0.3 * towards


def _touched(nbytes: int) -> np.ndarray:
    """Bytes that start on a 64-byte line, each page written once."""
    memory = np.empty(nbytes + 64, dtype=np.uint8)
    start = -memory.ctypes.data % 64
    memory[:] = 0
    return memory[start : start + nbytes]
