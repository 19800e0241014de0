"""The options of a fit: which method, and how its statistics are found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastrealign.core.checks import flag, number
from fastrealign.core.checks import seed as checked_seed
from fastrealign.core.errors import InputError
from fastrealign.core.wording import either
from fastrealign.core.wording import option as of_option
from fastrealign.data.options import check_choice, option, texts

if TYPE_CHECKING:
    from fastrealign.data.process_group import ProcessGroup

# baselines.py describes the methods.
METHODS = ("none", "mean-shift", "c3", "bca", "anchor", "anchor-trace", "realign", "realign-exact")
# Of maps from pairs (pair_fits.py).
PAIRED_METHODS = ("procrustes", "ridge")
CENTROIDS = ("paper", "exact")
# Of maps of roles (roles.py): these move the anchor too, and the gap to where it was says nothing of their rows.
TWO_SIDED, BALANCED = ("centred", "z-score"), "balanced"
MOVES_ANCHOR = (*TWO_SIDED, BALANCED)


@dataclass(frozen=True)
class FitOptions:
    """How a method is fitted. "realign-exact" becomes method "realign" with centroid "exact"."""

    method: str = option(
        "realign",
        "realign (the default), realign-exact, or a method to compare with: none, mean-shift, c3, bca, anchor, anchor-trace",
    )
    centroid: str = option(
        "paper",
        "paper (the default) translates once, as published, and leaves a gap of 1e-4 to 4e-3; exact solves for the "
        "translation that leaves none",
    )
    one_pass: bool | None = option(
        None,
        "read the source once, which pays where reading is slow (a disk, a server); the centroid correction is then an "
        "estimate whose standard error is stated; by default only where the source cannot be read again",
    )
    tol: float | None = option(
        None,
        "fit on a random sample of files or arrays, just large enough that the gap left over all rows is at most the gap left "
        "that is reported plus tol, for example 1e-3",
    )
    confidence: float = option(0.95, "probability with which a bound from a sample holds")
    seed: int = option(0, "seed of the sample that tol draws, and of noise")
    more: Mapping[str, Any] = field(default_factory=dict)  # further options of a method other than ReAlign

    def __post_init__(self) -> None:
        method = check_method(self.method)
        if method == "realign-exact":
            object.__setattr__(self, "centroid", "exact")
            method = "realign"
        object.__setattr__(self, "method", method)
        if method != "realign":
            refused = {"centroid": self.centroid != "paper", "one_pass": self.one_pass, "tol": self.tol is not None}
            for name, given in refused.items():
                if given:
                    raise InputError(f"{of_option(name)} applies to ReAlign, not to the method {method}; leave it out")
        check_choice("centroid", self.centroid, CENTROIDS)
        if self.one_pass is not None:
            object.__setattr__(self, "one_pass", flag("one_pass", self.one_pass))
        if self.tol is not None:
            if self.one_pass:
                raise InputError(
                    f"{of_option('tol')} samples the source, {of_option('one_pass')} reads all of it: choose one"
                )
            object.__setattr__(self, "tol", check_tol(self.tol))
        confidence, seed = check_sampling(self.confidence, self.seed)
        object.__setattr__(self, "confidence", confidence)
        object.__setattr__(self, "seed", seed)

    @property
    def own(self) -> dict[str, Any]:
        """The options of a method other than ReAlign."""
        return {**({"seed": self.seed} if self.method == "c3" else {}), **self.more}

    def to_json(self) -> dict[str, Any]:
        """Those that decide the result, as a job specification records them."""
        if self.method != "realign":
            return {"method": self.method, **self.own}
        sampling = {} if self.tol is None else {"confidence": self.confidence, "seed": self.seed}
        return {"centroid": self.centroid, "one_pass": self.one_pass or None, "tol": self.tol, **sampling}


HELP = texts(FitOptions)


# The length of C3's own noise: half that of a row.
C3_NOISE = 0.5
# The name of bca on the pages of the project.
BLOCKWISE = "blockwise"


def own_name(name: str) -> str:
    """The name of a method as METHODS and saved files have it, from that in pages and reports.

    Examples
    --------
    >>> own_name("ReAlign exact"), own_name("anchor + trace"), own_name("Blockwise")
    ('realign-exact', 'anchor-trace', 'bca')
    """
    own = "-".join(re.split(r"[\s+_-]+", name.strip().lower()))
    return "bca" if own == BLOCKWISE else own


def check_method(name: object) -> str:
    """The method of that name, as `own_name` has it; InputError if it is not in METHODS, with the nearest that is."""
    if not isinstance(name, str):
        raise InputError(f"method={name!r}: expected one of {', '.join(METHODS)}")
    if own_name(name) not in METHODS:
        import difflib

        if own_name(name) in (*MOVES_ANCHOR, "auto"):
            raise InputError(f"the method {name!r} maps several roles: {either('fit --role', 'fit_roles')} fits it")
        near = difflib.get_close_matches(name.lower(), (*METHODS, BLOCKWISE), 1, 0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"there is no method {name!r}: {hint}choose one of {', '.join(METHODS)}")
    return own_name(name)


def check_ranks(method: str, ranks: ProcessGroup) -> None:
    """InputError for bca and several ranks: covariances are not added up between ranks."""
    if method == "bca" and ranks.size > 1:
        raise InputError("bca is fitted by one process; fit it without a group or torchrun, then apply what was saved")


def check_tol(tol: object) -> float:
    """The tolerated gap; InputError if it is not positive and finite."""
    return number("tol", tol, lambda tol: tol > 0.0, "above 0, and finite")


def check_sampling(confidence: object, seed: object) -> tuple[float, int]:
    """Both; InputError for a confidence or a seed out of range."""
    within = number("confidence", confidence, lambda share: 0.5 <= share < 1.0, "from 0.5 to below 1")
    return within, checked_seed(seed)
