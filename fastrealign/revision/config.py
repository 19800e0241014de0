"""The options of a training run: frozen values that check themselves, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fastrealign.core.checks import number, whole
from fastrealign.core.errors import InputError
from fastrealign.core.text import brief, shown_values
from fastrealign.core.wording import on_command_line
from fastrealign.data.options import NoiseOptions
from fastrealign.revision.templates import FORMS, STAGES

# Of the paper (arXiv 2602.07026, section 5): highest rate by stage, and the share of the steps that is warm-up.
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
# Of every count, and of seeds, which NumPy and torch take.
_MOST = (1 << 31) - 1
_PATHS = ("model", "data", "embeddings", "out", "alignment", "adapter")
_COUNTS = ("tokens", "batch_size", "gradient_accumulation", "save_steps")
# Keys that may differ when a run is resumed: none of them affects a weight.
FREE = ("save_steps", "report_to", "device", "hub")


@dataclass(frozen=True)
class Lora:
    """Low-rank updates (peft) in place of the language model's own weights.

    Parameters
    ----------
    r
        Rank.
    alpha
        Scale.
    targets
        Names of the linear layers.
    """

    r: int = 16
    alpha: float = 32.0
    targets: str | list[str] = "all-linear"

    @on_command_line(False)
    def __post_init__(self) -> None:
        whole("r", self.r, 1, _MOST)
        number("alpha", self.alpha, lambda alpha: alpha > 0, "above 0")


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Paths are relative to where the command is called.

    Parameters
    ----------
    model
        Language model: a folder as transformers saves it; "hf://ORG/NAME", which may be downloaded; or a name on the hub, which
        is read from its cache.
    data
        File or files with conversations or captions (examples.read_examples).
    embeddings
        Where they are looked up by id: files or folders of any format that fastrealign reads (data/lookup.py).
    out
        New folder for the trained model.
    stage
        "stage1": the adapter alone is trained, on text. "stage2": the language model too, on responses.
    alignment
        File of a fitted method that maps the embeddings of each batch. None: they stay as they are.
    noise
        Length of noise on the mapped embeddings, or on unit rows without an alignment; 1 is as long as a row. An embedding has
        the same noise whenever it is used; its seed is that of the run.
    adapter
        Initial weights: the output of stage 1, or an adapter file of LLaVA. None: random.
    tokens
        Visual tokens per embedding.
    max_length
        Tokens per example; longer ones are cut. None: as many as the language model takes.
    batch_size
        Examples per device and forward pass. A step has gradient_accumulation times as many, on every device.
    gradient_accumulation
        Forward passes per step.
    learning_rate
        Highest rate, after a warm-up over 0.03 of the steps and before a cosine to 0. None: 5e-4 in stage 1, 1e-5 in stage 2.
    epochs
        Passes over the data.
    precision
        "auto": bf16 on a GPU that has it, otherwise fp32. "bf16" and "fp16" are mixed precision with float32 updates.
    seed
        Of the adapter's initial weights, of the order of the examples, and of noise.
    save_steps
        Steps between two checkpoints.
    report_to
        A tracker of transformers ("none", "tensorboard", "wandb", ...), or several.
    lora
        In stage 2, train low-rank updates in place of the language model.
    missing
        For ids without an embedding: "error", or "skip" to leave them out and count them.
    unanswered
        For examples that max_length leaves no response: "error", or "skip" to leave them out and count them.
    unusable
        For records that are not about one image (conversations.UNUSABLE): "skip" to leave them out and count them by reason, or
        "error".
    form
        Of prompts in stage 2: "chat", the tokenizer's chat template, or "llava". None: "chat" if there is a template.
    device
        "auto", "cpu" or "cuda".
    hub
        Whether a model that is not on this machine may be downloaded.

    Raises
    ------
    InputError
        With the key, for a value out of range.

    Examples
    --------
    >>> TrainConfig(model="lm", data="captions.json", embeddings="text_emb", out="run", stage="stage1").learning_rate
    0.0005
    >>> TrainConfig("lm", "captions.json", "text_emb", "run", "stage1", tokens=0)
    Traceback (most recent call last):
        ...
    fastrealign.core.errors.InputError: tokens=0: expected a whole number from 1 to 2^31 - 1
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
    noise: float = 0.0

    @on_command_line(False)
    def __post_init__(self) -> None:
        for name, choices in {"stage": STAGES, **_CHOICES}.items():
            value = getattr(self, name)
            if value not in choices:
                named = ", ".join(choice or "null" for choice in choices)
                raise InputError(f"{name}={brief(value)}: expected one of {named}")
        for name in _PATHS:
            given = getattr(self, name)
            if "" in ([given] if isinstance(given, str) else given or []):
                raise InputError(f"{name}='': expected a path")
        for name, least in (*((name, 1) for name in _COUNTS), ("seed", 0)):
            whole(name, getattr(self, name), least, _MOST)
        if self.max_length is not None:
            room = f"room for {self.tokens} visual tokens and text"
            whole("max_length", self.max_length, self.tokens + 2, _MOST, why=room)
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", LEARNING_RATES[self.stage])
        # AdamW divides by 0.1 in its first step, and torch stops with an error where the quotient is above float32's largest.
        number("learning_rate", self.learning_rate, lambda value: 0 < value <= 1e37, "above 0, at most 1e37")
        number("epochs", self.epochs, lambda value: value > 0, "above 0")
        NoiseOptions(self.noise)
        if self.stage == "stage1" and self.lora is not None:
            raise InputError("lora: stage 1 trains the adapter alone; leave lora out, or give it in stage 2")

    def to_json(self) -> dict[str, Any]:
        """Plain values. URLs come without their secrets, so that a renewed signature is not another configuration."""
        return shown_values(asdict(self))

    def differing(self, other: Mapping[str, Any]) -> list[str]:
        """Keys that affect the weights and whose values are not those of `other`, the configuration of a run to resume."""
        mine = self.to_json()
        before = {field.name: field.default for field in fields(self)} | dict(other)  # an older version lacks some keys
        return [key for key in mine if key not in FREE and mine[key] != before[key]]
