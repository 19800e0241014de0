"""The YAML file of a training run, and `--set key=value`."""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.core.text import brief, meant, shortened
from fastrealign.revision.config import TrainConfig
from fastrealign.storage.yaml_file import read_yaml, yaml_value


def read_config(path: str | os.PathLike, stage: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a stage from a YAML file.

    Parameters
    ----------
    path
        The file. For stage 2 it must have the key `adapter`, null for random weights: a forgotten stage 1 would go unnoticed.
    stage
        "stage1" or "stage2".
    overrides
        "key=value" or "lora.r=8", with values in YAML.

    Raises
    ------
    InputError
        With the file and the key: unknown, missing, or of the wrong type.
    """
    given = read_yaml(path, "a training run", "model: ..., data: ...")
    for override in overrides:
        _set(given, override)
    if "stage" in given:
        raise InputError(f"{path}: stage is set by the command (fastrealign train {stage}), not in the file")
    if stage == "stage2" and "adapter" not in given:
        raise InputError(
            f"{path}: adapter is missing: stage 2 begins with the output of stage 1 (null: random weights)"
        )
    return _made(TrainConfig, {**given, "stage": stage}, str(path))


def _set(given: dict[str, Any], override: str) -> None:
    key, is_set, text = override.partition("=")
    if not is_set or not key:
        raise InputError(f"--set {shortened(override)}: expected key=value, for example --set learning_rate=1e-4")
    try:
        value = yaml_value(text)
    except ValueError:
        value = text
    outer, is_nested, inner = key.partition(".")
    if is_nested:
        held = given.get(outer)
        given[outer] = {**(held if isinstance(held, dict) else {}), inner: value}
    else:
        given[key] = value


def _made(kind: type[Any], given: Mapping[Any, Any], name: str) -> Any:
    """A dataclass from the values of its fields, which are converted to their types; name: the file and key, for messages."""
    known = {field.name: field for field in fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in given:
        if key not in known:
            public = [one for one in known if one != "stage"]
            raise InputError(f"{name}: unknown key {brief(key)}{meant(str(key), public)} (known: {', '.join(public)})")
    missing = [key for key, field in known.items() if field.default is MISSING and given.get(key) is None]
    if missing:
        raise InputError(f"{name}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    values = {key: _typed(value, hints[key], key, name) for key, value in given.items()}
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _typed(value: Any, hint: Any, key: str, name: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if option is type(None) and value is None:
            return None
        if isinstance(option, type) and is_dataclass(option) and isinstance(value, Mapping):
            return _made(option, value, f"{name}: {key}")
        if typing.get_origin(option) is list and isinstance(value, list) and value:
            return [_typed(item, typing.get_args(option)[0], key, name) for item in value]
        if option is float:
            number = _number(value)
            if number is not None:
                return number
        if option in (str, int, bool) and type(value) is option:
            return value
    words = {type(None): "null", str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    expected = [words.get(o) or ("keys and values" if is_dataclass(o) else "a list of text") for o in options]
    raise InputError(f"{name}: {key}={brief(value)}: expected {' or '.join(expected)}")


def _number(value: Any) -> float | None:
    """YAML reads 5e-4 as text, since it has no point; here it is a number."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
