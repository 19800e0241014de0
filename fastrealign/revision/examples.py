"""Examples to train on, read from files (example_files.py) without holding them in memory."""

from __future__ import annotations

import bisect
import itertools
import operator
import os
from abc import abstractmethod
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from fastrealign.core.errors import InputError, changed, warn
from fastrealign.core.formatting import does
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.id_index import lookup_hashes, twice
from fastrealign.data.options import check_choice
from fastrealign.revision.conversations import UNUSABLE, Example, UnusableError, drops_first, is_numbered
from fastrealign.revision.example_files import Form, Span, form_of
from fastrealign.storage.files import Descriptor, file_size, reading
from fastrealign.storage.paths import paths_of, place
from fastrealign.storage.spool import Spool

# Examples between two hashes of their ids.
_STEP = 4096


class Rows(Sequence[Example]):
    """A sequence of examples that `_at` finds one by one."""

    @abstractmethod
    def _at(self, i: int) -> Example: ...

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> list[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | list[Example]:
        found = range(len(self))[at if isinstance(at, slice) else operator.index(at)]
        return self._at(found) if isinstance(found, int) else [self._at(i) for i in found]


@dataclass
class _File:
    """The examples of one file, 16 bytes each.

    prefix    of numbers as ids: the file's name, where there are several files
    copy      where the examples are read from, if not from `path`
    starts, ends   first byte and end of each example
    numbers   of the record, line or row of each, from 0
    numbered  whether these are the ids
    unusable, firsts   by reason: how many records were left out, and the number of the first
    """

    path: str
    form: Form
    prefix: str
    copy: Spool | None
    starts: array[int] = field(default_factory=lambda: array("Q"))
    ends: array[int] = field(default_factory=lambda: array("Q"))
    numbers: array[int] = field(default_factory=lambda: array("Q"))
    numbered: bool | None = None
    unusable: Counter[str] = field(default_factory=Counter)
    firsts: dict[str, int] = field(default_factory=dict)
    first_dropped: int = 0
    hashes: list[np.ndarray] = field(default_factory=list)
    opened: Descriptor | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def at(self, i: int) -> Example:
        with reading(self.path):
            if self.opened is None:
                self.opened = Descriptor(self.path if self.copy is None else self.copy.path)
            raw = self.opened.pread(self.ends[i] - self.starts[i], self.starts[i])
        try:
            number = self.numbers[i] if self.numbers else i
            return self.form.example(self.form.load(raw.decode()), f"{self.prefix}{number}")
        except (InputError, ValueError):
            raise changed(self.path, "since it was opened") from None

    def where(self, number: int) -> str:
        """The place of an example: "line 7"."""
        return f"{self.form.unit} {number + (self.form.unit == 'line')}"

    def checked(self) -> None:
        """Free what only checks and messages need: the hashes, and the numbers unless they are ids with gaps."""
        self.hashes.clear()
        if not self.numbered or self.numbers[-1:] == array("Q", [len(self) - 1]):
            self.numbers = array("Q")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": None}


class Examples(Rows):
    """The examples of one file or several. In memory are 16 bytes an example; its text is read when it is asked for.

    Several processes may read the same one, forked or spawned. Made by `read_examples`.

    Attributes
    ----------
    unusable : dict of str to int
        How many records were left out, by reason (a key of conversations.UNUSABLE).
    first_dropped : int
        Examples whose first message was not from human, and was dropped.
    """

    def __init__(self, files: Sequence[_File]) -> None:
        self._files = files
        self._ends = list(itertools.accumulate(map(len, files)))
        self.unusable = dict(sum((file.unusable for file in files), Counter[str]()))
        self.first_dropped = sum(file.first_dropped for file in files)

    def __len__(self) -> int:
        return self._ends[-1]

    def _at(self, i: int) -> Example:
        number = bisect.bisect_right(self._ends, i)
        file = self._files[number]
        return file.at(i - self._ends[number] + len(file))


def read_examples(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    shared_ids: bool = False,
    unusable: str = "skip",
    progress: Progress = SILENT,
) -> Examples:
    """The examples of one file or several: .json, .jsonl, .txt or .parquet, as example_files.py describes.

    As in LLaVA, IMAGE moves to the front of the first prompt; white space around a prompt or a response is dropped. Files are
    read and checked here, once (some microseconds an example), so that no fault appears in the middle of a training.

    Parameters
    ----------
    path
        Paths or URLs. The columns of parquet files are copied to a temporary file on disk.
    shared_ids
        Whether several examples may have one id, that of an image they are all about.
    unusable
        "skip": valid records that are not about one image (conversations.UNUSABLE) are left out, counted by reason, and
        reported in one warning. "error": the first one is an InputError.

    Raises
    ------
    InputError
        With the file and the record, line or row at fault; also if no example can be used, and later, when examples are read,
        if a file has changed.
    """
    check_choice("unusable", unusable, ("skip", "error"))
    paths = paths_of(path, "the file of examples")
    forms = [form_of(one) for one in paths]
    files = []
    for one, form in zip(paths, forms, strict=True):
        copy = Spool("examples") if form.copied else None
        file = _File(os.fspath(one), form, f"{place(one).name}:" if len(paths) > 1 else "", copy)
        _read(file, unusable == "skip", progress)
        files.append(file)
    names = [place(file.path).name for file in files if file.numbered]
    same = next((name for name in names if names.count(name) > 1), None)
    if same is not None:
        raise InputError(f"two files have the name {same}, which is part of their captions' ids; rename one")
    examples = Examples(files)
    _report_left_out(examples, files)
    pair = None if shared_ids else twice(np.concatenate([part for file in files for part in file.hashes]))
    if pair is not None:
        places = (f"{file.path}: {file.where(number)}" for file in files for number in file.numbers)
        first, second = (place for at, place in enumerate(places) if at in pair)
        raise InputError(
            f"{second}: the id {examples[pair[1]].id!r} is that of {first}, too; make ids unique, or pass shared_ids=True if "
            "several examples share one embedding"
        )
    for file in files:
        file.checked()
    return examples


def _read(file: _File, skip: bool, progress: Progress) -> None:
    """Read a file once and note where its examples are."""
    file_size(file.path)
    ids: list[str] = []
    with progress.running(f"reading {file.path}", None):
        with nullcontext() if file.copy is None else file.copy.writing() as copy:
            for span in file.form.spans(file.path):
                if copy is not None:
                    copy.write(span.raw)
                id = _note(file, span, skip)
                if id is not None:
                    ids.append(id)
                if len(ids) == _STEP:
                    file.hashes.append(lookup_hashes(ids))
                    ids.clear()
                    progress.advance(_STEP, 0)
        progress.advance(len(ids), 0)
    if not len(file) and not file.unusable:
        raise InputError(f"{file.path}: holds no examples")
    file.hashes.append(lookup_hashes(ids))


def _note(file: _File, span: Span, skip: bool) -> str | None:
    """Note where an example is; its id, or None where it is left out."""
    number = span.number - (file.form.unit == "line")  # from 0, as ids are
    numbered = is_numbered(span.value)
    if file.numbered is None:
        file.numbered = numbered
    try:
        if numbered != file.numbered:
            had = ("has an id", "none") if file.numbered else ("has no id", "one")
            raise InputError(f"{had[0]}, and those before it have {had[1]}; expected ids of all or of none")
        id = file.form.example(span.value, f"{file.prefix}{number}").id
    except UnusableError as error:
        if not skip:
            what = f'{error}; unusable "skip" leaves such examples out and counts them'
            raise InputError(f"{file.path}: {file.where(number)}: {what}") from None
        file.unusable[error.reason] += 1
        file.firsts.setdefault(error.reason, number)
        return None
    except InputError as error:
        raise InputError(f"{file.path}: {file.where(number)}: {error}") from None
    file.first_dropped += drops_first(span.value)
    file.starts.append(span.start)
    file.ends.append(span.end)
    file.numbers.append(number)
    return id


def _report_left_out(examples: Examples, files: Sequence[_File]) -> None:
    """One warning of what was left out or dropped. InputError if nothing is left."""
    left_out, kept = sum(examples.unusable.values()), len(examples)
    if not left_out and not examples.first_dropped:
        return
    several = len(files) > 1
    why = []
    for reason in (reason for reason in UNUSABLE if reason in examples.unusable):
        first = next(file for file in files if reason in file.firsts)
        where = f"{first.path}: " * several + first.where(first.firsts[reason])
        why.append(f"{examples.unusable[reason]:,} {UNUSABLE[reason]} (first: {where})")
    whole = f"{len(files)} files" if several else files[0].path
    if not kept:
        raise InputError(f"{whole}: no example can be used here: {', '.join(why)}")
    parts = (
        [f"{left_out:,} of {kept + left_out:,} examples {does(left_out, 'are')} left out: {', '.join(why)}"]
        if why
        else []
    )
    if examples.first_dropped:
        parts.append(
            f"{examples.first_dropped:,} {does(examples.first_dropped, 'begin')} with a message that is not from "
            "human, which is dropped"
        )
    refuse = '; unusable "error" refuses what would be left out' if why else ""
    warn(f"{whole}: {'; '.join(parts)}{refuse}", UserWarning)
