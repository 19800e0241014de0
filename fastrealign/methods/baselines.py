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

All but the last two are one `Baseline` (baseline.py): f(y) = pi(pi(M pi(s pi(y) + b) + shift + noise) + c), with steps left
out. They need the mean and trace of both sides, bca their covariances too.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.ops import RowMap
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.distributed import shared
from fastrealign.data.pair import open_both
from fastrealign.data.pipeline import check_bad_rows
from fastrealign.data.process_group import ranks_of
from fastrealign.data.sources import ChunkSource, RowSource, open_rows
from fastrealign.data.workers import Workers
from fastrealign.diagnostics.frame import fixed_frame
from fastrealign.diagnostics.rows import chunks, unit_blocks
from fastrealign.diagnostics.spectrum import covariance
from fastrealign.methods.baseline import Baseline
from fastrealign.methods.fitting import check_alone, fit
from fastrealign.methods.method import Method
from fastrealign.methods.statistics import (
    Side,
    anchored,
    check_differ,
    check_side,
    check_target,
    check_widths,
    read_side,
)


class Mapped(ChunkSource):
    """The rows of a source as a method maps them, chunk by chunk, as often as asked: what the metrics take."""

    def __init__(self, method: Method, source: Any) -> None:
        self._method, self._source = method, open_rows(source, "source")
        super().__init__(self, f"{self._source.name} mapped")
        self.rows = self._source.rows

    def __iter__(self) -> Iterator[np.ndarray]:
        for piece, lo, rows in chunks(self._source):
            yield self._method(rows, first=piece.first - piece.lo + lo)


@computes
def fit_baseline(
    name: str,
    source: Any,
    target: Any,
    *,
    bad_rows: str = "error",
    threads: int | None = None,
    devices: Sequence[int | str] | None = None,
    max_memory: int | None = None,
    progress: Progress = SILENT,
    column: str | None = None,
    target_column: str | None = None,
    group: Any = None,
    **options: Any,
) -> Method:
    """Fit the method `name` of METHODS that moves `source` (text) to `target` (images).

    options   c3: sigma (standard deviation; by default 0.5/sqrt(d), noise half as long as a row), seed (0)
              bca: energy (share of the trace in U, 0.95), floor (1e-6; see `_blockwise`)
              realign, realign-exact: those of `fastrealign.fit` but for the centroid
    Everything else is as for `fastrealign.fit`. Raises InputError for another name or option, for a group with bca, whose
    covariances are of one process, and as `fit` does.
    """
    name = check_method(name)
    reading = {"bad_rows": bad_rows, "progress": progress}
    if name in _CENTROIDS:
        more = {"devices": devices, "max_memory": max_memory, "group": group, "threads": threads}
        more |= {"column": column, "target_column": target_column}
        return fit(source, target, centroid=_CENTROIDS[name], **reading, **more, **options)
    ranks = ranks_of(group)
    check_alone(name, ranks)
    sides = [shared(side, ranks) for side in open_both(source, target, column, target_column)]
    return fit_opened(name, *sides, threads=Workers.of(threads, devices, max_memory), **reading, **options)


def fit_opened(
    name: str,
    source: RowSource,
    target: RowSource,
    *,
    bad_rows: str,
    threads: int | Workers | None,
    progress: Progress,
    **options: Any,
) -> Baseline:
    """`fit_baseline` on opened sources, of a method that is no Alignment."""
    make = _BASELINES[name]
    known = [p.name for p in list(inspect.signature(make).parameters.values())[1:]]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(f"{name} has no option {unknown[0]!r}; it takes {', '.join(known) or 'none'}")
    check_bad_rows(bad_rows)
    check_widths(source, target)
    if name == "bca" and bad_rows != "error":
        raise InputError(f"bca is fitted on rows that all have a direction; leave out bad_rows={bad_rows!r}")
    reading = {"bad_rows": bad_rows, "threads": threads, "progress": progress}
    x = read_side(target, "reading the target", **reading)
    check_target(target.name, x)
    y = read_side(source, "reading the source", **reading)
    check_side(source.name, y)
    check_differ(source.name, y, target.name, x)
    return make(_Sides(name, source, target, y, x), **options)


def check_method(name: str) -> str:
    """The method of that name, in large letters or small; InputError if it is not in METHODS, with the nearest that is."""
    if not isinstance(name, str):
        raise InputError(f"method={name!r}: expected one of {', '.join(METHODS)}")
    if name.lower() not in METHODS:
        near = difflib.get_close_matches(name.lower(), METHODS, 1, 0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"there is no method {name!r}: {hint}choose one of {', '.join(METHODS)}")
    return name.lower()


@dataclass(frozen=True)
class _Sides:
    """Both sides opened, and their statistics: y of the source, x of the target."""

    name: str
    source: RowSource
    target: RowSource
    y: Side
    x: Side

    @property
    def anchor(self) -> np.ndarray:
        return self.x.mean - self.y.mean

    def baseline(self, **steps: Any) -> Baseline:
        return Baseline(self.name, self.x.mean, float(np.linalg.norm(self.anchor)), **steps)


def _none(sides: _Sides) -> Baseline:
    return sides.baseline()


def _mean_shift(sides: _Sides) -> Baseline:
    return sides.baseline(shift=-sides.y.mean, projected=False)


def _c3(sides: _Sides, *, sigma: float | None = None, seed: int = 0) -> Baseline:
    sigma = 0.5 / np.sqrt(sides.target.d) if sigma is None else sigma
    if not 0.0 <= sigma < np.inf:
        raise InputError(f"sigma={sigma}: expected a standard deviation of 0 or more")
    if int(seed) != seed or not 0 <= seed < 2**64:
        raise InputError(f"seed={seed}: expected a whole number from 0 to 2^64 - 1")
    return sides.baseline(shift=sides.anchor, sigma=float(sigma), seed=int(seed))


def _anchor(sides: _Sides) -> Baseline:
    return sides.baseline(b=sides.anchor)


def _anchor_trace(sides: _Sides) -> Baseline:
    row_map = anchored(sides.y, sides.x)
    return sides.baseline(s=row_map.s, b=row_map.b)


def _blockwise(sides: _Sides, *, energy: float = 0.95, floor: float = 1e-6) -> Baseline:
    """M = S_x^(1/2) S_e^(-1/2) in U and in V apart, of e = pi(pi(y) - mu_y + mu_x); shift and c set the means to mu_x.

    U holds `energy` of the trace of S_x + S_y (`frame.fixed_frame`). Eigenvalues of S_e below `floor` times the largest
    of their block are raised to that before its inverse root is taken.
    """
    if not 0.0 < floor <= 1.0:
        raise InputError(f"floor={floor}: expected a part of the largest eigenvalue, above 0 and at most 1")
    x, y = covariance(sides.target), covariance(sides.source)
    frame = fixed_frame(x, y, energy=energy)
    anchored = RowMap(1.0, sides.anchor)
    e = covariance(sides.source, row_map=anchored)
    matrix = np.zeros((x.d, x.d))
    blocks = zip((frame.U, frame.V), frame.restrict(e), frame.restrict(x), strict=True)
    for basis, of_e, of_x in blocks:
        matrix += basis @ _power(of_x, 0.5, 0.0) @ _power(of_e, -0.5, floor) @ basis.T
    shift = x.mean - matrix @ e.mean
    total = np.zeros(x.d)
    for _, block in unit_blocks(sides.source, row_map=anchored):
        moved = block @ matrix.T + shift
        total += (moved / np.linalg.norm(moved, axis=1, keepdims=True)).sum(axis=0)
    return sides.baseline(b=sides.anchor, matrix=matrix, shift=shift, c=x.mean - total / e.count)


def _power(matrix: np.ndarray, exponent: float, floor: float) -> np.ndarray:
    """A symmetric matrix to a power; eigenvalues below floor times the largest count as that."""
    values, vectors = np.linalg.eigh(matrix)
    if floor and values[-1] <= 0.0:
        raise InputError("the source has no spread in one of the two blocks, so it cannot be whitened")
    return (vectors * np.maximum(values, floor * values[-1]) ** exponent) @ vectors.T


_BASELINES: dict[str, Callable[..., Baseline]] = {
    "none": _none,
    "mean-shift": _mean_shift,
    "c3": _c3,
    "bca": _blockwise,
    "anchor": _anchor,
    "anchor-trace": _anchor_trace,
}
_CENTROIDS = {"realign": "paper", "realign-exact": "exact"}
METHODS = (*_BASELINES, *_CENTROIDS)
