"""Scores of answers whose worth is known, and answers of models that can be foreseen."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fastrealign import InputError
from fastrealign.cli.demo.statements import said
from fastrealign.revision.evaluate import (
    Answer,
    Item,
    ask,
    over_seeds,
    read_answers,
    read_items,
    write_answers,
    write_items,
)
from fastrealign.revision.evaluate import score as scored

FACTS = {
    "objects": [["circle"], ["star"]],
    "colours": [["red", "circle"], ["blue", "star"]],
    "sizes": [["small", "circle"], ["large", "star"]],
    "relations": [["red", "circle", "left of", "blue", "star"], ["blue", "star", "right of", "red", "circle"]],
}
CAPTION = Item("7", "caption", "", "describe the picture .", facts=FACTS)


def score(answers):
    return scored(answers, said)


def vqa(kind, answer, given, blind=False):
    return Answer(Item("7", "vqa", kind, "?", answer), given, blind)


def probe(kind, answer, given):
    return Answer(Item("7", "probe", kind, "?", answer), given, False)


def test_a_caption_is_right_where_it_names_what_is_there():
    scores = score([Answer(CAPTION, "a red circle above a red star . a small star", False)])
    assert scores["caption/objects/f1"] == 1.0
    assert scores["caption/colours/precision"] == 0.5 and scores["caption/colours/recall"] == 0.5
    assert scores["caption/sizes/f1"] == 0.0 and scores["caption/relations/f1"] == 0.0
    assert scores["caption"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    perfect = score([Answer(CAPTION, "a small red circle left of a large blue star", False)])
    assert perfect["caption/relations/precision"] == 1.0 and perfect["caption/relations/recall"] == 0.5
    silent = score([Answer(CAPTION, "", False)])
    assert silent["caption"] == 0.0 and not any(map(math.isnan, silent.values()))


def test_counts_are_added_up_before_a_ratio_is_taken():
    wordy = Answer(CAPTION, "a circle a star a heart a ring a cross a diamond", False)
    scores = score([wordy, Answer(CAPTION, "a circle", False)])
    assert scores["caption/objects/precision"] == pytest.approx(3 / 7)
    assert scores["caption/objects/recall"] == pytest.approx(3 / 4)


def test_accuracy_by_kind_and_of_all_questions_and_blind_ones_apart():
    answers = [
        vqa("colour", "red", "Red."),
        vqa("colour", "red", "blue"),
        vqa("count", "two", "two things"),
        vqa("count", "two", ""),
        vqa("count", "two", "three"),
        vqa("colour", "red", "red", blind=True),
    ]
    scores = score(answers)
    assert scores["vqa"] == pytest.approx(2 / 5)
    assert scores["vqa/colour"] == 0.5 and scores["vqa/count"] == pytest.approx(1 / 3)
    assert scores["blind/vqa"] == scores["blind/vqa/colour"] == 1.0
    assert "blind/vqa/count" not in scores


def test_probes_are_read_as_pope_does():
    given = ["yes", "yes", "yes", "no", "perhaps"]
    scores = score([probe("random", a, g) for a, g in zip(["yes", "no", "no", "yes", "yes"], given, strict=True)])
    assert scores["probe"] == scores["probe/random"] == pytest.approx(1 / 5)
    assert scores["probe/random/precision"] == pytest.approx(1 / 3)
    assert scores["probe/random/recall"] == pytest.approx(1 / 3)
    assert scores["probe/random/yes"] == pytest.approx(3 / 5)


def test_seeds_have_a_mean_and_a_spread():
    found = over_seeds([{"vqa": 0.1, "odd": 1.0}, {"vqa": 0.3}])
    assert found == {"vqa": (pytest.approx(0.2), pytest.approx(np.std([0.1, 0.3], ddof=1)))}
    assert math.isnan(over_seeds([{"vqa": 0.1}])["vqa"][1])


def test_items_and_answers_are_kept_a_line_each(tmp_path):
    items = [CAPTION, Item("8", "vqa", "colour", "what colour is it ?", "red")]
    write_items(tmp_path / "items.jsonl", items)
    assert read_items(tmp_path / "items.jsonl") == items
    write_answers(tmp_path / "answers.jsonl", [Answer(items[1], "blue", True)])
    assert json.loads((tmp_path / "answers.jsonl").read_text()) == {
        "id": "8",
        "task": "vqa",
        "kind": "colour",
        "prompt": "what colour is it ?",
        "answer": "red",
        "given": "blue",
        "blind": True,
    }
    answers = [Answer(items[0], "a red circle .", False), Answer(items[1], "blue", True)]
    write_answers(tmp_path / "answers.jsonl", answers)
    again = read_answers(tmp_path / "answers.jsonl")
    assert again == answers and score(again) == score(answers)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no items"),
        ("{", "line 1: not an item"),
        ('{"id": "1"}', "line 1: not an item"),
        ('{"id": "1", "task": "vqa", "kind": "", "prompt": "?"}\n7', "line 2: not an item"),
        ('{"id": "1", "task": "sing", "kind": "", "prompt": "?"}', "line 1: .*task 'sing', expected one of caption"),
        (
            '{"id": "1", "task": "vqa", "kind": "", "prompt": "<image> ?"}',
            "line 1: .*the prompt holds <image>; remove it",
        ),
        ('{"id": 1, "task": "vqa", "kind": "", "prompt": "?"}', "line 1: .*id 1, expected text"),
        ("\ud800", "line 1: not an item to ask: it is not UTF-8"),
        ("[1]", "line 1: not an item to ask: a list, expected an object"),
        ('{"id": "1"}', "line 1: not an item to ask: lacks task, kind, prompt"),
        (
            '{"id": "1", "task": "vqa", "kind": "", "prompt": "?", "anser": "red"}',
            "line 1: .*has 'anser', which is not known",
        ),
        (
            '{"id": "1", "task": "vqa", "kind": "", "prompt": "?", "answer": "dark red"}',
            "'dark red', expected one word",
        ),
        *(
            (
                f'{{"id": "1", "task": "caption", "kind": "", "prompt": "?", "facts": {facts}}}',
                "expected lists of words",
            )
            for facts in ("null", "3", '{"colours": "red"}', '{"colours": ["red"]}', '{"colours": [[3]]}')
        ),
    ],
)
def test_items_that_cannot_be_read_name_the_line(tmp_path, text, message):
    path = tmp_path / "items.jsonl"
    path.write_text(text, errors="surrogatepass")
    with pytest.raises(InputError, match=message) as error:
        read_items(path)
    assert str(path) in str(error.value)
    for read in (read_items, read_answers):
        with pytest.raises(InputError, match=r"none.jsonl: no such file"):
            read(tmp_path / "none.jsonl")
    path.write_text('{"id": "1", "task": "vqa", "kind": "", "prompt": "?"}')
    with pytest.raises(InputError, match=r"items.jsonl, line 1: not an answer: lacks given and blind"):
        read_answers(path)


@pytest.mark.parametrize("spoiled", [{"given": 3}, {"blind": "no"}, {"blind": 0}])
def test_answers_of_another_kind(tmp_path, spoiled):
    path = tmp_path / "answers.jsonl"
    whole = {"id": "1", "task": "vqa", "kind": "", "prompt": "?", "answer": "red", "given": "red", "blind": False}
    path.write_text(json.dumps({**whole, **spoiled}))
    with pytest.raises(
        InputError, match=r"line 1: not an answer: (given 3, expected text|blind .*, expected true or false)"
    ):
        read_answers(path)


def test_what_cannot_be_scored_and_what_can():
    item = Item("7", "vqa", "colour", "?", answer="Red")
    assert score([Answer(item, "red .", False)])["vqa"] == 1.0  # as the model's words, in lower case
    with pytest.raises(InputError, match="item '7': a question without an answer to score it by"):
        score([Answer(Item("7", "vqa", "colour", "?"), "red", False)])
    for task, wordless in (("vqa", "."), ("vqa", " "), ("probe", ",")):
        with pytest.raises(InputError, match="item '7': a question without an answer to score it by"):
            score([Answer(Item("7", task, "colour", "?", answer=wordless), "", False)])
    caption = Item("7", "caption", "", "", facts={"colours": [["red"]], "sizes": [["large"]]})
    found = scored([Answer(caption, "red", False)], said=lambda text: {"colours": {("red",)}})
    assert found["caption/colours/f1"] == 1.0 and found["caption/sizes/f1"] == 0.0
    with pytest.raises(InputError, match=r"said= gave None for item '7', expected facts by attribute"):
        scored([Answer(caption, "red", False)], said=lambda text: None)
    with pytest.raises(InputError, match="no scores of runs"):
        over_seeds([])


def test_captions_without_facts_are_not_scored():
    with pytest.raises(InputError, match="item '7': a caption without facts"):
        score([Answer(Item("7", "caption", "", "?"), "a red circle .", False)])
    with pytest.raises(InputError, match="pass said=, which parses a caption"):
        scored([Answer(CAPTION, "a red circle .", False)])


def test_a_prompt_as_long_as_the_context_is_named(tiny_lm, tiny_tokenizer):
    from fastrealign.revision.model import RevisionModel, load_lm

    model = RevisionModel(load_lm(tiny_lm), 4)
    items = [Item("7", "vqa", "colour", "what " * words) for words in (3, 64)]
    assert len(ask(model, tiny_tokenizer, items[:1], None, blind=True, max_new_tokens=2)) == 1
    with pytest.raises(InputError, match=r"item '7': its prompt takes 69 tokens, the context is 64"):
        ask(model, tiny_tokenizer, items, None, blind=True)
