"""Captions, one after the other, out of .txt (one a line), .jsonl (one record a line) and .parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrealign.errors import InputError
from fastrealign.io.files import file_size, one_line, reading

CAPTION_FILES = {".txt", ".jsonl", ".parquet"}
# Names of columns and keys that are taken where none is given, the first that is there.
CAPTION_NAMES = ("caption", "text", "captions", "TEXT", "sentence")
ID_NAMES = ("id", "key", "uid", "__key__")

_BATCH_ROWS = 4096
_LISTED = 12


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption, or why there is none.

    where   how messages name it
    """

    id: str
    where: str
    text: str
    problem: str | None = None

    def state(self) -> tuple[int, list]:
        """(bytes, what is another once it was changed)."""
        return len(self.text.encode()), [self.id, self.text]

    def load(self) -> str:
        return self.text


def captions_in(path: str, prefix: str, column: str | None, ids: str | None) -> Iterator[Caption]:
    """The captions of one file; a line or row that holds none comes with its `problem`.

    prefix        goes before numbers that stand for ids: of the line or row, from 0, as `revision.examples` counts them
    column, ids   keys or columns of the captions and of their ids; by default the usual ones
    Raises InputError, with the file's name, for what makes all of it unusable.
    """
    file_size(path)
    kind = Path(path).suffix.lower()
    if kind == ".txt":
        if column or ids:
            raise InputError(
                f"{path}: is plain text, one caption a line; --column and --ids are for .jsonl and .parquet"
            )
        yield from _lines(path, prefix)
    else:
        yield from (_records if kind == ".jsonl" else _rows)(path, prefix, column, ids)


def text_of(value: Any) -> tuple[str, str | None]:
    """A caption and None, or "" and what is wrong with it."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return "", f"is not UTF-8 text ({one_line(error)})"
    if value is None:
        return "", "has no caption (null)"
    if not isinstance(value, str):
        return "", f"the caption is {type(value).__name__}, expected text"
    value = value.strip()
    try:
        value.encode()
    except UnicodeEncodeError:
        return "", "the caption holds half of a surrogate pair, which is no text"
    return (value, None) if value else ("", "the caption is empty")


def _lines(path: str, prefix: str) -> Iterator[Caption]:
    with reading(path), open(path, "rb") as file:
        for number, line in enumerate(file):
            text, problem = text_of(line)
            yield Caption(f"{prefix}{number}", f"{path}: line {number + 1}", text, problem)


def _records(path: str, prefix: str, column: str | None, ids: str | None) -> Iterator[Caption]:
    with reading(path), open(path, "rb") as file:
        for number, line in enumerate(file):
            where, id = f"{path}: line {number + 1}", f"{prefix}{number}"
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield Caption(id, where, "", f"is not JSON ({one_line(error)})")
                continue
            if not isinstance(record, dict):
                yield Caption(id, where, "", f'is {type(record).__name__}, expected {{"caption": ...}}')
                continue
            if column is None:
                column = _usual(CAPTION_NAMES, list(record), where, "key")
            if ids is None:
                ids = next((name for name in ID_NAMES if name in record), "")
            if column not in record:
                yield Caption(id, where, "", f"has no {column!r}; its keys are {_listed(list(record))}")
                continue
            yield _caption(id, where, record[column], record.get(ids), bool(ids))


def _rows(path: str, prefix: str, column: str | None, ids: str | None) -> Iterator[Caption]:
    from fastrealign.io.parquet import ParquetTable

    with ParquetTable(path) as table:
        names = table.schema.names
        column = column or _usual(CAPTION_NAMES, names, path, "column")
        ids = ids or next((name for name in ID_NAMES if name in names and name != column), "")
        for name in filter(None, (column, ids)):
            if name not in names:
                raise InputError(f"{path}: has no column {name!r}; its columns are {_listed(names)}")
        row = 0
        for batch in table.batches(_BATCH_ROWS, [name for name in (column, ids) if name]):
            texts = batch.column(column).to_pylist()
            own = batch.column(ids).to_pylist() if ids else [None] * len(texts)
            for text, id in zip(texts, own, strict=True):
                yield _caption(f"{prefix}{row}", f"{path}: row {row}", text, id, bool(ids))
                row += 1


def _caption(number: str, where: str, value: Any, id: Any, has_ids: bool) -> Caption:
    text, problem = text_of(value)
    if has_ids and (isinstance(id, bool) or not isinstance(id, (str, int))):
        problem = problem or f"the id is {json.dumps(id, default=repr)}, expected text or a whole number"
    return Caption(str(id) if has_ids and problem is None else number, where, text, problem)


def _usual(usual: Sequence[str], names: list[str], where: str, kind: str) -> str:
    found = next((name for name in usual if name in names), None)
    if found is None:
        raise InputError(
            f"{where}: has no {kind} of captions ({', '.join(usual)}); its {kind}s are {_listed(names)}; "
            "name the one to take with --column"
        )
    return found


def _listed(names: list[str]) -> str:
    text = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    return " ".join(text.split()) or "none"
