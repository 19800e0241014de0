"""Fits the methods that ReAlign is compared with: one function a method, from the statistics of both sides."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrealign.core import checks
from fastrealign.core.errors import InputError
from fastrealign.core.row_map import RowMap
from fastrealign.data.options import PassOptions
from fastrealign.data.row_source import RowSource
from fastrealign.diagnostics.frame import fixed_frame
from fastrealign.diagnostics.second_moments import Covariance, covariance
from fastrealign.diagnostics.unit_rows import applying, unit_blocks
from fastrealign.methods.baseline import Baseline
from fastrealign.methods.fit_options import C3_NOISE
from fastrealign.methods.statistics import (
    NOTHING,
    Known,
    SideStatistics,
    anchored,
    check_differ,
    check_widths,
    source_side,
    target_side,
)


def fit_opened(
    name: str, source: RowSource, target: RowSource, options: PassOptions, known: Known = NOTHING, **own: Any
) -> Baseline:
    """`fit_baseline` on opened sources, of a method that is no Alignment; `own`: options of that method."""
    make = _MAKERS[name]
    options_of = [p.name for p in list(inspect.signature(make).parameters.values())[1:]]
    unknown = sorted(set(own) - set(options_of))
    if unknown:
        raise InputError(f"{name} has no option {unknown[0]!r}; it takes {', '.join(options_of) or 'none'}")
    check_widths(source, target)
    if name == "bca" and options.bad_rows != "error":
        raise InputError(f"bca is fitted on rows that all have a direction; leave out bad_rows={options.bad_rows!r}")
    x, y = target_side(target, options, known), source_side(source, options, known)
    check_differ(source.name, y, target.name, x)
    return make(_Sides(name, source, target, y, x, known.covariance), **own)


@dataclass(frozen=True)
class _Sides:
    """Both sides opened, and their statistics: y of the source, x of the target, whose covariance may be known."""

    name: str
    source: RowSource
    target: RowSource
    y: SideStatistics
    x: SideStatistics
    covariance: Covariance | None = None

    @property
    def anchor(self) -> np.ndarray:
        return self.x.mean - self.y.mean

    def made(self, **steps: Any) -> Baseline:
        return Baseline(self.name, self.x.mean, float(np.linalg.norm(self.anchor)), **steps)


def _c3(sides: _Sides, *, sigma: float | None = None, seed: int = 0) -> Baseline:
    sigma = C3_NOISE / np.sqrt(sides.target.d) if sigma is None else sigma
    sigma = checks.number("sigma", sigma, lambda sigma: sigma >= 0.0, "of 0 or more, a standard deviation")
    return sides.made(shift=sides.anchor, sigma=sigma, seed=checks.seed(seed))


def _anchor_trace(sides: _Sides) -> Baseline:
    row_map = anchored(sides.y, sides.x)
    return sides.made(s=row_map.s, b=row_map.b)


def _blockwise(sides: _Sides, *, energy: float = 0.95, floor: float = 1e-6, centred: bool = True) -> Baseline:
    """M = S_x^(1/2) S_e^(-1/2) in U and in V apart, of e = pi(pi(y) - mu_y + mu_x); c sets the mean to mu_x.

    U holds `energy` of the trace of S_x + S_y (`frame.fixed_frame`). Eigenvalues of S_e below `floor` times the largest
    of their block are raised to that before its inverse root is taken. `centred`: M (e - E[e]) + mu_x. Otherwise M e, to the
    letter of eq. 18 of arXiv 2602.07026, which whitens the mean along with the rows and so moves them further.
    """
    which = "above 0 and at most 1, a part of the largest eigenvalue"
    floor = checks.number("floor", floor, lambda floor: 0.0 < floor <= 1.0, which)
    if not isinstance(centred, bool):
        raise InputError(f"centred={centred!r}: expected True (the default), or False for eq. 18 to the letter")
    x, y = sides.covariance or covariance(sides.target), covariance(sides.source)
    frame = fixed_frame(x, y, energy=energy)
    anchored = RowMap(1.0, sides.anchor)
    e = covariance(sides.source, row_map=anchored)
    matrix = np.zeros((x.d, x.d))
    blocks = zip((frame.U, frame.V), frame.restrict(e), frame.restrict(x), strict=True)
    for basis, of_e, of_x in blocks:
        matrix += basis @ _power(of_x, 0.5, 0.0) @ _power(of_e, -0.5, floor) @ basis.T
    shift = x.mean - matrix @ e.mean if centred else np.zeros(x.d)
    total = np.zeros(x.d)
    for _, block in unit_blocks(sides.source, apply=applying(anchored)):
        moved = block @ matrix.T + shift
        total += (moved / np.linalg.norm(moved, axis=1, keepdims=True)).sum(axis=0)
    return sides.made(b=sides.anchor, matrix=matrix, shift=shift, c=x.mean - total / e.count)


def _power(matrix: np.ndarray, exponent: float, floor: float) -> np.ndarray:
    """A symmetric matrix to a power; eigenvalues below floor times the largest count as that."""
    values, vectors = np.linalg.eigh(matrix)
    if floor and values[-1] <= 0.0:
        raise InputError("the source has no spread in one of the two blocks, so it cannot be whitened")
    return (vectors * np.maximum(values, floor * values[-1]) ** exponent) @ vectors.T


_MAKERS: dict[str, Callable[..., Baseline]] = {
    "none": lambda sides: sides.made(),
    "mean-shift": lambda sides: sides.made(shift=-sides.y.mean, projected=False),
    "c3": _c3,
    "bca": _blockwise,
    "anchor": lambda sides: sides.made(b=sides.anchor),
    "anchor-trace": _anchor_trace,
}
