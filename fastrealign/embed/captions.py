"""Captions from .txt (one a line), .jsonl (one record a line) and .parquet files, one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.core.text import is_utf8, meant, one_line, printable, shown
from fastrealign.core.wording import option
from fastrealign.data.usual_names import CAPTION_NAMES, ID_NAMES, first_of
from fastrealign.formats.choose_column import listed
from fastrealign.formats.parquet import ParquetTable
from fastrealign.storage.files import file_size
from fastrealign.storage.records import parsed
from fastrealign.storage.text_lines import lines_of, rows_in_lines
from fastrealign.storage.text_values import as_text, id_text, values_of

CAPTION_FILES = {".txt", ".jsonl", ".parquet"}

_BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption, or the reason why there is none (`problem`).

    where   how messages name it
    """

    id: str
    where: str
    text: str
    problem: str | None = None

    def state(self) -> tuple[int, list[str]]:
        """(bytes, values that change with it)."""
        return len(self.text.encode()), [self.id, self.text]

    def load(self) -> str:
        """The text."""
        return self.text


def captions_in(path: str, prefix: str, column: str | None, ids: str | None, taken: set[str]) -> Iterator[Caption]:
    """The captions of one file; a line or row without one has a `problem`.

    prefix        precedes the number of the line or row (from 0, as in `revision.examples`) where this serves as an id
    column, ids   keys or columns of the captions and of their ids; by default the usual ones
    taken         receives the key or column that the captions are in
    Raises InputError for a file that cannot be used at all.
    """
    file_size(path)
    kind = Path(path).suffix.lower()
    if kind == ".txt":
        if column or ids:
            raise InputError(
                f"{path}: is plain text, one caption a line; {option('column')} and {option('ids')} are for .jsonl and .parquet"
            )
        yield from _lines(path, prefix)
    else:
        yield from (_records if kind == ".jsonl" else _rows)(path, prefix, column, ids, taken)


def name_problem(id: str) -> str | None:
    """The problem of an id that is or begins with the name of a file, or None."""
    return None if is_utf8(id) else "the name is not UTF-8, as an id must be"


def text_of(value: object) -> tuple[str, str | None]:
    """(caption, None), or ("", its problem)."""
    try:
        value = as_text(value)
    except InputError as error:
        return "", f"the caption {error}"
    if value is None:
        return "", "has no caption (null)"
    if not isinstance(value, str):
        return "", f"the caption is {type(value).__name__}, expected text"
    value = value.strip()
    if not is_utf8(value):
        return "", "the caption holds half of a surrogate pair, which is no text"
    return (value, None) if value else ("", "the caption is empty")


def _lines(path: str, prefix: str) -> Iterator[Caption]:
    for number, _, line in rows_in_lines(path):
        yield _caption(f"{prefix}{number - 1}", f"{shown(path)}: line {number}", *text_of(line), None, False)


def _records(path: str, prefix: str, column: str | None, ids: str | None, taken: set[str]) -> Iterator[Caption]:
    for number, _, line in lines_of(path):
        where, id = f"{shown(path)}: line {number}", f"{prefix}{number - 1}"
        if not line.strip():
            continue
        try:
            record = parsed(line.decode())
        except ValueError as error:
            yield Caption(id, where, "", f"is not JSON ({one_line(error)})")
            continue
        if not isinstance(record, dict):
            yield Caption(id, where, "", f'is {type(record).__name__}, expected {{"caption": ...}}')
            continue
        names = list(record)
        # The first record with a caption determines the keys of all, so that either all records have an id or none has.
        column = column or first_of(CAPTION_NAMES, names)
        if column is None:
            yield Caption(id, where, "", _no_captions(names, "key"))
            continue
        if column not in record:
            yield Caption(id, where, "", f"has no {column!r}{meant(column, names, f'its keys are {_names(names)}')}")
            continue
        taken.add(column)
        if ids is None:
            ids = _id_name(names, column)
        text, problem = text_of(record[column])
        if ids and ids not in record:
            problem = problem or f"has no {ids!r}{meant(ids, names, f'its keys are {_names(names)}')}"
        elif not ids and (named := _id_name(names, column)):
            problem = problem or f"has {named!r}, and those before it have no id; expected ids of all or of none"
        yield _caption(id, where, text, problem, record.get(ids), bool(ids))


def _rows(path: str, prefix: str, column: str | None, ids: str | None, taken: set[str]) -> Iterator[Caption]:
    with ParquetTable(path) as table:
        names = table.schema.names
        column = column or first_of(CAPTION_NAMES, names)
        if column is None:
            raise InputError(f"{path}: {_no_captions(names, 'column')}")
        ids = ids or _id_name(names, column)
        for name in filter(None, (column, ids)):
            if name not in names:
                hint = meant(name, names, f"its columns are {_names(names)}")
                raise InputError(f"{path}: has no column {name!r}{hint}")
            if names.count(name) > 1:
                raise InputError(f"{path}: has two columns {name!r}; rename one")
        taken.add(column)
        row = 0
        for batch in table.batches(_BATCH_ROWS, [name for name in (column, ids) if name]):
            texts = values_of(batch.column(column))
            own = values_of(batch.column(ids)) if ids else [None] * len(texts)
            for text, id in zip(texts, own, strict=True):
                yield _caption(f"{prefix}{row}", f"{shown(path)}: row {row}", *text_of(text), id, bool(ids))
                row += 1


def _caption(number: str, where: str, text: str, problem: str | None, id: Any, has_ids: bool) -> Caption:
    if not has_ids:
        return Caption(number, where, text, problem or name_problem(number))
    try:
        own = id_text(id)
    except InputError as error:
        return Caption(number, where, text, problem or str(error))
    if not is_utf8(own):
        problem = problem or f"the id {json.dumps(own)} holds half of a surrogate pair, which is no text"
    return Caption(number if problem else own, where, text, problem)


def _id_name(names: list[str], column: str) -> str:
    return first_of(ID_NAMES, [name for name in names if name != column]) or ""


def _no_captions(names: list[str], kind: str) -> str:
    return (
        f"has no {kind} of captions ({', '.join(CAPTION_NAMES)}); its {kind}s are {_names(names)}; "
        f"name the one to take with {option('column')}"
    )


def _names(names: list[str]) -> str:
    return printable(listed(names)) or "none"
