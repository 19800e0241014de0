"""YAML files that a person writes: read strictly, errors with the line."""

from __future__ import annotations

import os
import re
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.core.optional import optional
from fastrealign.core.text import one_line, shortened
from fastrealign.storage.paths import check_given

# Bytes of a file.
_LARGEST = 1 << 20
_ODD_NUMBER = re.compile(r"[-+]?0[0-9_]|.*:")


def read_yaml(path: str | os.PathLike, of: str, example: str, *, words: bool = False) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Parameters
    ----------
    path
        The file.
    of, example
        What it holds, and its beginning, for messages: "a training run", "model: ..., data: ...".
    words
        Take every value as the text that was written.

    Raises
    ------
    InputError
        With the file, for one that is missing, too large, or not YAML with keys and values.
    """
    expected = f"expected a YAML file with the keys of {of}"
    check_given(path, "the configuration")
    try:
        with open(path, "rb") as file:
            raw = file.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise InputError(f"{path}: is larger than {_LARGEST >> 20} MB, {expected}")
        text = raw.decode("utf-8-sig")
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, {expected}") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {expected}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from None
    try:
        given = yaml_value(text, words=words)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    if not isinstance(given, dict):
        what = "is empty" if given in (None, "") else f"holds {type(given).__name__}"
        raise InputError(f"{path}: {what}, expected keys and values: {example}")
    return given


def yaml_value(text: str, *, words: bool = False) -> Any:
    """The value of YAML text. ValueError, with the line, if it is malformed or uses what is not accepted here."""
    yaml = optional("yaml", "config", "a configuration in YAML")
    try:
        return yaml.load(text, _loader(yaml, yaml.BaseLoader if words else yaml.SafeLoader))
    except _NotAccepted:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise ValueError(f"{where}not YAML: {shortened(getattr(error, 'problem', None) or 'malformed')}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except (ValueError, OverflowError) as error:  # an impossible date, a number of too many digits
        raise ValueError(f"not YAML: {one_line(error)}") from None


class _NotAccepted(ValueError):
    """What YAML allows, and few people mean."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(f"line {mark.line + 1}: {problem}")


def _loader(yaml: Any, base: Any) -> Any:
    """A safe loader of YAML, with errors for what few people mean.

    Aliases can expand a few lines to billions of values; of duplicate keys only the last would count; YAML 1.1 reads 010 as 8
    and 1:30 as 90.
    """

    class Strict(base):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()
                raise _NotAccepted(f"*{shortened(event.anchor)}: write the value out", event.start_mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise _NotAccepted(f"the key {shortened(key.value)} comes twice", key.start_mark)
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    def in_tens(read: Any) -> Any:
        def construct(loader: Any, node: Any) -> Any:
            if _ODD_NUMBER.match(node.value):
                how = "write a number with decimal digits, without a leading 0 or a colon; put text in quotes"
                raise _NotAccepted(f"{shortened(node.value)}: {how}", node.start_mark)
            return read(loader, node)

        return construct

    if base is yaml.SafeLoader:
        for kind in ("int", "float"):
            Strict.add_constructor(f"tag:yaml.org,2002:{kind}", in_tens(getattr(base, f"construct_yaml_{kind}")))
    return Strict
