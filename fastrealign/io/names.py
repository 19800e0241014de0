"""Which of the things that a file holds under names are the embeddings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import NamedTuple

from fastrealign.errors import InputError

USUAL_NAMES = ("embedding", "embeddings", "emb", "embed", "embeds")
# Names that a message lists: a checkpoint may have thousands.
_LISTED = 20
# Parts of names that embeddings have, and those that say how they were written, which may come after them.
_LIKELY = re.compile(r"embed|^embs?$|embs?$|vector|^vecs?$|vecs?$|features?$|feats?$|latents?$|hidden|pooled|represent")
_CODING = re.compile(
    r"[0-9]+|json|str|string|text|txt|bytes|binary|bin|blob|raw|b64|base|pickle|npy|u?int|fp|bf|float|q"
)


def meant(given: str, names: Iterable[str]) -> str:
    """A hint at the name that was probably meant, to put after the one that there is not; "" where none is near."""
    near = difflib.get_close_matches(given, [name for name in names if isinstance(name, str)], 1, 0.6)
    return f", did you mean {near[0]!r}?" if near else ""


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
        words = [word for word in re.split(r"[^a-z0-9]+|(?<=[a-z])(?=[0-9])", _snake(self.name)) if word]
        if self.fit is Fit.CODED:  # "embedding_model" is no embedding, "embedding_json" is one
            while len(words) > 1 and _CODING.fullmatch(words[-1]):
                words.pop()
            words = words[-1:]
        return self.fit is not Fit.NO and any(map(_LIKELY.search, words))


def choose_name(path: str, candidates: Sequence[Candidate], column: str | None, kind: str, wanted: str) -> str:
    """The name given, else the usual one, else the only one that fits. Unclear if that is none or several, or if there is
    something that does not fit and could as well be the embeddings: what is left must not be taken for them.

    A name that is given, or usual, is taken whether it fits or not: the caller's error about it ends in `instead`.

    kind, wanted for messages: what a name is of ("column"), and what would fit ("lists of floats")
    """
    names = [one.name for one in candidates]
    if column is not None:
        if column not in names:
            raise InputError(
                f"{path}: has no {kind} {column!r}{meant(column, names)}; its {kind}s are {_listed(names) or 'none'}"
            )
        return column
    found = [one for name in USUAL_NAMES for one in candidates if one.name == name]
    usual = bool(found)
    found = found or [one for one in candidates if one.fit is Fit.TAKEN]
    found = found or [one for one in candidates if one.fit is Fit.PERHAPS]
    rivals = [] if usual else _rivals(candidates, found)
    if not found:
        held = f"; {_shown(rivals[0])} is not taken" if rivals else ""
        raise Unclear(
            f"{path}: has no {kind} of embeddings ({', '.join(USUAL_NAMES)} or {wanted}); "
            f"its {kind}s are {_listed(names) or 'none'}{held}"
        )
    if len(found) > 1:
        raise Unclear(
            f"{path}: has several {kind}s of embeddings, {_listed([one.name for one in found])}; name the one to take"
        )
    if rivals:
        raise Unclear(
            f"{path}: which {kind} holds the embeddings? {_shown(rivals[0])} may be them and is not taken, "
            f"{_shown(found[0])} is; pass --column {found[0].name!r} (column=) if that is the one, or save "
            f"{rivals[0].name!r} as {wanted}"
        )
    return found[0].name


def instead(candidates: Sequence[Candidate], name: str) -> str:
    """What an error about the `name` that was taken, and does not fit, says of others that do: "" if there are none."""
    fitting = [one for one in candidates if one.name != name and one.fit is Fit.TAKEN]
    if not fitting:
        return ""
    return f"; if {_shown(fitting[0])} holds the embeddings, pass --column {fitting[0].name!r} (column=)"


@contextmanager
def telling(candidates: Sequence[Candidate], name: str) -> Iterator[None]:
    """An InputError about the `name` that was taken ends in what else there is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}{instead(candidates, name)}") from error


def _rivals(candidates: Sequence[Candidate], found: Sequence[Candidate]) -> list[Candidate]:
    """What is not among those found and could as well be the embeddings, by its name or else by its shape."""
    others = [one for one in candidates if one not in found and one.fit is not Fit.TAKEN]
    likely = [one for one in others if one.likely]
    if any(one.likely for one in found):
        return likely
    return likely or [one for one in others if one.fit in (Fit.SHAPED, Fit.PERHAPS)]


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _shown(one: Candidate) -> str:
    return f"{one.name!r} ({one.holds})"


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    return " ".join(text.split())  # a name may hold a line break
