"""The paths of a training run, checked before anything is loaded: a misspelt one costs a second, not an hour."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from fastrealign.core.errors import InputError
from fastrealign.core.text import meant
from fastrealign.revision.config import TrainConfig
from fastrealign.revision.example_files import form_of
from fastrealign.storage import hub_models as hub
from fastrealign.storage.paths import place

_WEIGHTS = (".safetensors", ".bin")


def check_paths(config: TrainConfig, name: str | None = None) -> None:
    """Raises one InputError with every key whose path is missing or cannot be used. Sends no network request.

    name: file of the configuration, for the message.
    """
    faults = list(_faults(config))
    if faults:
        raise InputError(f"{name}: {'; '.join(faults)}" if name else "; ".join(faults))


def _faults(config: TrainConfig) -> Iterator[str]:
    try:
        hub.find(config.model, f"model: {config.model}", config.hub, "set hub: true")
    except InputError as error:
        yield str(error)
    else:
        lacks = _lacking(Path(config.model))
        if lacks:
            yield f"model: {config.model}: {lacks}"
    for key in ("data", "embeddings", "alignment", "adapter"):
        given = getattr(config, key)
        for path in [given] if isinstance(given, str) else given or []:
            at = place(path)
            fault = _fault(at, key) if isinstance(at, Path) else None
            if fault:
                yield f"{key}: {path}: {fault}"
    fault = _unusable(Path(config.out))
    if fault:
        yield f"out: {config.out}: {fault}"


def _fault(path: Path, key: str) -> str | None:
    """What is wrong with an input, or None."""
    if key == "embeddings" and not path.exists() and glob.has_magic(str(path)):
        return None if next(glob.iglob(str(path)), None) else "no file of that pattern"
    if not path.exists():
        return f"no such {'file' if key == 'data' else 'file or folder'}{_near(path)}"
    if key in ("data", "alignment") and path.is_dir():
        return "is a folder, expected a file"
    try:
        if key == "adapter" and path.is_dir():
            from fastrealign.revision import adapter  # torch, which takes seconds

            adapter.find(path)
        if key == "data":
            form_of(path)
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    if not os.access(path, os.R_OK):
        return "cannot be read: permission denied"
    return None


def _lacking(model: Path) -> str | None:
    """What a folder lacks to be a language model, or None: it is loaded only after the data is read."""
    names = [one.name for one in model.iterdir()] if model.is_dir() else None
    if names is None or "adapter_config.json" in names:
        return None
    if "config.json" not in names:
        return "has no config.json; name a folder that transformers saved"
    if not any(name.endswith(_WEIGHTS) for name in names):
        return f"has no weights ({', '.join(_WEIGHTS)}) beside config.json"
    return None


def _near(path: Path) -> str:
    return meant(path.name, os.listdir(path.parent)) if path.parent.is_dir() else ""


def _unusable(out: Path) -> str | None:
    """Why a folder cannot be written or made, or None."""
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        return f"{'' if there == out else f'{there} '}is a file, expected a folder"
    return None if os.access(there, os.W_OK) else f"cannot be written to: permission denied in {there}"
