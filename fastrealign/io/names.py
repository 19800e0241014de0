"""Which of the things that a file holds under names are the embeddings."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence

from fastrealign.errors import InputError

USUAL_NAMES = ("embedding", "embeddings", "emb", "embed", "embeds")
# Names that a message lists: a checkpoint may have thousands.
_LISTED = 20


def meant(given: str, names: Iterable[str]) -> str:
    """A hint at the name that was probably meant, to put after the one that there is not; "" where none is near."""
    near = difflib.get_close_matches(given, [name for name in names if isinstance(name, str)], 1, 0.6)
    return f", did you mean {near[0]!r}?" if near else ""


def choose_name(
    path: str, names: Sequence[str], fits: Callable[[str], bool], column: str | None, kind: str, wanted: str
) -> str:
    """The name given, else the usual one, else the only one that fits; InputError if that is none or several.

    names, fits  what there is, and whether it could be embeddings; a usual name is taken whether it fits or not
    kind, wanted for messages: what a name is of ("column"), and what would fit ("lists of floats")
    """
    listed = _listed(names)
    if column is not None:
        if column not in names:
            raise InputError(
                f"{path}: has no {kind} {column!r}{meant(column, names)}; its {kind}s are {listed or 'none'}"
            )
        return column
    found = [name for name in USUAL_NAMES if name in names] or [name for name in names if fits(name)]
    if not found:
        raise InputError(
            f"{path}: has no {kind} of embeddings ({', '.join(USUAL_NAMES)} or {wanted}); "
            f"its {kind}s are {listed or 'none'}"
        )
    if len(found) > 1:
        raise InputError(f"{path}: has several {kind}s of embeddings, {_listed(found)}; name the one to take")
    return found[0]


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    return " ".join(text.split())  # a name may hold a line break
