"""Rules for the values of a JSON record, to detect damaged or hand-made files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastrealign.core.text import described


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def or_none(rule: Rule) -> Rule:
    """The rule for a value that may be missing."""
    return Rule(f"{rule.words} or null", lambda value: value is None or rule.holds(value))


def one_of(*values: object) -> Rule:
    return Rule(" or ".join(map(repr, values)), lambda value: value in values)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and type(value) in (int, float) and abs(value) <= sys.float_info.max


NUMBER = Rule("a finite number", _is_number)
NOT_NEGATIVE = Rule("a finite number of 0 or more", lambda value: _is_number(value) and value >= 0)
COUNT = Rule("a whole number from 0 to 2^63 - 1", lambda value: type(value) is int and 0 <= value < 2**63)
SEED = Rule("a whole number from 0 to 2^64 - 1", lambda value: type(value) is int and 0 <= value < 2**64)
TEXT = Rule("text", lambda value: isinstance(value, str))
MAPPING = Rule("a record", lambda value: isinstance(value, dict))
LIST = Rule("a list", lambda value: isinstance(value, list))
FLAG = Rule("true or false", lambda value: isinstance(value, bool))


def broken(record: object, rules: dict[str, Rule]) -> str | None:
    """Which value of a record breaks its rule, in words; None if none does."""
    if not isinstance(record, dict):
        return f"{described(record)} where a record is expected"
    for name, rule in rules.items():
        value = record.get(name)
        if not rule.holds(value):
            shown = repr(value)
            return f"{name!r} is {shown if len(shown) <= 60 else f'{shown[:57]}...'}, expected {rule.words}"
    return None


def check(record: object, rules: dict[str, Rule]) -> None:
    """ValueError that names the first value that breaks its rule."""
    found = broken(record, rules)
    if found is not None:
        raise ValueError(found)
