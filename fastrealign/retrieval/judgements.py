"""Relevance judgements: which documents answer a query, and how well. Read from TREC qrels, a BEIR or MTEB folder, or a table.

TREC        four columns between white space, no header: query, iteration (ignored), document, grade
BEIR, MTEB  a folder with qrels/test.tsv (header query-id, corpus-id, score); of queries.jsonl and corpus.jsonl only the ids
            are used, where embeddings have none: line i is of row i
table       a header that names a query, a document and, if it likes, a grade (1 without); between commas, tabs or semicolons
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastrealign.core.errors import InputError
from fastrealign.core.formatting import count
from fastrealign.core.text import brief, one_line
from fastrealign.storage.paths import Place, place, suffix_of
from fastrealign.storage.records import parsed
from fastrealign.storage.text_lines import lines_of, rows_in_lines
from fastrealign.storage.text_values import as_text, id_text

if TYPE_CHECKING:
    from fastrealign.storage.paths import AnyPath

QUERY_NAMES = ("query-id", "query_id", "queryid", "query", "qid", "q_id", "topic")
DOCUMENT_NAMES = (
    "corpus-id",
    "corpus_id",
    "document-id",
    "document_id",
    "doc-id",
    "doc_id",
    "docid",
    "document",
    "doc",
    "docno",
    "image_id",
    "pid",
    "passage_id",
)
GRADE_NAMES = ("score", "relevance", "rel", "grade", "label", "judgement", "judgment")
# trec_eval counts gains in 32 bits.
MOST = 1_000_000
_IDS = ("_id", "id")
_DELIMITERS = (",", "\t", ";")  # the last is that of spreadsheets where the comma is the decimal mark


@dataclass(frozen=True, eq=False)
class Judgements:
    """Grades of documents for queries, by id.

    Attributes
    ----------
    name : str
        Where they come from, for messages.
    grades : dict of str to dict of str to int
        For each query the grade of each judged document; 0 is judged and not relevant.
    queries, documents : list of str or None
        Ids in the order of the rows, where the layout has them (BEIR).
    """

    name: str
    grades: dict[str, dict[str, int]]
    queries: list[str] | None = None
    documents: list[str] | None = None


def read_judgements(path: AnyPath) -> Judgements:
    """Read a file or a folder of judgements; the layout is recognised.

    Raises
    ------
    InputError
        Another layout, a grade that is negative or no whole number, a pair judged twice with two grades, none at all. The
        message names file and line.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "qrels.txt"
    >>> _ = file.write_text("q1 0 d7 2\\nq1 0 d9 0\\n")
    >>> read_judgements(file).grades
    {'q1': {'d7': 2, 'd9': 0}}
    """
    at = place(path)
    if isinstance(at, Path) and at.is_dir():
        return _beir(at)
    return _file(at)


def given_judgements(grades: Mapping[str, Mapping[str, int]]) -> Judgements:
    """Judgements in memory: of each query id a mapping of document ids to grades, checked as a file's are."""
    if not grades:
        raise InputError("qrels: holds no judgement; expected a mapping of document ids to grades for each query id")
    checked: dict[str, dict[str, int]] = {}
    for query, of in grades.items():
        if not isinstance(of, Mapping):
            raise InputError(f"qrels: query {brief(query)}: expected a mapping of document ids to grades")
        where = f"qrels: query {brief(query)}"
        checked[id_text(query)] = {id_text(document): _grade(str(grade), where) for document, grade in of.items()}
    return Judgements("qrels", checked)


def _beir(folder: Path) -> Judgements:
    file = folder / "qrels" / "test.tsv"
    if not file.exists():
        others = sorted(one.name for one in (folder / "qrels").glob("*.tsv"))
        hint = f"; name one of {', '.join(others)} itself" if others else ""
        raise InputError(f"{folder}: has no qrels/test.tsv, which a BEIR or MTEB folder has{hint}")
    ids = [_listed(folder / name) for name in ("queries.jsonl", "corpus.jsonl")]
    return Judgements(str(file), _file(file).grades, *ids)


def _listed(path: Path) -> list[str] | None:
    """The ids of a .jsonl file, in order; None where there is no such file."""
    if not path.exists():
        return None
    ids: dict[str, int] = {}
    for number, _, line in rows_in_lines(path):
        try:
            record = parsed(line)
            name = next(name for name in _IDS if name in record)
            key = id_text(record[name])
        except (ValueError, TypeError, StopIteration):
            raise InputError(f'{path}: line {number}: expected a JSON object with "_id"') from None
        if key in ids:
            raise InputError(f"{path}: line {number}: has the id {brief(key)}, as line {ids[key]} has")
        ids[key] = number
    return list(ids)


def _file(path: Place) -> Judgements:
    grades: dict[str, dict[str, int]] = {}
    for number, query, document, grade in _lines(path):
        where = f"{path}: line {number}"
        if not query or not document:
            raise InputError(f"{where}: has no {'document' if query else 'query'}; give the id")
        value = _grade(grade, where)
        of = grades.setdefault(query, {})
        if of.setdefault(document, value) != value:
            raise InputError(
                f"{where}: judges document {brief(document)} for query {brief(query)} again: {value}, before {of[document]}; "
                "keep one"
            )
    if not grades:
        raise InputError(f"{path}: holds no judgement; expected lines with a query, a document and a grade")
    return Judgements(str(path), grades)


def _grade(text: str, where: str) -> int:
    try:
        value = float(text)
        whole = int(value)
    except (ValueError, OverflowError):
        raise InputError(f"{where}: grade {brief(text)} is no number; expected a whole number of at least 0") from None
    if value < 0 or whole != value or whole > MOST:
        raise InputError(f"{where}: grade {brief(text)}; expected a whole number from 0 to {MOST:,}")
    return whole


def _lines(path: Place) -> Iterator[tuple[int, str, str, str]]:
    """(line, query, document, grade) of each judgement."""
    texts = ((number, text) for number, text in _texts(path) if text.strip())
    first = next(texts, None)
    if first is None:
        return
    suffix = suffix_of(path)
    delimiter = next((mark for mark in _DELIMITERS if _columns(first[1].split(mark))), None)
    if delimiter is None and (suffix == ".csv" or len(first[1].split()) != 4):  # TREC qrels may be a .tsv
        delimiter = "\t" if suffix == ".tsv" else "," if suffix == ".csv" or "," in first[1] else None
    if delimiter is not None:
        yield from _table(path, first, texts, delimiter)
        return
    for number, text in itertools.chain([first], texts):
        parts = text.split()
        if len(parts) != 4:
            raise InputError(
                f"{path}: line {number}: {count(len(parts), 'column')}; expected TREC qrels (query, iteration, document, "
                "grade), or a .csv or .tsv with a header such as query-id,corpus-id,score"
            )
        yield number, parts[0], parts[2], parts[3]


def _table(
    path: Place, first: tuple[int, str], texts: Iterator[tuple[int, str]], delimiter: str
) -> Iterator[tuple[int, str, str, str]]:
    header = _split(path, *first, delimiter)
    columns = _columns(header)
    if columns is None:
        raise InputError(
            f"{path}: line {first[0]}: no header that names a query and a document ({', '.join(map(brief, header[:6]))}); "
            "expected one such as query-id,corpus-id,score"
        )
    query, document, grade = columns
    for number, text in texts:
        parts = _split(path, number, text, delimiter)
        if len(parts) != len(header):
            raise InputError(f"{path}: line {number}: {count(len(parts), 'column')}, the header has {len(header)}")
        yield number, parts[query].strip(), parts[document].strip(), "1" if grade is None else parts[grade].strip()


def _split(path: Place, number: int, text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=delimiter))
    except (csv.Error, StopIteration) as error:
        raise InputError(f"{path}: line {number}: is no row of a table ({one_line(error)})") from None


def _columns(header: list[str]) -> tuple[int, int, int | None] | None:
    """Where a header has query, document and grade; None without the first two."""
    names = [name.strip().strip('"').lower() for name in header]

    def first(usual: tuple[str, ...]) -> int | None:
        return next((names.index(name) for name in usual if name in names), None)

    query, document = first(QUERY_NAMES), first(DOCUMENT_NAMES)
    return None if query is None or document is None else (query, document, first(GRADE_NAMES))


def _texts(path: Place) -> Iterator[tuple[int, str]]:
    for number, _, line in lines_of(path):
        try:
            text = as_text(line)
        except InputError as error:
            raise InputError(f"{path}: line {number}: {error}") from None
        text = text.rstrip("\r\n")
        if "\r" in text:
            raise InputError(
                f"{path}: line {number}: has carriage returns inside; save the file with \\n or \\r\\n after each line"
            )
        yield number, text
