"""The map of each role of a store, applied to batches of rows, and counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

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


# An entry of a stored row that differs by more from what its vector is mapped to, this share of it or this much, is of another
# vector: rounding differs by less, also between processors.
_SHARE = {np.dtype(np.float16): 2e-3, np.dtype(np.float32): 0.0}
_LEAST = 1e-5

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


@dataclass
class Mapper:
    """Maps batches by role, and counts: what was written by role, rows without a direction, rows that were changed since, and
    rows whose vector was emptied since."""

    where: str
    maps: RoleMaps
    role: str | None
    bad_rows: str
    threads: int | None
    progress: Progress
    skipped: int = 0
    since: int = 0
    bare: int = 0
    advanced: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def __call__(self, batch: Batch) -> Aligned:
        parts = self._parts(batch)
        out, flags = self._mapped(batch, parts)
        good = flags == GOOD
        for role, at in parts:
            self.counts[role] += int(np.count_nonzero(good if at is None else good[at]))
        if not good.all():
            self._bad(batch, flags)
        self.advance(len(out), out.nbytes)
        return Aligned(out, good)

    def changed(self, batch: Batch, stored: np.ndarray) -> np.ndarray:
        out, flags = self._mapped(batch, self._parts(batch))
        allowed = np.abs(stored, dtype=np.float32) * _SHARE[out.dtype] + _LEAST
        alike = (np.abs(np.subtract(out, stored, dtype=np.float32)) <= allowed).all(axis=1)
        others = ~(alike & (flags == GOOD))
        n = int(np.count_nonzero(others))
        self.since += n
        self.advance(len(out) - n, out[n:].nbytes)
        return others

    def advance(self, rows: int, nbytes: int) -> None:
        """Report progress."""
        self.advanced += rows
        self.progress.advance(rows, nbytes)

    def _mapped(self, batch: Batch, parts: list[tuple[str, np.ndarray | None]]) -> tuple[np.ndarray, np.ndarray]:
        """Mapped rows, and the state of each."""
        out = np.empty((len(batch.rows), self.maps.dim_out), written_dtype(batch.rows.dtype))
        flags = np.full(len(out), GOOD, np.uint8)
        block = max(1, _BLOCK_BYTES // batch.rows[:1].nbytes) if len(parts) > 1 else 0
        rows, mapped = (np.empty((block, like.shape[1]), like.dtype) for like in (batch.rows, out))
        states = np.empty(block, np.uint8)
        for role, at in parts:
            if at is None or len(at) == len(out):
                self._apply(role, batch.rows, out, flags)
                continue
            for first in range(0, len(at), len(states)):
                some = at[first : first + len(states)]
                n = len(some)
                np.take(batch.rows, some, axis=0, out=rows[:n], mode="clip")  # "raise" would copy them twice
                self._apply(role, rows[:n], mapped[:n], states[:n])
                out[some], flags[some] = mapped[:n], states[:n]
        return out, flags

    def _parts(self, batch: Batch) -> list[tuple[str, np.ndarray | None]]:
        """The numbers of the rows of each role; None for all."""
        roles = batch.roles
        if roles is None:
            assert self.role is not None
            return [(self.role, None)]
        numbers = {role: at for at, role in enumerate(self.maps.maps)}
        codes = np.fromiter((numbers.get(value, -1) for value in roles), np.int64, len(roles))
        if (codes < 0).any():  # written since the values were counted
            value = roles[int(np.argmin(codes))]
            raise InputError(
                f"{self.where}: a row of role {value!r} was added during the run; correct it, and run again"
            )
        return [(role, np.flatnonzero(codes == at)) for role, at in numbers.items() if (codes == at).any()]

    def _apply(self, role: str, rows: np.ndarray, out: np.ndarray, flags: np.ndarray) -> None:
        self.maps.maps[role].apply(rows, out, Call(flags=flags, threads=self.threads))

    def _bad(self, batch: Batch, flags: np.ndarray) -> None:
        bad = np.flatnonzero(flags != GOOD)
        self.skipped += len(bad)
        if self.bad_rows == "error":
            first = int(bad[0])
            raise BadRowsError(
                f"{self.where}: row {batch.ids[first]} {REASONS[int(flags[first])]}; fix it, or leave its aligned vector empty "
                f"with {option('bad_rows', 'skip')}"
            )
