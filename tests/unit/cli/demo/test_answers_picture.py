"""The picture of `train demo`: what is wrong can be seen without colours."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib")

from fastrealign.cli.demo import answers_picture as sheet
from fastrealign.cli.demo.scenes import FAMILIES, scene
from fastrealign.revision.answers import Answer, Item


def test_wrong_words_are_underlined_and_right_ones_are_not(tmp_path, monkeypatch):
    facts = {"objects": [["circle"]], "colours": [["red", "circle"]], "sizes": [["small", "circle"]]}
    caption = Item("5", "caption", "", "describe", facts=facts)
    other = next(name for name in FAMILIES["shapes"].backgrounds if name != scene(5, "shapes").background)
    question = Item("5", "vqa", "colour", "what colour is it ?", "red")
    answers = {
        "before": [Answer(caption, "a red circle", False)],
        "stage1": [Answer(caption, "a blue circle , a large circle", False)],
        "stage2": [Answer(caption, f"a red ring , {other} background", False), Answer(question, "green", False)],
    }
    kept = []
    monkeypatch.setattr(sheet, "save", lambda figure, path, **_: kept.append(figure))
    sheet.draw_answers(tmp_path / "x.png", answers, "shapes", "real images")
    (axes,) = kept[0].axes
    words = {}
    for text in axes.texts:
        if text.get_color() in (sheet.RIGHT, sheet.WRONG):
            words.setdefault(text.get_color(), []).append((text.get_text(), round(text.get_position()[0])))
    lines = [line.get_xdata() for line in axes.lines if line.get_color() == sheet.WRONG]
    assert {word for word, _ in words[sheet.WRONG]} == {"red underlined", "blue", "large", "ring", other, "green"}
    assert sorted(round(of[0]) for of in lines) == sorted(at for _, at in words[sheet.WRONG])
    for (word, at), line in zip(words[sheet.WRONG], lines, strict=True):
        assert round(line[0]) == at and line[1] - line[0] == pytest.approx(len(word) * 13.2)
