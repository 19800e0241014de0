"""Questions and probes: each answer is the one that somebody finds who looks at the objects and knows nothing of claims."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest

from fastrealign.cli.demo.captions import LENGTHS, WORDS, Thing, caption
from fastrealign.cli.demo.questions import KINDS, PROBES, most_seen, probes, questions
from fastrealign.cli.demo.questions import WORDS as ASKING
from fastrealign.cli.demo.scenes import COLOURS, FAMILIES, scene

NUMBER = {"one": 1, "two": 2, "three": 3, "four": 4}


def named(words, s):
    """Objects of the scene whose noun, and colour and size where they are given, are among the words."""
    words = words.split()
    nouns = [w for w in words if w in FAMILIES[s.family].nouns]
    assert len(nouns) == 1, words
    colours, sizes = [w for w in words if w in COLOURS], [w for w in words if w in ("small", "large")]
    return [
        o
        for o in s.objects
        if o.noun in nouns and o.colour in (colours or [o.colour]) and o.size in (sizes or [o.size])
    ]


def looked_up(text, s):
    if match := re.fullmatch(r"is there an? (.+) \?", text):
        return "yes" if named(match[1], s) else "no"
    if match := re.fullmatch(r"what colour is the (\w+) \?", text):
        (only,) = named(match[1], s)
        return only.colour
    if text == "how many things are there ?":
        return next(word for word, n in NUMBER.items() if n == len(s.objects))
    match = re.fullmatch(r"is the (.+) (left of|right of|above|below) the (.+) \?", text)
    (a,), (b,) = named(match[1], s), named(match[3], s)
    further = {"left of": b.x - a.x, "right of": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}[match[2]]
    assert abs(further) > 4, "a question that hangs on a few pixels"
    return "yes" if further > 0 else "no"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [None, *LENGTHS])
def test_answers_are_right(rng, family, length):
    kinds, answers = Counter(), Counter()
    for seed in map(int, rng.integers(0, 2**40, 400)):
        s = scene(seed, family)
        about = length and caption(s, length)
        for q in questions(s, about):
            assert q.answer == looked_up(q.text, s), (q, s)
            kinds[q.kind] += 1
            answers[q.kind, q.answer] += 1
            if length and q.kind == "count" and length == "complete":
                assert about.text.count(",") == NUMBER[q.answer], "one phrase a thing, then the background"
            elif length and q.kind in ("colour", "count", "relation"):
                assert q.answer in ("yes", "no") or q.answer in about.text.split(), "answered by the caption alone"
        assert questions(s, about) == questions(s, about)
    # "complete" tells no relation, "short" no number of all things.
    assert set(kinds) == set(KINDS) - {"complete": {"relation"}, "short": {"count"}}.get(length, set())
    for kind in {"existence", "relation"} & set(kinds):
        assert 0.3 < answers[kind, "yes"] / kinds[kind] < 0.7


@pytest.mark.parametrize("family", FAMILIES)
def test_probes_ask_for_one_thing_that_is_there_and_one_that_is_not(rng, family):
    scenes = [scene(int(seed), family) for seed in rng.integers(0, 2**40, 200)]
    popular = most_seen(scenes)
    counts = Counter((o.noun, o.colour) for s in scenes for o in set(s.objects))
    assert len(popular) == 10 and all((t.noun, t.colour) in counts for t in popular)
    for s in scenes:
        asked = probes(s, popular)
        assert Counter((q.kind, q.answer) for q in asked) == {(kind, a): 1 for kind in PROBES for a in ("yes", "no")}
        for q in asked:
            assert q.answer == looked_up(q.text, s)
        near = next(q.text for q in asked if (q.kind, q.answer) == ("adversarial", "no")).split()
        assert any(o.noun in near for o in s.objects)


def test_all_words_are_known(rng):
    scenes = [scene(int(seed), "garden" if seed % 2 else "shapes") for seed in rng.integers(0, 2**40, 100)]
    popular = most_seen(scenes)
    for s in scenes:
        for q in questions(s) + probes(s, popular):
            assert set(q.text.split()) | {q.answer} <= set(WORDS) | set(ASKING)


def test_ties_among_what_is_most_seen_do_not_depend_on_the_hash_seed():
    scenes = [scene(seed) for seed in range(30)]
    things = [list(dict.fromkeys(Thing(o.noun, o.colour) for o in s.objects)) for s in scenes]
    order = list(dict.fromkeys(itertools.chain(*things)))
    assert most_seen(scenes, len(order)) == sorted(order, key=lambda thing: -sum(thing in of for of in things))
