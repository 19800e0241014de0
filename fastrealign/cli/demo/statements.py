"""What a text says of a picture, read back from the captions' English: how a model's own captions are judged.

A model writes what it likes, so whatever does not follow the grammar of `captions` is passed over, not refused.
"""

from __future__ import annotations

import itertools
import re

from fastrealign.cli.demo.captions import Thing
from fastrealign.cli.demo.scenes import COLOURS, FAMILIES, RELATIONS, SIZES, Scene, related

ATTRIBUTES = ("objects", "colours", "sizes", "relations")

_NOUNS = [noun for family in FAMILIES.values() for noun in family.nouns]
_THING = rf"(?:({'|'.join(SIZES)}) )?(?:({'|'.join(COLOURS)}) )?({'|'.join(_NOUNS)})(?:es|s)?"
_THINGS = re.compile(rf"\b{_THING}\b")
_RELATED = re.compile(rf"\b{_THING} ({'|'.join(RELATIONS)}) (?:an? |the )?{_THING}\b")

Facts = dict[str, set[tuple[str, ...]]]


def said(text: str) -> Facts:
    """What the text says, by ATTRIBUTES: objects (noun,); colours (colour, noun); sizes (size, noun); relations
    (colour or "", noun, relation, colour or "", noun)."""
    things = [Thing(noun, colour or None, size or None) for size, colour, noun in _THINGS.findall(text)]
    facts = _facts_of(things)
    for _, colour_a, noun_a, relation, _, colour_b, noun_b in _RELATED.findall(text):
        facts["relations"].add((colour_a, noun_a, relation, colour_b, noun_b))
    return facts


def true_of(scene: Scene) -> Facts:
    """All that is true of the scene, in the same form; relations with both colours named."""
    facts = _facts_of([Thing(o.noun, o.colour, o.size) for o in scene.objects])
    for a, b in itertools.permutations(scene.objects, 2):
        facts["relations"] |= {(a.colour, a.noun, r, b.colour, b.noun) for r in RELATIONS if related(a, r, b)}
    return facts


def matched(found: Facts, truth: Facts) -> dict[str, tuple[int, int, int]]:
    """By attribute: how many were said, how many of these are true, how many are true in all. A relation said without a
    colour is true if it is with some."""

    def true(name: str, fact: tuple[str, ...]) -> bool:
        if name != "relations":
            return fact in truth[name]
        return any(all(part in ("", other) for part, other in zip(fact, one, strict=True)) for one in truth[name])

    return {
        name: (len(found[name]), sum(true(name, fact) for fact in found[name]), len(truth[name])) for name in ATTRIBUTES
    }


def _facts_of(things: list[Thing]) -> Facts:
    return {
        "objects": {(t.noun,) for t in things},
        "colours": {(t.colour, t.noun) for t in things if t.colour},
        "sizes": {(t.size, t.noun) for t in things if t.size},
        "relations": set(),
    }
