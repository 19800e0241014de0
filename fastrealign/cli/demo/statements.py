"""Facts that a text states about an image, parsed from the English of `captions`: they score a model's descriptions.

A model may write anything: what does not follow that grammar is ignored.
"""

from __future__ import annotations

import itertools
import re

from fastrealign.cli.demo.captions import Thing
from fastrealign.cli.demo.scenes import COLOURS, FAMILIES, RELATIONS, SIZES, Scene, related
from fastrealign.revision.evaluate import Facts

ATTRIBUTES = ("objects", "colours", "sizes", "relations")

_BACKGROUNDS = {name for family in FAMILIES.values() for name in family.backgrounds}
_NOUNS = [noun for family in FAMILIES.values() for noun in family.nouns]
_THING = rf"(?:({'|'.join(SIZES)}) )?(?:({'|'.join(COLOURS)}) )?({'|'.join(_NOUNS)})(?:es|s)?"
_THINGS = re.compile(rf"\b{_THING}\b")
_RELATED = re.compile(rf"\b{_THING} ({'|'.join(RELATIONS)}) (?:an? |the )?{_THING}\b")


def said(text: str) -> Facts:
    """Facts in a text, by ATTRIBUTES.

    Objects are (noun,), colours (colour, noun), sizes (size, noun), and relations (colour or "", noun, relation, colour or "",
    noun).
    """
    things = [Thing(noun, colour or None, size or None) for size, colour, noun in _THINGS.findall(text)]
    facts = _facts_of(things)
    for _, colour_a, noun_a, relation, _, colour_b, noun_b in _RELATED.findall(text):
        facts["relations"].add((colour_a, noun_a, relation, colour_b, noun_b))
    return facts


def true_of(scene: Scene) -> Facts:
    """All facts of a scene, in the same form; relations with both colours."""
    facts = _facts_of([Thing(o.noun, o.colour, o.size) for o in scene.objects])
    for a, b in itertools.permutations(scene.objects, 2):
        facts["relations"] |= {(a.colour, a.noun, r, b.colour, b.noun) for r in RELATIONS if related(a, r, b)}
    return facts


def judged(words: list[str], true: Facts, background: str) -> list[bool | None]:
    """For each word of a description: whether it is true of a scene with the facts `true` and this background.

    Of a noun, colour or size: whether something in the scene has it; of a colour or size beside a noun that is there, whether
    a thing of that noun has it. Other words than these and names of backgrounds: None.

    Examples
    --------
    >>> true = {"objects": {("circle",), ("star",)}, "colours": {("red", "circle")}, "sizes": {("small", "star")}}
    >>> judged("a small blue circle and a red ring , white background".split(), true, "grey")
    [None, False, False, True, None, None, True, False, None, False, None]
    """
    nouns = {noun for (noun,) in true["objects"]}
    found: list[bool | None] = [word == background if word in _BACKGROUNDS else None for word in words]
    text = " ".join(words)
    for match in _THINGS.finditer(text):
        size, colour, noun = match.groups()
        at = len(text[: match.start()].split())
        for facts, value in ((true["sizes"], size), (true["colours"], colour)):
            if value:
                found[at] = (value, noun) in facts if noun in nouns else any(value == of for of, _ in facts)
                at += 1
        found[at] = noun in nouns
    return found


def _facts_of(things: list[Thing]) -> Facts:
    return {
        "objects": {(t.noun,) for t in things},
        "colours": {(t.colour, t.noun) for t in things if t.colour},
        "sizes": {(t.size, t.noun) for t in things if t.size},
        "relations": set(),
    }
