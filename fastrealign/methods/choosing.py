"""`method="auto"` and "balanced": what pairs of rows that belong together say about the methods for roles.

Every method is fitted and its maps are tried in one index of all documents of the pairs. The simplest method is taken that is
not worse than the best by more than a standard error of their difference, which is of the same queries. Where the gap is small,
a method is left out that lowers a kind of pairs by more than a standard error, in the index or among documents of one role, or
that finds more than doing nothing does by less than two standard errors.

balanced   centred, and then the cosines of some roles of documents are made smaller by one factor, so that the best document
           that is not a query's own has the same cosine in every role, in the mean over queries: a wrong caption does not come
           before the right picture only because captions resemble queries more. A constant v, at right angles to the queries,
           is added to the unit rows: pi(pi(pi(y) - mu) + t v) has every cosine with a query divided by sqrt(1 + t^2).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fastrealign.core.errors import ChangedError, FitWarning, InputError, warn
from fastrealign.core.formatting import count
from fastrealign.methods.baseline import Baseline
from fastrealign.methods.centroid import few_digits
from fastrealign.methods.fit_options import BALANCED
from fastrealign.methods.method import Method
from fastrealign.methods.role_fits import RoleFits
from fastrealign.methods.role_pairs import (
    FEWEST,
    TOP,
    Found,
    Pairs,
    in_sample,
    open_pairs,
    pairs_of,
    read_pairs,
    search,
)
from fastrealign.methods.role_trials import Trial, error_of, trial_of

AUTO = "auto"
# By the numbers that they fit, the fewest first.
_SIMPLEST_FIRST = ("none", "centred", "anchor", "anchor-trace", "realign", "realign-exact", BALANCED, "z-score", "bca")
# The gap is large where without a map documents of a role are found less than this part as often as in an index of their own.
_LARGE = 0.25
# Where it is small, a method finds more than doing nothing does by so many standard errors, or is not worth its map.
_WORTH = 2.0


@dataclass(frozen=True)
class Choice:
    """The method that is taken, its maps, why, and what was tried."""

    method: str
    maps: dict[str, Method]
    reason: str = ""
    trials: Mapping[str, Trial] = field(default_factory=dict)


def chosen(fits: RoleFits, method: str, given: Any, seed: int = 0) -> Choice:
    """The method, "auto" or "balanced", that pairs decide; `given`: as `fit_roles` takes them."""
    opened = open_pairs(given, fits.sources, fits.columns)
    for role, source in fits.sources.items():
        if not source.again:
            raise InputError(
                f"role {role}: an iterator can be read once, and {method} reads more than once; pass a list of chunks, or an "
                "object whose __iter__ starts at the first chunk"
            )
    fits.read()
    read = read_pairs(opened, seed)
    trial_fits = fits
    if in_sample(opened, fits.sources):
        read, rows = _halves(read)
        sources = {role: rows.get(role, source) for role, source in fits.sources.items()}
        trial_fits = RoleFits.open(sources, fits.anchor, None, fits.options)
    pairs = pairs_of(read)
    _check(pairs, method)
    tried = _tried(trial_fits, pairs, [BALANCED] if method == BALANCED else list(_SIMPLEST_FIRST))
    if method == BALANCED and BALANCED not in tried:
        raise InputError(f"balanced cannot be fitted: {tried.failed[BALANCED]}; choose another method")
    trials = {name: trial_of(pairs, found) for name, found in tried.found.items()}
    taken, reason = (BALANCED, "") if method == BALANCED else _choice(pairs, tried, trials)
    if trial_fits is fits:
        for message in tried.said[taken]:
            warn(message)
        return Choice(taken, fits.measured(tried.maps[taken]), reason, trials)
    if taken == BALANCED:
        maps = fits.maps("centred")
        return Choice(taken, _balanced(maps, pairs, search(pairs, maps)), reason, trials)
    return Choice(taken, fits.maps(taken), reason, trials)


def _halves(
    read: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]],
) -> tuple[dict[tuple[str, str], tuple[np.ndarray, np.ndarray]], dict[str, np.ndarray]]:
    """Pairs to choose with, and for each role the rows of the others, to fit on; InputError where the half is too small.

    By the rows, not by their numbers: a query of several kinds of pairs belongs to one half in all of them.
    """
    chosen_half: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
    rows: dict[str, list[np.ndarray]] = {}
    for kind, (queries, documents) in read.items():
        first = _coin(queries)
        if min(first.sum(), (~first).sum()) < FEWEST:
            raise InputError(
                f"pairs {kind[0]}:{kind[1]}: {count(len(queries), 'pair')} of rows that the roles are fitted on: half of them "
                f"choose, and each half needs {FEWEST} or more; give more pairs, or pairs that were held out"
            )
        chosen_half[kind] = queries[first], documents[first]
        for role, side in zip(kind, (queries, documents), strict=True):
            rows.setdefault(role, []).append(side[~first])
    return chosen_half, {role: np.concatenate(parts) for role, parts in rows.items()}


def _coin(rows: np.ndarray) -> np.ndarray:
    """bool (n,): by the bits of each row."""
    bits = rows.view(np.uint32).astype(np.uint64)
    mixed = (bits * np.arange(1, 2 * rows.shape[1], 2, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    return ((mixed * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(63)).astype(bool)


def _check(pairs: Pairs, method: str) -> None:
    for role, rows in pairs.documents.items():
        if len(rows) <= TOP:
            raise InputError(
                f"pairs: {count(len(rows), 'distinct document')} of {role}, expected more than {TOP}: R@{TOP} finds all"
            )
    both = sorted(set(pairs.queries) & set(pairs.documents))
    if method == BALANCED and both:
        raise InputError(
            f"balanced scales the cosines of documents, and {both[0]} is searched with, too; give queries a role of their own"
        )


class _Tried:
    """Maps, what they find, and the warnings of their fit, by method; of those that could not be fitted why."""

    def __init__(self) -> None:
        self.maps: dict[str, dict[str, Method]] = {}
        self.found: dict[str, Found] = {}
        self.said: dict[str, list[str]] = {}
        self.failed: dict[str, str] = {}

    def __contains__(self, method: str) -> bool:
        return method in self.maps


def _tried(fits: RoleFits, pairs: Pairs, methods: list[str]) -> _Tried:
    tried = _Tried()
    progress = fits.options.progress
    searched = sum(map(len, pairs.queries.values())) * len(pairs.documents)

    def find(name: str, maps: Mapping[str, Method]) -> Found:
        with progress.running(f"trying {name}", searched):
            return search(pairs, maps, lambda rows: progress.advance(rows, 0))

    for name in methods:
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", FitWarning)
                maps = fits.maps("centred" if name == BALANCED else name, gap_left=False)
                if name == BALANCED:
                    centred = tried.found.get("centred") or find("centred", maps)
                    maps = _balanced(maps, pairs, centred)
            tried.found[name] = find(name, maps)
        except ChangedError:
            raise
        except InputError as error:
            if name == "none":
                raise
            tried.failed[name] = str(error)
            continue
        tried.maps[name], tried.said[name] = maps, [str(one.message) for one in said]
    return tried


def _balanced(centred: Mapping[str, Method], pairs: Pairs, found: Found) -> dict[str, Method]:
    """The maps of balanced, from those of centred and what they find."""
    both = set(pairs.queries) & set(pairs.documents)
    best = found.best_wrong
    if both or min(best.values()) <= 0.0:
        raise InputError(f"{sorted(both)[0]} is searched with, too" if both else "the best cosines are below zero")
    d = next(iter(centred.values())).dim
    moments = np.zeros((d, d))
    for role, rows in pairs.queries.items():
        mapped = centred[role](rows.astype(np.float64))
        moments += mapped.T @ mapped
    v = few_digits(np.linalg.eigh(moments)[1][:, 0])
    v *= np.copysign(1.0 / np.linalg.norm(v), v[np.abs(v).argmax()])
    maps: dict[str, Method] = {}
    for role, one in centred.items():
        factor = min(best.values()) / best[role] if role in best else 1.0
        assert isinstance(one, Baseline)
        maps[role] = replace(one, name=BALANCED, c=None if factor >= 1.0 else v * np.sqrt(factor**-2 - 1.0))
    return maps


def _choice(pairs: Pairs, tried: _Tried, trials: Mapping[str, Trial]) -> tuple[str, str]:
    """The method to take, and why, in a few sentences."""
    before = trials["none"].kinds
    hidden = [name for name, one in before.items() if one.found < _LARGE * one.alone]
    others = [] if hidden else [name for name in trials if name != "none"]
    against = {name: why for name in others if (why := _against(pairs, tried, name)) is not None}
    allowed = [name for name in _SIMPLEST_FIRST if name in trials and name not in against]
    best = max(allowed, key=lambda name: trials[name].found)

    def short_of_best(name: str) -> float:
        """By how many standard errors it is worse than the best."""
        lead, error = _lead(pairs, tried, best, name)
        return lead / error if error > 0 else (0.0 if lead <= 0 else np.inf)

    taken = next(name for name in allowed if short_of_best(name) <= 1.0)
    said = f"R@{TOP} in one index: {taken} {_figures(trials[taken])}"
    if taken != "none":
        said += f"; none {_figures(trials['none'])}"
    if taken == best:
        said += f". {taken} is the best"
    else:
        said += f". {taken} is the simplest within a standard error of the best, {best} ({trials[best].found:.3f})"
    if hidden:
        one = before[hidden[0]]
        said += f"; the gap is large: without a map {hidden[0]} finds {one.found:.3f}, alone {one.alone:.3f}"
    elif against:
        name = max(against, key=lambda name: trials[name].found)
        said += f"; the gap is small, and {name} is left out since {against[name]}"
    return taken, f"{said}."


def _lead(pairs: Pairs, tried: _Tried, method: str, other: str) -> tuple[float, float]:
    """By how much a method finds more than another in the index, the mean over kinds, and the standard error of that."""
    found = zip(tried.found[method].together, tried.found[other].together, strict=True)
    differences = [a.astype(float) - b for a, b in found]
    return float(np.mean([kind.mean() for kind in differences])), error_of(pairs, pairs.kinds, differences)


def _against(pairs: Pairs, tried: _Tried, name: str) -> str | None:
    """What a method lowers by more than one standard error against none, or that it finds too little more; None for neither."""
    none, other = tried.found["none"], tried.found[name]
    for where, a, b in (("in the index", none.together, other.together), ("alone", none.alone, other.alone)):
        for kind, before, after in zip(pairs.kinds, a, b, strict=True):
            lost = before.astype(float) - after
            error = error_of(pairs, [kind], [lost])
            if lost.mean() > 1.01 * error:  # one pair lost of all is one standard error, or a hair more
                return f"it lowers {kind} {where} by {lost.mean():.3f} (standard error {error:.3f})"
    lead, error = _lead(pairs, tried, name, "none")
    if lead <= 0.0:
        return "it finds no more than doing nothing"
    return (
        None
        if lead > _WORTH * error
        else f"it finds only {lead:.3f} more than doing nothing (standard error {error:.3f})"
    )


def _figures(trial: Trial) -> str:
    parts = ", ".join(f"{name} {one.found:.3f}, alone {one.alone:.3f}" for name, one in trial.kinds.items())
    return f"{trial.found:.3f} ± {trial.error:.3f} ({parts})"
