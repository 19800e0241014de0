"""Encoders: one tower, loaded and ready to run, and what loading any has in common. openclip.py and hf.py load them."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError, shortage
from fastrealign.core.text import one_line
from fastrealign.storage import hub

if TYPE_CHECKING:
    import torch

PRECISIONS = ("fp32", "fp16", "bf16")


class Choice(Protocol):
    """An encoder that was named and is not loaded yet."""

    def check(self) -> None:
        """InputError for what can be seen without loading it: a path or a device that is not there. Asks no network."""

    def load(self, side: str) -> Encoder:
        """Its tower for "images" or "text". Raises InputError if it has none, or its weights are not to be had."""


@dataclass(frozen=True)
class Encoder:
    """One tower of an encoder, ready to run.

    name      for people and for an alignment's metadata
    weights   SHA-256 (hex) of its parameters
    options   what else decides the numbers, by name
    prepare   called from several threads: a picture (PIL, RGB) or a caption as `encode` takes it
    encode    a list of these -> unit rows, float32 (n, dim)
    by_length whether captions of like length had better share a batch, each being padded to the longest of it
    """

    name: str
    weights: str
    options: dict[str, str]
    prepare: Callable[[Any], Any]
    encode: Callable[[Sequence[Any]], np.ndarray]
    by_length: bool = False
    dim: int = field(init=False)

    def __post_init__(self) -> None:
        # One item before the run: it tells the width, and whether this encoder runs at all.
        from PIL import Image

        sample = Image.new("RGB", (64, 64), "gray") if self.options["side"] == "images" else "a picture"
        try:
            row = self.encode([self.prepare(sample)])
        except InputError:
            raise
        except Exception as error:
            raise FastRealignError(
                f"{self.name}: fails on its first batch: {type(error).__name__}: {one_line(error)}; "
                "look whether weights, tokenizer and image processor belong together"
            ) from error
        object.__setattr__(self, "dim", row.shape[1])


def device_of(name: str) -> torch.device:
    """The device; "auto": the first GPU, or the processor where there is none. Raises InputError for one that is not there."""
    torch = needed("torch", "embed")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            there = f"PyTorch sees {count}" if count else "PyTorch sees none"
            raise InputError(f"--device {name}: no such GPU, {there}; choose another or --device cpu")
    return device


def check_precision(precision: str) -> None:
    """InputError for another than `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r}: expected one of {', '.join(PRECISIONS)}")


def unit_rows(features: Callable[[], torch.Tensor]) -> np.ndarray:
    """What an encoder computes, as unit rows: float32 (n, dim)."""
    import torch

    with torch.inference_mode():
        return torch.nn.functional.normalize(features().float(), dim=-1).cpu().numpy()


def fingerprint(*models: torch.nn.Module) -> str:
    """SHA-256 (hex) of all parameters and buffers, with their names, types and shapes."""
    import torch

    found = hashlib.sha256()
    for model in models:
        for name, value in sorted(model.state_dict().items()):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def digest(value: Any) -> str:
    """A short name for a configuration: 16 hex digits of SHA-256."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def needed(package: str, for_what: str) -> Any:
    """The package, imported. Raises InputError that says how to install it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise InputError(
            f"{for_what} needs the package {package} ({error}): pip install 'fastrealign[embed]'"
        ) from None


@contextmanager
def loading(*asked: str | None, online: bool = False) -> Iterator[None]:
    """Around a library that loads what was `asked` for: it keeps quiet, and what it raises becomes an InputError.

    online   whether it may ask the hub
    """
    what = " ".join(filter(None, asked))
    try:
        with _quietly(), hub.asked(online):
            yield
    except FastRealignError:
        raise
    except Exception as error:  # anything from OSError to what a damaged archive meets
        if (short := shortage(error)) is not None:
            raise FastRealignError(f"{what}: {short}") from error
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{what}: runs code that comes with the model; read it, then allow it with --trust-remote-code"
            ) from error
        if hub.is_not_here(error) and online:
            raise InputError(f"{what}: not on this machine and not to be fetched; name a file or folder") from error
        if hub.is_not_here(error):
            raise InputError(
                f"{what}: needs files that are not on this machine ({one_line(error)}); name a folder that has them, or pass "
                "--hub to download them"
            ) from error
        raise InputError(f"{what}: cannot be loaded: {type(error).__name__}: {one_line(error)}") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without progress bars and remarks of libraries, which would stand among our own."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    bars = None
    if "transformers" in sys.modules:
        from transformers.utils import logging as bars

        bars.disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(before)
        if bars is not None:
            bars.enable_progress_bar()
