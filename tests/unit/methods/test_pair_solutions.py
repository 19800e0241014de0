"""Procrustes and ridge maps, and the exact sums that they are solved from, against their definitions; degenerate pairs."""

from __future__ import annotations

import numpy as np
import pytest
from pair_worlds import pairs, unit

from fastrealign.methods.pair_moments import PairMoments
from fastrealign.methods.pair_solutions import STRENGTHS, procrustes, ridge


def moments_of(e, f, own=True):
    found = PairMoments(e.shape[1], f.shape[1], own)
    for lo in range(0, len(e), 700):
        found.add(e[lo : lo + 700], f[lo : lo + 700])
    return found


def procrustes_by_definition(e, f):
    a, b = e - e.mean(0), f - f.mean(0)
    u, s, vt = np.linalg.svd(a.T @ b, full_matrices=False)
    matrix = s.sum() / (a * a).sum() * (u @ vt).T
    return matrix, f.mean(0) - matrix @ e.mean(0)


WIDTHS = [(24, 24), (24, 9), (9, 24), (3, 7), (5, 1), (1, 1)]


@pytest.mark.parametrize(("d_old", "d_new"), WIDTHS)
def test_procrustes_is_its_definition(rng, d_old, d_new):
    e, f = map(unit, pairs(rng, 1500, d_old, d_new))
    found = procrustes(moments_of(e, f, own=False))
    matrix, shift = procrustes_by_definition(e, f)
    assert np.allclose(found.matrix, matrix, atol=1e-9)
    assert np.allclose(found.shift, shift, atol=1e-9)


@pytest.mark.parametrize(("d_old", "d_new"), WIDTHS)
def test_ridge_is_least_squares_with_the_strength_that_others_choose(rng, d_old, d_new):
    e, f = map(unit, pairs(rng, 600, d_old, d_new))

    def solved(e, f, strength):  # as least squares of rows extended by sqrt(n strength) I
        a, b = e - e.mean(0), f - f.mean(0)
        extended = np.vstack([a, np.sqrt(len(e) * strength) * np.eye(d_old)]), np.vstack([b, np.zeros((d_old, d_new))])
        matrix = np.linalg.lstsq(*extended, rcond=None)[0].T
        return matrix, f.mean(0) - matrix @ e.mean(0)

    found = ridge(moments_of(e[:500], f[:500]), moments_of(e[500:], f[500:]))
    errors = []
    for strength in STRENGTHS:
        matrix, shift = solved(e[:500], f[:500], strength)
        errors.append(np.square(e[500:] @ matrix.T + shift - f[500:]).sum(1).mean())
    assert errors[STRENGTHS.index(found.strength)] == pytest.approx(min(errors), rel=1e-9)
    matrix, shift = solved(e, f, found.strength)
    assert np.allclose(found.matrix, matrix, atol=1e-7)
    assert np.allclose(found.shift, shift, atol=1e-7)


def test_sums_are_exact(rng):
    e, f = (unit(rng.standard_normal((900, d))) for d in (5, 3))
    a, b = (np.rint(np.ldexp(np.rint(np.ldexp(x, 40)), -40) * 2.0**20).astype(object) for x in (e, f))
    high = sum(int(x) * int(y) for x, y in zip(a[:, 1], b[:, 2], strict=True))
    found = moments_of(e, f)
    assert int(found._cross.high[1, 2]) == high
    assert np.allclose(found.cross, e.T @ f / 900 - np.outer(e.mean(0), f.mean(0)), atol=1e-13)
    assert np.allclose(found.own, np.cov(e.T, bias=True), atol=1e-13)


def test_sums_do_not_depend_on_the_order(rng):
    e, f = map(unit, pairs(rng, 5000, 20, 12))
    order = rng.permutation(5000)
    one, other = moments_of(e, f), moments_of(e[order], f[order])
    assert np.array_equal(one.cross, other.cross)
    assert np.array_equal(one.own, other.own)
