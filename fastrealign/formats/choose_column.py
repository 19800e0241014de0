"""Which column, key or tensor of a file holds the embeddings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from fastrealign.core.errors import InputError
from fastrealign.core.text import meant
from fastrealign.core.wording import either, option

USUAL_NAMES = ("embedding", "embeddings", "emb", "embed", "embeds")
# Names that a message lists: a checkpoint may have thousands.
_LISTED = 20
# Parts of names of embeddings, and of encodings, which may follow them.
_LIKELY = re.compile(r"embed|^embs?$|embs?$|vector|^vecs?$|vecs?$|features?$|feats?$|latents?$|hidden|pooled|represent")
_CODING = re.compile(
    r"[0-9]+|json|str|string|text|txt|bytes|binary|bin|blob|raw|b64|base|pickle|npy|u?int|fp|bf|float|q"
)
# Words for the sides of an alignment, alone or directly before a word for embeddings ("imgemb").
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
# The role of each side.
SIDE_ROLES = {"source": "text", "target": "images"}


def role_of(name: str) -> str | None:
    """ "text" or "images" if a word of the name says so; None for neither, or for both."""
    words = re.findall("[a-z]+", " ".join(_words(name)))
    found = {role for role, said in _ROLES.items() if any(map(said.fullmatch, words))}
    return found.pop() if len(found) == 1 else None


def other_split(name: str, chosen: str | None) -> bool:
    """Whether the name is of another split (test_ids) than the chosen one (val_features)."""
    mine, theirs = ({SPLITS[word] for word in _words(one or "") if word in SPLITS} for one in (chosen, name))
    return len(mine) == len(theirs) == 1 and mine != theirs


@dataclass(frozen=True)
class Wanted:
    """Which embeddings of a file are wanted.

    column     their name, as the user gave it
    side       "source" or "target" of an alignment, where the names in one file distinguish text and images
    elsewhere  the name that the user gave for the other side, used where `column` is None and the file has it. With --column
               vector a target that has a column "vector" is read by it. With --column text_emb it is not if it also has
               img_emb: "text" names the source, and img_emb the target
    keyword    the option that names them, for messages
    command    how they are named on the command line, where that is no option of this name
    alone      whether `column` is of these files alone: files without names are then an error. --target-column with a .npy
               target is refused; --column is not, where the source is .npy and the target, which has the column, is parquet
    """

    column: str | None = None
    side: str | None = None
    elsewhere: str | None = None
    keyword: str = "column"
    command: str | None = None
    alone: bool = False

    @classmethod
    def of(cls, column: str | Wanted | None) -> Wanted:
        return column if isinstance(column, Wanted) else cls(column)

    @classmethod
    def on(cls, side: str, column: str | Wanted | None, elsewhere: str | None = None) -> Wanted:
        """The embeddings of a side, where the user may name those of each."""
        if isinstance(column, Wanted):
            return column
        keyword = "target_column" if side == "target" else "column"
        return cls(column, side, elsewhere, keyword, alone=side == "target")

    @property
    def option(self) -> str:
        """How the user names the embeddings."""
        named = option(self.keyword)
        return named if self.command is None else either(self.command, named)

    def passed(self, name: str) -> str:
        """How the user names the embeddings of this name."""
        named = option(self.keyword, name)
        return named if self.command is None else either(f"{self.command}, COLUMN being {name!r}", named)

    def given(self, candidates: Sequence[Candidate]) -> str | None:
        """The name that the user gave: for this side, present or not, else for the other side."""
        if self.column is not None or self.elsewhere is None or self.side is None:
            return self.column
        if not any(one.name == self.elsewhere for one in candidates):
            return None
        of_other = role_of(self.elsewhere) not in (SIDE_ROLES[self.side], None)
        return None if of_other and of_side(self.side, candidates) else self.elsewhere


class Unclear(InputError):
    """Which part of a file holds the embeddings is not clear: none, several, or one that does not fit may."""


class Fit(IntEnum):
    """Whether something could be the embeddings.

    NO       no: one number per row, lists of text
    CODED    it may encode numbers (as text, bytes, integers), if its name says so
    SHAPED   several numbers per row, of a type or a shape that is not accepted
    PERHAPS  accepted if its rows turn out to be one vector each
    TAKEN    accepted
    """

    NO = 0
    CODED = 1
    SHAPED = 2
    PERHAPS = 3
    TAKEN = 4


class Candidate(NamedTuple):
    """A named part of a file. holds: its type and shape, for messages."""

    name: str
    holds: str
    fit: Fit

    @property
    def likely(self) -> bool:
        """Whether its name suggests embeddings."""
        words = _words(self.name)
        if self.fit is Fit.CODED:  # "embedding_model" is no embedding, "embedding_json" is one
            while len(words) > 1 and _CODING.fullmatch(words[-1]):
                words.pop()
            words = words[-1:]
        return self.fit is not Fit.NO and any(map(_LIKELY.search, words))


def choose_name(path: str, candidates: Sequence[Candidate], column: str | Wanted | None, kind: str, wanted: str) -> str:
    """The name of the embeddings: the given one, else the usual one, else the only one that fits, or that of the side.

    Raises Unclear if none or several qualify, and if another part does not fit but may be the embeddings all the same: the rest
    must not be mistaken for them. A given or usual name is returned even if it does not fit; the caller's error about that ends
    with `instead`.

    kind, wanted   for messages: what has the name ("column"), and what would fit ("lists of floats")
    """
    names, asked = [one.name for one in candidates], Wanted.of(column)
    given = asked.given(candidates)
    if given is not None:
        if given not in names:
            there = f"its {kind}s are {listed(names) or 'none'}"
            raise InputError(f"{path}: has no {kind} {given!r}{meant(given, names, there)}")
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
        held = f"; {_shown(rivals[0])} is not accepted" if rivals else ""
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
            f"{path}: which {kind} holds the embeddings? {_shown(rivals[0])} may, but is not accepted; {_shown(found[0])} is "
            f"accepted: pass {asked.passed(found[0].name)} to take it, or save {rivals[0].name!r} as {wanted}"
        )
    return found[0].name


def of_side(side: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that fit and are embeddings of this side by their names.

    A name without a word for embeddings counts if another one differs from it in the role alone ("text" and "image").
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
    """The end of an error about the chosen `name`: another candidate that fits; "" if there is none."""
    fitting = [one for one in candidates if one.name != name and one.fit is Fit.TAKEN]
    if not fitting:
        return ""
    return f"; if {_shown(fitting[0])} holds the embeddings, pass {Wanted.of(column).passed(fitting[0].name)}"


@contextmanager
def with_alternatives(candidates: Sequence[Candidate], name: str, column: str | Wanted | None = None) -> Iterator[None]:
    """An InputError about the chosen `name` ends with `instead`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}{instead(candidates, name, column)}") from error


def _rivals(candidates: Sequence[Candidate], found: Sequence[Candidate]) -> list[Candidate]:
    """Candidates that were not found to be the embeddings but may be, by name or else by shape."""
    others = [one for one in candidates if one not in found and one.fit is not Fit.TAKEN]
    likely = [one for one in others if one.likely]
    if any(one.likely for one in found):
        return likely
    return likely or [one for one in others if one.fit in (Fit.SHAPED, Fit.PERHAPS)]


def _words(name: str) -> list[str]:
    """ "clipTextEmb_0" is clip, text, emb, 0."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    return [word for word in re.split(r"[^a-z0-9]+|(?<=[a-z])(?=[0-9])", snake) if word]


def _shown(one: Candidate) -> str:
    return f"{one.name!r} ({one.holds})"


def listed(names: Sequence[str]) -> str:
    text = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    return " ".join(text.split())  # a name may hold a line break
