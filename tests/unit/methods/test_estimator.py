"""fr.ReAlign on scikit-learn's own checks, and what they do not look at: the target, pipelines, copies, messages."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastrealign as fr
from fastrealign.core import reference


@parametrize_with_checks([fr.ReAlign(), fr.ReAlign(centroid="exact")])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture
def sides(rng):
    text = rng.standard_normal((300, 24)) + rng.standard_normal(24)
    images = rng.standard_normal((200, 24)) * 0.7 + rng.standard_normal(24)
    return text.astype(np.float32), images.astype(np.float32)


def test_it_is_fit_and_the_alignment(sides):
    text, images = sides
    estimator = fr.ReAlign(images, centroid="exact").fit(text)
    expected = fr.fit(text, images, centroid="exact")
    assert estimator.alignment_.fingerprint == expected.fingerprint
    np.testing.assert_array_equal(estimator.transform(text), expected(text))
    assert np.linalg.norm(estimator.transform(text).mean(0) - reference.project(images).mean(0)) < 1e-6


def test_a_target_of_files(sides, tmp_path):
    text, images = sides
    np.save(tmp_path / "images.npy", images)
    of_files = clone(fr.ReAlign(str(tmp_path / "images.npy"))).fit(text)
    assert of_files.alignment_.fingerprint == fr.fit(text, images).fingerprint


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_element_type_is_kept(sides, dtype):
    text, images = sides
    out = fr.ReAlign(images).fit(text).transform(text.astype(dtype))
    assert out.dtype == dtype


def test_in_a_pipeline_cloned_and_pickled(sides):
    text, images = sides
    pipeline = clone(make_pipeline(FunctionTransformer(np.abs), fr.ReAlign(images)))
    out = pipeline.fit_transform(text)
    np.testing.assert_array_equal(out, fr.fit(np.abs(text), images)(np.abs(text)))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pipeline)).transform(text), out)


def test_noise_is_that_of_the_row_in_x(sides):
    text, images = sides
    noisy = fr.ReAlign(images, noise=1.0, seed=3)
    expected = fr.fit(text, images)(text, noise=1.0, seed=3)
    np.testing.assert_array_equal(noisy.fit_transform(text), expected)
    np.testing.assert_array_equal(clone(noisy).fit(text).transform(text[:9]), expected[:9])
    raw = fr.ReAlign(noise=1.0).fit(text).transform(text)  # without a target: raw rows with noise
    np.testing.assert_allclose(raw, fr.fit(text, images, method="none")(text, noise=1.0), atol=1e-6)
    with pytest.raises(ValueError, match="noise=-1: expected a number from 0"):
        fr.ReAlign(images, noise=-1).fit(text)


def test_from_alignment(sides):
    text, images = sides
    alignment = fr.fit(text, images)
    np.testing.assert_array_equal(fr.ReAlign.from_alignment(alignment).transform(text), alignment(text))


def test_rows_of_zeros(sides):
    text, images = sides
    text[7] = 0
    kept = fr.ReAlign(images).fit(text)
    assert kept.alignment_.count_source == 299
    assert not kept.transform(text)[7].any()
    with pytest.raises(fr.BadRowsError, match="row 7 is all zeros"):
        fr.ReAlign(images, bad_rows="error").fit(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"centroid": "median"}, "centroid='median': expected one of"),
        ({"bad_rows": "skip"}, "as many rows as it is given"),
    ],
)
def test_parameters_that_cannot_be(sides, options, message):
    text, images = sides
    with pytest.raises(ValueError, match=message):
        fr.ReAlign(images, **options).fit(text)


def test_a_target_given_as_y(sides):
    text, images = sides
    with pytest.raises(ValueError, match=r"like a target; pass that as ReAlign\(target=\.\.\.\)"):
        fr.ReAlign().fit(text, text)
    with pytest.raises(NotFittedError):
        fr.ReAlign(images).transform(text)


def test_columns_of_a_target_in_another_order(sides):
    pd = pytest.importorskip("pandas")
    names = [f"column {i}" for i in range(sides[0].shape[1])]
    text, images = (pd.DataFrame(side, columns=names) for side in sides)
    plain = fr.ReAlign(sides[1]).fit(sides[0]).alignment_
    np.testing.assert_array_equal(fr.ReAlign(images).fit(text).alignment_.b, plain.b)
    np.testing.assert_array_equal(fr.ReAlign(images.to_numpy()).fit(text).alignment_.b, plain.b)
    with pytest.raises(ValueError, match="columns of the target are not those of X: they differ from column 0 on"):
        fr.ReAlign(images[names[::-1]]).fit(text)
    with pytest.raises(ValueError, match="they differ from column 2 on"):
        fr.ReAlign(images.rename(columns={names[2]: "other"})).fit(text)
    with pytest.raises(ValueError, match="like a target"):
        fr.ReAlign().fit(sides[0], sides[1][:3].tolist())


def test_without_scikit_learn():
    program = "import sys; sys.modules['sklearn'] = None; import fastrealign; fastrealign.ReAlign"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode != 0
    assert "pip install 'fastrealign[sklearn]'" in done.stderr
