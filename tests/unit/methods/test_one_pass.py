"""The fit of a source that is read once, against the float64 reference on all of its rows."""

from __future__ import annotations

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.demo.samples import load
from fastrealign.core import reference
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.data import reservoir


@pytest.fixture
def sides(rng):
    """Source and target rows around two centres; the source drifts from its first row to its last."""

    def sides(n, d):
        centres = rng.standard_normal((2, d)) / np.sqrt(d)
        drift = np.linspace(0, 1, n)[:, None] * rng.standard_normal(d) / np.sqrt(d)
        y = centres[0] + drift + rng.standard_normal((n, d)) / np.sqrt(d)
        x = centres[1] + 0.7 * rng.standard_normal((n, d)) / np.sqrt(d)
        return y.astype(np.float32), x.astype(np.float32)

    return sides


def stream(rows, chunk=700):
    return (rows[lo : lo + chunk] for lo in range(0, len(rows), chunk))


@pytest.mark.parametrize("centroid", ["paper", "exact"])
def test_a_source_that_fits_in_the_sample_is_fitted_as_in_passes(sides, centroid):
    y, x = sides(3000, 24)
    found, expected = fr.fit(stream(y), stream(x), centroid=centroid), reference.fit(y, x, centroid)
    assert found.s == pytest.approx(expected.s, abs=1e-12)
    np.testing.assert_allclose(found.b, expected.b, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.c, expected.c, rtol=0, atol=1e-7)
    assert found.sampling.how == "one pass" and found.sampling.error == 0.0
    assert (found.sampling.rows_source, found.sampling.rows_target) == (3000, 3000)
    assert np.isnan(found.gap_left)


@pytest.mark.parametrize("centroid", ["paper", "exact"])
def test_the_error_is_as_stated_and_small_beside_sampling(sides, monkeypatch, centroid):
    monkeypatch.setattr(reservoir, "ROWS", 1000)
    beside = []
    for _ in range(4):
        y, x = sides(15_000, 32)
        found, expected = fr.fit(stream(y), x, centroid=centroid), reference.fit(y, x, centroid)
        assert found.s == pytest.approx(expected.s, abs=1e-12)
        unit_mean = reference.project(x).mean(axis=0)
        aim = (
            unit_mean if centroid == "exact" else reference.row_map(y, expected.s, expected.b, expected.c).mean(axis=0)
        )
        error = np.linalg.norm(reference.row_map(y, found.s, found.b, found.c).mean(axis=0) - aim)
        assert 0.05 * found.sampling.error < error < 4 * found.sampling.error
        beside.append(error / np.sqrt(expected.trace_source / len(y)))
    # The pilot is the first rows, which differ much from the rest; still below the error of the mean itself.
    assert np.sqrt(np.mean(np.square(beside))) < 1


def test_the_stated_error_is_honest_over_many_samples(sides, monkeypatch):
    """Mean square of error / standard error, over sources of many seeds: 1 but for chance."""
    monkeypatch.setattr(reservoir, "ROWS", 200)
    monkeypatch.setattr("fastrealign.methods.one_pass.PILOT_ROWS", 200)
    ratios = []
    for _ in range(60):
        y, x = sides(3000, 8)
        found, expected = fr.fit(stream(y), x), reference.fit(y, x)
        ratios.append(np.linalg.norm(found.c - expected.c) / found.sampling.error)
    # A stratified sample of rows that drift is better than its stated error, which takes the rows to be in no order.
    assert 0.3 < np.sqrt(np.mean(np.square(ratios))) < 1.2


def test_on_the_shipped_embeddings_it_is_below_a_hundredth_of_the_sampling_error(monkeypatch):
    """Their pilot is all rows where they fit in it, so a shorter one and a smaller sample are tried too."""
    y, x = load("text"), load("image")
    expected = reference.fit(y, x)
    for rows in (8192, 1000):
        monkeypatch.setattr(reservoir, "ROWS", rows)
        monkeypatch.setattr("fastrealign.methods.one_pass.PILOT_ROWS", rows)
        found = fr.fit(stream(y), x)
        sampling_error = np.sqrt(expected.trace_source / len(y))
        assert np.linalg.norm(found.c - expected.c) < 0.01 * sampling_error


@pytest.mark.parametrize("centroid", ["paper", "exact"])
def test_threads_chunks_and_the_order_of_shards_do_not_matter(sides, tmp_path, monkeypatch, centroid):
    monkeypatch.setattr(reservoir, "ROWS", 300)
    y, x = sides(2500, 16)
    paths = []
    for i, part in enumerate(np.split(y, [100, 101, 2000])):
        paths.append(tmp_path / f"part_{i}.npy")
        np.save(paths[-1], part)
    expected = fr.fit(paths, x, centroid=centroid, one_pass=True, threads=1)
    assert expected.sampling.error > 0
    for source in (paths[::-1], [paths[2], paths[0], paths[3], paths[1]], tmp_path):
        for threads in (1, 3):
            found = fr.fit(source, x, centroid=centroid, one_pass=True, threads=threads)
            assert found.c.tobytes() == expected.c.tobytes() and found.s == expected.s
            assert found.sampling == expected.sampling
    chunked = [fr.fit(stream(y, size), stream(x, size), centroid=centroid) for size in (1, 999, 2500)]
    assert len({one.c.tobytes() for one in chunked}) == 1


def test_bad_rows(sides):
    y, x = sides(2000, 12)
    spoiled = y.copy()
    spoiled[[0, 1500]] = np.nan
    spoiled[1999] = 0
    with pytest.raises(BadRowsError, match="source: row 0 has a NaN or Inf"):
        fr.fit(stream(spoiled), x)
    found = fr.fit(stream(spoiled), x, bad_rows="skip")
    expected = reference.fit(np.delete(y, [0, 1500, 1999], axis=0), x)
    assert found.count_source == 1997
    np.testing.assert_allclose(found.c, expected.c, rtol=0, atol=1e-7)


def test_too_little_to_fit_is_reported(rng):
    some = rng.standard_normal((9, 5))
    with pytest.raises(InputError, match="source: 1 row, expected at least 2"):
        fr.fit(iter([some[:1]]), some)
    with pytest.raises(InputError, match="source: yields no chunks"):
        fr.fit(iter([]), some)
    with pytest.raises(InputError, match="source, chunk 1: rows are 4 wide, those before 5"):
        fr.fit(iter([some, some[:, :4]]), some)


def test_a_pilot_without_a_direction_is_no_obstacle(sides, monkeypatch):
    monkeypatch.setattr("fastrealign.methods.one_pass.PILOT_ROWS", 10)
    y, x = sides(2000, 12)
    y[:50] = y[0]  # all the same, so they have no trace
    found, expected = fr.fit(stream(y, 50), x), reference.fit(y, x)
    np.testing.assert_allclose(found.c, expected.c, rtol=0, atol=1e-7)
    y[:50] = 0
    found, expected = fr.fit(stream(y, 50), x, bad_rows="skip"), reference.fit(y[50:], x)
    np.testing.assert_allclose(found.c, expected.c, rtol=0, atol=1e-7)


def test_saved_and_loaded_with_its_error(sides, tmp_path):
    y, x = sides(500, 6)
    found = fr.fit(stream(y), x)
    found.save(tmp_path / "a.safetensors")
    assert fr.load(tmp_path / "a.safetensors").sampling == found.sampling


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_both_kinds_of_16_bits(sides, order):
    """Neither holds the other: together they are float32."""
    import ml_dtypes

    text, images = sides(400, 24)
    halves = np.array_split(text, 2)
    parts = [halves[0].astype(np.float16), halves[1].astype(ml_dtypes.bfloat16)]
    parts = [parts[i] for i in order]
    found = fr.fit(parts, images, one_pass=True)
    whole = fr.fit(np.concatenate([part.astype(np.float32) for part in parts]), images, one_pass=True)
    np.testing.assert_allclose(found.b, whole.b, atol=1e-12)
    np.testing.assert_allclose(found.c, whole.c, atol=1e-12)
