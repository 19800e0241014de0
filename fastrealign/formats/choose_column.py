"""Which of the things that a file holds under names are the embeddings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from fastrealign.core.errors import InputError
from fastrealign.core.text import meant

USUAL_NAMES = ("embedding", "embeddings", "emb", "embed", "embeds")
# Names that a message lists: a checkpoint may have thousands.
_LISTED = 20
# Parts of names that embeddings have, and those that say how they were written, which may come after them.
_LIKELY = re.compile(r"embed|^embs?$|embs?$|vector|^vecs?$|vecs?$|features?$|feats?$|latents?$|hidden|pooled|represent")
_CODING = re.compile(
    r"[0-9]+|json|str|string|text|txt|bytes|binary|bin|blob|raw|b64|base|pickle|npy|u?int|fp|bf|float|q"
)
# Words that tell which side of an alignment something is of, alone or with one for embeddings right behind ("imgemb").
_ROLES = {
    role: re.compile(f"(?:{words})(?:emb|embs|embed|embeds|embedding|embeddings|feat|feats|features|vec|vecs)?")
    for role, words in {
        "text": "texts?|txts?|textual|captions?",
        "images": "images?|imgs?|visuals?|vision|pixels?|pictures?|photos?",
    }.items()
}
# Words for the splits of a set.
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "holdout": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "dev", "eval"), "validation"
)
# How `--side` and `side=` name the sides.
SIDES = {"text": "source", "image": "target"}
# What each side of an alignment is made of.
SIDE_ROLES = {"source": "text", "target": "images"}


def role_of(name: str) -> str | None:
    """ "text" or "images" where one word of a name says so; None for neither, or for words of both."""
    words = re.findall("[a-z]+", " ".join(_words(name)))
    found = {role for role, said in _ROLES.items() if any(map(said.fullmatch, words))}
    return found.pop() if len(found) == 1 else None


def other_split(name: str, chosen: str | None) -> bool:
    """Whether a name says that something is of another split (test_ids) than what was chosen (val_features)."""
    mine, theirs = ({SPLITS[word] for word in _words(one or "") if word in SPLITS} for one in (chosen, name))
    return len(mine) == len(theirs) == 1 and mine != theirs


@dataclass(frozen=True)
class Wanted:
    """Which embeddings of a file are wanted.

    column     their name there, as the user gave it
    side       "source" or "target" of an alignment: text and images in one file are told apart by their names
    elsewhere  the name that the user gave for the other side; taken in a file that has it, unless it says that it is of that
               side and another says that it is of this one
    option     how the user can name them, for messages
    """

    column: str | None = None
    side: str | None = None
    elsewhere: str | None = None
    option: str = "--column (column=)"

    @classmethod
    def of(cls, column: str | Wanted | None) -> Wanted:
        return column if isinstance(column, Wanted) else cls(column)

    @classmethod
    def on(cls, side: str, column: str | Wanted | None, elsewhere: str | None = None) -> Wanted:
        """The embeddings of a side, where the user names those of each."""
        if isinstance(column, Wanted):
            return column
        option = "--target-column (target_column=)" if side == "target" else "--column (column=)"
        return cls(column, side, elsewhere, option)

    def given(self, candidates: Sequence[Candidate]) -> str | None:
        """The name that was given: for this side, whether it is there or not, or else for the other side."""
        if self.column is not None or self.elsewhere is None or self.side is None:
            return self.column
        if not any(one.name == self.elsewhere for one in candidates):
            return None
        of_other = role_of(self.elsewhere) not in (SIDE_ROLES[self.side], None)
        return None if of_other and of_side(self.side, candidates) else self.elsewhere


class Unclear(InputError):
    """A file does not tell what of it the embeddings are: nothing, several things, or something else may be."""


class Fit(IntEnum):
    """Whether something could be the embeddings.

    NO       no: one number a row, lists of text
    CODED    numbers could be written in it (text, bytes, whole numbers), if its name says so
    SHAPED   several numbers a row, of a type or a shape that is not taken
    PERHAPS  it is taken if its rows turn out to be one vector each
    TAKEN    it is taken
    """

    NO = 0
    CODED = 1
    SHAPED = 2
    PERHAPS = 3
    TAKEN = 4


class Candidate(NamedTuple):
    """Something that a file holds under a name. holds: its type and shape, for messages."""

    name: str
    holds: str
    fit: Fit

    @property
    def likely(self) -> bool:
        """Whether it has the name of embeddings."""
        words = _words(self.name)
        if self.fit is Fit.CODED:  # "embedding_model" is no embedding, "embedding_json" is one
            while len(words) > 1 and _CODING.fullmatch(words[-1]):
                words.pop()
            words = words[-1:]
        return self.fit is not Fit.NO and any(map(_LIKELY.search, words))


def choose_name(path: str, candidates: Sequence[Candidate], column: str | Wanted | None, kind: str, wanted: str) -> str:
    """The name given, else the usual one, else the only one that fits, or that of the side. Unclear if that is none or
    several, or if there is something that does not fit and could as well be the embeddings: what is left must not be taken
    for them.

    A name that is given, or usual, is taken whether it fits or not: the caller's error about it ends in `instead`.

    kind, wanted for messages: what a name is of ("column"), and what would fit ("lists of floats")
    """
    names, asked = [one.name for one in candidates], Wanted.of(column)
    given = asked.given(candidates)
    if given is not None:
        if given not in names:
            raise InputError(
                f"{path}: has no {kind} {given!r}{meant(given, names)}; its {kind}s are {listed(names) or 'none'}"
            )
        return given
    found = [one for name in USUAL_NAMES for one in candidates if one.name == name]
    usual = bool(found)
    found = found or [one for one in candidates if one.fit is Fit.TAKEN]
    found = found or [one for one in candidates if one.fit is Fit.PERHAPS]
    rivals = [] if usual else _rivals(candidates, found)
    if asked.side is not None and not usual and (len(found) > 1 or rivals):
        found = of_side(asked.side, candidates) or found
        rivals = [one for one in _rivals(candidates, found) if role_of(one.name) in (SIDE_ROLES[asked.side], None)]
    if not found:
        held = f"; {_shown(rivals[0])} is not taken" if rivals else ""
        raise Unclear(
            f"{path}: has no {kind} of embeddings ({', '.join(USUAL_NAMES)} or {wanted}); "
            f"its {kind}s are {listed(names) or 'none'}{held}"
        )
    if len(found) > 1:
        raise Unclear(
            f"{path}: has several {kind}s of embeddings, {listed([one.name for one in found])}; name the one to take "
            f"with {asked.option}"
        )
    if rivals:
        raise Unclear(
            f"{path}: which {kind} holds the embeddings? {_shown(rivals[0])} may be them and is not taken, "
            f"{_shown(found[0])} is; pass {_passed(asked, found[0].name)} if that is the one, or save "
            f"{rivals[0].name!r} as {wanted}"
        )
    return found[0].name


def of_side(side: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that fit and whose names say that they are the embeddings of this side.

    Without a word for embeddings, one says so if another is of the same name but for the role ("text" and "image").
    """
    role = SIDE_ROLES[side]
    fitting = [one for one in candidates if one.fit >= Fit.PERHAPS]
    mine = [one for one in fitting if role_of(one.name) == role]
    named = [one for one in mine if one.likely]
    others = {_but_for_role(one.name) for one in fitting if role_of(one.name) not in (role, None)}
    return named or [one for one in mine if _but_for_role(one.name) in others]


def _but_for_role(name: str) -> tuple[str, ...]:
    return tuple(word for word in _words(name) if not any(words.fullmatch(word) for words in _ROLES.values()))


def instead(candidates: Sequence[Candidate], name: str, column: str | Wanted | None = None) -> str:
    """What an error about the `name` that was taken, and does not fit, says of others that do: "" if there are none."""
    fitting = [one for one in candidates if one.name != name and one.fit is Fit.TAKEN]
    if not fitting:
        return ""
    return f"; if {_shown(fitting[0])} holds the embeddings, pass {_passed(Wanted.of(column), fitting[0].name)}"


@contextmanager
def telling(candidates: Sequence[Candidate], name: str, column: str | Wanted | None = None) -> Iterator[None]:
    """An InputError about the `name` that was taken ends in what else there is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}{instead(candidates, name, column)}") from error


def _rivals(candidates: Sequence[Candidate], found: Sequence[Candidate]) -> list[Candidate]:
    """What is not among those found and could as well be the embeddings, by its name or else by its shape."""
    others = [one for one in candidates if one not in found and one.fit is not Fit.TAKEN]
    likely = [one for one in others if one.likely]
    if any(one.likely for one in found):
        return likely
    return likely or [one for one in others if one.fit in (Fit.SHAPED, Fit.PERHAPS)]


def _words(name: str) -> list[str]:
    """ "clipTextEmb_0" is clip, text, emb, 0."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    return [word for word in re.split(r"[^a-z0-9]+|(?<=[a-z])(?=[0-9])", snake) if word]


def _passed(asked: Wanted, name: str) -> str:
    """How to name it: "--column 'x' (column=)"."""
    option, _, keyword = asked.option.partition(" ")
    return f"{option} {name!r}" + (f" {keyword}" if keyword else "")


def _shown(one: Candidate) -> str:
    return f"{one.name!r} ({one.holds})"


def listed(names: Sequence[str]) -> str:
    text = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    return " ".join(text.split())  # a name may hold a line break
