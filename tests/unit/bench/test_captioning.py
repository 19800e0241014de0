"""bench.paper.captioning in a world of a few scenes: what each model is trained on, and what is kept of it."""

from __future__ import annotations

import json

import benchmarks
import pytest

pytest.importorskip("transformers")
pytest.importorskip("open_clip")
pytest.importorskip("matplotlib")

from fastrealign.cli.demo.captions import caption
from fastrealign.cli.demo.world import Sizes
from fastrealign.revision.answers import Answer, read_items

captioning, common = (benchmarks.module(f"paper.{name}") for name in ("captioning", "common"))


@pytest.fixture
def few(tmp_path, monkeypatch):
    """Arguments of the command, for a world of few scenes; and a page with the markers."""
    monkeypatch.setattr(captioning, "SIZES", Sizes(48, 40, 2, 2, 3))
    monkeypatch.setattr(captioning, "LENGTHS", (0.0, 1.0))
    monkeypatch.setitem(captioning.STAGE_1, "epochs", 1.0)
    page = tmp_path / captioning.REPRODUCTION.page
    page.parent.mkdir()
    page.write_text("<!-- results:captioning -->\n<!-- /results:captioning -->\n")
    return ["--work", str(tmp_path / "work"), "--seeds", "1", "--into", str(tmp_path)]


@pytest.mark.filterwarnings("ignore::fastrealign.FitWarning")
def test_each_model_has_its_method_and_noise_and_is_trained_once(few, tmp_path, monkeypatch):
    """Models that have seen aligned text describe scenes completely here, the others say nothing."""
    trained = []

    def evaluate(of, config):
        items = [item for item in read_items(of.path("held_out.jsonl")) if item.task == "caption"]
        texts = [caption(s, "complete").text if "/realign-" in config.alignment else "" for s in of.scenes("held_out")]
        assert len(items) == 3
        return [Answer(item, text, False) for item, text in zip(items, texts, strict=True)] + [
            Answer(item, "", True) for item in items
        ]

    monkeypatch.setattr(captioning, "train_stage", lambda config, seconds: trained.append(config))
    monkeypatch.setattr(captioning, "evaluate", evaluate)
    assert captioning.main(few) == 0
    assert [("/realign-" in of.alignment, of.noise, of.seed) for of in trained] == [
        (aligned, noise, 0) for noise in (0.0, 1.0) for aligned in (False, True)
    ]
    assert len({of.out for of in trained}) == 4 and {of.epochs for of in trained} == {1.0}
    page = (tmp_path / captioning.REPRODUCTION.page).read_text()
    assert "| none | attributes, F1 | 0.0 | 0.0 |" in page and "| ReAlign | attributes, F1 | 100.0 | 100.0 |" in page
    assert "| ReAlign minus none | +100.0 ± 0.0 (1 of 1) | +100.0 ± 0.0 (1 of 1) |" in page

    monkeypatch.setattr(captioning, "train_stage", None)
    assert captioning.main(few) == 0
    assert (tmp_path / captioning.REPRODUCTION.page).read_text() == page


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fastrealign.FitWarning")
def test_from_a_world_to_a_page(few, tmp_path):
    assert captioning.main(few) == 0
    found = json.loads((tmp_path / common.RESULTS.format("captioning")).read_text())["methods"]
    for method in ("none", "realign"):
        for length, scores in found[method].items():
            run = json.loads((tmp_path / f"work/stage1-{method}-{length}-0/run.json").read_text())
            assert run["config"]["noise"] == float(length) and 0 <= scores[0]["caption"] <= 1


def test_differences_are_within_seeds():
    def scores(*values):
        return [
            dict.fromkeys((*captioning.FIGURES, *(f"blind/{name}" for name in captioning.FIGURES)), v) for v in values
        ]

    methods = {
        "none": {"0": scores(0.2, 0.3), "1": scores(0.19, 0.33)},
        "realign": {"0": scores(0.25, 0.33), "1": scores(0.2, 0.3)},
    }
    text = captioning.tell({"methods": methods, "pretrain": 10, "held out": 5, "epochs": 1.0})
    assert "| ReAlign minus none | +4.0 ± 1.0 (2 of 2) | -1.0 ± 2.0 (1 of 2) |" in text
    assert "| none, noise minus no noise |  | +1.0 ± 2.0 (1 of 2) |" in text
    assert "| none | attributes, F1 | 25.0 ± 7 | 26.0 ± 10 |" in text
