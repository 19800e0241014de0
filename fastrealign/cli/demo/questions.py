"""Questions with known answers: about all of a scene, or only about what its caption states.

    existence   "is there a red circle ?"                         yes, no
    colour      "what colour is the circle ?"                     a colour; the scene has one circle
    count       "how many things are there ?"                     a number
    relation    "is the red circle left of the blue square ?"     yes, no

Probes are yes/no questions in the form of POPE (arXiv 2305.10355): for every present thing, an absent one. The absent
thing is drawn at random, from the most frequent things ("popular"), or shares its noun or colour with present things
("adversarial"). POPE chooses the last by co-occurrence, but scenes draw nouns and colours independently.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastrealign.cli.demo.captions import NUMBERS, Caption, Count, Exists, Related, Thing, holds, with_article
from fastrealign.cli.demo.scenes import COLOURS, FAMILIES, RELATIONS, Object, Scene, related

KINDS = ("existence", "colour", "count", "relation")
PROBES = ("random", "popular", "adversarial")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
WORDS = ("yes", "no", "?", "what", "colour", "how", "many", "are", "describe", "is")


@dataclass(frozen=True)
class Question:
    """kind: one of KINDS or PROBES; text and answer are lower case, words separated by spaces."""

    kind: str
    text: str
    answer: str


def questions(scene: Scene, caption: Caption | None = None) -> list[Question]:
    """At most one question of each kind about the scene, in random order; if a caption is given, only about what it states."""
    rng = random.Random(f"questions {scene.family} {scene.seed} 0")
    things, relations, number = _known(scene, caption, rng)
    asked = []
    things, lone = _coloured(scene, things)
    if things:
        yes = rng.random() < 0.5
        asked.append(exists("existence", rng.choice(things) if yes else _absent(scene, rng), yes))
    if lone:
        asked.append(_colour(rng.choice(lone)))
    if number:
        asked.append(_count(number))
    asked += _relation_asked(scene, relations, rng)
    rng.shuffle(asked)
    return asked


def many(scene: Scene, caption: Caption, number: int, seed: int) -> list[Question]:
    """At most `number` questions about what a caption states, most of them about existence and colour; some repeat."""
    rng = random.Random(f"many {scene.family} {scene.seed} {seed}")
    things, relations, count = _known(scene, caption, rng)
    things, lone = _coloured(scene, things)
    asked = []
    for kind in rng.choices(KINDS, (4, 4, 1, 1), k=number):
        if kind == "existence" and things:
            yes = rng.random() < 0.5
            asked.append(exists(kind, rng.choice(things) if yes else _missing(scene, rng), yes))
        elif kind == "colour" and lone:
            asked.append(_colour(rng.choice(lone)))
        elif kind == "count" and count:
            asked.append(_count(count))
        elif kind == "relation":
            asked += _relation_asked(scene, relations, rng)
    return asked


def notes(scene: Scene, caption: Caption, seed: int) -> list[tuple[str, str]]:
    """All that a caption states about things and colours, as (words, the word that follows): ("the circle is", "red"),
    ("a red circle ?", "yes"); and as many things that are not there."""
    rng = random.Random(f"notes {scene.family} {scene.seed} {seed}")
    things, lone = _coloured(scene, _known(scene, caption, rng)[0])
    found = [(f"the {t.noun} is", t.colour or "") for t in dict.fromkeys(lone)]
    for thing in things:
        found += [(f"{with_article(thing)} ?", "yes"), (f"{with_article(_missing(scene, rng))} ?", "no")]
    rng.shuffle(found)
    return found


def exists(kind: str, thing: Thing, yes: bool) -> Question:
    """ "is there a red circle ?" """
    return Question(kind, f"is there {with_article(thing)} ?", _yes(yes))


def probes(scene: Scene, popular: Sequence[Thing]) -> list[Question]:
    """For each of PROBES, a present thing and an absent one; `popular` comes from `most_seen`."""
    rng = random.Random(f"probes {scene.family} {scene.seed} 0")
    asked = []
    for kind in PROBES:
        there = rng.choice(scene.objects)
        asked.append(exists(kind, Thing(there.noun, there.colour), True))
        if kind == "random":
            missing = _absent(scene, rng)
        elif kind == "popular":
            missing = rng.choice([t for t in popular if not holds(Exists(t), scene)])
        else:
            missing = _near(scene, rng)
        asked.append(exists(kind, missing, False))
    return asked


def most_seen(scenes: Iterable[Scene], number: int = 10) -> list[Thing]:
    """The coloured things that appear in the most scenes."""
    seen = Counter(t for s in scenes for t in dict.fromkeys(Thing(o.noun, o.colour) for o in s.objects))
    return [thing for thing, _ in seen.most_common(number)]


def _coloured(scene: Scene, things: list[Thing]) -> tuple[list[Thing], list[Thing]]:
    """Things with a colour; and of these, those whose noun appears once in the scene."""
    things = [t for t in things if t.colour]
    return things, [t for t in things if _one(scene, Thing(t.noun))]


def _missing(scene: Scene, rng: random.Random) -> Thing:
    """An absent thing; half of the time with the noun and the colour of present things."""
    return (_absent if rng.random() < 0.5 else _near)(scene, rng)


def _colour(thing: Thing) -> Question:
    return Question("colour", f"what colour is the {thing.noun} ?", thing.colour or "")


def _count(number: int) -> Question:
    return Question("count", "how many things are there ?", NUMBERS[number])


def _relation_asked(scene: Scene, relations: Sequence[Related], rng: random.Random) -> list[Question]:
    """At most one question, about two things that are each unique in the scene; its opposite is false."""
    sure = [r for r in relations if _one(scene, r.a) and _one(scene, r.b) and r.a != r.b]
    if not sure:
        return []
    claim, yes = rng.choice(sure), rng.random() < 0.5
    relation = claim.relation if yes else OPPOSITE[claim.relation]
    return [Question("relation", f"is the {claim.a.words()} {relation} the {claim.b.words()} ?", _yes(yes))]


def _known(scene: Scene, caption: Caption | None, rng: random.Random) -> tuple[list[Thing], list[Related], int | None]:
    """Things, relations and the number of things to ask about."""
    if caption is None:
        things = [Thing(o.noun, o.colour) for o in scene.objects]
        pairs = [rng.sample(scene.objects, 2) for _ in range(4)]
        return things, [_relation(a, b, rng) for a, b in pairs], len(scene.objects)
    relations = [c for c in caption.claims if isinstance(c, Related)]
    named = [c.thing for c in caption.claims if isinstance(c, Exists)] + [t for c in relations for t in (c.a, c.b)]
    number = next((c.number for c in caption.claims if isinstance(c, Count) and c.thing is None), None)
    return [Thing(t.noun, t.colour) for t in named], relations, number


def _relation(a: Object, b: Object, rng: random.Random) -> Related:
    relation = rng.choice([r for r in RELATIONS if related(a, r, b)])
    return Related(Thing(a.noun, a.colour), relation, Thing(b.noun, b.colour))


def _one(scene: Scene, thing: Thing) -> bool:
    return sum(map(thing.fits, scene.objects)) == 1


def _absent(scene: Scene, rng: random.Random) -> Thing:
    while True:
        thing = Thing(rng.choice(list(FAMILIES[scene.family].nouns)), rng.choice(list(COLOURS)))
        if not holds(Exists(thing), scene):
            return thing


def _near(scene: Scene, rng: random.Random) -> Thing:
    """An absent thing with the noun of a present one and the colour of another, or at least with such a noun."""
    nouns, colours = [o.noun for o in scene.objects], [o.colour for o in scene.objects]
    crossed = [t for n in nouns for c in colours if not holds(Exists(t := Thing(n, c)), scene)]
    if crossed:
        return rng.choice(crossed)
    noun = rng.choice(nouns)
    return rng.choice([t for c in COLOURS if not holds(Exists(t := Thing(noun, c)), scene)])


def _yes(yes: bool) -> str:
    return "yes" if yes else "no"
