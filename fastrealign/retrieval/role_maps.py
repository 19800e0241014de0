"""The map of each role of a store, applied to batches of rows, and counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from fastrealign.core.bad_rows import GOOD, REASONS
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.progress import Progress
from fastrealign.core.text import meant
from fastrealign.core.wording import option
from fastrealign.formats.saved_tensors import OtherKind
from fastrealign.methods.loading import as_method
from fastrealign.methods.method import Call, Method
from fastrealign.methods.roles import Roles
from fastrealign.retrieval.stores.base import Aligned, Batch, written_dtype
from fastrealign.storage.paths import AnyPath, is_path

# Rows of one role among others are gathered in blocks of this size, so that they stay in the cache until they are mapped.
_BLOCK_BYTES = 1 << 20


# The maps of an index: of each role, or one for all rows; or the file that either was saved to.
RolesLike: TypeAlias = Roles | Method | AnyPath


@dataclass(frozen=True)
class RoleMaps:
    """The map of each role, and a fingerprint of all: Roles, or one method, whose role has the name of the method.

    single: whether it is one map for all rows
    """

    maps: Mapping[str, Method]
    method: str
    single: bool = False

    @classmethod
    def of(cls, given: RolesLike) -> RoleMaps:
        """Of Roles, a fitted method, or the path of either."""
        if isinstance(given, Roles):
            return cls(given.maps, given.method)
        if is_path(given):
            try:
                return cls.of(Roles.load(given))
            except OtherKind:
                pass
        method = as_method(given)
        return cls(MappingProxyType({method.name: method}), method.name, single=True)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for role, method in sorted(self.maps.items()):
            digest.update(f"{role} {method.fingerprint}\n".encode())
        return digest.hexdigest()

    @property
    def dim_out(self) -> int:
        """Width of the mapped rows, which is that of every role's target."""
        one = next(iter(self.maps.values()))
        return getattr(one, "dim_out", one.dim)

    def known(self, role: str, otherwise: str = "leave it out") -> str:
        """The role, if there is one of that name. `otherwise`: what to do where there is one map for all rows."""
        if self.single and role not in self.maps:
            raise InputError(
                f"there is no role {role!r}: {self.method} is one map for all rows, not a file of roles; {otherwise}"
            )
        if role not in self.maps:
            there = f"the roles are {', '.join(self.maps)}"
            raise InputError(f"there is no role {role!r}{meant(role, self.maps, there)}")
        return role


@dataclass(frozen=True)
class MapOptions:
    bad_rows: str
    threads: int | None
    progress: Progress


@dataclass
class Mapper:
    """Maps batches by role, and counts."""

    where: str
    maps: RoleMaps
    role: str | None
    options: MapOptions
    skipped: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def __call__(self, batch: Batch) -> Aligned:
        out = np.empty((len(batch.rows), self.maps.dim_out), written_dtype(batch.rows.dtype))
        flags = np.full(len(out), GOOD, np.uint8)
        parts = [(self.role, None)] if batch.roles is None else self._parts(batch.roles)
        block = max(1, _BLOCK_BYTES // batch.rows[:1].nbytes) if len(parts) > 1 else 0
        rows, mapped = (np.empty((block, like.shape[1]), like.dtype) for like in (batch.rows, out))
        states = np.empty(block, np.uint8)
        for role, at in parts:
            assert role is not None
            if at is None or len(at) == len(out):
                self._apply(role, batch.rows, out, flags)
                continue
            for first in range(0, len(at), len(states)):
                some = at[first : first + len(states)]
                n = len(some)
                np.take(batch.rows, some, axis=0, out=rows[:n], mode="clip")  # "raise" would copy them twice
                self._apply(role, rows[:n], mapped[:n], states[:n])
                out[some], flags[some] = mapped[:n], states[:n]
        good = flags == GOOD
        if not good.all():
            self._bad(batch, flags)
        self.options.progress.advance(len(out), out.nbytes)
        return Aligned(out, good)

    def _parts(self, roles: Sequence[Any] | np.ndarray) -> list[tuple[str, np.ndarray]]:
        """The numbers of the rows of each role."""
        numbers = {role: at for at, role in enumerate(self.maps.maps)}
        codes = np.fromiter((numbers.get(value, -1) for value in roles), np.int64, len(roles))
        if (codes < 0).any():  # written since the values were counted
            value = roles[int(np.argmin(codes))]
            raise InputError(
                f"{self.where}: a row of role {value!r} was added during the run; correct it, and run again"
            )
        return [(role, np.flatnonzero(codes == at)) for role, at in numbers.items() if (codes == at).any()]

    def _apply(self, role: str, rows: np.ndarray, out: np.ndarray, flags: np.ndarray) -> None:
        found = self.maps.maps[role].apply(rows, out, Call(flags=flags, threads=self.options.threads))
        self.counts[role] += found.good

    def _bad(self, batch: Batch, flags: np.ndarray) -> None:
        bad = np.flatnonzero(flags != GOOD)
        self.skipped += len(bad)
        if self.options.bad_rows == "error":
            first = int(bad[0])
            raise BadRowsError(
                f"{self.where}: row {batch.ids[first]} {REASONS[int(flags[first])]}; fix it, or leave its aligned vector empty "
                f"with {option('bad_rows', 'skip')}"
            )
