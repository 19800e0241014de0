"""The fits of the roles of an index: each role is opened and read once, whatever is fitted of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastrealign.core import ops
from fastrealign.core.bad_rows import GOOD
from fastrealign.core.errors import InputError
from fastrealign.core.progress import Progress
from fastrealign.core.row_argument import Rows
from fastrealign.core.row_map import UNIT
from fastrealign.core.text import meant
from fastrealign.core.wording import either, option
from fastrealign.data.options import PassOptions
from fastrealign.data.pair import shared_rows
from fastrealign.data.row_source import RowsLike, RowSource
from fastrealign.data.sources import FileSource, names_files, open_rows
from fastrealign.diagnostics.second_moments import Covariance, covariance
from fastrealign.diagnostics.unit_rows import BLOCK_ROWS, chunks
from fastrealign.formats.choose_column import Wanted, role_of
from fastrealign.formats.metadata import SIDE_FOLDERS
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.baseline import Baseline, unit_rows
from fastrealign.methods.fit_options import TWO_SIDED, FitOptions
from fastrealign.methods.fitting import fit_sources, with_gap_left
from fastrealign.methods.method import Method
from fastrealign.methods.misfit import warn_if_aligned
from fastrealign.methods.statistics import Known, SideStatistics, check_side, read_side, warn_of_no_centroid
from fastrealign.storage.paths import is_path, place

ROLE_METHODS = ("realign", "realign-exact", "anchor", "anchor-trace", "bca", *TWO_SIDED, "none")
# A standard deviation below this is rounding.
_NO_SPREAD = 1e-12
_NAME = re.compile(r"[A-Za-z0-9_-]+")
# Words for text beyond those that name columns.
_TEXTS = ("query", "queries", "title", "titles", "document", "documents", "doc", "docs")


@dataclass
class RoleFits:
    """Opened rows of each role, of one width, and their statistics once they were read."""

    sources: dict[str, RowSource]
    anchor: str
    options: PassOptions
    columns: Mapping[str, str]
    _sides: dict[str, SideStatistics] = field(default_factory=dict)
    _covariance: Covariance | None = None
    _warned: bool = False

    @classmethod
    def open(
        cls, rows: Mapping[str, Any], anchor: str, columns: Mapping[str, str] | None, options: PassOptions
    ) -> RoleFits:
        """Open the rows of all roles. InputError, which names the role, for what cannot be read and for other widths."""
        check_names(rows, anchor)
        columns = columns_by_role(columns, rows)
        sources = {role: open_role(role, given, columns.get(role)) for role, given in rows.items()}
        for role, source in sources.items():
            if source.d != sources[anchor].d:
                raise InputError(
                    f"role {role}: rows are {source.d} wide, those of the anchor {anchor} {sources[anchor].d}; map them first, "
                    "by pairs of items that both encoders embedded (fr.fit_map, fastrealign map), and give the mapped rows"
                )
        for source in sources.values():
            warn_if_aligned(source)
        return cls(sources, anchor, options, columns)

    def read(self) -> None:
        """Read the statistics of every role that were not read yet."""
        for role in self.sources:
            self.side(role)

    def side(self, role: str) -> SideStatistics:
        """The statistics of a role, read once."""
        if role not in self._sides:
            source = self.sources[role]
            with named(role):
                found = read_side(source, f"reading {role}", self.options)
                check_side(source.name, found)
            self._sides[role] = found
        return self._sides[role]

    def maps(self, method: str, gap_left: bool = True) -> dict[str, Method]:
        """The map of each role, by one of ROLE_METHODS. Without gap_left alignments are spared the pass that measures it."""
        if method in TWO_SIDED:
            maps = {role: self._two_sided(role, method) for role in self.sources}
        else:
            moved = {role: self._one_sided(role, method, gap_left) for role in self.sources if role != self.anchor}
            stays = {self.anchor: unit_rows(self.sources[self.anchor].d)}
            maps = {role: (moved | stays)[role] for role in self.sources}
        for role, source in self.sources.items():
            with named(role):
                source.check_unchanged()
        return maps

    def measured(self, maps: Mapping[str, Method]) -> dict[str, Method]:
        """The maps, each alignment with the gap that it leaves."""
        return {
            role: with_gap_left(one, self.sources[role], self.options) if isinstance(one, Alignment) else one
            for role, one in maps.items()
        }

    def gap(self, role: str) -> float:
        """The distance of its mean from that of the anchor."""
        return float(np.linalg.norm(self.side(role).mean - self.side(self.anchor).mean))

    def _one_sided(self, role: str, method: str, gap_left: bool) -> Method:
        source, there = self.sources[role], self.sources[self.anchor]
        anchor = self.side(self.anchor)
        if not self._warned:
            warn_of_no_centroid(there.name, anchor)
            self._warned = True
        if same := shared_rows(source, there):
            raise InputError(
                f"role {role}: the same rows as those of the anchor {self.anchor}: {same[0]} is both; give each role its own"
            )
        with named(role):
            if method == "bca" and self.options.bad_rows == "error" and self._covariance is None:
                self._covariance = covariance(there)
            read = Known(self._sides.get(role), anchor, self._covariance)
            fitted = fit_sources(source, there, FitOptions(method), self.options, read)
            if not isinstance(fitted, Alignment):
                return fitted
            fitted = fitted.named((source.encoder, there.encoder), (source.column, there.column))
            return with_gap_left(fitted, source, self.options) if gap_left else fitted

    def _two_sided(self, role: str, method: str) -> Method:
        side, there = self.side(role), self.side(self.anchor)
        with named(role):
            scale = None
            if method == "z-score":
                scale = _standardising(self.sources[role], side.mean, self.options.progress)
        return Baseline(method, there.mean, self.gap(role), b=-side.mean, scale=scale)


def open_role(role: str, given: RowsLike, column: str | None = None) -> RowSource:
    """The rows of a role, which errors and warnings name.

    A name that says text or images decides between the folders of a clip-retrieval root, and between columns of a table.
    """
    with named(role):
        if not names_files(given):
            if column is not None:
                raise InputError(f"column {column!r} is of files, and these rows are in memory; leave it out")
            return open_rows(given, f"role {role}")
        side = _side_of(role)
        if side is None and is_path(given):
            folders = [place(given) / folder for folder in SIDE_FOLDERS.values()]
            if all(folder.is_dir() for folder in folders):
                raise InputError(f"{given}: holds text and images; name the folder: {' or '.join(map(str, folders))}")
        wanted = Wanted(column, side, command="--role NAME=PATH:COLUMN", alone=True)
        opened = open_rows(given, side or "target", wanted)
        if isinstance(opened, FileSource):
            opened.name = f"role {role}: {opened.name}"
        return opened


def _side_of(role: str) -> str | None:
    words = [word for word in re.split("[_-]", role.lower()) if word]
    if any(word in _TEXTS for word in words):
        return "source"
    return {"text": "source", "images": "target"}.get(role_of(role) or "")


def columns_by_role(columns: Any, rows: Mapping[str, Any]) -> Mapping[str, str]:
    """The column of each role, checked."""
    if columns is None:
        return {}
    if not isinstance(columns, Mapping):
        raise InputError(f"column={columns!r}: expected a mapping of role to column, such as {{'text': 'title_emb'}}")
    for role, column in columns.items():
        known(role, rows)
        if not isinstance(column, str):
            raise InputError(f"role {role}: column={column!r}, expected the name of one")
    return columns


def check_names(rows: Rows, anchor: str) -> None:
    """InputError for fewer than two roles, names that are none, and an anchor that is not among them."""
    if not isinstance(rows, Mapping) or len(rows) < 2:
        python = "expected a mapping of at least two names to rows, such as {'text': texts, 'image': images}"
        shell = f"expected at least two, such as {option('role', 'text=text_emb/')} {option('role', 'image=img_emb/')}"
        raise InputError(f"roles: {either(shell, python)}")
    for role in rows:
        if not isinstance(role, str) or not _NAME.fullmatch(role):
            raise InputError(f"role {role!r}: expected a name of letters, digits, _ and -")
    known(anchor, rows)


def known(role: str, names: Mapping[str, Any]) -> str:
    """The role; InputError, with the nearest that is meant, for a name that is not among these."""
    if not isinstance(role, str) or role not in names:
        hint = meant(str(role), names, f"the roles are {', '.join(names)}")
        raise InputError(f"there is no role {role!r}{hint}")
    return role


@contextmanager
def named(role: str, what: str = "role") -> Iterator[None]:
    """An InputError says which role it concerns."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(f"{what} {role}"):
            raise
        raise type(error)(f"{what} {role}: {error}") from None


def _standardising(source: RowSource, mean: np.ndarray, progress: Progress) -> np.ndarray:
    """1 / the standard deviation of each column of the unit rows that have a direction; 1 for a column without spread.

    Projecting before the division changes no direction. Blocks, and so the sums, do not depend on the chunks of the source.
    """
    total, count = np.zeros(source.d), 0
    waiting = np.empty((0, source.d))
    with progress.running("reading the spread", source.rows, source.nbytes):
        for _, _, rows in chunks(source):
            for at in range(0, len(rows), BLOCK_ROWS):
                part = rows[at : at + BLOCK_ROWS]
                e, flags = np.empty(part.shape), np.empty(len(part), np.uint8)
                ops.apply(part, UNIT, e, flags=flags)
                waiting = np.concatenate([waiting, e[flags == GOOD]])
                if len(waiting) >= BLOCK_ROWS:
                    total += ((waiting[:BLOCK_ROWS] - mean) ** 2).sum(axis=0)
                    count, waiting = count + BLOCK_ROWS, waiting[BLOCK_ROWS:]
                progress.advance(len(part), part.nbytes)
    total += ((waiting - mean) ** 2).sum(axis=0)
    deviation = np.sqrt(total / (count + len(waiting)))
    return 1.0 / np.where(deviation > _NO_SPREAD, deviation, 1.0)
