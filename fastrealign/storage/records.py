"""JSON that may be damaged, parsed to a value or a ValueError; and JSON records that contain a checksum."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from fastrealign.core.digest import sha256

# More than any real record has. Python's own functions fail at about a thousand levels.
_LEVELS = 100
_SEAL = re.compile(rb'\{"check":"([0-9a-f]{32})",')


def parsed(text: str | bytes) -> Any:
    """The value of JSON text. ValueError for anything else, also for what is nested more than 100 levels deep."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    opened = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if opened > _LEVELS:
        _check_depth(value)
    return value


def record_of(text: str | bytes) -> dict[str, Any]:
    """The JSON object that fastrealign wrote. ValueError for anything else: a name twice, a value of another type."""
    try:
        value = json.loads(text, object_pairs_hook=_no_name_twice)
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(value, dict):
        raise ValueError("it holds no record")
    _check_depth(value)
    return value


def sealed(text: bytes) -> bytes:
    """The JSON text of a record that is not empty, preceded by a checksum of it."""
    body = text.removeprefix(b"{")
    return b'{"check":"%b",%b' % (_checksum(body), body)


def is_sealed(text: bytes) -> bool:
    return _SEAL.match(text) is not None


def unsealed(text: bytes) -> dict[str, Any]:
    """The record in what `sealed` made. ValueError if any bit of it was changed."""
    seal = _SEAL.match(text)
    if seal is None:
        raise ValueError("it has no checksum")
    if _checksum(text[seal.end() :]) != seal[1]:
        raise ValueError("its checksum does not match")
    value = record_of(text)
    del value["check"]
    return value


def checked(text: bytes, form: int) -> dict[str, Any]:
    """The record in a file of fastrealign's. Format `form`, the newest, has a checksum; earlier ones have none."""
    if is_sealed(text):
        return unsealed(text)
    value = record_of(text)
    if value.get("format") == form:
        raise ValueError("its checksum is not readable")
    return value


def _checksum(body: bytes) -> bytes:
    return sha256(body).hexdigest()[:32].encode()


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _check_depth(value: object) -> None:
    level = _containers([value])
    for _ in range(_LEVELS):
        if not level:
            return
        level = [part for one in level for part in _containers(one.values() if isinstance(one, dict) else one)]
    raise _too_deep()


def _containers(values: Iterable[object]) -> list[Any]:
    return [value for value in values if isinstance(value, (dict, list))]


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {_LEVELS} levels deep")
