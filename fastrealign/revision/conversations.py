"""One example: a conversation about one image, or a caption; and how a record of a file becomes one.

A record is {"id": ..., "conversations": [{"from": "human", "value": "<image>\\n..."}, {"from": "gpt", "value": ...}, ...]}, the
form of LLaVA and of the ReVision reference, or {"id": ..., "caption": ...}. Of other keys, "image" and "images" are used.

A valid record that is not about one image (text only, several images, ...) cannot be used; UNUSABLE lists the reasons. A
first message that is not from human is dropped, as LLaVA's trainer does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.core.text import described, is_utf8
from fastrealign.data.usual_names import CAPTION_NAMES, ID_NAMES, first_of
from fastrealign.storage.text_values import id_text

# Placeholder for the visual tokens in a prompt.
IMAGE = "<image>"
IMAGE_KEYS = ("image", "images")
_ROLES = ("human", "gpt")
# Why a valid record cannot be used: the key of counts, and the words of messages.
UNUSABLE = {
    "text_only": "text only",
    "several_images": f"with {IMAGE} more than once, or several images",
    "image_not_placed": f"with an image, but no {IMAGE} in the text",
    "image_not_first": f"with {IMAGE} elsewhere than in the first prompt",
    "turns": "where human and gpt do not take turns",
    "no_answer": "that end with a prompt without a response",
    "empty_answer": "with an empty response",
}


class UnusableError(InputError):
    """A valid record that cannot be used; `read_examples` leaves it out or raises this. reason: a key of UNUSABLE."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Example:
    """Text about one image.

    Parameters
    ----------
    id
        Of its embedding.
    turns
        (prompt, response) in order. The first prompt holds IMAGE once, no other text does. A caption is one turn whose prompt
        is IMAGE alone.
    image
        Path of the image, if the record has one: the embedding is looked up by it if none has the id.

    Raises
    ------
    InputError
        With the id, for turns of another form, an empty response, or half of a surrogate pair.

    Examples
    --------
    >>> Example("7", (("<image>\\nwhat is it ?", "a cat"), ("and its colour ?", "black"))).turns[1]
    ('and its colour ?', 'black')
    >>> Example("7", (("what is it ?", "a cat"),))
    Traceback (most recent call last):
        ...
    fastrealign.revision.conversations.UnusableError: example '7': its first prompt has no <image>, where visual tokens go
    """

    id: str
    turns: tuple[tuple[str, str], ...]
    image: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.turns:
            raise _fault(self.id, "has no turns, expected a prompt and a response")
        for number, (prompt, response) in enumerate(self.turns):
            if number == 0 and IMAGE not in prompt:
                raise _fault(self.id, f"its first prompt has no {IMAGE}, where visual tokens go", "image_not_first")
            if prompt.count(IMAGE) + response.count(IMAGE) != (number == 0):
                what = f"{IMAGE} appears more than once in it; expected once, in the first prompt"
                raise _fault(self.id, what, "several_images")
            if not response.strip():
                raise _fault(self.id, f"response {number} is empty; remove it", "empty_answer")
        if not is_utf8(self.id + "".join(map("".join, self.turns))):
            raise _fault(self.id, "holds half of a surrogate pair, which is no text")


def caption_example(text: str, number: str) -> Example:
    """The example of a caption whose id is its number."""
    return Example(number, ((IMAGE, text.strip()),))


def record_example(record: object, number: str) -> Example:
    """The example of a record; `number` is the id of a caption that has none. Raises InputError or UnusableError."""
    if not isinstance(record, dict):
        raise InputError(f"is {described(record)}, expected an object with an id and conversations or a caption")
    id = number if is_numbered(record) else _own_id(record)
    if id is None:
        raise InputError(f"has no id ({', '.join(ID_NAMES)}); its keys are {', '.join(map(repr, record)) or 'none'}")
    id = id_text(id)
    if record.get("conversations") is not None:
        return Example(id, _turns(id, record), _image(record))
    name = _caption_key(record)
    if name is None or not isinstance(record[name], str):
        what = "has neither conversations nor a caption" if name is None else "has a caption that is not text"
        raise InputError(f"example {id!r}: {what}; its keys are {', '.join(map(repr, record))}")
    return Example(id, ((IMAGE, record[name].strip()),), _image(record))


def is_numbered(record: object) -> bool:
    """Whether it is a caption with neither an id nor an image, so that its number is its id, as in `embed`."""
    if not isinstance(record, dict):
        return isinstance(record, str)
    named = first_of(ID_NAMES, record) or "conversations" in record
    return not named and _caption_key(record) is not None and _image(record) is None


def drops_first(record: object) -> bool:
    """Whether the first message of a usable record is not from human, and is dropped."""
    messages = record.get("conversations") if isinstance(record, dict) else None
    return messages is not None and messages[0]["from"] != _ROLES[0]


def _own_id(record: dict[str, Any]) -> Any:
    """Its id, or else its image; None where it has neither."""
    name = first_of(ID_NAMES, record)
    return _image(record) if name is None or record[name] is None else record[name]


def _caption_key(record: dict[str, Any]) -> str | None:
    return first_of(CAPTION_NAMES, {name for name, value in record.items() if value is not None})


def _turns(id: str, record: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    messages = _messages(id, record["conversations"])
    dropped = messages[0][0] != _ROLES[0]
    messages = messages[dropped:]
    placed = sum(text.count(IMAGE) for _, text in messages)
    images = max(len(_listed(record.get(key))) for key in IMAGE_KEYS)
    if not placed and images:
        raise _fault(id, f"has an image, but no {IMAGE} in the text", "image_not_placed")
    if not placed:
        raise _fault(id, f"is text only: its first prompt has no {IMAGE}", "text_only")
    if placed > 1:
        raise _fault(id, f"{IMAGE} appears more than once in it, expected one image", "several_images")
    if images > 1:
        raise _fault(id, f"is about {images} images, expected one", "several_images")
    for at, (role, _) in enumerate(messages):
        if role != _ROLES[at % 2]:
            what = f"message {at + dropped} is from {role!r}, expected {_ROLES[at % 2]!r}: human and gpt take turns"
            raise _fault(id, what, "turns")
    if len(messages) % 2:
        what = f"ends with a prompt, message {len(messages) - 1 + dropped}, without a response"
        raise _fault(id, what, "no_answer")
    texts = [text for _, text in messages]
    if IMAGE in texts[0]:
        texts[0] = f"{IMAGE}\n{texts[0].replace(IMAGE, '').strip()}".strip()
    return tuple(zip(texts[::2], texts[1::2], strict=True))


def _messages(id: str, messages: Any) -> list[tuple[str, str]]:
    """(role, text) of each."""
    if not isinstance(messages, list) or not messages:
        raise _fault(id, "its conversations are not a list of messages, or are empty")
    found = []
    for at, message in enumerate(messages):
        match message:
            case {"from": str(role), "value": str(text)}:
                found.append((role, text.strip()))
            case _:
                raise _fault(id, f"message {at} is not of the form {{'from': ..., 'value': text}}")
    return found


def _listed(images: Any) -> list[Any]:
    """The images that a record's "image" or "images" names: none, one or several."""
    return images if isinstance(images, list) else [images] if images else []


def _image(record: dict[str, Any]) -> str | None:
    """Path of the first image of a record."""
    path = next((one for key in IMAGE_KEYS for one in _listed(record.get(key))[:1]), None)
    return path if isinstance(path, str) and is_utf8(path) else None


def _fault(id: str, what: str, reason: str | None = None) -> InputError:
    text = f"example {id!r}: {what}"
    return InputError(text) if reason is None else UnusableError(text, reason)
