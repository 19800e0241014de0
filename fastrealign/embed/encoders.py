"""One tower of an encoder, ready to run, and the helpers that all encoders share. openclip.py and hf.py load encoders."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError, shortage
from fastrealign.core.libraries import Image, torch
from fastrealign.core.optional import optional
from fastrealign.core.text import one_line
from fastrealign.core.wording import option
from fastrealign.storage import hub_models as hub

PRECISIONS = ("fp32", "fp16", "bf16")


class EncoderChoice(Protocol):
    """An encoder that was named and is not loaded yet: `OpenClip`, `Transformers`."""

    def check(self) -> None:
        """Raises InputError for faults that show without loading it: a missing path or device. Uses no network."""

    def load(self, side: str) -> Encoder:
        """Its tower for "images" or "text". InputError if it has none, or its weights cannot be found."""


@dataclass(frozen=True)
class Encoder:
    """One tower of an encoder, ready to run.

    Attributes
    ----------
    name : str
        For people and for the metadata of an alignment.
    weights : str
        SHA-256 (hex) of its parameters.
    options : dict of str
        Other settings that determine the numbers, by name.
    prepare : callable
        From a picture (PIL, RGB) or a caption to an input of `encode`; called from several threads.
    encode : callable
        From a sequence of n inputs to unit rows, float32 (n, dim).
    by_length : bool
        Whether captions of similar length should share a batch, each being padded to the longest.
    dim : int
        Width of the rows.
    """

    name: str
    weights: str
    options: dict[str, str]
    prepare: Callable[[Any], Any]
    encode: Callable[[Sequence[Any]], np.ndarray]
    by_length: bool = False
    dim: int = field(init=False)

    def __post_init__(self) -> None:
        # One item before the run shows the width, and whether this encoder runs at all.
        sample = Image.new("RGB", (64, 64), "gray") if self.options["side"] == "images" else "a picture"
        try:
            row = self.encode([self.prepare(sample)])
        except InputError:
            raise
        except Exception as error:
            raise FastRealignError(
                f"{self.name}: fails on its first batch: {type(error).__name__}: {one_line(error)}; "
                "check that weights, tokenizer and image processor belong together"
            ) from error
        object.__setattr__(self, "dim", row.shape[1])


def allow_hub() -> str:
    """How the user allows a download, for messages."""
    return f"pass {option('hub', True)}"


def device_of(name: str) -> torch.device:
    """The device; "auto": the first GPU, or the CPU where there is none. InputError for one that does not exist."""
    optional("torch", "embed", "embed")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"{option('device', name)}: expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            there = f"PyTorch sees {count}" if count else "PyTorch sees none"
            raise InputError(
                f"{option('device', name)}: no such GPU, {there}; choose another or {option('device', 'cpu')}"
            )
    return device


def unit_rows(features: Callable[[], torch.Tensor]) -> np.ndarray:
    """The features that an encoder computes, as unit rows: float32 (n, dim)."""
    with torch.inference_mode():
        return torch.nn.functional.normalize(features().float(), dim=-1).cpu().numpy()


def fingerprint(*models: torch.nn.Module) -> str:
    """SHA-256 (hex) of all parameters and buffers, with their names, types and shapes."""
    found = hashlib.sha256()
    for model in models:
        for name, value in sorted(model.state_dict().items()):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def digest(value: object) -> str:
    """A fingerprint of a configuration: 16 hex digits of SHA-256."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def loading(*asked: str | None, online: bool = False) -> Iterator[None]:
    """Around a library that loads what was `asked` for: silences it, and turns what it raises into an InputError.

    online   whether it may use the hub
    """
    what = " ".join(filter(None, asked))
    try:
        with _quietly(), hub.asked(online):
            yield
    except FastRealignError:
        raise
    except Exception as error:  # OSError, or anything that a damaged archive causes
        if (short := shortage(error)) is not None:
            raise FastRealignError(f"{what}: {short}") from error
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{what}: runs code that comes with the model; read it, then allow it with {option('trust_remote_code', True)}"
            ) from error
        if hub.is_not_here(error) and online:
            raise InputError(f"{what}: not on this machine, and the download failed; name a file or folder") from error
        if hub.is_not_here(error):
            raise InputError(
                f"{what}: needs files that are not on this machine ({one_line(error)}); name a folder that has them, or pass "
                f"{option('hub', True)} to download them"
            ) from error
        raise InputError(
            f"{what}: cannot be loaded: {type(error).__name__}: {one_line(error)}; "
            "check that these are files of one model, and complete"
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Silences the progress bars and log lines of the libraries."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    bars = import_module("transformers.utils.logging") if "transformers" in sys.modules else None
    if bars is not None:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(before)
        if bars is not None:
            bars.enable_progress_bar()
