"""Queries and documents as rows with ids, and what judgements say about them, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.formatting import count, does
from fastrealign.core.progress import SILENT
from fastrealign.core.text import brief, described, meant
from fastrealign.core.wording import either
from fastrealign.data.id_index import IdIndex, RowNumbers, Twice
from fastrealign.data.row_ids import IdsOf
from fastrealign.data.row_source import RowSource
from fastrealign.data.sources import FileSource, open_rows
from fastrealign.diagnostics.unit_rows import count_rows
from fastrealign.formats.choose_column import Wanted
from fastrealign.formats.metadata import attach_metadata
from fastrealign.formats.open import check_has_names
from fastrealign.retrieval.judgements import Judgements, given_judgements, read_judgements
from fastrealign.storage.paths import is_path

QUERY, TEXT, IMAGE = "query", "text", "image"
ROLES = (QUERY, TEXT, IMAGE)
NAMES = {QUERY: "queries", TEXT: "text", IMAGE: "images"}


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one role. ids_from: where the ids come from, for messages."""

    role: str
    source: RowSource
    rows: int
    ids: IdIndex | RowNumbers
    ids_from: str


@dataclass(frozen=True, eq=False)
class Relevant:
    """The relevant documents of one role: place of the query among those judged, row of the document, grade (at least 1)."""

    query: np.ndarray
    document: np.ndarray
    grade: np.ndarray


@dataclass(frozen=True, eq=False)
class Judged:
    """Judgements by row.

    queries    int64 (n,): the judged rows of the queries that have a relevant document, ascending
    relevant   of each role of documents
    notes      what was left out, in sentences
    """

    queries: np.ndarray
    relevant: Mapping[str, Relevant]
    notes: tuple[str, ...]


def open_role(role: str, given: Any, column: str | Wanted | None, ids: Any) -> Rows:
    """Open the rows of a role with their ids: `ids` (a file or a list), those of the files, or the numbers of the rows.

    Raises InputError where an id occurs twice, where ids are not as many as rows, and for rows that can be read only once.
    """
    source = open_rows(given, "target" if role == IMAGE else "source", column)
    if not source.again:
        raise InputError(f"{NAMES[role]}: can be read only once, and this reads more often; give a list of chunks")
    if not isinstance(source, FileSource):
        source.name = NAMES[role]
    rows = count_rows(source)
    if isinstance(source, FileSource):
        attach_metadata(source.files.shards)
        of = IdsOf(source.files.shards, ids, None)
    elif ids is not None:
        of = IdsOf([], ids, None, rows)
    else:
        return Rows(role, source, rows, RowNumbers(rows), f"the numbers of the rows, 0 to {rows - 1}, of {source.name}")
    if of.numbered:
        return Rows(role, source, rows, RowNumbers(rows), f"{of.named}, in {source.name}")
    try:
        index = IdIndex.make(of.batches(SILENT), rows, None, {})
    except Twice as pair:
        where = source.files.where if isinstance(source, FileSource) else lambda row: f"{source.name}: row {row}"
        raise InputError(
            f"{where(pair.second)}: has the same id as {where(pair.first)}; ids from {of.named} must be unique"
        ) from None
    return Rows(role, source, rows, index, of.named if ids is not None else f"{of.named} in {source.name}")


def judged_pairs(queries: Rows, documents: Mapping[str, Rows]) -> Judged:
    """Row i of the queries belongs to row i of the documents of every role."""
    for one in documents.values():
        if one.rows != queries.rows:
            raise InputError(
                f"{one.source.name}: {one.rows} rows, queries {queries.rows}; in pairs row i of the queries belongs to row i "
                "of the documents, else name a file of judgements"
            )
    rows = np.arange(queries.rows)
    return Judged(rows, {role: Relevant(rows, rows, np.ones_like(rows)) for role in documents}, ())


def judged_by_ids(judgements: Judgements, queries: Rows, documents: Mapping[str, Rows]) -> Judged:
    """Judgements by id, looked up among the ids of queries and documents.

    Raises InputError if no judged query is left that has an embedding and a relevant document with one.
    """
    names = list(judgements.grades)
    rows = queries.ids.find(names)
    notes = _missing("judged query", [names[i] for i in np.flatnonzero(rows < 0)], queries.ids_from)
    there = sorted(pair for pair in zip(rows.tolist(), names, strict=True) if pair[0] >= 0)
    pairs = [(row, judgements.grades[name]) for row, name in there]
    wanted = list(dict.fromkeys(id for _, of in pairs for id in of))
    found = {role: dict(zip(wanted, one.ids.find(wanted).tolist(), strict=True)) for role, one in documents.items()}
    unknown = [id for id in wanted if all(of[id] < 0 for of in found.values())]
    listed = " and ".join(dict.fromkeys(one.ids_from for one in documents.values()))
    notes += _missing("judged document", unknown, listed)
    if len(documents) == 2:
        both = sum(all(of[id] >= 0 for of in found.values()) for id in wanted)
        if both:
            notes.append(f"{count(both, 'judged id', 'are')} of a text and of an image: both count as the document")
    kept: list[int] = []
    lists: dict[str, list[tuple[int, int, int]]] = {role: [] for role in documents}
    empty = 0
    for row, of in pairs:
        own = {
            role: [(len(kept), rows_of[id], grade) for id, grade in of.items() if grade > 0 and rows_of[id] >= 0]
            for role, rows_of in found.items()
        }
        if not any(own.values()):
            empty += 1
            continue
        kept.append(row)
        for role, triples in own.items():
            lists[role] += triples
    if empty:
        notes.append(f"{count(empty, 'judged query', 'have')} no relevant document among these")
    if not kept and not any(grade for of in judgements.grades.values() for grade in of.values()):
        raise InputError(
            f"{judgements.name}: all grades are 0, so no document is relevant; give documents that answer their query a grade "
            "of at least 1"
        )
    if not kept:
        why = f": {'; '.join(notes)}" if notes else ""
        raise InputError(f"{judgements.name}: no judged query is left that can be measured{why}")
    relevant = {role: Relevant(*np.array(of, np.int64).reshape(-1, 3).T) for role, of in lists.items()}
    return Judged(np.array(kept, np.int64), relevant, tuple(notes))


def sampled(judged: Judged, most: int, seed: int) -> Judged:
    """At most `most` of the judged queries, drawn at random; the notes say so."""
    n = len(judged.queries)
    if n <= most:
        return judged
    keep = np.sort(np.random.default_rng(seed).choice(n, most, replace=False))
    place = np.full(n, -1)
    place[keep] = np.arange(most)
    relevant = {}
    for role, of in judged.relevant.items():
        here = place[of.query] >= 0
        relevant[role] = Relevant(place[of.query[here]], of.document[here], of.grade[here])
    note = f"{most:,} of {n:,} judged queries {does(most, 'are')} measured, drawn with seed {seed}"
    return Judged(judged.queries[keep], relevant, (*judged.notes, note))


def named_in_order(side: Rows, ids: Sequence[str] | None, file: str) -> Rows:
    """The rows with the ids of a layout's list, where they have none of their own; row i is of line i."""
    if ids is None or not isinstance(side.ids, RowNumbers):
        return side
    if len(ids) != side.rows:
        raise InputError(
            f"{side.source.name}: has no ids, and {count(side.rows, 'row')} where {file} has "
            f"{count(len(ids), 'line')}; give the ids of the rows "
            f"in their order: {either(f'--ids {side.role}=FILE', f'ids={{{side.role!r}: ...}}')}"
        )
    of = IdsOf([], ids, None, side.rows)
    index = IdIndex.make(of.batches(SILENT), side.rows, None, {})
    return Rows(side.role, side.source, side.rows, index, file)


def _missing(thing: str, ids: list[str], listed: str) -> list[str]:
    if not ids:
        return []
    return [f"{count(len(ids), thing, 'have')} no embedding, the first is {brief(ids[0])} (looked for among {listed})"]


def open_sides(
    given: Mapping[str, Any], ids: Mapping[str, Any], column: str | None, image_column: str | None
) -> dict[str, Rows]:
    """Open the rows of all roles, those of None excepted: `column` names the embeddings of all, `image_column` those of images.

    Raises InputError for an unknown role, for rows of several widths, and for a name where no file has names.
    """
    columns = (column, Wanted.on("target", image_column, elsewhere=column))
    for role in ids:
        if role not in ROLES:
            hint = meant(str(role), ROLES, f"the roles are {', '.join(ROLES)}")
            raise InputError(f"ids: there is no role {role!r}{hint}")
        if given[role] is None:
            raise InputError(f"ids: of {role}, but there are no rows of it")
    sides = {
        role: open_role(role, rows, columns[role == IMAGE], ids.get(role))
        for role, rows in given.items()
        if rows is not None
    }
    _check_column(sides, column, image_column)
    of_queries = sides[QUERY].source
    for side in sides.values():
        if side.source.d != of_queries.d:
            raise InputError(
                f"{side.source.name}: rows are {side.source.d} wide, those of {of_queries.name} {of_queries.d}; all must come "
                "from one encoder pair"
            )
    return sides


def _check_column(sides: Mapping[str, Rows], column: str | None, image_column: str | None) -> None:
    """InputError where a name was given for all rows, and none of the files that it is for has names."""
    files = [
        side.source.files
        for role, side in sides.items()
        if isinstance(side.source, FileSource) and (role != IMAGE or image_column is None)
    ]
    if files:
        check_has_names(files[0].name, [shard for one in files for shard in one.shards], Wanted.of(column))


def judged_rows(sides: Mapping[str, Rows], qrels: Any) -> Judged:
    """The judgements by row; None: pairs. Rows without ids of their own take those of a BEIR folder."""
    documents = {role: side for role, side in sides.items() if role != QUERY}
    if qrels is None:
        return judged_pairs(sides[QUERY], documents)
    if not isinstance(qrels, Mapping) and not is_path(qrels):
        expected = "a path, or a mapping of query ids to mappings of document ids to grades"
        raise InputError(f"qrels: {described(qrels)}, expected {expected}")
    read = given_judgements(qrels) if isinstance(qrels, Mapping) else read_judgements(qrels)
    queries = named_in_order(sides[QUERY], read.queries, "queries.jsonl")
    documents = {role: named_in_order(side, read.documents, "corpus.jsonl") for role, side in documents.items()}
    return judged_by_ids(read, queries, documents)
