"""fit against the float64 reference, from every kind of source, and everything it refuses or warns of by name."""

from __future__ import annotations

import re
import warnings

import ml_dtypes
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core import reference
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.data import reservoir
from fastrealign.methods import centroid

VECTORS = ("b", "c", "mean_source", "mean_target")
SCALARS = ("s", "trace_source", "trace_target", "count_source", "count_target", "gap_before", "gap_left")


@pytest.fixture
def sides_of(rng):
    """sides_of(n, m, d): source and target rows around two centres, with a gap and a spread as real encoders have."""

    def sides_of(n, m, d, dtype=np.float32, centre=0.8):
        def side(count, spread):
            middle = rng.standard_normal(d) * centre / np.sqrt(d)
            scales = np.linspace(1.5, 0.5, d)
            rows = middle + spread * scales * rng.standard_normal((count, d)) / np.sqrt(d)
            return (rows * rng.uniform(0.5, 20, (count, 1))).astype(dtype)

        return side(n, 1.0), side(m, 0.8)

    return sides_of


def same_bits(a, b):
    return all(getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in VECTORS) and all(
        getattr(a, name) == getattr(b, name) for name in SCALARS
    )


@pytest.mark.parametrize("shape", [(2000, 1500, 48), (333, 801, 7), (1200, 900, 2), (700, 40, 130)])
@pytest.mark.parametrize("centroid", ["paper", "exact"])
@pytest.mark.filterwarnings("ignore::fastrealign.FitWarning")
def test_matches_the_reference(sides_of, shape, centroid):
    y, x = sides_of(*shape)
    found, expected = fr.fit(y, x, centroid=centroid), reference.fit(y, x, centroid)
    assert found.s == pytest.approx(expected.s, abs=1e-12)
    for name in ("mean_source", "mean_target", "b"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-12)
    assert found.trace_source == pytest.approx(expected.trace_source, abs=1e-11)
    assert found.trace_target == pytest.approx(expected.trace_target, abs=1e-11)
    # Directions that the rows do not spread in leave the exact c free by a little.
    np.testing.assert_allclose(found.c, expected.c, rtol=0, atol=1e-11 if centroid == "paper" else 1e-8)

    unit_x = reference.project(x)
    aligned = reference.row_map(y, found.s, found.b, found.c)
    assert found.gap_before == pytest.approx(reference.gap(unit_x, reference.project(y)), abs=1e-11)
    assert found.gap_left == pytest.approx(reference.gap(unit_x, aligned), abs=1e-11)
    assert (found.count_source, found.count_target, found.dim) == shape
    assert (found.centroid, found.version) == (centroid, fr.__version__)


@pytest.mark.parametrize(
    "shape", [(2000, 1500, 48), (333, 801, 7), (50, 90, 3), (6000, 300, 96), (40, 30, 64), (5, 9, 33)]
)
@pytest.mark.filterwarnings("ignore::fastrealign.FitWarning")
def test_the_exact_centroid_leaves_no_gap(sides_of, shape):
    y, x = sides_of(*shape)
    mean_x = reference.project(x).mean(0)
    exact = fr.fit(y, x, centroid="exact")
    assert exact.gap_left <= 1e-9
    assert np.linalg.norm(reference.row_map(y, exact.s, exact.b, exact.c).mean(0) - mean_x) <= 1e-9
    assert np.linalg.norm(exact(y).mean(0, dtype=np.float64) - mean_x) <= 1e-6
    paper = fr.fit(y, x)
    assert paper.gap_left > 10 * exact.gap_left
    assert paper.gap_left < paper.gap_before


def test_the_sample_of_the_exact_centroid_may_be_a_part(sides_of, monkeypatch):
    y, x = sides_of(3000, 2000, 24)
    monkeypatch.setattr(reservoir, "ROWS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact = fr.fit(y, x, centroid="exact")
    mean_x = reference.project(x).mean(0)
    assert np.linalg.norm(reference.row_map(y, exact.s, exact.b, exact.c).mean(0) - mean_x) <= 1e-9


def test_an_exact_centroid_far_from_the_papers(rng):
    """Few dimensions and a target that has little spread: Newton's method alone runs away in some of such data."""
    for _ in range(60):
        sides = []
        for count, spread in ((600, 1.0), (500, 0.8)):
            middle = rng.standard_normal(2) * 0.57
            sides.append(middle + spread * np.array([1.06, 0.35]) * rng.standard_normal((count, 2)))
        y, x = sides
        exact, expected = fr.fit(y, x, centroid="exact"), reference.fit(y, x, "exact")
        assert exact.gap_left <= 1e-9
        assert np.linalg.norm(reference.row_map(y, *expected[:3]).mean(axis=0) - expected.mean_target) < 1e-12


def test_an_exact_centroid_that_was_not_reached_is_reported(sides_of, monkeypatch):
    y, x = sides_of(300, 300, 12)
    monkeypatch.setattr(centroid, "EXACT_PASSES", 0)
    with pytest.warns(
        fr.FitWarning, match=r"source: the exact centroid was not reached, a gap of \d.*e-\d+ is left"
    ) as seen:
        fr.fit(y, x, centroid="exact")
    assert seen[0].filename == __file__


# --- kinds of source -------------------------------------------------------------------------------------------------


class Again:
    def __init__(self, chunks):
        self.chunks = chunks

    def __iter__(self):
        return iter(self.chunks)


@pytest.mark.parametrize("centroid", ["paper", "exact"])
def test_any_source_chunking_and_threads_give_the_same_bits(sides_of, tmp_path, monkeypatch, centroid):
    monkeypatch.setattr(reservoir, "ROWS", 300)
    y, x = sides_of(9000, 700, 40)
    expected = fr.fit(y, x, centroid=centroid, threads=1)
    for i, part in enumerate(np.split(y, [100, 101, 5000])):
        np.save(tmp_path / f"part_{i}.npy", part)
    others = [
        y,
        np.split(y, [1, 4097]),
        Again(np.array_split(y, 50)),
        tmp_path,
        str(tmp_path / "part_*.npy"),
        [tmp_path / f"part_{i}.npy" for i in range(4)],
        np.asfortranarray(y),
    ]
    for source in others:
        for threads in (1, 4):
            assert same_bits(fr.fit(source, np.array_split(x, 3), centroid=centroid, threads=threads), expected)


def test_the_paper_fit_does_not_depend_on_the_order_of_rows(rng, sides_of):
    y, x = sides_of(900, 700, 20)
    expected = fr.fit(y, x)
    assert same_bits(fr.fit(rng.permutation(y), rng.permutation(x)), expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_every_element_type(sides_of, dtype):
    y, x = sides_of(800, 500, 24, dtype)
    found, expected = fr.fit(y, x), reference.fit(y.astype(np.float64), x.astype(np.float64))
    assert found.s == pytest.approx(expected.s, abs=1e-12)
    np.testing.assert_allclose(found.b, expected.b, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.c, expected.c, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "float64"])
def test_torch_tensors(sides_of, name):
    torch = pytest.importorskip("torch")
    y, x = (torch.from_numpy(side).to(getattr(torch, name)) for side in sides_of(300, 200, 24))
    same = [side.double().numpy() for side in (y, x)]
    assert same_bits(fr.fit(y, x), fr.fit(*same))
    assert same_bits(fr.fit(list(y.split(50)), x.requires_grad_()), fr.fit(*same))


def test_encoder_names_are_kept(sides_of):
    found = fr.fit(*sides_of(50, 40, 5), encoder_source="clip-text", encoder_target="clip-image")
    assert (found.encoder_source, found.encoder_target) == ("clip-text", "clip-image")


# --- rows without a direction ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("centroid", ["paper", "exact"])
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_bad_rows(sides_of, value, centroid):
    y, x = sides_of(400, 300, 12)
    spoiled_y, spoiled_x = y.copy(), x.copy()
    spoiled_y[[17, 300]] = value
    spoiled_x[5] = value
    why = "is all zeros" if value == 0 else "has a NaN or Inf"
    with pytest.raises(BadRowsError, match=f"source: row 17 {why}; fix it, or leave such rows out .*bad_rows='keep'"):
        fr.fit(spoiled_y, x, centroid=centroid)
    with pytest.raises(BadRowsError, match=f"target: row 5 {why}"):
        fr.fit(y, spoiled_x, centroid=centroid)
    expected = fr.fit(np.delete(y, [17, 300], 0), np.delete(x, 5, 0), centroid=centroid)
    for bad_rows in ("skip", "keep"):
        found = fr.fit(spoiled_y, spoiled_x, centroid=centroid, bad_rows=bad_rows)
        assert (found.count_source, found.count_target) == (398, 299)
        assert same_bits(found, expected)


# --- what is refused, and warned of ----------------------------------------------------------------------------------


def refuses(says, source, target, error=InputError, **options):
    with pytest.raises(error, match=says) as caught:
        fr.fit(source, target, **options)
    assert "\n" not in str(caught.value)


def test_widths_that_differ(rows_of):
    refuses("source: rows are 5 wide, those of target 6; .* same encoder pair", rows_of(9, 5), rows_of(9, 6))


def test_widths_that_differ_in_files(rows_of, tmp_path):
    np.save(tmp_path / "text.npy", rows_of(9, 5))
    np.save(tmp_path / "image.npy", rows_of(9, 6))
    refuses(r"text\.npy: rows are 5 wide, those of .*image\.npy 6", tmp_path / "text.npy", tmp_path / "image.npy")


def test_fewer_than_two_rows(rows_of):
    some = rows_of(9, 5)
    refuses("source: 1 row, expected at least 2", some[:1], some)
    refuses("target: 1 row, expected at least 2", some, some[:1])
    refuses("source: 0 rows, expected at least 2", some[:0], some)
    spoiled = some[:3].copy()
    spoiled[:2] = 0
    refuses(r"source: 1 row \(2 without a direction left out\), expected at least 2", spoiled, some, bad_rows="skip")


def test_rows_of_one_direction(rows_of):
    some, same = rows_of(9, 5), np.repeat(rows_of(1, 5), 9, axis=0) * np.arange(1, 10, dtype=np.float32)[:, None]
    says = r": all 9 rows point the same way \(trace \d.*\), so there is no spread to scale"
    refuses("source" + says, same, some)
    refuses("target" + says, some, same)
    refuses("source: all 9 rows point the same way", np.abs(rows_of(9, 1)), np.float32([[1], [-2], [3]]))


def test_options_that_do_not_exist(rows_of):
    some, others = rows_of(9, 5), rows_of(8, 5)
    refuses("centroid='median': expected one of paper, exact", some, others, centroid="median")
    refuses("bad_rows='drop': expected one of error, skip, keep", some, others, bad_rows="drop")


def test_a_target_without_a_centroid_is_warned_of(rows_of):
    half = rows_of(500, 5)
    with pytest.warns(fr.FitWarning, match="target: the mean of the unit rows is zero, so it has no direction") as seen:
        fr.fit(rows_of(900, 5), np.concatenate([half, -half]))
    assert seen[0].filename == __file__


def test_few_rows_are_warned_of_with_the_error_to_expect(sides_of):
    y, x = sides_of(30, 400, 64)
    with pytest.warns(fr.FitWarning) as seen:
        found = fr.fit(y, x)
    assert [warning.filename for warning in seen] == [__file__]
    message = str(seen[0].message)
    assert message.startswith("source: 30 rows for a width of 64; the mean is uncertain by about ")
    assert "\n" not in message
    stated = float(re.search(r"about (\S+) ", message).group(1))
    assert stated == pytest.approx(np.sqrt(found.trace_source / 30), rel=0.05)
    # And that is what it is: the mean of 30 rows against that of all rows they could have been.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fr.fit(*sides_of(64, 64, 64))  # as many rows as the width


@pytest.mark.filterwarnings("ignore::fastrealign.FitWarning")
def test_the_error_that_is_stated_is_the_error_there_is(rng):
    """sqrt(trace/rows) is the root mean square distance of a sample's centroid from that of all rows."""
    d, n = 32, 20
    centre = rng.standard_normal(d) / np.sqrt(d)
    rows = (centre + rng.standard_normal((20_000, d)) / np.sqrt(d)).astype(np.float32)
    mean, trace = reference.moments(rows)
    far = [np.linalg.norm(fr.Moments(d).update(part).mean - mean) for part in np.split(rows, len(rows) // n)]
    assert np.sqrt(np.mean(np.square(far))) == pytest.approx(np.sqrt(trace / n), rel=0.1)


# --- progress --------------------------------------------------------------------------------------------------------


def test_every_pass_is_reported(sides_of):
    from fastrealign.core.progress import Progress

    class Watching(Progress):
        def __init__(self):
            self.phases, self.rows, self.finished = [], 0, 0

        def start(self, phase, rows, nbytes):
            self.phases.append(phase)

        def advance(self, rows, nbytes):
            self.rows += rows

        def finish(self):
            self.finished += 1

    y, x = sides_of(500, 400, 8)
    watching = Watching()
    fr.fit(y, x, progress=watching)
    assert watching.phases == ["reading the target", "reading the source", "centring", "measuring the gap left"]
    assert watching.rows == 3 * 500 + 400
    assert watching.finished == 4
