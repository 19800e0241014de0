"""What a training run takes: a few keys of a YAML file, checked before anything is loaded."""

from __future__ import annotations

import difflib
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.core.text import one_line, shown_values
from fastrealign.revision.templates import FORMS, STAGES

# Of the paper (arXiv 2602.07026, section 5), by stage.
LEARNING_RATES = {"stage1": 5e-4, "stage2": 1e-5}
WARM_UP = 0.03
_CHOICES = {
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "device": ("auto", "cpu", "cuda"),
    "missing": ("error", "skip"),
    "unanswered": ("error", "skip"),
    "unusable": ("skip", "error"),
    "form": (None, *FORMS),
}
# No count is as large as this; seeds of NumPy and torch are not either.
_TOO_MANY = 1 << 31
# Bytes of a configuration, and characters of it that a message shows.
_LARGEST = 1 << 20
_SHOWN = 100
_COUNTS = ("tokens", "batch_size", "gradient_accumulation", "save_steps")
# What may differ between a run and the one that goes on with it: nothing here decides a weight.
FREE = ("save_steps", "report_to", "device", "hub")


@dataclass(frozen=True)
class Lora:
    """Low-rank updates in place of the language model's own weights (peft): rank, scale, names of the linear layers."""

    r: int = 16
    alpha: float = 32.0
    targets: str | list[str] = "all-linear"

    def __post_init__(self) -> None:
        if not (1 <= self.r < _TOO_MANY and 0 < self.alpha < math.inf):
            raise InputError(
                f"lora.r={_brief(self.r)}, lora.alpha={self.alpha}: expected r of at least 1 and alpha above 0"
            )


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Paths are relative to where the command is called.

    model           the language model: a folder as transformers saves it; "hf://ORG/NAME", which may be downloaded; or a name
                    of the hub, which is read from its cache
    data            conversations or captions: a file or several (data.read_examples)
    embeddings      where they are looked up by id: files or folders of fastrealign's formats (data.open_embeddings)
    out             a new folder for the trained model
    stage           "stage1": the adapter alone learns, on text; "stage2": the language model too, on responses
    alignment       an alignment or baseline that maps the embeddings on their way into a batch; None: as they are
    adapter         weights to begin with: the output of stage 1, or an adapter file of LLaVA's; None: random ones
    tokens          visual tokens an embedding
    max_length      tokens of an example; longer ones are cut. None: as many as the language model takes
    batch_size      examples a device and forward pass; times gradient_accumulation (times devices) for one step
    learning_rate   highest, after a warm-up over 0.03 of the steps, before a cosine to 0. None: 5e-4 in stage 1, 1e-5 in 2
    precision       "auto": bf16 on a GPU that has it, otherwise fp32; "bf16" and "fp16" are mixed, with float32 updates
    seed            of the adapter's first weights and the order of the examples
    save_steps      steps between two checkpoints
    report_to       a tracker of transformers: "none", "tensorboard", "wandb", ...; or several
    lora            stage 2: train LoRA's updates in place of the language model
    missing         ids without an embedding: "error", or "skip" and count them
    unanswered      examples of whose responses max_length leaves nothing: "error", or "skip" and count them
    unusable        records that are not about one image (text only, several images, ...; examples.UNUSABLE): "skip" and count
                    them by reason, or "error"
    form            of prompts in stage 2: "chat", the tokenizer's chat template; "llava". None: "chat" where there is one
    device          "auto", "cpu", "cuda"
    hub             whether the hub may be asked for a model that is not here
    """

    model: str
    data: str | list[str]
    embeddings: str | list[str]
    out: str
    stage: str
    alignment: str | None = None
    adapter: str | None = None
    tokens: int = 1
    max_length: int | None = None
    batch_size: int = 32
    gradient_accumulation: int = 1
    learning_rate: float | None = None
    epochs: float = 1.0
    precision: str = "auto"
    seed: int = 0
    save_steps: int = 500
    report_to: str | list[str] = "none"
    lora: Lora | None = None
    missing: str = "error"
    unanswered: str = "error"
    unusable: str = "skip"
    form: str | None = None
    device: str = "auto"
    hub: bool = False

    def __post_init__(self) -> None:
        for name, choices in {"stage": STAGES, **_CHOICES}.items():
            value = getattr(self, name)
            if value not in choices:
                named = ", ".join(choice or "null" for choice in choices)
                raise InputError(f"{name}: {_brief(value)}, expected one of {named}")
        for name, least in (*((name, 1) for name in _COUNTS), ("seed", 0)):
            if not least <= getattr(self, name) < _TOO_MANY:
                raise InputError(f"{name}: {_brief(getattr(self, name))}, expected at least {least} and less than 2^31")
        if self.max_length is not None and not self.tokens + 2 <= self.max_length < _TOO_MANY:
            raise InputError(
                f"max_length: {_brief(self.max_length)}, expected room for {self.tokens} visual tokens and text"
            )
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", LEARNING_RATES[self.stage])
        for name in ("learning_rate", "epochs"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name}: {value}, expected a number above 0")
        if self.stage == "stage1" and self.lora is not None:
            raise InputError("lora: stage 1 trains the adapter alone; leave lora out, or give it in stage 2")

    def to_json(self) -> dict[str, Any]:
        """Plain values, URLs without what grants access: a signature that was renewed makes no other run."""
        return shown_values(asdict(self))

    def differing(self, other: Mapping[str, Any]) -> list[str]:
        """Keys in which a run that is to be resumed was another one."""
        mine = self.to_json()
        before = {field.name: field.default for field in fields(self)} | dict(other)  # it may lack keys that came later
        return [key for key in mine if key not in FREE and mine[key] != before[key]]


def read_config(path: str | os.PathLike, stage: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a stage from a YAML file; `overrides` are "key=value" (or "lora.r=8"), values in YAML too.

    Raises InputError naming the file and the key: unknown (with the nearest that is known), missing, of the wrong type. In
    stage 2 the file must say `adapter`, null for random weights: to forget stage 1 would not be seen otherwise.
    """
    given = _yaml(path)
    for override in overrides:
        _set(given, override)
    if "stage" in given:
        raise InputError(f"{path}: stage is said by the command (fastrealign train {stage}), not by the file")
    if stage == "stage2" and "adapter" not in given:
        raise InputError(
            f"{path}: adapter is missing: stage 2 begins with the output of stage 1 (null: random weights)"
        )
    values = _checked(TrainConfig, {**given, "stage": stage}, str(path))
    try:
        return TrainConfig(**values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _yaml(path: str | os.PathLike) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            raw = file.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise InputError(
                f"{path}: is larger than {_LARGEST >> 20} MB, expected a YAML file with the keys of a training run"
            )
        text = raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a YAML file with the keys of a training run") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from None
    try:
        given = _value(text)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    if not isinstance(given, dict):
        what = "is empty" if given is None else f"holds {type(given).__name__}"
        raise InputError(f"{path}: {what}, expected keys and values: model: ..., data: ...")
    return given


def _value(text: str) -> Any:
    """What YAML text says. ValueError that names the line for what is none, or is not taken here."""
    import yaml

    try:
        return yaml.load(text, _loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise ValueError(f"{where}not YAML: {_cut(getattr(error, 'problem', None) or 'malformed')}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except (ValueError, OverflowError) as error:  # of a date that is none, of a number of very many digits
        raise ValueError(f"not YAML: {one_line(error)}") from None


def _loader() -> type:
    """YAML's safe loader, which takes no references to other parts of the file: they can make a few lines hold billions of
    values. A key that comes twice, of which it would take the last, is an error, too."""
    import yaml

    class Once(yaml.SafeLoader):
        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()
                raise yaml.MarkedYAMLError(
                    problem=f"*{event.anchor}: write the value out", problem_mark=event.start_mark
                )
            return super().compose_node(parent, index)

        def construct_mapping(self, node, deep=False):
            seen = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise yaml.MarkedYAMLError(
                            problem=f"the key {key.value} comes twice", problem_mark=key.start_mark
                        )
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    return Once


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _brief(value: Any) -> str:
    """A value for messages."""
    try:
        return _cut(repr(value))
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of too many digits"


def _set(given: dict[str, Any], override: str) -> None:
    key, is_set, text = override.partition("=")
    if not is_set or not key:
        raise InputError(f"--set {_cut(override)}: expected key=value, for example --set learning_rate=1e-4")
    try:
        value = _value(text)
    except ValueError:
        value = text
    outer, is_nested, inner = key.partition(".")
    if is_nested:
        held = given.get(outer)
        given[outer] = {**(held if isinstance(held, dict) else {}), inner: value}
    else:
        given[key] = value


def _checked(kind: type, given: Mapping[Any, Any], name: str) -> dict[str, Any]:
    """The values of a dataclass's fields, of their types; `name` says where they were given."""
    known = {field.name: field for field in fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
            raise InputError(
                f"{name}: unknown key {_brief(key)}; did you mean {near[0]}? (known: {', '.join(_public(known))})"
            )
    missing = [key for key, field in known.items() if field.default is MISSING and given.get(key) is None]
    if missing:
        raise InputError(f"{name}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    return {key: _typed(value, hints[key], key, name) for key, value in given.items()}


def _public(known: Mapping[str, Field]) -> list[str]:
    return [key for key in known if key != "stage"]


def _typed(value: Any, hint: Any, key: str, name: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if option is type(None) and value is None:
            return None
        if is_dataclass(option) and isinstance(value, Mapping):
            try:
                return option(**_checked(option, value, f"{name}: {key}"))
            except InputError as error:
                raise error if str(error).startswith(name) else InputError(f"{name}: {error}") from None
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
    raise InputError(f"{name}: {key}: {_brief(value)}, expected {' or '.join(expected)}")


def _number(value: Any) -> float | None:
    """YAML takes 5e-4 for text, as it has no point; here it is what it looks like."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
