"""The files that examples are read from, by suffix.

.json     a list of records (conversations.py)
.jsonl    a record per line
.txt      a caption per line
.parquet  columns named like the keys of a record; bytes that hold UTF-8 are text

Each is read once from beginning to end, as a stream of `Span`s. Afterwards an example is found by its bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fastrealign.core.errors import InputError
from fastrealign.core.text import one_line
from fastrealign.data.usual_names import CAPTION_NAMES, ID_NAMES
from fastrealign.formats.parquet import ParquetTable
from fastrealign.revision.conversations import IMAGE_KEYS, Example, caption_example, record_example
from fastrealign.revision.json_list import records_of
from fastrealign.storage.paths import place, suffix_of
from fastrealign.storage.records import parsed
from fastrealign.storage.text_lines import lines_of, rows_in_lines
from fastrealign.storage.text_values import texts_in, values_of

# Rows of a table that are decoded at a time.
_STEP = 4096


class Span(NamedTuple):
    """Where an example lies.

    number   of its record, line or row, as messages have it
    start, end   first byte and end; of a table, as if the `raw` of all rows were written one after another
    value    what the bytes hold
    """

    number: int
    start: int
    end: int
    value: Any
    raw: bytes = b""


class Form(NamedTuple):
    """How a file of one suffix is read.

    unit      how messages name the place of an example
    spans     streams the file
    load      the value of an example's text
    example   from a value, and the number that is the id of a caption without one
    copied    whether its examples are found again in a copy of `Span.raw`, since they have no bytes of their own
    """

    unit: str
    spans: Callable[[str], Iterator[Span]]
    load: Callable[[str], Any]
    example: Callable[[Any, str], Example]
    copied: bool = False


def form_of(path: str | os.PathLike) -> Form:
    """By suffix. Raises InputError for a file that by its name holds no examples."""
    suffix = suffix_of(path)
    if suffix not in _FORMS:
        kind = f"{suffix!r} files" if suffix else "a folder or a file whose name has no ending"
        raise InputError(f"{path}: examples are not read from {kind}; expected {', '.join(_FORMS)}")
    return _FORMS[suffix]


def _json_spans(path: str) -> Iterator[Span]:
    for number, (start, end, record) in enumerate(records_of(path)):
        yield Span(number, start, end, record)


def _jsonl_spans(path: str) -> Iterator[Span]:
    for number, start, line in lines_of(path):
        if not line.strip():
            continue
        text = _decoded(path, number, line)
        try:
            record = parsed(text)
        except ValueError as error:
            raise InputError(f"{path}: line {number}: is not JSON ({one_line(error)})") from None
        yield Span(number, start, start + len(line), record)


def _text_spans(path: str) -> Iterator[Span]:
    for number, start, line in rows_in_lines(path):
        if not line:  # it has a number, but no caption
            raise InputError(f"{path}: line {number}: is empty, expected a caption per line")
        yield Span(number, start, start + len(line), _decoded(path, number, line))


def _decoded(path: str, number: int, line: bytes) -> str:
    try:
        return line.decode().strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: line {number}: is not UTF-8 ({one_line(error)})") from None


def _table_spans(path: str) -> Iterator[Span]:
    at = row = 0
    with ParquetTable(place(path)) as table:
        names = _columns(path, table)
        for batch in table.batches(_STEP, names):
            for values in zip(*(values_of(batch.column(name)) for name in names), strict=True):
                record = {}
                for name, value in zip(names, values, strict=True):
                    try:
                        record[name] = texts_in(value)
                    except InputError as error:
                        raise InputError(f"{path}: row {row}: {name!r} {error}") from None
                try:
                    raw = json.dumps(record, ensure_ascii=False).encode()
                except (TypeError, ValueError) as error:
                    raise InputError(f"{path}: row {row}: holds no text ({one_line(error)})") from None
                yield Span(row, at, at + len(raw), record, raw)
                at, row = at + len(raw), row + 1


def _columns(path: str, table: ParquetTable) -> list[str]:
    """The columns to read: of ids, captions and conversations, and of images where these are named by path."""
    names = table.schema.names
    known = (*ID_NAMES, *CAPTION_NAMES, "conversations")
    double = next((name for name in known if names.count(name) > 1), None)
    if double is not None:
        raise InputError(f"{path}: has two columns {double!r}; rename one")
    kept = [name for name in known if name in names]
    if not set(kept) - set(ID_NAMES):
        raise InputError(
            f"{path}: expected a column of captions ({', '.join(CAPTION_NAMES)}) or conversations, and one of ids "
            f"({', '.join(ID_NAMES)}); its columns are {', '.join(names) or 'none'}"
        )
    once = (name for name in IMAGE_KEYS if names.count(name) == 1)
    return kept + [name for name in once if _names_files(table.schema.field(name).type)]


def _names_files(kind: Any) -> bool:
    """Whether a column's type is text or a list of it: images themselves are not read here."""
    import pyarrow as pa

    inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    return pa.types.is_string(inner) or pa.types.is_large_string(inner)


_FORMS = {
    ".json": Form("record", _json_spans, parsed, record_example),
    ".jsonl": Form("line", _jsonl_spans, parsed, record_example),
    ".txt": Form("line", _text_spans, str, caption_example),
    ".parquet": Form("row", _table_spans, parsed, record_example, copied=True),
}
