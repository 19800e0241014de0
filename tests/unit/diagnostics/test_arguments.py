"""Statistics and options that metrics are handed directly: what makes no sense is one line, never a figure or a traceback."""

from __future__ import annotations

import numpy as np
import pytest

import fastrealign as fr
from fastrealign import diagnostics
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.diagnostics import Covariance

WIDE, NARROW = (Covariance(np.zeros(d), np.diag(np.arange(d, 0.0, -1.0)), 10) for d in (4, 3))
FRAME = diagnostics.fixed_frame(WIDE, WIDE, energy=0.7)
ROWS = np.random.default_rng(0).normal(size=(30, 4))
SQUARE = np.diag([3.0, 2.0, 1.0])


def refused(words, call, *args, **how):
    with pytest.raises(InputError, match=f"^(?!.*\n).*{words}"):
        call(*args, **how)


@pytest.mark.parametrize(
    "call",
    [diagnostics.effective_rank, diagnostics.condition_number, diagnostics.power_law, diagnostics.spectral_correlation],
)
def test_eigenvalues_are_one_list_of_numbers(call):
    others = [np.array([3.0, 2.0, 1.0])] if call is diagnostics.spectral_correlation else []
    for given, words in (
        (SQUARE, r"have shape \(3, 3\), expected \(d,\): those of a matrix are its Covariance\.eigenvalues"),
        (["a", "b"], "expected real numbers"),
        (None, "expected"),
        (np.linalg.eigvals(np.array([[0.0, 1.0], [-1.0, 0.0]])), "expected real numbers"),
        ([2.0, 1j], "expected real numbers"),
        ([2.0, np.nan, 1.0], "have a NaN or Inf"),
    ):
        refused(words, call, given, *others)
    assert call([3.0, 2.0, 1.0], *others) is not None


def test_eigenvalues_that_ascend_are_refused_where_their_order_counts():
    """numpy.linalg.eigvalsh gives them ascending: a slope of the other sign passed for one."""
    ascending = np.linalg.eigvalsh(SQUARE)
    words = r"are not in descending order; sort them: numpy\.sort\(values\)\[::-1\]"
    refused(words, diagnostics.power_law, ascending)
    refused(words, diagnostics.power_law, [3, 1, 2, 0.5])
    refused(words, diagnostics.spectral_correlation, ascending, ascending[::-1])
    assert diagnostics.effective_rank(ascending) == pytest.approx(diagnostics.effective_rank(ascending[::-1]))
    assert diagnostics.power_law(ascending[::-1]).alpha > 0


def test_statistics_of_different_widths():
    words = "widths 4 and 3: all must be of rows of one encoder pair"
    refused(words, diagnostics.sigma_gap, WIDE, NARROW)
    refused(words, diagnostics.subspace_overlap, WIDE, NARROW, 2)
    refused(words, diagnostics.fixed_frame, WIDE, NARROW)
    refused(words, diagnostics.decompose, FRAME, NARROW)
    refused(words, diagnostics.coupling, FRAME, NARROW)
    refused(words, diagnostics.phantom_drift, ROWS, 1.0, np.zeros(4), NARROW)
    refused(words, diagnostics.phantom_drift, ROWS, 1.0, np.zeros(3), WIDE)
    refused(words, diagnostics.predicted_drift, np.ones(4), SQUARE)
    refused(words, diagnostics.principal_angles, np.eye(4)[:, :2], np.eye(3)[:, :2])


def test_bases_are_orthonormal_columns():
    plane = np.eye(3)[:, :2]
    refused(r"not orthonormal; numpy\.linalg\.qr", diagnostics.principal_angles, np.ones((3, 2)), plane)
    refused(r"a basis of shape \(3,\)", diagnostics.principal_angles, np.ones(3), plane)
    refused(r"a basis of shape \(2, 3\)", diagnostics.principal_angles, np.ones((2, 3)), plane)


def test_shares_and_weights_out_of_range():
    for floor in (-1, 1, 2, "a", None, np.nan):
        refused("floor=.*: expected a number from 0 to below 1", diagnostics.condition_number, [2.0, 1.0], floor=floor)
    for ridge in (-1, "a", None, np.nan, np.inf):
        refused("ridge=.*: expected a number of 0 or more", diagnostics.coupling, FRAME, WIDE, ridge=ridge)
    flat = Covariance(np.zeros(4), np.diag([1.0, 0.0, 1.0, 1.0]), 10)
    refused("ridge=0.0: .* give a ridge above 0", diagnostics.coupling, FRAME, flat, ridge=0.0)


def test_vectors_of_a_concentration():
    for vectors in (np.ones(4), np.full((3, 4), np.nan), np.full((3, 4), "a")):
        refused(r"vectors of shape .*: expected finite numbers \(n, d\)", diagnostics.vmf_concentration, vectors)
    assert diagnostics.vmf_concentration([[2, 0], [0, 1]]) == pytest.approx(2.121, abs=1e-3)


def test_a_gap_of_no_rows_is_refused():
    """It was NaN."""
    refused("target: has no rows, expected at least 1 to have a mean", diagnostics.gap, ROWS[:0], ROWS)
    refused("source: has no rows", diagnostics.gap, ROWS, ROWS[:0])


def test_bad_rows_are_not_answered_with_options_that_metrics_lack():
    bad = ROWS.copy()
    bad[5, 2] = np.nan
    of = diagnostics.covariance(ROWS)
    for call, args in (
        (diagnostics.gap, (ROWS, bad)),
        (diagnostics.phantom_drift, (bad, 1.0, np.zeros(4), of)),
    ):
        with pytest.raises(
            BadRowsError, match=r"^source: row 5 has a NaN or Inf; leave such rows out before measuring, "
        ):
            call(*args)
    with pytest.raises(
        BadRowsError, match=r"^source: row 5 has a NaN or Inf; fix it, or leave .* \(bad_rows='skip'\)$"
    ):
        fr.report(ROWS + 1, ROWS, domains={"other": (bad, ROWS)}, methods=["none"])
    with pytest.raises(BadRowsError, match=r"leave such rows out .bad_rows='skip'."):
        fr.fit(bad, ROWS)
