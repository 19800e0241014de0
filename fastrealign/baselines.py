"""The methods that ReAlign is compared with, called, saved and loaded as an Alignment is.

    name           map of a row y                                                       source
    none           pi(y)
    mean-shift     pi(y) - mu_y, not projected                                          Unicorn, arXiv 2503.22655
    c3             pi(pi(y) - mu_y + mu_x + noise), noise from N(0, sigma^2 I)          C3, arXiv 2401.08567
    bca            pi(pi(M e + shift) + c), e = pi(pi(y) - mu_y + mu_x): blockwise      arXiv 2602.07026, appendix F
                   covariance alignment, M whitens and colours in U and in V
    anchor         pi(pi(y) - mu_y + mu_x)                                              arXiv 2602.07026, table 5
    anchor-trace   pi(s (pi(y) - mu_y) + mu_x)                                          arXiv 2602.07026, table 5
    realign        ReAlign as published: an Alignment                                   arXiv 2602.07026
    realign-exact  the same with the centroid that leaves no gap

All but the last two are one `Baseline`: f(y) = pi(pi(M pi(s pi(y) + b) + shift + noise) + c), with steps left out.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastrealign import ops
from fastrealign.alignment import Alignment
from fastrealign.calling import call
from fastrealign.diagnostics.frame import fixed_frame
from fastrealign.diagnostics.rows import chunks, unit_blocks
from fastrealign.diagnostics.spectrum import covariance
from fastrealign.errors import InputError
from fastrealign.files import load_tensors, save_tensors
from fastrealign.fit import fit, fit_sides
from fastrealign.ops import Counts, RowMap
from fastrealign.sources import ChunkSource, RowSource, open_rows

# Rows that pass through the steps at a time.
STEP_ROWS = 1024
_VECTORS = ("b", "shift", "c", "mean_target")


@dataclass(frozen=True, eq=False)
class Baseline:
    """f(y) = pi(pi(M pi(s pi(y) + b) + shift + noise) + c); what is None is left out.

    name         in METHODS
    mean_target  float64 (d,), of the unit rows that it was fitted on; gap_before is |mean_target - mean_source|
    s, b         as in an Alignment; b float64 (d,)
    matrix       M, float64 (d, d)
    shift, c     float64 (d,)
    sigma, seed  noise of N(0, sigma^2 I), of which row i of a call gets the one numbered first + i (`noise`)
    projected    False: with neither of the last two projections
    """

    name: str
    mean_target: np.ndarray
    gap_before: float
    s: float = 1.0
    b: np.ndarray | None = None
    matrix: np.ndarray | None = None
    shift: np.ndarray | None = None
    sigma: float = 0.0
    seed: int = 0
    c: np.ndarray | None = None
    projected: bool = True

    @property
    def dim(self) -> int:
        """Width of the rows it maps."""
        return len(self.mean_target)

    def __call__(
        self,
        x: Any,
        *,
        dtype: Any = None,
        out: Any = None,
        bad_rows: str = "error",
        threads: int | None = None,
        backend: str | None = None,
        first: int = 0,
    ) -> Any:
        """Map rows: (n, d) in, (n, d) out, in the caller's kind of array and element type; arguments as `Alignment.__call__`.

        first  the number of x's first row, where x is a part of more rows: it decides their noise
        Tensors on a device are for the methods that are one row map: none, anchor and anchor-trace.
        """

        def kernel(rows: Any, view: Any, flags: np.ndarray | None) -> Counts:
            options = {"threads": threads, "backend": backend}
            if self.matrix is None and self.shift is None:
                return ops.apply(rows, RowMap(self.s, self.b), view, flags=flags, **options)
            if ops.on_device(rows):
                raise InputError(f"{self.name} maps rows in memory, these are on {rows.device}; move them with .cpu()")
            return self._in_steps(rows, view, flags, first, options)

        return call(x, self.dim, kernel, dtype=dtype, out=out, bad_rows=bad_rows)

    def _in_steps(
        self, rows: np.ndarray, out: np.ndarray, flags: np.ndarray | None, first: int, options: dict[str, Any]
    ) -> Counts:
        ops.check_output(rows, out)
        state = np.empty(len(rows), np.uint8) if flags is None else flags
        narrow = self.matrix is not None and np.float64 not in (rows.dtype, out.dtype)
        matrix = None if self.matrix is None else self.matrix.T.astype(np.float32 if narrow else np.float64)
        for lo in range(0, len(rows), STEP_ROWS):
            part = rows[lo : lo + STEP_ROWS].copy()  # out may be the rows themselves
            here, into = state[lo : lo + STEP_ROWS], out[lo : lo + STEP_ROWS]
            e = np.empty(part.shape, np.float32 if narrow else np.float64)
            ops.apply(part, RowMap(self.s, self.b), e, flags=here, **options)
            bad = here != ops.GOOD
            reason = here[bad]
            if matrix is not None:
                e = e @ matrix
            e += self.shift.astype(e.dtype)
            if self.sigma:
                e += self.sigma * noise(self.seed, first + lo, *part.shape)
            if self.projected:
                ops.apply(e, RowMap(1.0, None, self.c), into, flags=here, **options)
                here[bad] = reason
            else:
                into[:] = e
            spoiled = here != ops.GOOD
            into[spoiled] = part[spoiled]
        return ops.counted(state)

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file with the scalars as JSON metadata; replaced in one step."""
        tensors = {name: getattr(self, name) for name in (*_VECTORS, "matrix") if getattr(self, name) is not None}
        scalars = {name: getattr(self, name) for name in ("name", "gap_before", "s", "sigma", "seed", "projected")}
        save_tensors(path, tensors, {"kind": "baseline", **scalars})

    @classmethod
    def load(cls, path: str | Path) -> Baseline:
        """Read what `save` wrote. Raises InputError naming the file if it is missing, damaged or something else."""
        tensors, meta = load_tensors(path, "baseline", ("mean_target",))
        shapes = {name: value.shape for name, value in tensors.items()}
        d = shapes["mean_target"]
        wanted = dict.fromkeys(_VECTORS, d) | {"matrix": d * 2}
        wrong = [name for name, shape in shapes.items() if len(d) != 1 or shape != wanted.get(name)]
        try:
            loaded = cls(**tensors, **{k: v for k, v in meta.items() if k not in ("kind", "format")})
        except TypeError as error:
            raise InputError(f"{path}: a damaged baseline: {error}") from None
        if wrong:
            raise InputError(f"{path}: a damaged baseline: {wrong[0]} has shape {shapes[wrong[0]]}")
        return loaded


def noise(seed: int, first: int, rows: int, d: int) -> np.ndarray:
    """Standard normal float64 (rows, d); row i is that of number first + i, whatever is asked for with it.

    Philox (Salmon et al., 2011) is a function of key and counter: the seed is the key, and each row has its own stretch of
    the counter. Box and Muller make two normals of two of its numbers, so every row takes equally many. Angles are float32,
    of 24 bits: four times as fast, and rows are no finer.
    """
    half = -(-d // 4) * 2  # Philox gives four numbers a count
    bits = np.random.Philox(key=seed, counter=first * (half // 2)).random_raw(rows * 2 * half).reshape(rows, 2 * half)
    radius = np.sqrt(-2.0 * np.log(((bits[:, :half] >> np.uint64(11)) + 1.0) * 2.0**-53))
    angle = (bits[:, half:] >> np.uint64(40)).astype(np.float32) * np.float32(2.0 * np.pi * 2.0**-24)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :d]


class Mapped(ChunkSource):
    """The rows of a source as a method maps them, chunk by chunk, as often as asked: what the metrics take."""

    def __init__(self, method: Alignment | Baseline, source: Any) -> None:
        self._method, self._source = method, open_rows(source, "source")
        super().__init__(self, f"{self._source.name} mapped")
        self.rows = self._source.rows

    def __iter__(self) -> Iterator[np.ndarray]:
        for piece, lo, rows in chunks(self._source):
            numbered = {"first": piece.first - piece.lo + lo} if isinstance(self._method, Baseline) else {}
            yield self._method(rows, **numbered)


def fit_baseline(name: str, source: Any, target: Any, **options: Any) -> Alignment | Baseline:
    """Fit the method `name` of METHODS that moves `source` (text) to `target` (images); both as `fastrealign.fit` takes them.

    options   c3: sigma (standard deviation; by default 0.5/sqrt(d), noise half as long as a row), seed (0)
              bca: energy (share of the trace in U, 0.95), floor (1e-6; see `_blockwise`)
              realign, realign-exact: those of `fastrealign.fit` but for the centroid
    Raises InputError for another name or option, and as `fit` does.
    """
    check_method(name)
    make = METHODS[name]
    known = [p.name for p in list(inspect.signature(make).parameters.values())[2:]]
    unknown = sorted(set(options) - set(known))
    if unknown and name not in ("realign", "realign-exact"):
        raise InputError(f"{name} has no option {unknown[0]!r}; it takes {', '.join(known) or 'none'}")
    return make(source, target, **options)


def check_method(name: str) -> None:
    """InputError for a name that is not in METHODS, with the nearest that is."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1, 0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"there is no method {name!r}: {hint}choose one of {', '.join(METHODS)}")


def load(path: str | Path) -> Alignment | Baseline:
    """Read what a method of METHODS saved. Raises InputError naming the file if it is something else."""
    try:
        return Baseline.load(path)
    except InputError as error:
        if "holds alignment" not in str(error):
            raise
    return Alignment.load(path)


@dataclass(frozen=True)
class _Sides:
    """Both sides opened, and what `fit_sides` found of them."""

    source: RowSource
    target: RowSource
    alignment: Alignment

    @classmethod
    def of(cls, source: Any, target: Any) -> _Sides:
        y, x = open_rows(source, "source"), open_rows(target, "target")
        return cls(y, x, fit_sides(y, x))

    @property
    def anchor(self) -> np.ndarray:
        return self.alignment.mean_target - self.alignment.mean_source

    def baseline(self, name: str, **steps: Any) -> Baseline:
        return Baseline(name, self.alignment.mean_target, self.alignment.gap_before, **steps)


def _none(source: Any, target: Any) -> Baseline:
    return _Sides.of(source, target).baseline("none")


def _mean_shift(source: Any, target: Any) -> Baseline:
    sides = _Sides.of(source, target)
    return sides.baseline("mean-shift", shift=-sides.alignment.mean_source, projected=False)


def _c3(source: Any, target: Any, *, sigma: float | None = None, seed: int = 0) -> Baseline:
    sides = _Sides.of(source, target)
    sigma = 0.5 / np.sqrt(sides.target.d) if sigma is None else sigma
    if not 0.0 <= sigma < np.inf:
        raise InputError(f"sigma={sigma}: expected a standard deviation of 0 or more")
    if int(seed) != seed or not 0 <= seed < 2**64:
        raise InputError(f"seed={seed}: expected a whole number from 0 to 2^64 - 1")
    return sides.baseline("c3", shift=sides.anchor, sigma=float(sigma), seed=int(seed))


def _anchor(source: Any, target: Any) -> Baseline:
    sides = _Sides.of(source, target)
    return sides.baseline("anchor", b=sides.anchor)


def _anchor_trace(source: Any, target: Any) -> Baseline:
    sides = _Sides.of(source, target)
    return sides.baseline("anchor-trace", s=sides.alignment.s, b=sides.alignment.b)


def _blockwise(source: Any, target: Any, *, energy: float = 0.95, floor: float = 1e-6) -> Baseline:
    """M = S_x^(1/2) S_e^(-1/2) in U and in V apart, of e = pi(pi(y) - mu_y + mu_x); shift and c set the means to mu_x.

    U holds `energy` of the trace of S_x + S_y (`frame.fixed_frame`). Eigenvalues of S_e below `floor` times the largest
    of their block are raised to that before its inverse root is taken.
    """
    if not 0.0 < floor <= 1.0:
        raise InputError(f"floor={floor}: expected a part of the largest eigenvalue, above 0 and at most 1")
    sides = _Sides.of(source, target)
    x, y = covariance(sides.target, precision="float64"), covariance(sides.source, precision="float64")
    frame = fixed_frame(x, y, energy=energy)
    anchored = RowMap(1.0, sides.anchor)
    e = covariance(sides.source, row_map=anchored, precision="float64")
    matrix = np.zeros((x.d, x.d))
    blocks = zip((frame.U, frame.V), frame.restrict(e), frame.restrict(x), strict=True)
    for basis, of_e, of_x in blocks:
        matrix += basis @ _power(of_x, 0.5, 0.0) @ _power(of_e, -0.5, floor) @ basis.T
    shift = x.mean - matrix @ e.mean
    total = np.zeros(x.d)
    for _, block in unit_blocks(sides.source, row_map=anchored):
        moved = block @ matrix.T + shift
        total += (moved / np.linalg.norm(moved, axis=1, keepdims=True)).sum(axis=0)
    return sides.baseline("bca", b=sides.anchor, matrix=matrix, shift=shift, c=x.mean - total / e.count)


def _power(matrix: np.ndarray, exponent: float, floor: float) -> np.ndarray:
    """A symmetric matrix to a power; eigenvalues below floor times the largest count as that."""
    values, vectors = np.linalg.eigh(matrix)
    if floor and values[-1] <= 0.0:
        raise InputError("the source has no spread in one of the two blocks, so it cannot be whitened")
    return (vectors * np.maximum(values, floor * values[-1]) ** exponent) @ vectors.T


def _realign(source: Any, target: Any, **options: Any) -> Alignment:
    return fit(source, target, centroid="paper", **options)


def _realign_exact(source: Any, target: Any, **options: Any) -> Alignment:
    return fit(source, target, centroid="exact", **options)


METHODS: dict[str, Callable[..., Alignment | Baseline]] = {
    "none": _none,
    "mean-shift": _mean_shift,
    "c3": _c3,
    "bca": _blockwise,
    "anchor": _anchor,
    "anchor-trace": _anchor_trace,
    "realign": _realign,
    "realign-exact": _realign_exact,
}
