"""What a text says, read back from it."""

from __future__ import annotations

import pytest

from fastrealign.cli.demo.captions import Exists, Related, caption
from fastrealign.cli.demo.scenes import FAMILIES, Object, Scene, scene
from fastrealign.cli.demo.statements import ATTRIBUTES, said, true_of
from fastrealign.revision.evaluate import matched

SCENE = Scene("shapes", 0, "white", (Object("circle", "red", "small", 11, 11), Object("star", "blue", "large", 53, 32)))


def test_what_is_said_is_found():
    facts = said("there is a small red circle left of a star . two crosses and fish , green .")
    assert facts["objects"] == {("circle",), ("star",), ("cross",), ("fish",)}
    assert facts["colours"] == {("red", "circle")} and facts["sizes"] == {("small", "circle")}
    assert facts["relations"] == {("red", "circle", "left of", "", "star")}
    assert said("starfish redcircle") == said("") == {name: set() for name in ATTRIBUTES}


def test_counts_of_a_text_that_is_partly_wrong():
    counts = matched(said("a red star above a red circle . a small circle left of a star"), true_of(SCENE))
    assert counts["objects"] == (2, 2, 2)
    assert counts["colours"] == (2, 1, 2)
    assert counts["sizes"] == (1, 1, 2)
    # left of and above hold of circle and star, right of and below the other way round.
    assert counts["relations"] == (2, 1, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_say_what_they_claim_and_nothing_else(rng, family):
    for seed in map(int, rng.integers(0, 2**40, 200)):
        s = scene(seed, family)
        for length in ("short", "long", "complete"):
            c = caption(s, length)
            facts = said(c.text)
            for found, true, _ in matched(facts, true_of(s)).values():
                assert found == true, c.text
            things = [x.thing for x in c.claims if isinstance(x, Exists)]
            related = [x for x in c.claims if isinstance(x, Related)]
            things += [t for x in related for t in (x.a, x.b)]
            assert {(t.colour, t.noun) for t in things if t.colour} == facts["colours"]
            assert {(t.size, t.noun) for t in things if t.size} == facts["sizes"]
            assert len(facts["relations"]) == len(
                {(x.a.colour, x.a.noun, x.relation, x.b.colour, x.b.noun) for x in related}
            )
