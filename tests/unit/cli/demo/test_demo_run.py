"""`fastrealign demo`: the gap of real encoders closes, one index mixes, and what is shown is what was measured."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.demo import real_world, uses
from fastrealign.cli.demo.run import run
from fastrealign.cli.main import main
from fastrealign.core.reference import gap, project


@pytest.fixture(scope="module")
def result():
    return run()


def test_it_closes_the_gap(result):
    assert result.fitted_gap_left < result.fitted_gap_before / 100
    assert result.after.gap < result.before.gap / 10
    assert result.before.mixing < 0.01 < 0.1 < result.after.mixing
    assert 0.8 < result.before.gap < 1.0


def test_exact_leaves_less():
    assert run(centroid="exact").fitted_gap_left < 1e-6


def test_the_fitted_rows_are_unpaired_and_not_the_held_out_ones(result):
    fit = real_world.load().part("fit")
    text, image = fit.title[::2], fit.image[1::2]
    aligned = fr.fit(text, image)(text, dtype="float64")
    assert result.fitted_gap_left == pytest.approx(gap(project(aligned), project(image)), abs=1e-6)
    assert (result.texts, result.images, result.dim) == (len(text), len(image), text.shape[1])


def test_one_index_finds_pictures_only_when_aligned(result):
    raw, all_text, queries = result.search.values()
    assert raw.images < 0.01 and raw.pictures_found.value < 0.01
    assert all_text.pictures_found.value > 0.05 and all_text.images > 0.1
    assert queries.pictures_found.value > all_text.pictures_found.value


def test_the_classifier_learns_from_titles(result):
    raw, aligned, _, images = result.classifier.values()
    majority = 0.36
    assert majority + 0.1 < min(raw.value, aligned.value) and images.value > aligned.value
    assert all(0.01 < one.error < 0.03 for one in result.classifier.values())


def test_ridge_by_the_normal_equations():
    rng = np.random.default_rng()
    rows, labels = rng.normal(size=(50, 4)), rng.permutation(np.arange(50) % 3)
    asked = rng.normal(size=(20, 4))
    wide = np.c_[rows, np.ones(50)]
    penalty = uses.RIDGE * np.diag([1.0, 1, 1, 1, 0])  # the intercept is free
    weights = np.linalg.solve(wide.T @ wide + penalty, wide.T @ np.eye(3)[labels])
    np.testing.assert_array_equal(uses.ridge(rows, labels, asked), (np.c_[asked, np.ones(20)] @ weights).argmax(1))


def test_search_by_hand():
    images = np.eye(24)
    found = uses.search(np.eye(24), np.eye(24)[::-1], images)  # the captions are of other pictures
    assert found.pictures_found.value == 1.0
    assert found.images == pytest.approx(0.5, abs=0.1)


def test_the_best_pictures_are_those_of_the_largest_cosine(result):
    world = real_world.load()
    test = world.part("test")
    aligned = fr.fit(world.part("fit").title[::2], world.part("fit").image[1::2])(test.title)
    recalls = [reading.recall[uses.BEST] * result.pairs for reading in (result.before, result.after)]
    assert max(recalls) - 0.5 < result.finding < sum(recalls)
    assert f"among the 5 best before or after ({result.finding} of 913)" in result.summary()
    for one, ranking in zip(uses.best(test, aligned)[0], result.rankings, strict=True):
        cosines = project(test.title)[one.query] @ project(test.image).T
        assert set(one.before) == set(np.argsort(-cosines)[: uses.BEST])
        assert one.query in one.before + one.after
        assert ranking.query == test.titles[one.query] and ranking.before == test.titles[one.before].tolist()


def test_summary_and_json_say_what_was_measured(result):
    plain = json.loads(json.dumps(result.to_json()))
    assert plain["after"]["gap"] == result.after.gap and plain["picture"] is None
    text = result.summary()
    figures = [f"{result.before.gap:.3f}", f"{result.after.gap:.3f}", f"{result.after.recall[1]:.3f}"]
    figures += [str(share) for share in result.classifier.values()]
    figures += [str(search.found) for search in result.search.values()]
    assert all(figure in text for figure in figures)
    assert "fastrealign align text_emb/ --target img_emb/ --out aligned/" in text


def test_what_does_not_help_is_said(result):
    classifier = dict(result.classifier)
    first = next(iter(classifier))
    classifier[first] = replace(classifier[first], value=0.0)
    says = "Here raw titles do as well"
    assert says not in replace(result, classifier=classifier).summary()
    classifier[first] = replace(classifier[first], value=1.0)
    assert says in replace(result, classifier=classifier).summary()
    assert "titles as they are find more" not in replace(result, after=result.before).summary()


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "demo.png"
    result = run(picture=path)
    assert result.picture == str(path) and str(path) in result.summary()
    from matplotlib.image import imread

    pixels = imread(path)
    assert pixels.shape[1] == 1280 and np.ptp(pixels[..., :3]) > 0.9
    below = pixels[int(0.6 * len(pixels)) :, :, :3]
    assert np.mean(below.max(2) - below.min(2) > 0.2) > 0.02  # coloured pictures
    framed = np.abs(below - np.array([0x1A, 0x7F, 0x37]) / 255).max(2) < 0.02
    rows, columns = np.nonzero(framed[:, : framed.shape[1] // 2])  # before: a frame has four sides
    first = rows < rows.min() + 100
    box = framed[rows.min() : rows[first].max() + 1, columns[first].min() : columns[first].max() + 1]
    assert all(side.mean() > 0.9 for side in (box[1], box[-2], box[:, 1], box[:, -2]))


def test_a_picture_replaces_none(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "demo.png"
    path.write_bytes(b"a picture of the user")
    assert main(["demo", "--picture", str(path)]) == 2
    assert "demo.png: exists; choose another name or replace it with --overwrite" in capsys.readouterr().err
    assert path.read_bytes() == b"a picture of the user"
    assert main(["demo", "--picture", str(path), "--overwrite"]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_picture_is_refused_before_the_run(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(real_world, "load", None)
    assert main(["demo", "--picture", str(tmp_path / "demo.png")]) == 2
    assert "a picture needs matplotlib: pip install 'fastrealign[demo]'" in capfd.readouterr().err
