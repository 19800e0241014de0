"""Examples to train on: conversations about one image and captions, read from files without holding them in memory.

.json     a list of {"id": ..., "conversations": [{"from": "human", "value": "<image>\\n..."}, {"from": "gpt", "value": ...},
          ...]}, the form of LLaVA and of the ReVision reference; of other keys, "image" and "images" are counted
.jsonl    such a record a line, or {"id": ..., "caption": ...}; the names of ids and captions are those of `embed`
          (formats/choose_column.py)
.txt      a caption a line; its id is the number of the line, from 0; with several files, NAME:NUMBER, as `embed` has it
.parquet  such columns; bytes that hold UTF-8 are text

A well-formed record that is not about one image (text only, several images, ...) cannot be used here; UNUSABLE lists the kinds.
A first message that is not from human is dropped, as LLaVA's trainer does.
"""

from __future__ import annotations

import bisect
import itertools
import json
import operator
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

import numpy as np

from fastrealign.core.errors import InputError, warn
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.text import is_utf8, one_line
from fastrealign.data.id_index import lookup_hashes, twice
from fastrealign.formats.choose_column import CAPTION_NAMES, ID_NAMES
from fastrealign.formats.parquet import ParquetTable
from fastrealign.revision.json_list import records_of
from fastrealign.storage.files import Descriptor, file_size, reading
from fastrealign.storage.paths import place
from fastrealign.storage.records import parsed
from fastrealign.storage.spool import Spool
from fastrealign.storage.strings import id_text, lines_of, rows_in_lines, texts_in, values_of

# Stands in a prompt where the visual tokens come.
IMAGE = "<image>"
_IMAGE_KEYS = ("image", "images")
_ROLES = ("human", "gpt")
# Why a well-formed record cannot be used, as counts name it and as messages do.
UNUSABLE = {
    "text_only": "text only",
    "several_images": f"with {IMAGE} more than once, or several images",
    "image_not_placed": f"with an image, but no {IMAGE} in the text",
    "image_not_first": f"with {IMAGE} elsewhere than in the first prompt",
    "turns": "where human and gpt do not take turns",
    "no_answer": "that end with a prompt nobody answers",
    "empty_answer": "with an empty response",
}
# Records between two calls of `Progress.advance`, and rows of a table at a time.
_STEP = 4096


class _Unusable(InputError):
    """An example of a kind that is left out, or refused, as `read_examples` is asked to. reason: one of UNUSABLE."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Example:
    """What is said about one image.

    id      of its embedding
    turns   (prompt, response) in order; the first prompt holds IMAGE once, nothing else does. A caption is one turn
            whose prompt is IMAGE alone.
    image   the path of the image, if the record has one: by it the embedding is found where there is none of the id

    Raises InputError, which names the id, for turns of another form, an empty response, or what is no text.
    """

    id: str
    turns: tuple[tuple[str, str], ...]
    image: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.turns:
            raise self._fault("has no turns, expected a prompt and a response")
        for number, (prompt, response) in enumerate(self.turns):
            found = prompt.count(IMAGE) + response.count(IMAGE)
            if number == 0 and IMAGE not in prompt:
                what = f"its first prompt has no {IMAGE}, which says where the visual tokens go"
                raise self._fault(what, "image_not_first")
            if found != (number == 0):
                what = f"{IMAGE} stands more than once in it; it belongs once into the first prompt"
                raise self._fault(what, "several_images")
            if not response.strip():
                what = f"response {number} is empty, so there is nothing to learn; remove it"
                raise self._fault(what, "empty_answer")
        if not is_utf8("".join(itertools.chain([self.id], *self.turns))):
            raise self._fault("holds half of a surrogate pair, which is no text")

    def _fault(self, what: str, reason: str | None = None) -> InputError:
        return _fault(self.id, what, reason)


class Examples(Sequence[Example]):
    """The examples of one file. In memory are 16 bytes an example; its text is read when it is asked for.

    unusable        how many records were left out, by reason (UNUSABLE)
    first_dropped   examples whose first message was not from human, and was dropped

    Several processes may read the same one, forked or spawned. Raises InputError where the file was changed meanwhile.
    """

    def __init__(
        self,
        path: str,
        data: str | Spool,
        starts: array,
        ends: array,
        prefix: str = "",
        numbers: array | None = None,
        unusable: Mapping[str, int] | None = None,
        first_dropped: int = 0,
    ) -> None:
        """starts, ends: the bytes of `data` at which each example begins and ends; prefix: goes before numbers as ids.

        numbers: of captions without ids, the numbers that are their ids; None: 0, 1, 2, ...
        """
        self.path = path
        self.unusable, self.first_dropped = dict(unusable or {}), first_dropped
        self._prefix = prefix
        self._numbers = None if numbers is None else np.asarray(numbers)
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
            number = f"{self._prefix}{i if self._numbers is None else self._numbers[i]}"
            return _caption(text, number) if self._captions else _example(parsed(text), number)
        except (InputError, ValueError):
            raise InputError(f"{self.path}: changed since it was opened: do not write to it, run again") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


class Joined(Sequence[Example]):
    """The examples of several files, one after another. unusable, first_dropped: of all of them."""

    def __init__(self, parts: Sequence[Examples]) -> None:
        self._parts = parts
        self.unusable = dict(sum((Counter(part.unusable) for part in parts), Counter()))
        self.first_dropped = sum(part.first_dropped for part in parts)
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
    path: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    shared_ids: bool = False,
    unusable: str = "skip",
    progress: Progress = SILENT,
) -> Examples | Joined:
    """The examples of a file or of several, by their suffix: .json, .jsonl, .txt, .parquet, as above.

    path        paths or URLs; of parquet, the columns are written to a temporary file on the disk
    shared_ids  several examples may have one id, that of an image they are all about
    unusable    records that are well formed, but not about one image (UNUSABLE): "skip", they are left out, counted by reason
                in `unusable` of what is returned, and told in one warning; "error": the first is an InputError

    As LLaVA does, IMAGE comes to the front of the first prompt wherever it stood there; white space around a prompt or a
    response is dropped. Files are read and checked here, once (some microseconds an example), so that nothing comes up in the
    middle of a training. Raises InputError naming the file and the record, line or row; also where none can be used.
    """
    if unusable not in ("skip", "error"):
        raise InputError(f"unusable={unusable!r}: expected skip or error")
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not paths:
        raise InputError("an empty list of files, expected some with examples")
    for one in paths:
        check_suffix(one)
    skip = unusable == "skip"
    read = [_read(one, f"{place(one).name}:" if len(paths) > 1 else "", skip, progress) for one in paths]
    plain = [place(one.examples.path).name for one in read if one.numbered]
    same = next((name for name in plain if plain.count(name) > 1), None)
    if same is not None:
        raise InputError(f"two files have the name {same}, which is part of their captions' ids; rename one")
    examples = read[0].examples if len(read) == 1 else Joined([one.examples for one in read])
    _tell(examples, read)
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
    firsts: dict[str, int]  # by reason: the number of the first that was left out
    numbered: bool  # numbers are their ids


def _tell(examples: Examples | Joined, read: list[_Read]) -> None:
    """One warning of what was left out or dropped. InputError if nothing is left."""
    left_out, kept = sum(examples.unusable.values()), len(examples)
    if not left_out and not examples.first_dropped:
        return
    where = read[0].examples.path if len(read) == 1 else f"{len(read)} files"
    why = []
    for reason, text in UNUSABLE.items():
        if reason in examples.unusable:
            first = next(one for one in read if reason in one.firsts)
            file = "" if len(read) == 1 else f"{first.examples.path}: "
            why.append(f"{examples.unusable[reason]:,} {text} (first: {file}{first.kind} {first.firsts[reason]})")
    if not kept:
        raise InputError(f"{where}: none of the {left_out:,} examples can be used here: {', '.join(why)}")
    told = [f"{left_out:,} of {kept + left_out:,} examples are left out: {', '.join(why)}"] if why else []
    if examples.first_dropped:
        told.append(f"{examples.first_dropped:,} begin with a message that is not from human, which is dropped")
    refuse = '; unusable "error" refuses what would be left out' if why else ""
    warn(f"{where}: {'; '.join(told)}{refuse}", UserWarning)


def _suffix(path: str | os.PathLike) -> str:
    return os.path.splitext(place(path).name)[1].lower()


def check_suffix(path: str | os.PathLike) -> None:
    """InputError for a file that by its name holds no examples."""
    if _suffix(path) not in _FORMS:
        raise InputError(f"{path}: the suffix {_suffix(path)!r} is not of examples; expected {', '.join(_FORMS)}")


def _read(path: str | os.PathLike, prefix: str, skip: bool, progress: Progress) -> _Read:
    file_size(path)
    suffix = _suffix(path)
    kind, spans, parse = _FORMS[suffix]
    where = os.fspath(path)
    data = Spool("examples") if suffix == ".parquet" else where
    starts, ends, numbers, places = array("Q"), array("Q"), array("Q"), array("Q")
    hashes: list[np.ndarray] = []
    ids: list[str] = []
    unusable: Counter[str] = Counter()
    firsts: dict[str, int] = {}
    first_dropped = 0
    numbered: bool | None = None
    progress.start(f"reading {where}", None, None)
    try:
        for number, start, end, value in spans(where, data):
            at = number - (kind == "line")  # numbers as ids begin at 0
            try:
                if numbered is None:
                    numbered = _is_numbered(value)
                if numbered != _is_numbered(value):
                    had = ("has an id", "none") if numbered else ("has no id", "one")
                    raise InputError(f"{had[0]}, and those before it have {had[1]}; expected ids of all or of none")
                ids.append(parse(value, f"{prefix}{at}").id)
            except _Unusable as error:
                if not skip:
                    what = f'{path}: {kind} {number}: {error}; unusable "skip" leaves such examples out and counts them'
                    raise InputError(what) from None
                unusable[error.reason] += 1
                firsts.setdefault(error.reason, number)
                continue
            except InputError as error:
                raise InputError(f"{path}: {kind} {number}: {error}") from None
            first_dropped += _begins_late(value)
            starts.append(start)
            ends.append(end)
            numbers.append(number)
            places.append(at)
            if len(ids) == _STEP:
                hashes.append(lookup_hashes(ids))
                ids.clear()
                progress.advance(_STEP, 0)
        progress.advance(len(ids), 0)
    finally:
        progress.finish()
    if not starts and not unusable:
        raise InputError(f"{path}: holds no examples")
    hashes.append(lookup_hashes(ids))
    own = (
        places if numbered and places and places[-1] >= len(places) else None
    )  # some were left out, or lines are blank
    examples = Examples(where, data, starts, ends, prefix, own, unusable, first_dropped)
    return _Read(examples, np.concatenate(hashes), kind, numbers, firsts, bool(numbered))


def _caption(text: str, number: str) -> Example:
    return Example(number, ((IMAGE, text.strip()),))


def _example(record: Any, number: str) -> Example:
    """The example of one record; number: the id of a caption that has none."""
    if not isinstance(record, dict):
        raise InputError(f"is a {type(record).__name__}, expected an object with an id and conversations or a caption")
    id = _own_id(record)
    if _is_numbered(record):
        id = number
    if id is None:
        raise InputError(f"has no id ({', '.join(ID_NAMES)}); its keys are {', '.join(map(repr, record)) or 'none'}")
    id = id_text(id)
    if record.get("conversations") is not None:
        return Example(id, _turns(id, record), _image(record))
    caption = next((record[key] for key in CAPTION_NAMES if record.get(key) is not None), None)
    if not isinstance(caption, str):
        what = "has neither conversations nor a caption" if caption is None else "has a caption that is no text"
        raise InputError(f"example {id!r}: {what}; its keys are {', '.join(map(repr, record))}")
    return Example(id, ((IMAGE, caption.strip()),), _image(record))


def _own_id(record: dict[str, Any]) -> Any:
    """The id that a record has, under the first of the usual names that is there, or else its image; None: it has none."""
    id = next((record[key] for key in ID_NAMES if key in record), None)
    return _image(record) if id is None else id


def _is_numbered(record: Any) -> bool:
    """Whether it is a caption whose number is its id, as `embed` has it: without a key of ids, or an image."""
    if isinstance(record, str):
        return True
    return (
        isinstance(record, dict)
        and not any(key in record for key in (*ID_NAMES, "conversations"))
        and any(record.get(key) is not None for key in CAPTION_NAMES)
        and _image(record) is None
    )


def _turns(id: str, record: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    said = _messages(id, record["conversations"])
    dropped = said[0][0] != _ROLES[0]
    said = said[dropped:]
    placed = sum(text.count(IMAGE) for _, text in said)
    pictures = max(map(_pictures, map(record.get, _IMAGE_KEYS)))
    if not placed and pictures:
        raise _fault(id, f"has an image, but no {IMAGE} says where in the text", "image_not_placed")
    if not placed:
        raise _fault(id, f"is text only: its first prompt has no {IMAGE}", "text_only")
    if placed > 1:
        raise _fault(id, f"{IMAGE} stands more than once in it, expected one image", "several_images")
    if pictures > 1:
        raise _fault(id, f"is about {pictures} images, expected one", "several_images")
    for at, (role, _) in enumerate(said):
        if role != _ROLES[at % 2]:
            what = f"message {at + dropped} is from {role!r}, expected {_ROLES[at % 2]!r}: human and gpt take turns"
            raise _fault(id, what, "turns")
    if len(said) % 2:
        raise _fault(id, f"ends with a prompt, message {len(said) - 1 + dropped}, that nobody answers", "no_answer")
    texts = [text for _, text in said]
    if IMAGE in texts[0]:
        texts[0] = f"{IMAGE}\n{texts[0].replace(IMAGE, '').strip()}".strip()
    return tuple(zip(texts[::2], texts[1::2], strict=True))


def _messages(id: str, messages: Any) -> list[tuple[str, str]]:
    """(who, what) of each."""
    if not isinstance(messages, list) or not messages:
        raise _fault(id, "its conversations are no list of messages, or an empty one")
    said = []
    for at, message in enumerate(messages):
        one = message if isinstance(message, dict) else {}
        role, text = one.get("from"), one.get("value")
        if not isinstance(role, str) or not isinstance(text, str):
            raise _fault(id, f"message {at} is not of the form {{'from': ..., 'value': text}}")
        said.append((role, text.strip()))
    return said


def _pictures(named: Any) -> int:
    """How many images a record's "image" or "images" names: a path, several, or none."""
    return len(named) if isinstance(named, list) else int(bool(named))


def _image(record: dict[str, Any]) -> str | None:
    """The path of a record's one image."""
    named = [one for key in _IMAGE_KEYS for one in [record.get(key)] if one]
    one = named[0][0] if named and isinstance(named[0], list) else named[0] if named else None
    return one if isinstance(one, str) and is_utf8(one) else None


def _begins_late(record: Any) -> bool:
    """Whether the first message of a record that was read is dropped."""
    messages = record.get("conversations") if isinstance(record, dict) else None
    return messages is not None and messages[0]["from"] != _ROLES[0]


def _fault(id: str, what: str, reason: str | None = None) -> InputError:
    text = f"example {id!r}: {what}"
    return InputError(text) if reason is None else _Unusable(text, reason)


# What follows goes through a file and yields (number for messages, first byte, end, value) of each example in it.
_Spans = Iterator[tuple[int, int, int, Any]]


def _json_spans(path: str, _: Any) -> _Spans:
    for number, (start, end, record) in enumerate(records_of(path)):
        yield number, start, end, record


def _jsonl_spans(path: str, _: Any) -> _Spans:
    for number, start, line in lines_of(path):
        if not line.strip():
            continue
        try:
            record = parsed(_decoded(path, number, line))
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{path}: line {number}: is no JSON ({one_line(error)})") from None
        yield number, start, start + len(line), record


def _text_spans(path: str, _: Any) -> _Spans:
    for number, start, line in rows_in_lines(path):
        if not line:  # it has a number, but no caption
            raise InputError(f"{path}: line {number}: is empty, expected a caption a line")
        yield number, start, start + len(line), _decoded(path, number, line)


def _decoded(path: str, number: int, line: bytes) -> str:
    try:
        return line.decode().strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: line {number}: is not UTF-8 ({one_line(error)})") from None


def _table_spans(path: str, spool: Spool) -> _Spans:
    at = row = 0
    with ParquetTable(place(path)) as table:
        names = table.schema.names
        known = (*ID_NAMES, *CAPTION_NAMES, "conversations")
        double = next((name for name in known if names.count(name) > 1), None)
        if double is not None:
            raise InputError(f"{path}: has two columns {double!r}; rename one")
        kept = [name for name in known if name in names]
        images = [
            name for name in _IMAGE_KEYS if names.count(name) == 1 and _names_files(table.schema.field(name).type)
        ]
        if not set(kept) - set(ID_NAMES):
            raise InputError(
                f"{path}: expected a column of captions ({', '.join(CAPTION_NAMES)}) or conversations, and one of ids "
                f"({', '.join(ID_NAMES)}); its columns are {', '.join(names) or 'none'}"
            )
        kept += images
        with spool.writing() as file:
            for batch in table.batches(_STEP, kept):
                columns = [values_of(batch.column(name)) for name in kept]
                for values in zip(*columns, strict=True):
                    record = {}
                    for name, value in zip(kept, values, strict=True):
                        try:
                            record[name] = texts_in(value)
                        except InputError as error:
                            raise InputError(f"{path}: row {row}: {name!r} {error}") from None
                    try:
                        raw = json.dumps(record, ensure_ascii=False).encode()
                    except (TypeError, ValueError) as error:
                        raise InputError(f"{path}: row {row}: holds no text ({one_line(error)})") from None
                    file.write(raw)
                    yield row, at, at + len(raw), record
                    at, row = at + len(raw), row + 1


def _names_files(kind: Any) -> bool:
    """Whether a column's type is text or a list of it: images themselves are not read here."""
    import pyarrow as pa

    inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    return pa.types.is_string(inner) or pa.types.is_large_string(inner)


# By suffix: what messages call an example, what goes through the file, and what makes an example of what it yields.
_FORMS: dict[str, tuple[str, Callable[[str, Any], _Spans], Callable[[Any, str], Example]]] = {
    ".json": ("record", _json_spans, _example),
    ".jsonl": ("line", _jsonl_spans, _example),
    ".txt": ("line", _text_spans, _caption),
    ".parquet": ("row", _table_spans, _example),
}
