"""Roles: one fitted map for each kind of rows in an index (query text, document text, image, ...), as one value.

A mixed index holds rows of several modalities, and each lies elsewhere on the sphere. Every role has statistics of its own,
since short queries and long documents differ too. One-sided methods move each role to the anchor, which stays where it is.
Two-sided methods move all roles, the anchor included:

    centred   pi(pi(y) - mu)              the role's own mean (GR-CLIP; C3, arXiv 2401.08567, without noise)
    z-score   pi((pi(y) - mu) / sigma)    and its own standard deviation of each column; a column without spread is not divided
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.text import meant
from fastrealign.core.wording import either
from fastrealign.data.options import Compute, PassOptions, documented
from fastrealign.data.row_source import RowsLike
from fastrealign.formats.saved_tensors import check_record, check_saved_name, damaged, load_tensors, save_tensors
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.baseline import Baseline
from fastrealign.methods.choosing import AUTO, chosen
from fastrealign.methods.fit_options import BALANCED, BLOCKWISE, own_name
from fastrealign.methods.method import Method
from fastrealign.methods.publishing import OnHub
from fastrealign.methods.role_fits import ROLE_METHODS, RoleFits, known
from fastrealign.methods.role_trials import Trial
from fastrealign.storage.paths import AnyPath
from fastrealign.storage.record_rules import MAPPING, TEXT, or_none

_RECORD = {"anchor": TEXT, "method": TEXT, "roles": MAPPING, "reason": or_none(TEXT), "trials": or_none(MAPPING)}


@dataclass(frozen=True, eq=False)
class Roles(OnHub):
    """A fitted map for each role, towards one anchor. `roles["image"](x)` maps rows; iterating gives the names.

    Attributes
    ----------
    maps : mapping of str to Method
        The map of each role, the anchor included; all are of one width.
    anchor : str
        The role whose region the others are moved to.
    method : str
        The method that fitted them; of "auto" the one that was chosen.
    reason : str
        Of "auto", why: the figures that decided, in a few sentences; otherwise "".
    trials : mapping of str to Trial
        Of "auto" and "balanced", R@10 of each method that was tried, in one index and alone, with standard errors.

    Examples
    --------
    >>> import fastrealign as fr, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> text, images = rng.standard_normal((500, 8)) + 1.0, rng.standard_normal((400, 8)) - 1.0
    >>> roles = fr.fit_roles({"text": text, "image": images}, anchor="image")
    >>> list(roles), roles["text"](text[:3]).shape
    (['text', 'image'], (3, 8))
    """

    maps: Mapping[str, Method]
    anchor: str
    method: str
    reason: str = ""
    trials: Mapping[str, Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "maps", MappingProxyType(dict(self.maps)))
        object.__setattr__(self, "trials", MappingProxyType(dict(self.trials)))

    @property
    def dim(self) -> int:
        """Width of the rows of every role."""
        return self.maps[self.anchor].dim

    def __eq__(self, other: object) -> bool:
        """Whether they have equal maps for the same roles, by the same method."""
        if not isinstance(other, Roles):
            return NotImplemented
        return (self.anchor, self.method, self.maps) == (other.anchor, other.method, other.maps)

    def __hash__(self) -> int:
        return hash((self.anchor, self.method, *sorted(self.maps)))

    def __getitem__(self, role: str) -> Method:
        return self.maps[known(role, self.maps)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    def __contains__(self, role: object) -> bool:
        return role in self.maps

    def __getstate__(self) -> dict[str, Any]:
        # A read-only view cannot be pickled.
        return {**vars(self), "maps": dict(self.maps), "trials": dict(self.trials)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.__post_init__()

    def save(self, path: AnyPath) -> None:
        """Write all roles to one safetensors file, replaced in one step.

        Parameters
        ----------
        path : str or path
            A file name or a URL.

        Raises
        ------
        InputError
            For a name of another kind of file.
        FastRealignError
            When writing fails.

        Examples
        --------
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> rows = {"text": rng.standard_normal((50, 8)) + 1.0, "image": rng.standard_normal((50, 8)) - 1.0}
        >>> roles = fit_roles(rows, anchor="image")
        >>> roles.save("roles.safetensors")
        >>> list(Roles.load("roles.safetensors"))
        ['text', 'image']
        """
        check_saved_name(path, "roles")
        tensors: dict[str, np.ndarray] = {}
        records = {}
        for role, method in self.maps.items():
            parts, records[role] = method.to_saved()  # type: ignore[attr-defined]  # an Alignment or a Baseline
            tensors |= {f"{role}/{name}": value for name, value in parts.items()}
        record = {
            "kind": "roles",
            "anchor": self.anchor,
            "method": self.method,
            "roles": records,
            "reason": self.reason,
        }
        save_tensors(path, tensors, {**record, "trials": {name: one.to_json() for name, one in self.trials.items()}})

    @classmethod
    def load(cls, path: AnyPath) -> Roles:
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or path
            A file name or a URL; hf://ORG/NAME is a repository of the Hugging Face hub.

        Returns
        -------
        Roles

        Raises
        ------
        InputError
            Names the file if it is missing, damaged or something else.
        """
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
        try:
            trials = {name: Trial.from_json(one) for name, one in (meta.get("trials") or {}).items()}
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise damaged(path, "roles", f"its trials cannot be read ({error})") from None
        return cls(maps, meta["anchor"], meta["method"], meta.get("reason") or "", trials)

    def __repr__(self) -> str:
        return f"Roles({', '.join(self)}; anchor={self.anchor!r}, method={self.method!r}, dim={self.dim})"


@computes
@documented(Compute)
def fit_roles(
    rows: Mapping[str, RowsLike],
    *,
    anchor: str,
    method: str = "realign",
    pairs: Mapping[tuple[str, str], tuple[RowsLike, RowsLike]] | None = None,
    column: Mapping[str, str] | None = None,
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
        Rows (n, dim) of each role, as `fastrealign.fit` takes them: arrays, tensors, paths. They need not be paired, and each
        role is read once for its statistics. A name has letters, digits, _ and -. Of a clip-retrieval root a role whose name
        says text ("query", "text", "title", "caption") is text_emb, one whose name says images img_emb; columns of one table
        are chosen in the same way. For other names give the folder, or the column.
    anchor : str
        The role that the others are moved to; with most methods its own map only makes unit rows.
    method : str
        realign, realign-exact, anchor, anchor-trace and bca move each role to the anchor; centred and z-score move all; none
        only makes unit rows. With pairs: balanced is centred, and scales the cosines of documents so that wrong ones of every
        role compete alike (methods/choosing.py); auto tries all of these on the pairs and chooses.
    pairs : mapping of (str, str) to (rows, rows), optional
        For auto and balanced: {("query", "image"): (queries, images), ("query", "text"): (queries, texts)}, which role is
        searched with and which is to be found; row i of one belongs with row i of the other. At least 100 pairs of each kind,
        documents of two roles or more; of more than 10,000 of a kind so many are drawn (seed 0). They are assumed to be held
        out: not among `rows`. Where they are the same arrays or files as those of a role, this is seen: then half of the pairs
        (fixed by their bits) fit the methods that are tried, the other half chooses, and the method chosen is fitted on all
        `rows`. A copy or a part of an array is not recognised.
    column : mapping of str to str, optional
        The parquet column, pickle key or tensor that holds the embeddings of a role, where that is ambiguous.
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
        For fewer than two roles, a name of a role that is not given (the nearest is suggested), roles of several widths,
        another method, and as `fastrealign.fit` does; it names the role. For pairs that are too few, of unequal numbers, or
        whose documents are all of one role.
    BadRowsError
        For a row without a direction, where bad_rows is "error".

    Examples
    --------
    >>> import fastrealign as fr, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> sides = {role: rng.standard_normal((300, 8)) + at for role, at in (("query", 1), ("text", 2), ("image", -1))}
    >>> roles = fr.fit_roles(sides, anchor="image", method="centred")
    >>> index = np.concatenate([roles["text"](sides["text"]), roles["image"](sides["image"])])
    >>> index.shape, roles["query"](sides["query"][0]).shape
    ((600, 8), (8,))
    >>> pairs = {("query", role): (sides["query"], sides[role]) for role in ("text", "image")}
    >>> chosen = fr.fit_roles(sides, anchor="image", method="auto", pairs=pairs)
    >>> chosen.reason.startswith(f"R@10 in one index: {chosen.method}"), len(chosen.trials)
    (True, 9)
    """
    every = (*ROLE_METHODS, BALANCED, AUTO)
    method = own_name(method) if isinstance(method, str) else method
    if method not in every:
        hint = meant(str(method), (*every, BLOCKWISE), f"choose one of {', '.join(every)}")
        raise InputError(f"there is no method {method!r} for roles{hint}")
    needed = method in (BALANCED, AUTO)
    if needed and pairs is None:
        example = either(
            "--pairs query:image=PATH,PATH --pairs query:text=PATH,PATH",
            "pairs={('query', 'image'): (queries, images), ('query', 'text'): (queries, texts)}",
        )
        raise InputError(f"{method} needs rows that belong together: {example}; without pairs choose another method")
    if pairs is not None and not needed:
        raise InputError(f"pairs are for {BALANCED} and {AUTO}, {method} takes none; leave them out")
    options = PassOptions(bad_rows, Compute(threads, devices, max_memory).workers, progress)
    fits = RoleFits.open(rows, anchor, column, options)
    if not needed:
        return Roles(fits.maps(method), anchor, method)
    choice = chosen(fits, method, pairs)
    return Roles(choice.maps, anchor, choice.method, choice.reason, choice.trials)
