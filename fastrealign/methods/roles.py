"""Roles: one fitted map for each kind of rows in an index (query text, document text, image, ...), as one value.

A mixed index holds rows of several modalities, and each lies elsewhere on the sphere. Every role has statistics of its own,
since short queries and long documents differ too. One-sided methods move each role to the anchor, which stays where it is.
Two-sided methods move all roles, the anchor included:

    centred   pi(pi(y) - mu)              the role's own mean (GR-CLIP; C3, arXiv 2401.08567, without noise)
    z-score   pi((pi(y) - mu) / sigma)    and its own standard deviation of each column; a column without spread is not divided
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.text import meant
from fastrealign.data.options import Compute, PassOptions, ReadOptions, documented
from fastrealign.data.row_source import RowSource
from fastrealign.data.sources import open_rows
from fastrealign.diagnostics.second_moments import covariance
from fastrealign.formats.saved_tensors import check_record, check_saved_name, damaged, load_tensors, save_tensors
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.baseline import Baseline, unit_rows
from fastrealign.methods.fit_options import FitOptions
from fastrealign.methods.fitting import fit_specs
from fastrealign.methods.method import Method
from fastrealign.methods.statistics import SideStatistics, check_side, check_widths, read_side
from fastrealign.storage.record_rules import MAPPING, TEXT

if TYPE_CHECKING:
    from fastrealign.storage.paths import AnyPath

TWO_SIDED = ("centred", "z-score")
ROLE_METHODS = ("realign", "realign-exact", "anchor", "anchor-trace", "bca", *TWO_SIDED, "none")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_RECORD = {"anchor": TEXT, "method": TEXT, "roles": MAPPING}


@dataclass(frozen=True, eq=False)
class Roles:
    """A fitted map for each role, towards one anchor. `roles["image"](x)` maps rows; iterating gives the names.

    Attributes
    ----------
    maps : mapping of str to Method
        The map of each role, the anchor included; all are of one width.
    anchor : str
        The role whose region the others are moved to.
    method : str
        One of ROLE_METHODS.
    """

    maps: Mapping[str, Method]
    anchor: str
    method: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "maps", MappingProxyType(dict(self.maps)))

    @property
    def dim(self) -> int:
        """Width of the rows of every role."""
        return self.maps[self.anchor].dim

    def __getitem__(self, role: str) -> Method:
        return self.maps[_known(role, self.maps)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    def __contains__(self, role: object) -> bool:
        return role in self.maps

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "maps": dict(self.maps)}  # a read-only view cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.__post_init__()

    def save(self, path: AnyPath) -> None:
        """Write all roles to one safetensors file, a path or a URL, replaced in one step.

        Raises
        ------
        InputError
            For a name of another kind of file.
        FastRealignError
            When writing fails.
        """
        check_saved_name(path, "roles")
        tensors: dict[str, np.ndarray] = {}
        records = {}
        for role, method in self.maps.items():
            parts, records[role] = method.to_saved()  # type: ignore[attr-defined]  # an Alignment or a Baseline
            tensors |= {f"{role}/{name}": value for name, value in parts.items()}
        save_tensors(path, tensors, {"kind": "roles", "anchor": self.anchor, "method": self.method, "roles": records})

    @classmethod
    def load(cls, path: AnyPath) -> Roles:
        """Read what `save` wrote; InputError, which names the file, if it is missing, damaged or something else."""
        tensors, meta = load_tensors(path, "roles")
        check_record(path, "roles", meta, _RECORD)
        maps: dict[str, Method] = {}
        for role, record in meta["roles"].items():
            if not isinstance(record, dict) or record.get("kind") not in ("alignment", "baseline"):
                raise damaged(path, "roles", f"{role} is neither an alignment nor another method")
            kind = Alignment if record["kind"] == "alignment" else Baseline
            own = {name[len(role) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{role}/")}
            maps[role] = kind.from_saved(path, own, record)
        if meta["anchor"] not in maps:
            raise damaged(path, "roles", f"there is no map of the anchor {meta['anchor']}")
        if len({one.dim for one in maps.values()}) != 1:
            raise damaged(path, "roles", f"the widths of roles differ: {[one.dim for one in maps.values()]}")
        return cls(maps, meta["anchor"], meta["method"])

    def __repr__(self) -> str:
        return f"Roles({', '.join(self)}; anchor={self.anchor!r}, method={self.method!r}, dim={self.dim})"


@computes
@documented(Compute)
def fit_roles(
    rows: Mapping[str, Any],
    *,
    anchor: str,
    method: str = "realign",
    bad_rows: str = "error",
    threads: int | None = None,
    devices: Sequence[int | str] | None = None,
    max_memory: int | None = None,
    progress: Progress = SILENT,
) -> Roles:
    """Fit a map for each role of an index that holds several modalities, towards one anchor.

    Parameters
    ----------
    rows : mapping of str to rows
        Rows (n, dim) of each role, as `fastrealign.fit` takes them: arrays, tensors, paths. They need not be paired. Those of
        the anchor are read once for each other role. A name has letters, digits, _ and -.
        In a clip-retrieval folder the anchor is img_emb and any other role text_emb; otherwise name the folders themselves.
    anchor : str
        The role that the others are moved to; with most methods its own map only makes unit rows.
    method : str
        One of ROLE_METHODS: realign, realign-exact, anchor, anchor-trace and bca move each role to the anchor; centred and
        z-score move all; none only makes unit rows.
    bad_rows : {"error", "skip", "keep"}
        What a row without a direction does, as in `fastrealign.fit`.
    {Compute}
    progress : Progress
        Called as the passes advance; by default nothing is shown.

    Returns
    -------
    Roles

    Raises
    ------
    InputError
        For fewer than two roles, a name of a role that is not given (the nearest is suggested), another method, and as
        `fastrealign.fit` does; it names the role.
    BadRowsError
        For a row without a direction, where bad_rows is "error".

    Examples
    --------
    >>> import fastrealign as fr, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> sides = {role: rng.standard_normal((200, 8)) + at for role, at in (("query", 1), ("text", 2), ("image", -1))}
    >>> roles = fr.fit_roles(sides, anchor="image", method="centred")
    >>> index = np.concatenate([roles["text"](sides["text"]), roles["image"](sides["image"])])
    >>> index.shape, roles["query"](sides["query"][0]).shape
    ((400, 8), (8,))
    """
    _check_roles(rows, anchor, method)
    read = ReadOptions(bad_rows=bad_rows)
    options = PassOptions(bad_rows, Compute(threads, devices, max_memory).workers, progress)
    maps: dict[str, Method] = {}
    if method in TWO_SIDED:
        return Roles(_two_sided(rows, anchor, method, options), anchor, method)
    for role, given in rows.items():
        if role != anchor:
            with _named(role):
                maps[role] = fit_specs(given, rows[anchor], FitOptions(method), read, options)
    maps[anchor] = unit_rows(next(iter(maps.values())).dim)
    return Roles({role: maps[role] for role in rows}, anchor, method)


def _check_roles(rows: Mapping[str, Any], anchor: str, method: str) -> None:
    if not isinstance(rows, Mapping) or len(rows) < 2:
        raise InputError(
            "roles: expected a mapping of at least two names to rows, such as {'text': texts, 'image': images}"
        )
    for role in rows:
        if not isinstance(role, str) or not _NAME.fullmatch(role):
            raise InputError(f"role {role!r}: expected a name of letters, digits, _ and -")
    _known(anchor, rows)
    if method not in ROLE_METHODS:
        hint = meant(str(method), ROLE_METHODS)
        raise InputError(f"there is no method {method!r} for roles{hint}; choose one of {', '.join(ROLE_METHODS)}")


def _known(role: str, names: Mapping[str, Any]) -> str:
    if role not in names:
        raise InputError(f"there is no role {role!r}{meant(str(role), names)}; the roles are {', '.join(names)}")
    return role


def _two_sided(rows: Mapping[str, Any], anchor: str, method: str, options: PassOptions) -> dict[str, Method]:
    opened: dict[str, RowSource] = {}
    sides: dict[str, SideStatistics] = {}
    for role, given in rows.items():
        with _named(role):
            opened[role] = open_rows(given, "target" if role == anchor else "source")
            sides[role] = read_side(opened[role], f"reading {role}", options)
            check_side(opened[role].name, sides[role])
    there = sides[anchor].mean
    maps: dict[str, Method] = {}
    for role, side in sides.items():
        with _named(role):
            check_widths(opened[role], opened[anchor])
            scale = _standardising(opened[role]) if method == "z-score" else {}
            opened[role].check_unchanged()
        maps[role] = Baseline(method, there, float(np.linalg.norm(side.mean - there)), b=-side.mean, **scale)
    return maps


@contextmanager
def _named(role: str) -> Iterator[None]:
    """An InputError says which role it concerns."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"role {role}: {error}") from None


def _standardising(source: RowSource) -> dict[str, Any]:
    """The step that divides each column by its standard deviation; projecting before it changes no direction."""
    deviation = np.sqrt(np.diag(covariance(source).matrix))
    spread = deviation > 1e-12
    return {"matrix": np.diag(1.0 / np.where(spread, deviation, 1.0)), "shift": np.zeros(source.d)}
