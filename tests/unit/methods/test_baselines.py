"""The compared methods against float64 statements of their definitions, on rows with anisotropic spectra."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

import fastrealign as fr
from fastrealign import diagnostics
from fastrealign.cli.demo import samples
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.gap_report.method_style import name_of
from fastrealign.methods.baseline import Baseline
from fastrealign.methods.baselines import METHODS, Mapped, fit_baseline
from fastrealign.methods.exact_product import ExactProduct
from fastrealign.methods.noise import noise

D = 20
BASELINES = [name for name in METHODS if not name.startswith("realign")]


def pi(v):
    return v / np.linalg.norm(v, axis=1, keepdims=True)


@pytest.fixture
def sides(rng):
    """Text and image rows with different means and spectra, float64."""
    turn = np.linalg.qr(rng.standard_normal((D, D)))[0]
    y = rng.standard_normal((1500, D)) * np.arange(1, D + 1) ** -0.4 + 1.5 * rng.standard_normal(D)
    x = rng.standard_normal((1300, D)) * np.arange(1, D + 1) ** -0.8 @ turn + 1.5 * rng.standard_normal(D)
    return y * rng.uniform(0.3, 3, (1500, 1)), x


# --- what each is, from its definition -------------------------------------------------------------------------------


def none(y, x, **_):
    return pi(y)


def mean_shift(y, x, **_):
    return pi(y) - pi(y).mean(0)


def c3(y, x, sigma, seed):
    return pi(pi(y) - pi(y).mean(0) + pi(x).mean(0) + sigma * noise(seed, np.arange(len(y)), y.shape[1]))


def anchor(y, x, **_):
    return pi(pi(y) - pi(y).mean(0) + pi(x).mean(0))


def anchor_trace(y, x, **_):
    centred_y, centred_x = pi(y) - pi(y).mean(0), pi(x) - pi(x).mean(0)
    s = math.sqrt((centred_x**2).sum(1).mean() / (centred_y**2).sum(1).mean())
    return pi(s * centred_y + pi(x).mean(0))


def bca(y, x, energy, floor, centred=True):
    scipy_linalg = pytest.importorskip("scipy.linalg")
    image = pi(x)
    mean_x = image.mean(0)
    e = anchor(y, x)
    values, vectors = np.linalg.eigh(np.cov(image.T, bias=True) + np.cov(pi(y).T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    r = next(r for r in range(1, D) if values[:r].sum() >= energy * values.sum())
    moved = np.tile(mean_x if centred else np.zeros(D), (len(y), 1))
    for block in (vectors[:, :r], vectors[:, r:]):
        part = (e - e.mean(0)) @ block
        of_e, of_x = np.cov(part.T, bias=True), np.cov((image @ block).T, bias=True)
        assert np.linalg.eigvalsh(of_e)[0] > floor * np.linalg.eigvalsh(of_e)[-1]
        white = (part if centred else e @ block) @ np.linalg.inv(scipy_linalg.sqrtm(of_e).real)
        moved += white @ scipy_linalg.sqrtm(of_x).real @ block.T
    moved = pi(moved)
    return pi(moved - moved.mean(0) + mean_x)


STATEMENTS = {
    "none": (none, {}),
    "mean-shift": (mean_shift, {}),
    "c3": (c3, {"sigma": 0.07, "seed": 11}),
    "bca": (bca, {"energy": 0.8, "floor": 1e-6}),
    "anchor": (anchor, {}),
    "anchor-trace": (anchor_trace, {}),
}


@pytest.mark.parametrize("name", BASELINES)
def test_it_is_what_its_definition_says(sides, name):
    y, x = sides
    statement, options = STATEMENTS[name]
    expected = statement(y, x, **options)
    method = fit_baseline(name, y, x, **options)
    assert isinstance(method, Baseline) and (method.name, method.dim) == (name, D)
    np.testing.assert_allclose(method(y), expected, atol=1e-11)
    single = method(y.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, atol=5e-6 if name == "bca" else 1e-6)
    np.testing.assert_allclose(method.mean_target, pi(x).mean(0), atol=1e-12)
    assert method.gap_before == pytest.approx(np.linalg.norm(pi(x).mean(0) - pi(y).mean(0)))


@pytest.mark.parametrize("name, centroid", [("realign", "paper"), ("realign-exact", "exact")])
def test_realign_is_the_alignment(sides, name, centroid):
    found = fit_baseline(name, *sides)
    assert isinstance(found, fr.Alignment) and found.fingerprint == fr.fit(*sides, centroid=centroid).fingerprint


def test_bca_matches_both_covariances_before_the_last_projections(sides):
    """What it is for: mean and covariance in U and in V are the target's, but for the two projections."""
    y, x = sides
    method = fit_baseline("bca", y, x, energy=0.8)
    moved = pi(pi(y) + method.b) @ method.matrix.T + method.shift
    np.testing.assert_allclose(moved.mean(0), pi(x).mean(0), atol=1e-12)
    frame = diagnostics.fixed_frame(diagnostics.covariance(x), diagnostics.covariance(y), energy=0.8)
    of_moved, of_x = (diagnostics.Covariance(rows.mean(0), np.cov(rows.T, bias=True), 9) for rows in (moved, pi(x)))
    found, expected = frame.restrict(of_moved), frame.restrict(of_x)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_bca_to_the_letter_whitens_the_mean_too(sides, tmp_path):
    """Eq. 18: the anchored row as it is, not less its mean; saved and loaded like the default, which it is not."""
    y, x = sides
    letter = fit_baseline("bca", y, x, energy=0.8, centred=False)
    np.testing.assert_allclose(letter(y), bca(y, x, 0.8, 1e-6, centred=False), atol=1e-11)
    default = fit_baseline("bca", y, x, energy=0.8)
    assert letter.fingerprint != default.fingerprint
    assert default.fingerprint == fit_baseline("bca", y, x, energy=0.8, centred=True).fingerprint
    letter.save(tmp_path / "letter.safetensors")
    again = Baseline.load(tmp_path / "letter.safetensors")
    assert again.fingerprint == letter.fingerprint and np.array_equal(again(y), letter(y))


def test_c3_of_its_own_paper_is_mean_shift_of_both_sides(sides):
    """Both sides less their own means: two methods, each of which reads the other side for its width and gap alone."""
    y, x = sides
    text, image = fit_baseline("mean-shift", y, x), fit_baseline("mean-shift", x, y)
    np.testing.assert_allclose(text(y), pi(y) - pi(y).mean(0), atol=1e-12)
    np.testing.assert_allclose(image(x), pi(x) - pi(x).mean(0), atol=1e-12)


def test_bca_with_fewer_rows_than_the_width(rng):
    """Directions without rows are floored, not divided by zero."""
    y, x = rng.standard_normal((12, D)) + 1, rng.standard_normal((15, D))
    with pytest.warns(fr.FitWarning, match="12 rows for a width of 20|15 rows"):
        method = fit_baseline("bca", y, x, floor=1e-3)
    assert np.isfinite(method.matrix).all() and np.isfinite(method(y)).all()


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 129, 768])
def test_a_row_has_its_own_noise_whatever_it_is_asked_for_with(d, rng):
    whole = noise(5, np.arange(70), d)
    assert whole.shape == (70, d)
    for numbers in ([0], [13], range(13, 53), [69], [69, 68, 3, 4, 5, 5, 0], rng.permutation(70)):
        np.testing.assert_array_equal(noise(5, np.array(numbers), d), whole[numbers])
    assert len(np.unique(whole)) == whole.size
    assert not np.isin(noise(6, np.arange(70), d), whole).any()
    far = noise(5, np.array([10**12, 10**12 + 1, 2**62, 10**12]), d)
    assert not np.isin(far, whole).any()
    np.testing.assert_array_equal(far[0], far[3])
    assert not np.isin(far[1:3], far[0]).any()


def test_noise_is_standard_normal():
    stats = pytest.importorskip("scipy.stats")
    drawn = noise(0, np.arange(4000), 50)
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-4
    np.testing.assert_allclose(np.cov(drawn.T), np.eye(50), atol=0.1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_c3_does_not_depend_on_chunks(sides, dtype):
    y, x = sides[0].astype(dtype), sides[1]
    method = fit_baseline("c3", y, x, seed=3)
    assert method.sigma == pytest.approx(0.5 / math.sqrt(D))
    whole = method(y)
    parts = [method(y[lo : lo + 217], first=lo) for lo in range(0, len(y), 217)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    order = np.random.default_rng(1).permutation(len(y))
    np.testing.assert_array_equal(method(y[order], first=order), whole[order])
    with pytest.raises(fr.InputError, match=f"shape .3,. for {len(y)} rows"):
        method(y, first=order[:3])
    assert not np.allclose(fit_baseline("c3", y, x, seed=4)(y), whole, atol=0.05)
    chunked = Mapped(method, [y[:5], y[5:1100], y[1100:]])
    np.testing.assert_array_equal(np.concatenate(list(chunked)), whole)


# --- a value that is called as an Alignment is -----------------------------------------------------------------------


@pytest.mark.parametrize("name", list(METHODS))
def test_kind_and_element_type_are_kept(sides, name, in_dtype):
    torch = pytest.importorskip("torch")
    y, x = sides
    method = fit_baseline(name, y, x)
    rows = y[:100].astype(in_dtype)
    wide = method(rows, dtype="float64")
    out = method(rows)
    assert type(out) is np.ndarray and out.dtype == in_dtype
    rounding = {"float64": 1e-12, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}[in_dtype.name]
    np.testing.assert_allclose(out.astype(np.float64), wide, atol=rounding)
    tensor = method(torch.from_numpy(rows.astype(np.float64)).to(getattr(torch, in_dtype.name)))
    assert tensor.dtype == getattr(torch, in_dtype.name)
    np.testing.assert_array_equal(tensor.double().numpy(), out.astype(np.float64))
    half = method(rows, dtype="bfloat16")
    assert half.dtype == np.dtype(ml_dtypes.bfloat16)
    into = np.empty(rows.shape, np.float32)
    assert method(rows, out=into) is into
    np.testing.assert_array_equal(into, method(rows, dtype="float32"))
    again = rows.copy()
    method(again, out=again)
    np.testing.assert_array_equal(again, out)
    assert method(rows[:0]).shape == (0, D)


@pytest.mark.parametrize("name", list(METHODS))
def test_bad_rows(sides, name):
    y, x = sides
    method = fit_baseline(name, y, x)
    rows = y.copy()
    rows[4], rows[1400] = np.nan, 0
    with pytest.raises(BadRowsError, match="row 4 has a NaN or Inf; fix it"):
        method(rows)
    numbered = {"first": 1} if name == "c3" else {}
    assert method(rows, bad_rows="skip", **numbered).shape == (1498, D)
    kept = method(rows, bad_rows="keep")
    np.testing.assert_array_equal(kept[[4, 1400]], rows[[4, 1400]])
    np.testing.assert_array_equal(np.delete(kept, [4, 1400], 0), np.delete(method(y), [4, 1400], 0))
    with pytest.raises(InputError, match="rows are 19 wide"):
        method(y[:, :19])
    with pytest.raises(InputError, match="overlap"):
        method(y[1:], out=y[:-1])


@pytest.mark.parametrize("name", list(METHODS))
def test_saved_and_loaded_it_maps_the_same(sides, name, tmp_path):
    y, x = sides
    method = fit_baseline(name, y, x)
    path = tmp_path / "folder" / "method.safetensors"
    method.save(path)
    loaded = fr.load(path)
    assert type(loaded) is type(method)
    np.testing.assert_array_equal(loaded(y), method(y))
    assert loaded.gap_before == method.gap_before


def test_load_refuses_other_files(sides, tmp_path):
    from fastrealign.formats.saved_tensors import save_tensors

    path = tmp_path / "m.safetensors"
    with pytest.raises(InputError, match="no such file"):
        fr.load(path)
    path.write_bytes(b"noise")
    with pytest.raises(InputError, match="cannot be read"):
        fr.load(path)
    fr.Moments(4).update(np.eye(4)).save(path)
    with pytest.raises(InputError, match="holds moments, expected alignment"):
        fr.load(path)
    record = {"kind": "baseline", "name": "c3", "gap_before": 0.5, "s": 1.0, "sigma": 0.1, "seed": 0, "projected": True}
    whole = {"mean_target": np.ones(3), "shift": np.ones(3)}
    save_tensors(path, whole, record)
    assert fr.load(path)(np.eye(3)).shape == (3, 3)
    for says, tensors, meta in (
        ("shift holds a NaN or an Inf", whole | {"shift": np.full(3, np.nan)}, record),
        ("matrix holds a NaN or an Inf", whole | {"matrix": np.full((3, 3), np.inf)}, record),
        ("shift holds float32, expected float64", whole | {"shift": np.ones(3, np.float32)}, record),
        ("'sigma' is '0.1', expected a finite number of 0 or more", whole, record | {"sigma": "0.1"}),
        ("'sigma' is nan, expected", whole, record | {"sigma": float("nan")}),
        ("'seed' is -1, expected a whole number", whole, record | {"seed": -1}),
        ("'seed' is 1.5, expected a whole number", whole, record | {"seed": 1.5}),
        ("'s' is 'x', expected", whole, record | {"s": "x"}),
        ("'s' is -1.0, expected a finite number of 0 or more", whole, record | {"s": -1.0}),
        ("'projected' is 'no', expected true or false", whole, record | {"projected": "no"}),
        ("lacks shift, a step of c3", {"mean_target": np.ones(3)}, record),
        ("lacks shift, a step of other", {"mean_target": np.ones(3), "matrix": np.eye(3)}, record | {"name": "other"}),
        ("lacks mean_target", {"b": np.ones(3)}, record),
        ("b has shape", {"mean_target": np.ones(3), "b": np.ones(4)}, record),
        ("matrix has shape", {"mean_target": np.ones(3), "matrix": np.ones((3, 4))}, record),
        ("a damaged baseline", whole | {"what": np.ones(3)}, record),
        ("a damaged baseline", {"mean_target": np.ones(3)}, {"kind": "baseline", "name": "c3"}),
    ):
        save_tensors(path, tensors, meta)
        with pytest.raises(InputError, match=says) as caught:
            fr.load(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    "first, says",
    [
        (1.5, "first holds float64, expected the numbers of rows"),
        (-5, "first is from -5 to -5, expected the numbers of rows"),
        (2**63 - 1, "first is from 9223372036854775807"),
        (2**70, "first holds object"),
        (True, "first holds bool"),
        (np.arange(-1, 29), "first is from -1 to 28"),
        (np.linspace(0, 1, 30), "first holds float64"),
        (np.arange(29), r"first has shape \(29,\) for 30 rows"),
    ],
)
def test_numbers_of_rows_are_whole(sides, first, says):
    y, x = sides
    method = fit_baseline("c3", y, x)
    with pytest.raises(InputError, match=says):
        method(y[:30], first=first)


def test_numbers_of_rows_of_any_whole_type(sides):
    y, x = sides
    method = fit_baseline("c3", y, x)
    expected = method(y[:30], first=7)
    for dtype in (np.int8, np.uint8, np.int64, np.uint64):
        np.testing.assert_array_equal(method(y[:30], first=dtype(7)), expected)
        np.testing.assert_array_equal(method(y[:30], first=np.arange(7, 37, dtype=dtype)), expected)
    assert method(y[:0], first=[]).shape == (0, D)


def test_methods_have_the_names_that_reports_give_them(sides):
    for name in BASELINES:
        for written in (name_of(name), name_of(name).upper(), name.replace("-", "_")):
            assert fit_baseline(written, *sides).fingerprint == fit_baseline(name, *sides).fingerprint


def test_unknown_names_and_options(sides):
    with pytest.raises(InputError, match="no method 'c4': did you mean 'c3'"):
        fit_baseline("c4", *sides)
    with pytest.raises(InputError, match="no method 'zzz': choose one of none, mean-shift, c3"):
        fit_baseline("zzz", *sides)
    for name in ("centred", "Z-score", "balanced", "auto"):
        with pytest.raises(InputError, match=f"the method '{name}' maps several roles: fit_roles fits it"):
            fit_baseline(name, *sides)
    with pytest.raises(InputError, match="c3 has no option 'energy'; it takes sigma, seed"):
        fit_baseline("c3", *sides, energy=0.5)
    with pytest.raises(InputError, match="none has no option 'seed'; it takes none"):
        fit_baseline("none", *sides, seed=1)
    for options in ({"sigma": -1}, {"sigma": np.nan}, {"seed": -1}, {"seed": 0.5}):
        with pytest.raises(InputError, match=r"sigma=|seed="):
            fit_baseline("c3", *sides, **options)
    with pytest.raises(InputError, match="floor=0"):
        fit_baseline("bca", *sides, floor=0)
    with pytest.raises(InputError, match=r"centred='no': expected True .*, or False for eq\. 18 to the letter"):
        fit_baseline("bca", *sides, centred="no")


def test_fitting_from_files_and_chunks(sides, tmp_path):
    y, x = (side.astype(np.float32) for side in sides)
    np.save(tmp_path / "text.npy", y)
    for name in BASELINES:
        expected = fit_baseline(name, y, x)(y)
        np.testing.assert_array_equal(fit_baseline(name, str(tmp_path / "text.npy"), x)(y), expected)
        np.testing.assert_array_equal(fit_baseline(name, [y[:700], y[700:]], [x[:1], x[1:]])(y), expected)


def test_mapped_rows_are_what_the_metrics_take(sides):
    y, x = sides
    for name in ("c3", "realign"):
        method = fit_baseline(name, y, x)
        mapped = Mapped(method, y)
        assert diagnostics.gap(x, mapped) == pytest.approx(diagnostics.gap(x, method(y)), abs=1e-12)
        assert diagnostics.overlap(y, mapped) == diagnostics.overlap(y, method(y))


# --- on embeddings ---------------------------------------------------------------------------------------------------


def test_orderings_on_the_shipped_embeddings():
    text, image = samples.load("text"), samples.load("image")
    mapped = {name: fit_baseline(name, text, image)(text, dtype="float32") for name in METHODS}
    gap = {name: diagnostics.gap(image, rows) for name, rows in mapped.items()}
    assert gap["none"] > gap["anchor"] > gap["realign"] > gap["realign-exact"]
    assert gap["none"] > gap["c3"] > gap["realign"]


@pytest.mark.parametrize("d", [1, 5, 20, 129])
@pytest.mark.parametrize("narrow", [False, True])
def test_products_do_not_depend_on_what_they_are_computed_with(rng, d, narrow):
    """Any split of the rows and any order of the columns give the same bits, where BLAS alone gives others."""
    e, matrix = pi(rng.standard_normal((500, d))), rng.standard_normal((d, d)) * 10.0 ** rng.integers(-3, 4)
    product = ExactProduct(matrix, narrow)
    whole = product(e)
    for step in (1, 7, 128):
        np.testing.assert_array_equal(np.concatenate([product(e[i : i + step]) for i in range(0, 500, step)]), whole)
    turned = rng.permutation(d)
    np.testing.assert_array_equal(ExactProduct(matrix[:, turned], narrow)(e[:, turned]), whole)
    exact = e.astype(np.longdouble) @ matrix.T.astype(np.longdouble)
    largest = np.abs(matrix).max() * np.sqrt(d)
    assert np.abs(whole - exact).max() <= (2.0**-24 if narrow else 1e-11) * largest


def test_fingerprints_tell_methods_apart(sides):
    from dataclasses import replace

    method = fit_baseline("c3", *sides)
    others = [replace(method, **change) for change in ({"seed": 1}, {"sigma": 0.1}, {"c": method.shift}, {"name": "x"})]
    assert len({m.fingerprint for m in (method, *others)}) == 5
    assert replace(method, gap_left=0.1).fingerprint == method.fingerprint


def test_tensors_in_a_collator(sides):
    torch = pytest.importorskip("torch")
    for name in BASELINES:
        method = fit_baseline(name, *sides)
        batch = torch.from_numpy(sides[0][:32]).float()
        mapped = method(batch)
        assert isinstance(mapped, torch.Tensor) and mapped.dtype == torch.float32
        np.testing.assert_array_equal(mapped.numpy(), method(sides[0][:32].astype(np.float32)))
