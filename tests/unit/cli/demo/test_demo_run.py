"""`fastrealign demo`: the gap closes by a large factor, the clouds mix, and what is shown is what was measured."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.demo import samples
from fastrealign.cli.demo.run import run
from fastrealign.cli.main import main
from fastrealign.core.reference import gap, project


@pytest.fixture(scope="module")
def result():
    return run()


def test_it_closes_the_gap(result):
    assert result.fitted_gap_left < result.fitted_gap_before / 100
    assert result.after.gap < result.before.gap / 5
    assert result.after.mixing > 2 * result.before.mixing
    assert 0.2 < result.before.gap < 0.5


def test_retrieval_survives(result):
    for k, before in result.before.recall.items():
        assert result.after.recall[k] > 0.8 * before


def test_exact_leaves_less():
    assert run(centroid="exact").fitted_gap_left < 1e-6


def test_the_fitted_gap_is_that_of_the_files(result):
    text, image = samples.load("text"), samples.load("image")
    aligned = fr.fit(text, image)(text, dtype="float64")
    assert result.fitted_gap_left == pytest.approx(gap(project(aligned), project(image)), abs=1e-6)
    assert (result.texts, result.images, result.dim) == (len(text), len(image), text.shape[1])


def test_summary_and_json_say_what_was_measured(result):
    plain = json.loads(json.dumps(result.to_json()))
    assert plain["after"]["gap"] == result.after.gap and plain["picture"] is None
    text = result.summary()
    for figure in (f"{result.before.gap:.3f}", f"{result.after.gap:.3f}", f"{result.after.recall[1]:.3f}"):
        assert figure in text
    assert "fastrealign align text_emb/ --target img_emb/ --out aligned/" in text


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "demo.png"
    result = run(picture=path)
    assert result.picture == str(path) and str(path) in result.summary()
    from matplotlib.image import imread

    pixels = imread(path)
    assert pixels.shape[1] == 1504 and np.ptp(pixels[..., :3]) > 0.9


def test_without_matplotlib_a_picture_is_refused_before_the_run(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(samples, "load", None)
    assert main(["demo", "--picture", str(tmp_path / "demo.png")]) == 2
    assert "a picture needs matplotlib: pip install 'fastrealign[demo]'" in capfd.readouterr().err
