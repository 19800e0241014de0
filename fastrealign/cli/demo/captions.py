"""Captions of a scene: English sentences, and the claims that they make.

A caption is partial, as people's are: a short one names one or two things, a long one most of them, and both omit some
attributes. A "complete" one names everything; it shows what the encoder loses to partial ones. Each `Caption` has its claims,
so that `holds` shows whether it also fits another scene. A question is a claim whose truth is asked for.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from fastrealign.cli.demo.scenes import COLOURS, FAMILIES, RELATIONS, SIZES, Object, Scene, related
from fastrealign.core.errors import InputError

LENGTHS = ("short", "long", "complete")
NUMBERS = dict(enumerate(("one", "two", "three", "four", "five", "six", "seven"), start=1))

BACKGROUND_PHRASES = {"shapes": "on a {} background", "garden": "in the {}"}
OPENINGS = ("", "", "", "a picture of ", "there is ", "i see ")


@dataclass(frozen=True)
class Thing:
    """A description of an object; None is any."""

    noun: str
    colour: str | None = None
    size: str | None = None

    def fits(self, o: Object) -> bool:
        return o.noun == self.noun and self.colour in (None, o.colour) and self.size in (None, o.size)

    def words(self, plural: bool = False) -> str:
        noun = self.noun if not plural else PLURALS[self.noun]
        return " ".join(word for word in (self.size, self.colour, noun) if word)


@dataclass(frozen=True)
class Exists:
    """At least one object fits."""

    thing: Thing


@dataclass(frozen=True)
class Count:
    """Exactly `number` objects fit the thing; without a thing: the scene has `number` objects."""

    number: int
    thing: Thing | None = None


@dataclass(frozen=True)
class Related:
    """Some object that fits `a` is `relation` some other object that fits `b`."""

    a: Thing
    relation: str
    b: Thing


@dataclass(frozen=True)
class Background:
    name: str


Claim = Exists | Count | Related | Background


@dataclass(frozen=True)
class Caption:
    text: str  # lower case; words, commas and full stops, each separated by a space
    claims: tuple[Claim, ...]


def holds(claim: Claim, scene: Scene) -> bool:
    """Whether the claim is true of the scene."""
    match claim:
        case Exists(thing):
            return any(map(thing.fits, scene.objects))
        case Count(number, thing):
            return sum(thing is None or thing.fits(o) for o in scene.objects) == number
        case Related(a, relation, b):
            pairs = itertools.product(filter(a.fits, scene.objects), filter(b.fits, scene.objects))
            return any(related(first, relation, second) for first, second in pairs)
        case Background(name):
            return scene.background == name
    raise TypeError(f"not a claim: {claim!r}")


def caption(scene: Scene, length: str = "short", seed: int = 0) -> Caption:
    """A caption of the scene, of one of LENGTHS; the same for the same seed. Raises InputError for another length.

    >>> from fastrealign.cli.demo.scenes import scene
    >>> caption(scene(7)).text
    'two circles and a pink heart'
    """
    rng = random.Random(f"{scene.family} {scene.seed} {length} {seed}")
    if length == "short":
        return _short(scene, rng)
    if length == "long":
        return _long(scene, rng)
    if length == "complete":
        return _complete(scene)
    raise InputError(f"there is no caption length {length!r}: choose one of {', '.join(LENGTHS)}")


def _describe(o: Object, rng: random.Random, colour: float, size: float) -> Thing:
    """The object, with its colour and size at the given probabilities."""
    return Thing(o.noun, o.colour if rng.random() < colour else None, o.size if rng.random() < size else None)


def with_article(thing: Thing) -> str:
    """ "a red circle", "an orange star" """
    words = thing.words()
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _relate(scene: Scene, a: Object, b: Object, rng: random.Random, colour: float, size: float) -> Related:
    """A true relation of two objects; objects in two cells of the grid always have one."""
    relation = rng.choice([r for r in RELATIONS if related(a, r, b)])
    return Related(_describe(a, rng, colour, size), relation, _describe(b, rng, colour, size))


def _short(scene: Scene, rng: random.Random) -> Caption:
    claims: list[Claim]
    first, second = rng.sample(scene.objects, 2)
    style = rng.random()
    if style < 0.4:
        claim = _relate(scene, first, second, rng, 0.9, 0.35)
        body, claims = f"{with_article(claim.a)} {claim.relation} {with_article(claim.b)}", [claim]
    elif style < 0.65:
        thing = _describe(first, rng, 0.9, 0.5)
        body = f"{with_article(thing)} {BACKGROUND_PHRASES[scene.family].format(scene.background)}"
        claims = [Exists(thing), Background(scene.background)]
    elif style < 0.85:
        things = _describe(first, rng, 0.9, 0.35), _describe(second, rng, 0.9, 0.35)
        body, claims = " and ".join(map(with_article, things)), [Exists(t) for t in things]
    else:
        kind, other = Thing(first.noun), _describe(second, rng, 0.9, 0.35)
        number = sum(map(kind.fits, scene.objects))
        body = f"{NUMBERS[number]} {kind.words(plural=number > 1)} and {with_article(other)}"
        claims = [Count(number, kind), Exists(other)]
    return Caption(rng.choice(OPENINGS) + body, tuple(claims))


def _long(scene: Scene, rng: random.Random) -> Caption:
    named = rng.sample(scene.objects, min(len(scene.objects), rng.randint(3, 4)))
    sentences: list[tuple[str, list[Claim]]] = []
    while named:
        first = named.pop()
        if named and rng.random() < 0.6:
            claim = _relate(scene, first, named.pop(), rng, 0.95, 0.5)
            sentences.append((f"{with_article(claim.a)} {claim.relation} {with_article(claim.b)}", [claim]))
        else:
            thing = _describe(first, rng, 0.95, 0.5)
            sentences.append((with_article(thing), [Exists(thing)]))
    if rng.random() < 0.6:
        sentences.append((f"{scene.background} background", [Background(scene.background)]))
    if rng.random() < 0.3:
        number = len(scene.objects)
        sentences.append((f"{NUMBERS[number]} things", [Count(number)]))
    rng.shuffle(sentences)
    text = rng.choice(OPENINGS) + " . ".join(sentence for sentence, _ in sentences) + " ."
    return Caption(text, tuple(claim for _, claims in sentences for claim in claims))


def _complete(scene: Scene) -> Caption:
    things = [Thing(o.noun, o.colour, o.size) for o in scene.objects]
    text = " , ".join([*(thing.words() for thing in things), f"{scene.background} background"])
    return Caption(text, (*map(Exists, things), Count(len(things)), Background(scene.background)))


PLURALS = {
    noun: {"fish": "fish", "cross": "crosses"}.get(noun, noun + "s")
    for world in FAMILIES.values()
    for noun in world.nouns
}

_FIXED_WORDS = ". , a an and there is i see picture of on in the background things"
# All words of captions, in a fixed order: the vocabulary of the encoder.
WORDS = tuple(
    dict.fromkeys(
        " ".join(
            [_FIXED_WORDS, *NUMBERS.values(), *COLOURS, *SIZES, *RELATIONS]
            + [w for f in FAMILIES.values() for w in (*f.nouns, *(PLURALS[n] for n in f.nouns), *f.backgrounds)]
        ).split()
    )
)
