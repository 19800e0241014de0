"""Examples to train on: conversations about one image and captions, read from files without holding them in memory.

.json     a list of {"id": ..., "conversations": [{"from": "human", "value": "<image>\\n..."}, {"from": "gpt", "value": ...},
          ...]}, the form of LLaVA and of the ReVision reference; other keys ("image", ...) are ignored
.jsonl    such a record a line, or {"id": ..., "caption": ...} (or "text")
.txt      a caption a line; its id is the number of the line, from 0; with several files, NAME:NUMBER, as `embed` has it
.parquet  columns id (or key) and caption (or text)
"""

from __future__ import annotations

import bisect
import itertools
import json
import operator
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np

from fastrealign.errors import InputError
from fastrealign.io.files import Descriptor, file_size, is_utf8, one_line, open_binary, reading
from fastrealign.io.parquet import ParquetTable
from fastrealign.io.places import place
from fastrealign.io.spool import Spool
from fastrealign.progress import SILENT, Progress
from fastrealign.revision.index import id_text, lookup_hashes, twice
from fastrealign.revision.json_list import records_of

# Stands in a prompt where the visual tokens come.
IMAGE = "<image>"
_ID_KEYS = ("id", "key")
_TEXT_KEYS = ("caption", "text")
_ROLES = ("human", "gpt")
# Records between two calls of `Progress.advance`, and rows of a table at a time.
_STEP = 4096


@dataclass(frozen=True)
class Example:
    """What is said about one image.

    id      of its embedding
    turns   (prompt, response) in order; the first prompt holds IMAGE once, nothing else does. A caption is one turn
            whose prompt is IMAGE alone.

    Raises InputError, which names the id, for turns of another form, an empty response, or what is no text.
    """

    id: str
    turns: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if not self.turns:
            raise self._fault("has no turns, expected a prompt and a response")
        for number, (prompt, response) in enumerate(self.turns):
            found = prompt.count(IMAGE) + response.count(IMAGE)
            if number == 0 and IMAGE not in prompt:
                raise self._fault(f"its first prompt has no {IMAGE}, which says where the visual tokens go")
            if found != (number == 0):
                raise self._fault(f"{IMAGE} stands more than once in it; it belongs once into the first prompt")
            if not response.strip():
                raise self._fault(f"response {number} is empty, so there is nothing to learn; remove it")
        if not is_utf8("".join(itertools.chain([self.id], *self.turns))):
            raise self._fault("holds half of a surrogate pair, which is no text")

    def _fault(self, what: str) -> InputError:
        return InputError(f"example {self.id!r}: {what}")


class Examples(Sequence[Example]):
    """The examples of one file. In memory are 16 bytes an example; its text is read when it is asked for.

    Several processes may read the same one, forked or spawned. Raises InputError where the file was changed meanwhile.
    """

    def __init__(self, path: str, data: str | Spool, starts: array, ends: array, prefix: str = "") -> None:
        """starts, ends: the bytes of `data` at which each example begins and ends; prefix: goes before numbers as ids."""
        self.path = path
        self._prefix = prefix
        self._data = data
        self._starts, self._ends = np.asarray(starts), np.asarray(ends)
        self._file: Descriptor | None = None
        self._captions = place(path).suffix.lower() == ".txt"

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> list[Example]: ...
    def __getitem__(self, at):
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        i = operator.index(at)
        if not -len(self) <= i < len(self):
            raise IndexError(f"{self.path}: example {i} of {len(self)}")
        i %= len(self)
        start, end = int(self._starts[i]), int(self._ends[i])
        with reading(self.path):
            if self._file is None:
                self._file = Descriptor(self._data.path if isinstance(self._data, Spool) else self._data)
            raw = self._file.pread(end - start, start)
        try:
            text = raw.decode()
            number = f"{self._prefix}{i}"
            return _caption(text, number) if self._captions else _example(json.loads(text), number)
        except (InputError, ValueError):
            raise InputError(f"{self.path}: changed since it was opened: do not write to it, run again") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


class Joined(Sequence[Example]):
    """Several sequences of examples, one after another."""

    def __init__(self, parts: Sequence[Sequence[Example]]) -> None:
        self._parts = parts
        self._ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, at):
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        i = range(len(self))[at]
        part = bisect.bisect_right(self._ends, i)
        return self._parts[part][i - self._ends[part]]


def read_examples(
    path: str | os.PathLike | Sequence[str | os.PathLike], *, shared_ids: bool = False, progress: Progress = SILENT
) -> Sequence[Example]:
    """The examples of a file or of several, by their suffix: .json, .jsonl, .txt, .parquet, as above.

    path        paths or URLs; of parquet, the columns are written to a temporary file on the disk
    shared_ids  several examples may have one id, that of an image they are all about

    As LLaVA does, IMAGE comes to the front of the first prompt wherever it stood there; white space around a prompt or a
    response is dropped. Files are read and checked here, once (some microseconds an example), so that nothing comes up in the
    middle of a training. Raises InputError naming the file and the record, line or row.
    """
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not paths:
        raise InputError("an empty list of files, expected some with examples")
    plain = [place(one).name for one in paths if _suffix(one) == ".txt"]
    same = next((name for name in plain if plain.count(name) > 1), None)
    if same is not None:
        raise InputError(f"two files have the name {same}, which is part of their captions' ids; rename one")
    read = [_read(one, f"{place(one).name}:" if len(paths) > 1 else "", progress) for one in paths]
    examples = read[0].examples if len(read) == 1 else Joined([one.examples for one in read])
    pair = None if shared_ids else twice(np.concatenate([one.hashes for one in read]))
    if pair is not None:
        named = (f"{one.examples.path}: {one.kind} {number}" for one in read for number in one.numbers)
        first, second = (place for at, place in enumerate(named) if at in pair)
        raise InputError(
            f"{second}: the id {examples[pair[1]].id!r} is that of {first}, too; make ids unique, or pass shared_ids=True if "
            "several examples share one embedding"
        )
    return examples


class _Read(NamedTuple):
    """What reading a file through has found: its examples, the hashes of their ids, and what messages call them."""

    examples: Examples
    hashes: np.ndarray
    kind: str
    numbers: array


def _suffix(path: str | os.PathLike) -> str:
    return os.path.splitext(place(path).name)[1].lower()


def _read(path: str | os.PathLike, prefix: str, progress: Progress) -> _Read:
    suffix = _suffix(path)
    if suffix not in _FORMS:
        raise InputError(f"{path}: the suffix {suffix!r} is not of examples; expected {', '.join(_FORMS)}")
    file_size(path)
    kind, spans, parse = _FORMS[suffix]
    where = os.fspath(path)
    data = Spool("examples") if suffix == ".parquet" else where
    starts, ends, numbers = array("Q"), array("Q"), array("Q")
    hashes: list[np.ndarray] = []
    ids: list[str] = []
    progress.start(f"reading {where}", None, None)
    try:
        for number, start, end, value in spans(where, data):
            try:
                ids.append(parse(value, f"{prefix}{len(starts)}").id)
            except InputError as error:
                raise InputError(f"{path}: {kind} {number}: {error}") from None
            starts.append(start)
            ends.append(end)
            numbers.append(number)
            if len(ids) == _STEP:
                hashes.append(lookup_hashes(ids))
                ids.clear()
                progress.advance(_STEP, 0)
        progress.advance(len(ids), 0)
    finally:
        progress.finish()
    if not starts:
        raise InputError(f"{path}: holds no examples")
    hashes.append(lookup_hashes(ids))
    return _Read(Examples(where, data, starts, ends, prefix), np.concatenate(hashes), kind, numbers)


def _caption(text: str, number: str) -> Example:
    return Example(number, ((IMAGE, text.strip()),))


def _example(record: Any, _: str) -> Example:
    """The example of one record, which has an id of its own."""
    if not isinstance(record, dict):
        raise InputError(f"is a {type(record).__name__}, expected an object with an id and conversations or a caption")
    id = next((record[key] for key in _ID_KEYS if record.get(key) is not None), None)
    if id is None:
        raise InputError(f"has no 'id'; its keys are {', '.join(map(repr, record)) or 'none'}")
    id = id_text(id)
    if record.get("conversations") is not None:
        return Example(id, _turns(id, record["conversations"]))
    caption = next((record[key] for key in _TEXT_KEYS if record.get(key) is not None), None)
    if not isinstance(caption, str):
        what = "has neither conversations nor a caption" if caption is None else "has a caption that is no text"
        raise InputError(f"example {id!r}: {what}; its keys are {', '.join(map(repr, record))}")
    return Example(id, ((IMAGE, caption.strip()),))


def _turns(id: str, messages: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(messages, list) or not messages:
        raise InputError(f"example {id!r}: its conversations are no list of messages, or an empty one")
    texts = []
    for at, message in enumerate(messages):
        said = message if isinstance(message, dict) else {}
        role, text, expected = said.get("from"), said.get("value"), _ROLES[at % 2]
        if not isinstance(role, str) or not isinstance(text, str):
            raise InputError(f"example {id!r}: message {at} is not of the form {{'from': ..., 'value': text}}")
        if role != expected:
            raise InputError(
                f"example {id!r}: message {at} is from {role!r}, expected {expected!r}: human and gpt take turns"
            )
        texts.append(text.strip())
    if len(texts) % 2:
        raise InputError(f"example {id!r}: ends with a prompt, message {len(texts) - 1}, that nobody answers")
    first = texts[0]
    if first.count(IMAGE) == 1:
        texts[0] = f"{IMAGE}\n{first.replace(IMAGE, '').strip()}".strip()
    return tuple(zip(texts[::2], texts[1::2], strict=True))


# What follows goes through a file and yields (number for messages, first byte, end, value) of each example in it.
_Spans = Iterator[tuple[int, int, int, Any]]


def _json_spans(path: str, _: Any) -> _Spans:
    for number, (start, end, record) in enumerate(records_of(path)):
        yield number, start, end, record


def _lines(path: str) -> Iterator[tuple[int, int, int, str]]:
    """(number from 1, first byte, end, text) of each line that is not blank."""
    at = 0
    with reading(path), open_binary(path) as file:
        for number in itertools.count(1):
            line = file.readline()
            if not line:
                return
            start, at = at, at + len(line)
            if number == 1 and line.startswith(b"\xef\xbb\xbf"):  # a byte order mark
                start, line = start + 3, line[3:]
            try:
                text = line.decode().strip()
            except UnicodeDecodeError as error:
                raise InputError(f"{path}: line {number}: is not UTF-8 ({one_line(error)})") from None
            if text:
                yield number, start, at, text


def _jsonl_spans(path: str, _: Any) -> _Spans:
    for number, start, end, text in _lines(path):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {number}: is no JSON ({one_line(error)})") from None
        yield number, start, end, record


def _text_spans(path: str, _: Any) -> _Spans:
    for at, (number, start, end, text) in enumerate(_lines(path), 1):
        if number != at:  # what is blank at the end of the file does no harm; elsewhere it has a number, but no caption
            raise InputError(f"{path}: line {at}: is empty, expected a caption a line")
        yield number, start, end, text


def _table_spans(path: str, spool: Spool) -> _Spans:
    at = row = 0
    with ParquetTable(place(path)) as table:
        names = table.schema.names
        known = (*_ID_KEYS, *_TEXT_KEYS, "conversations")
        double = next((name for name in known if names.count(name) > 1), None)
        if double is not None:
            raise InputError(f"{path}: has two columns {double!r}; rename one")
        kept = [name for name in known if name in names]
        if not set(kept) & set(_ID_KEYS) or not set(kept) - set(_ID_KEYS):
            raise InputError(
                f"{path}: expected columns id (or key) and caption (or text); its columns are {', '.join(names) or 'none'}"
            )
        with spool.writing() as file:
            for batch in table.batches(_STEP, kept):
                try:
                    records = batch.to_pylist()
                except UnicodeDecodeError:
                    raise InputError(f"{path}: one of rows {row} to {row + len(batch) - 1} is not UTF-8") from None
                for record in records:
                    try:
                        raw = json.dumps(record, ensure_ascii=False).encode()
                    except (TypeError, ValueError) as error:
                        raise InputError(f"{path}: row {row}: holds no text ({one_line(error)})") from None
                    file.write(raw)
                    yield row, at, at + len(raw), record
                    at, row = at + len(raw), row + 1


# By suffix: what messages call an example, what goes through the file, and what makes an example of what it yields.
_FORMS: dict[str, tuple[str, Callable[[str, Any], _Spans], Callable[[Any, str], Example]]] = {
    ".json": ("record", _json_spans, _example),
    ".jsonl": ("line", _jsonl_spans, _example),
    ".txt": ("line", _text_spans, _caption),
    ".parquet": ("row", _table_spans, _example),
}
