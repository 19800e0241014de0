"""What pairs say of a method for roles: R@10 of each kind of pairs, with standard errors over queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastrealign.methods.role_pairs import Found, Kind, Pairs


@dataclass(frozen=True)
class KindFigures:
    """R@10 of pairs of one kind.

    Attributes
    ----------
    found, error : float
        In the index of all documents, and its standard error.
    alone, alone_error : float
        In an index of the documents of one role.
    pairs : int
    """

    found: float
    error: float
    alone: float
    alone_error: float
    pairs: int


@dataclass(frozen=True)
class Trial:
    """What the pairs say of a method.

    Attributes
    ----------
    found, error : float
        R@10 in the index of all documents: the mean over the kinds of pairs, and its standard error over queries.
    kinds : dict of str to KindFigures
        Of each kind of pairs, such as "query:image".
    """

    found: float
    error: float
    kinds: Mapping[str, KindFigures]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Trial:
        """Raises TypeError, KeyError or AttributeError for what `to_json` did not give."""
        kinds = {name: KindFigures(**figures) for name, figures in value["kinds"].items()}
        return cls(float(value["found"]), float(value["error"]), kinds)


def trial_of(pairs: Pairs, what: Found) -> Trial:
    kinds = {}
    for kind, together, alone in zip(pairs.kinds, what.together, what.alone, strict=True):
        errors = error_of(pairs, [kind], [together]), error_of(pairs, [kind], [alone])
        found = float(together.mean()), float(alone.mean())
        kinds[str(kind)] = KindFigures(found[0], errors[0], found[1], errors[1], len(together))
    overall = float(np.mean([one.found for one in kinds.values()]))
    return Trial(overall, error_of(pairs, pairs.kinds, what.together), kinds)


def error_of(pairs: Pairs, kinds: list[Kind], values: list[np.ndarray]) -> float:
    """Standard error of the mean over kinds of the means of their values, over queries: those of one query go together."""
    numbers = {role: len(rows) for role, rows in pairs.queries.items()}
    offsets = dict(zip(numbers, np.cumsum([0, *numbers.values()]), strict=False))
    apart = np.zeros(sum(numbers.values()))
    there = np.zeros(len(apart), bool)
    for kind, value in zip(kinds, values, strict=True):
        at = offsets[kind.query] + kind.of_query
        np.add.at(apart, at, (value - value.mean()) / (len(value) * len(kinds)))
        there[at] = True
    n = int(there.sum())
    return float(np.sqrt((apart**2).sum() * n / max(n - 1, 1)))
