"""Questions about images and a model's answers, as values and as files with one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from fastrealign.core.errors import InputError
from fastrealign.core.text import brief, described, one_line
from fastrealign.revision.conversations import IMAGE
from fastrealign.storage.atomic import AtomicFile
from fastrealign.storage.records import parsed
from fastrealign.storage.text_lines import lines_of

TASKS = ("caption", "vqa", "probe")
T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """A question about an image, or the request for a description.

    Parameters
    ----------
    id
        Of the image's embedding.
    task
        One of TASKS.
    kind
        Kind of question within the task, for which scores are also given; "" for captions.
    prompt
        Text, without IMAGE, which `ask` puts in front of it.
    answer
        The right answer, one word; "" for a caption, and for a question that is asked and not scored.
    facts
        For a caption: the facts of the image, as lists.

    Raises
    ------
    InputError
        For another task, a prompt with IMAGE, an answer that is not one word, or values of another kind.
    """

    id: str
    task: str
    kind: str
    prompt: str
    answer: str = ""
    facts: dict[str, list[list[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "task", "kind", "prompt", "answer"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"{name} {getattr(self, name)!r}, expected text")
        if self.task not in TASKS:
            raise InputError(f"task {self.task!r}, expected one of {', '.join(TASKS)}")
        if IMAGE in self.prompt:
            raise InputError(f"the prompt holds {IMAGE}; remove it: the one image goes in front of the prompt")
        if len(self.answer.split()) > 1:
            raise InputError(
                f"answer {self.answer!r}, expected one word: a model is judged by the first word that it says"
            )
        if not _are_facts(self.facts):
            raise InputError(f"facts {brief(self.facts)}, expected lists of words by attribute")


@dataclass(frozen=True)
class Answer:
    """The model's answer to an item; blind: without the image."""

    item: Item
    given: str
    blind: bool

    def __post_init__(self) -> None:
        if not isinstance(self.given, str):
            raise InputError(f"given {brief(self.given)}, expected text")
        if not isinstance(self.blind, bool):
            raise InputError(f"blind {brief(self.blind)}, expected true or false")


def _are_facts(facts: object) -> bool:
    def words(fact: object) -> bool:
        return isinstance(fact, (list, tuple)) and all(isinstance(word, str) for word in fact)

    return isinstance(facts, dict) and all(
        isinstance(name, str) and isinstance(of, (list, tuple, set)) and all(map(words, of))
        for name, of in facts.items()
    )


def write_items(path: str | Path, items: Iterable[Item]) -> None:
    """One JSON object per line."""
    _write_lines(path, (asdict(item) for item in items))


def read_items(path: str | Path) -> list[Item]:
    """What `write_items` wrote. Raises InputError naming the line of anything else."""
    items = _read_lines(path, _item, "an item to ask")
    if not items:
        raise InputError(f"{path}: has no items to ask")
    return items


def write_answers(path: str | Path, answers: Iterable[Answer]) -> None:
    """One JSON object per line: the fields of the item (facts only if it has some), `given` and `blind`."""

    def record(a: Answer) -> dict[str, Any]:
        item = {name: value for name, value in asdict(a.item).items() if name != "facts" or value}
        return {**item, "given": a.given, "blind": a.blind}

    _write_lines(path, map(record, answers))


def read_answers(path: str | Path) -> list[Answer]:
    """What `write_answers` wrote. Raises InputError naming the line of anything else."""

    def answer(record: dict[str, Any]) -> Answer:
        lacking = [name for name in ("given", "blind") if name not in record]
        if lacking:
            raise InputError(f"lacks {' and '.join(lacking)}")
        given, blind = record.pop("given"), record.pop("blind")
        return Answer(_item(record), given, blind)

    return _read_lines(path, answer, "an answer")


def _item(record: dict[str, Any]) -> Item:
    lacking = [name for name in ("id", "task", "kind", "prompt") if name not in record]
    if lacking:
        raise InputError(f"lacks {', '.join(lacking)}")
    odd = next((name for name in record if name not in {field.name for field in fields(Item)}), None)
    if odd is not None:
        raise InputError(f"has {brief(odd)}, which is not known")
    return Item(**record)


def _read_lines(path: str | Path, make: Callable[[dict[str, Any]], T], what: str) -> list[T]:
    made = []
    for number, _, line in lines_of(path):
        if not line.strip():
            continue
        try:
            record = parsed(line.decode())
            if not isinstance(record, dict):
                raise InputError(f"{described(record)}, expected an object")
            made.append(make(record))
        except UnicodeDecodeError:
            raise InputError(f"{path}, line {number}: not {what}: it is not UTF-8") from None
        except ValueError as error:  # an InputError is one
            raise InputError(f"{path}, line {number}: not {what}: {one_line(error)}") from None
    return made


def _write_lines(path: str | Path, records: Iterable[dict[str, Any]]) -> None:
    with AtomicFile(path) as file:
        for record in records:
            file.append((json.dumps(record) + "\n").encode())
        file.commit()
