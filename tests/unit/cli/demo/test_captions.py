"""Captions: each is true of its scene, as judged by a reader of the English text that knows nothing of claims."""

from __future__ import annotations

import itertools
import re

import pytest

from fastrealign import InputError
from fastrealign.cli.demo.captions import LENGTHS, WORDS, Background, Count, Exists, Related, Thing, caption, holds
from fastrealign.cli.demo.scenes import FAMILIES, Object, Scene, scene

COLOUR = r"red|orange|yellow|green|blue|purple|pink|brown"
THING = rf"(?:an? )?(?:(?P<size{{0}}>small|large) )?(?:(?P<colour{{0}}>{COLOUR}) )?(?P<noun{{0}}>[a-z]+)"
NUMBER = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7}
SIDES = {
    "left of": lambda a, b: a.x < b.x - 9,
    "right of": lambda a, b: a.x > b.x + 9,
    "above": lambda a, b: a.y < b.y - 9,
    "below": lambda a, b: a.y > b.y + 9,
}


def true_of(text: str, s: Scene) -> bool:
    """Whether every statement of the caption is true of the scene; raises on a sentence that it cannot read."""
    text = re.sub(r"^(a picture of|there is|i see) ", "", text.removesuffix(" ."))
    return all(_sentence(part, s) for part in re.split(r" [.,] ", text))


def _sentence(text: str, s: Scene) -> bool:
    if match := re.fullmatch(r"(\w+) things", text):
        return len(s.objects) == NUMBER[match[1]]
    if match := re.fullmatch(r"(\w+) background", text):
        return s.background == match[1]
    if match := re.fullmatch(r"(.+) (?:on a|in the) (\w+)(?: background)?", text):
        return _sentence(match[1], s) and s.background == match[2]
    if match := re.fullmatch(rf"({'|'.join(NUMBER)}) (\w+) and (.+)", text):
        known = [o.noun for o in s.objects if match[2] in (o.noun, o.noun + "s", o.noun + "es")]
        return len(known) == NUMBER[match[1]] and bool(_fitting(match[3], s))
    if match := re.fullmatch(r"(.+) and (.+)", text):
        return bool(_fitting(match[1], s)) and bool(_fitting(match[2], s))
    if match := re.fullmatch(rf"(.+) ({'|'.join(SIDES)}) (.+)", text):
        pairs = itertools.product(_fitting(match[1], s), _fitting(match[3], s))
        return any(SIDES[match[2]](a, b) for a, b in pairs)
    return bool(_fitting(text, s))


def _fitting(text: str, s: Scene) -> list[Object]:
    match = re.fullmatch(THING.format(""), text)
    assert match and match["noun"] in FAMILIES[s.family].nouns, f"not a thing: {text!r}"
    return [
        o
        for o in s.objects
        if o.noun == match["noun"] and match["colour"] in (None, o.colour) and match["size"] in (None, o.size)
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", LENGTHS)
def test_captions_are_true_and_their_claims_say_the_same(family, length):
    scenes = [scene(seed, family) for seed in range(400)]
    lies = 0
    for s, other in itertools.pairwise(scenes):
        made = caption(s, length)
        assert made == caption(s, length)
        assert true_of(made.text, s), (made.text, s)
        assert all(holds(claim, s) for claim in made.claims), (made, s)
        # Most captions are false of the next scene; the claims must notice whenever the text does.
        # (A complete caption also claims that nothing else is there, which its text leaves to be understood.)
        truth = true_of(made.text, other)
        assert truth == all(holds(claim, other) for claim in made.claims) or length == "complete", (made, other)
        lies += not truth
    assert lies > 300


def test_a_complete_caption_fits_no_other_scene():
    scenes = [scene(seed) for seed in range(300)]
    for s in scenes[:50]:
        claims = caption(s, "complete").claims
        assert [o for o in scenes if all(holds(c, o) for c in claims)] == [s]


def test_short_and_long_captions_tell_only_a_part():
    named = dict.fromkeys(LENGTHS, 0)
    for seed in range(300):
        s = scene(seed)
        nouns = {length: re.findall("|".join(FAMILIES["shapes"].nouns), caption(s, length).text) for length in LENGTHS}
        assert 1 <= len(nouns["short"]) <= 2 <= len(nouns["long"]) <= len(nouns["complete"]) == len(s.objects)
        for length in LENGTHS:
            named[length] += len(re.findall("small|large", caption(s, length).text))
    assert named["short"] < 0.5 * named["long"] < 0.5 * named["complete"]


@pytest.mark.parametrize("length", ["short", "long"])
def test_captions_vary(length):
    assert len({caption(scene(7), length, seed).text for seed in range(50)}) > 25


def test_all_words_are_in_the_vocabulary_and_all_of_it_is_used():
    used = {
        word
        for family, length, seed in itertools.product(FAMILIES, LENGTHS, range(3000))
        for word in caption(scene(seed, family), length).text.split()
    }
    # Scenes of these seeds have four things at most; the encoder knows numbers up to seven.
    assert set(WORDS) - used == {"five", "six", "seven"} and used < set(WORDS) and len(WORDS) == len(set(WORDS))


def test_claims_on_a_scene_made_by_hand():
    red, blue = Object("ring", "red", "small", 10, 10), Object("ring", "blue", "large", 53, 10)
    s = Scene("shapes", 0, "white", (red, blue))
    ring, red_ring, heart = Thing("ring"), Thing("ring", "red"), Thing("heart")
    assert holds(Exists(red_ring), s) and not holds(Exists(heart), s)
    assert not holds(Exists(Thing("ring", "red", "large")), s)
    assert holds(Count(2, ring), s) and holds(Count(2), s) and holds(Count(0, heart), s)
    assert not holds(Count(1, ring), s) and not holds(Count(3), s)
    assert holds(Related(red_ring, "left of", ring), s) and not holds(Related(red_ring, "right of", ring), s)
    assert not holds(Related(red_ring, "left of", red_ring), s)
    assert holds(Background("white"), s) and not holds(Background("grey"), s)


def test_unknown_length_is_named():
    with pytest.raises(InputError, match=r"'endless'.*short, long, complete"):
        caption(scene(0), "endless")
