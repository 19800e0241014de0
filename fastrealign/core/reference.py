"""The specification, in float64 NumPy: what every kernel computes, written to be read.

Source of the equations: "Modality Gap-Driven Subspace Alignment" (arXiv 2602.07026), section on ReAlign. Rows are
embeddings; `y` is the source modality (text, the one that moves), `x` the target (image, the anchor that stays).

    unit      e = pi(y)                                       pi(v) = v / |v|
    anchor    e - mean(e) + mean(x)
    trace     u = s (e - mean(e)) + mean(x),                  s = sqrt(T_x / T_y),  T = E|e - mean|^2
    project   e' = pi(u)
    centroid  out = pi(e' - mean(e') + mean(x))

With b = mean(x) - s mean(e) and c = mean(x) - mean(e') all of it is one row map, f(y; s, b, c) = pi(pi(s pi(y) + b) + c).
Everything here assumes rows that have a direction (no NaN, Inf or zero row); the kernels find the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import fastrealign._core as _core

Array = np.ndarray


class Fit(NamedTuple):
    """What `fit` finds: the row map (s, b, c) and the statistics that it was made from."""

    s: float
    b: Array
    c: Array
    mean_source: Array
    mean_target: Array
    trace_source: float
    trace_target: float


def project(v: Array) -> Array:
    """pi(v): each row over its Euclidean norm. (n, d) -> (n, d) float64."""
    v = np.asarray(v, dtype=np.float64)
    # Dividing by the largest entry first keeps the squares of very long or very short rows in range.
    v = v / np.abs(v).max(axis=1, keepdims=True)
    return v / np.sqrt((v * v).sum(axis=1, keepdims=True))


def row_map(y: Array, s: float = 1.0, b: Array | None = None, c: Array | None = None) -> Array:
    """f(y; s, b, c) for each row. (n, d) -> (n, d) float64; without b and c, the unit rows."""
    out = project(y)
    if b is not None or s != 1.0:
        out = project(s * out + (0.0 if b is None else b))
    if c is not None:
        out = project(out + c)
    return out


def has_direction(y: Array, s: float = 1.0, b: Array | None = None, c: Array | None = None) -> Array:
    """RowState of csrc/row_map.h for each row (uint8): good, all zeros, with a NaN or Inf, or mapped to zero."""
    y = np.asarray(y, dtype=np.float64)
    zero = np.where((y == 0).all(axis=1), _core.ZERO, _core.GOOD)
    state = np.where(np.isfinite(y).all(axis=1), zero, _core.NOT_FINITE).astype(np.uint8)
    good = np.flatnonzero(state == _core.GOOD)
    out = project(y[good])
    if b is not None or s != 1.0:
        out = s * out + (0.0 if b is None else b)
        short = np.linalg.norm(out, axis=1) <= _core.COLLAPSED_BELOW * (
            abs(s) + (0.0 if b is None else np.linalg.norm(b))
        )
        state[good[short]] = _core.COLLAPSED
        good, out = good[~short], project(out[~short])
    if c is not None:
        short = np.linalg.norm(out + c, axis=1) <= _core.COLLAPSED_BELOW * (1.0 + np.linalg.norm(c))
        state[good[short]] = _core.COLLAPSED
    return state


def vjp(y: Array, g: Array, s: float = 1.0, b: Array | None = None, c: Array | None = None) -> Array:
    """J(y)^T g for each row, J the Jacobian of `row_map`: each projection keeps the component orthogonal to its output."""

    def through(g: Array, v: Array) -> Array:
        """The gradient of v from that of pi(v)."""
        p = project(v)
        return (g - (g * p).sum(axis=1, keepdims=True) * p) / np.linalg.norm(v, axis=1, keepdims=True)

    g = np.asarray(g, dtype=np.float64)
    y = np.asarray(y, dtype=np.float64)
    if c is not None:
        g = through(g, row_map(y, s, b) + c)
    if b is not None or s != 1.0:
        g = s * through(g, s * project(y) + (0.0 if b is None else b))
    return through(g, y)


def moments(y: Array) -> tuple[Array, float]:
    """Mean (d,) and trace E|e - mean|^2 of the unit rows of `y`."""
    e = project(y)
    mean = e.mean(axis=0)
    return mean, float(((e - mean) ** 2).sum(axis=1).mean())


def exact_centroid(e: Array, mean_target: Array, c: Array, steps: int = 20) -> Array:
    """The c for which E[pi(e + c)] = mean_target, by Newton's method from `c`; e (n, d) are the projected rows e'.

    The paper translates once, which leaves a gap of second order. What is left, F(c) = E[pi(e + c)] - mean_target, is the
    gradient of E|e + c| - mean_target c, which is convex: there is one c, and steps that are shortened until |F| falls lead to
    it. The Jacobian is E[(I - p p^T) / |v|] with v = e + c and p = pi(v).
    """

    def left_by(c: Array) -> tuple[Array, Array, Array]:
        norm = np.linalg.norm(e + c, axis=1)
        p = (e + c) / norm[:, None]
        return p.mean(axis=0) - mean_target, p, norm

    left, p, norm = left_by(c)
    for _ in range(steps):
        jacobian = np.mean(1.0 / norm) * np.eye(len(c)) - (p / norm[:, None]).T @ p / len(p)
        step = np.linalg.lstsq(jacobian, left, rcond=None)[0]
        after = left_by(c - step)
        while np.linalg.norm(after[0]) >= np.linalg.norm(left):
            step = step / 2
            if np.linalg.norm(step) < 1e-16:
                return c
            after = left_by(c - step)
        c, (left, p, norm) = c - step, after
    return c


def fit(y: Array, x: Array, centroid: str = "paper") -> Fit:
    """ReAlign's row map from source rows `y` (n, d) to target rows `x` (m, d); centroid "paper" or "exact"."""
    mean_y, trace_y = moments(y)
    mean_x, trace_x = moments(x)
    s = float(np.sqrt(trace_x / trace_y))
    b = mean_x - s * mean_y
    projected = row_map(y, s, b)
    c = mean_x - projected.mean(axis=0)
    if centroid == "exact":
        c = exact_centroid(projected, mean_x, c)
    return Fit(s, b, c, mean_y, mean_x, trace_y, trace_x)


def gap(x: Array, y: Array) -> float:
    """The modality gap |mean(x) - mean(y)| of rows as they are (make them unit rows first)."""
    return float(np.linalg.norm(np.mean(x, axis=0, dtype=np.float64) - np.mean(y, axis=0, dtype=np.float64)))
