"""Opens the rows of two encoders in pairs: row i of one with row i of the other, or both by the ids that files hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastrealign.core.errors import InputError, warn
from fastrealign.core.formatting import count, does
from fastrealign.core.progress import Progress
from fastrealign.core.wording import option
from fastrealign.data.id_index import IdIndex, RowNumbers, Twice
from fastrealign.data.lookup import Embeddings
from fastrealign.data.options import check_choice
from fastrealign.data.pair import check_apart
from fastrealign.data.row_ids import IdsOf
from fastrealign.data.row_source import Piece, RowsLike, RowSource, in_memory
from fastrealign.data.sources import ArraySource, FileSource, open_rows
from fastrealign.formats.choose_column import Wanted
from fastrealign.methods.pair_moments import BLOCK_ROWS

MATCHING = ("auto", "rows", "ids")


class Pairs(NamedTuple):
    """Sources of equally many rows, matched by their order: old, new, and where they were given, queries.

    matched   "rows" or "ids"
    """

    sides: list[RowSource]
    matched: str


def open_pairs(
    old: RowsLike,
    new: RowsLike,
    queries: RowsLike,
    matching: str,
    columns: tuple[str | None, str | None],
    progress: Progress,
) -> Pairs:
    """Open both sides. Raises InputError for the same rows on both, and by ids for repeated ones and where none is on both."""
    check_choice("pairs", matching, MATCHING)
    # Both as the source, so that a folder with text and images gives the same side of both encoders.
    opened = [_named("old", old, columns[0]), _named("new", new, columns[1])]
    try:
        check_apart(*opened)
    except InputError:
        raise InputError(
            f"{opened[0].name}: old and new are the same rows; name what the new encoder embedded, in one file by its column: "
            f"{option('column')} and {option('target_column')}"
        ) from None
    asked = [] if queries is None else [_named("queries", queries, None)]
    if asked and asked[0].d != opened[1].d:
        raise InputError(
            f"{asked[0].name}: rows are {asked[0].d} wide, those of {opened[1].name} {opened[1].d}; queries are of the new "
            "encoder"
        )
    ids = [IdsOf(side.files.shards, None, None) if isinstance(side, FileSource) else None for side in opened]
    have = [one is not None and not one.numbered for one in ids]
    if matching == "ids" and not all(have):
        without = opened[have.index(False)]
        raise InputError(
            f"{without.name}: holds no ids to match pairs by; if the rows are in the same order: {option('pairs', 'rows')}"
        )
    if matching == "rows" or not all(have):
        return Pairs([*opened, *asked], "rows")
    return Pairs(_by_ids(opened, ids, asked, progress), "ids")


def _named(side: str, spec: Any, column: str | None) -> RowSource:
    wanted = Wanted(column, "source", keyword="target_column" if side == "new" else "column", alone=True)
    try:
        opened = open_rows(spec, "source", wanted)
    except InputError as error:
        if not re.match("source[:,]", str(error)):  # as rows in memory are named
            raise
        raise InputError(side + str(error).removeprefix("source")) from None
    if not isinstance(opened, FileSource):
        opened.name = side
    return opened


def _by_ids(
    opened: list[RowSource], ids: list[IdsOf | None], asked: list[RowSource], progress: Progress
) -> list[RowSource]:
    """The rows of new whose ids old has too, and those of old, in the order of new."""
    indexes = []
    for side, of in zip(opened, ids, strict=True):
        assert isinstance(side, FileSource) and of is not None
        try:
            indexes.append(IdIndex.make(of.batches(progress), side.rows, None, {}))
        except Twice as pair:
            where = _where(side)
            raise InputError(
                f"{where(pair.second)}: has the id {of.of_row(pair.second)!r}, as {where(pair.first)} has; pairs need ids that "
                "occur once"
            ) from None
    of_new = ids[1]
    assert of_new is not None and opened[1].rows is not None
    found = np.concatenate([indexes[0].find(batch) for batch in of_new.batches(progress)])
    there = np.flatnonzero(found >= 0)
    missing = np.flatnonzero(found < 0)
    if not len(there):
        raise InputError(
            f"{opened[1].name}: none of its {count(len(found), 'id')} is in {opened[0].name}, the first is "
            f"{of_new.of_row(0)!r}; match rows by their order: {option('pairs', 'rows')}"
        )
    if len(missing):
        warn(
            f"{opened[1].name}: {len(missing):,} of {len(found):,} ids {does(len(missing), 'are')} not in "
            f"{opened[0].name}, the first is "
            f"{of_new.of_row(int(missing[0]))!r}; what lacks a pair is left out"
        )
    for side in asked:
        if side.rows != len(found):
            raise InputError(
                f"{side.name}: expected a row for each of {count(len(found), 'row')} of {opened[1].name}, got {side.rows}"
            )
    return [_Picked(opened[0], found[there]), *(_Picked(side, there) for side in (opened[1], *asked))]


class _Picked(RowSource):
    """Rows of a source with these numbers, in their order; of files as float32."""

    def __init__(self, base: RowSource, numbers: np.ndarray) -> None:
        self.name, self.d, self.rows = base.name, base.d, len(numbers)
        self._base, self._numbers = base, numbers
        self._read: Callable[[np.ndarray], np.ndarray]
        if isinstance(base, FileSource):
            self._read = Embeddings(base.files, RowNumbers(base.rows), "", {}, (None, None)).at
        elif isinstance(base, ArraySource):
            self._read = in_memory(base.array).__getitem__
        else:
            raise InputError(
                f"{base.name}: pairs by ids are read at random; give files or an array, or {option('pairs', 'rows')}"
            )

    @property
    def encoder(self) -> str | None:
        return self._base.encoder

    def pieces(self, nbytes: int = 0) -> Iterator[Piece]:
        yield Piece(0, 0, len(self._numbers), 0)

    def chunks(self, piece: Piece, scratch: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for lo in range(piece.lo, piece.hi, BLOCK_ROWS):
            yield lo, self._read(self._numbers[lo : lo + BLOCK_ROWS])

    def where(self, shard: int, row: int) -> str:
        return _where(self._base)(int(self._numbers[row]))

    def pilot(self, rows: int) -> np.ndarray:
        return self._read(self._numbers[:rows])

    def check_unchanged(self) -> None:
        self._base.check_unchanged()


def _where(source: RowSource) -> Callable[[int], str]:
    """Names a row by its number over all shards."""
    if isinstance(source, FileSource):
        return Embeddings(source.files, RowNumbers(source.rows), "", {}, (None, None)).where
    return lambda row: source.where(0, row)
