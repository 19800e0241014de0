"""Blocks, samples and estimates: the same rows however a source is cut, errors that say what sampling does."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.data.sources import open_rows
from fastrealign.diagnostics.unit_rows import count_rows, draw, left_out, mean_estimate, open_sides, sample, unit_blocks


def blocks(spec, **options):
    return [(first, block.copy()) for first, block in unit_blocks(open_rows(spec, "source"), **options)]


def test_blocks_do_not_depend_on_the_cut(rows_of, tmp_path):
    rows = rows_of(700, 9)
    np.save(tmp_path / "a.npy", rows[:123])
    np.save(tmp_path / "b.npy", rows[123:])
    expected = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    for spec in (rows, [rows[:1], rows[1:650], rows[650:]], tmp_path):
        found = blocks(spec, size=256)
        assert [(first, len(block)) for first, block in found] == [(0, 256), (256, 256), (512, 188)]
        np.testing.assert_allclose(np.concatenate([block for _, block in found]), expected, atol=1e-15)
        same = blocks(rows, size=256)
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(found, same, strict=True))


def test_tensors(rows_of):
    torch = pytest.importorskip("torch")
    rows = rows_of(40, 7)
    (_, found), (_, expected) = blocks(torch.from_numpy(rows))[0], blocks(rows)[0]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value, why", [(np.nan, "has a NaN or Inf"), (0, "is all zeros")])
def test_a_bad_row_is_named(rows_of, tmp_path, value, why):
    rows = rows_of(600, 5)
    rows[577] = value
    for read in (lambda s: list(unit_blocks(s, size=64)), lambda s: sample(s, None, 0)):
        for spec in (rows, [rows[:500], rows[500:]]):
            with pytest.raises(BadRowsError, match=f"^source: row 577 {why}; leave"):
                read(open_rows(spec, "source"))
        np.save(tmp_path / "shard.npy", rows)
        with pytest.raises(BadRowsError, match=f"shard.npy: row 577 {why}"):
            read(open_rows(tmp_path, "source"))


def test_a_sample_is_drawn_without_replacement_and_again_the_same(rows_of):
    rows = rows_of(500, 4)
    for spec in (rows, [rows[:200], rows[200:201], rows[201:]]):
        numbers, taken = sample(open_rows(spec, "source"), 60, 3)
        assert len(set(numbers.tolist())) == 60 and (np.diff(numbers) > 0).all()
        expected = rows[numbers].astype(np.float64)
        np.testing.assert_allclose(taken, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-15)
        np.testing.assert_array_equal(numbers, draw(500, 60, 3))
    assert not np.array_equal(draw(500, 60, 3), draw(500, 60, 4))
    assert draw(500, 500, 0).tolist() == draw(500, None, 0).tolist() == list(range(500))
    for of, wanted in ((1, None), (0, 5), (9, 1)):
        with pytest.raises(InputError, match="at least 2"):
            draw(of, wanted, 0)


def test_every_row_is_as_likely_as_another():
    drawn = np.bincount(np.concatenate([draw(10, 3, seed) for seed in range(2000)]), minlength=10)
    assert abs(drawn / 2000 - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 2000)


def test_the_error_of_a_mean_is_its_spread_over_samples(rng):
    population = rng.exponential(size=400)
    found = [mean_estimate(population[draw(400, 150, seed)], 400, seed) for seed in range(300)]
    spread = np.std([e.value for e in found])
    assert np.mean([e.error for e in found]) == pytest.approx(spread, rel=0.2)
    assert (found[7].n, found[7].seed, float(found[7])) == (150, 7, found[7].value)
    whole = mean_estimate(population, 400, 1)
    assert (whole.value, whole.error, whole.seed) == (pytest.approx(population.mean()), 0.0, None)
    assert left_out(100, 400) == np.sqrt(0.75)


def test_sides_that_do_not_fit(rows_of):
    a, b = rows_of(30, 6), rows_of(29, 6)
    with pytest.raises(InputError, match="rows are 5 wide, those of target 6; both must come from one encoder pair"):
        open_sides(a, b[:, :5])
    says = "the metric needs pairs, .*: target has 30 rows, source 29"
    for x, y in ((a, b), ([a[:10], a[10:]], b), (a, [b[:9], b[9:]])):
        with pytest.raises(InputError, match=says):
            open_sides(x, y, "the metric")
        open_sides(x, y)


def test_counting_runs_through_once(rows_of):
    rows = rows_of(50, 3)
    source = open_rows([rows[:20], rows[20:]], "source")
    assert source.rows is None and count_rows(source) == 50 and source.rows == 50
    assert count_rows(open_rows(rows, "source")) == 50


def test_no_optional_library_is_needed():
    """scipy, scikit-learn, faiss and torch absent: the metrics are NumPy's."""
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("scipy", "sklearn", "faiss", "torch", "matplotlib"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import subprocess
import sys

import numpy as np
from fastrealign import baselines, diagnostics as D
x, y = np.random.default_rng(0).standard_normal((2, 300, 16)).astype("f4") + 0.5
D.mixing(x, y), D.overlap(x, y), D.angular_topology(x, y), D.pairwise_correlation(x, y)
frame = D.fixed_frame(D.covariance(x), D.covariance(y))
D.coupling(frame, D.difference_covariance(x, y)), D.principal_angles(frame.U, frame.U)
for name in baselines.METHODS:
    D.gap(x, baselines.fit_baseline(name, y, x)(y))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
