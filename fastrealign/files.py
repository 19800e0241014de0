"""Small result files, replaced in one step: moments and alignments are safetensors with JSON metadata, never pickle."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.errors import InputError

if TYPE_CHECKING:
    from fastrealign.io.places import Place

FORMAT = 1
# The key of the JSON record in the metadata, by which a file of ours is known.
RECORD = "fastrealign"


class OtherKind(InputError):
    """A file of ours, of another kind than was expected; `kind` is what it holds."""

    def __init__(self, message: str, kind: str | None) -> None:
        super().__init__(message)
        self.kind = kind


def save_tensors(path: str | Place, tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Write arrays and a JSON record to `path`: to a temporary name, fsynced, renamed."""
    from safetensors.numpy import save

    record = json.dumps({"format": FORMAT, **meta})
    save_bytes(path, save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, {RECORD: record}))


def save_bytes(path: str | Place, data: bytes) -> None:
    """Write a whole file: to a temporary name, fsynced, renamed."""
    from fastrealign.io.atomic import AtomicFile

    with AtomicFile(path) as file:
        file.append(data)
        file.commit()


def load_tensors(path: str | Place, kind: str, names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file that `save_tensors` wrote with meta["kind"] == kind. Raises InputError naming the file otherwise."""
    from safetensors import SafetensorError, safe_open

    try:
        with _local(path) as local, safe_open(str(local), framework="numpy") as file:
            record = (file.metadata() or {}).get(RECORD)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a saved {kind} (.safetensors)") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a saved {kind} (.safetensors): {error}") from None
    if record is None:
        raise InputError(f"{path}: a safetensors file, but not one that fastrealign saved; expected a saved {kind}")
    try:
        meta = dict(json.loads(record))
    except (TypeError, ValueError):
        raise InputError(f"{path}: its record is not readable; the file is damaged") from None
    if meta.get("format", 0) > FORMAT:
        raise InputError(f"{path}: written by a newer fastrealign (file format {meta['format']}); upgrade to read it")
    if meta.get("kind") != kind:
        raise OtherKind(f"{path}: holds {meta.get('kind')}, expected {kind}", meta.get("kind"))
    missing = [name for name in names if name not in tensors]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; the file is damaged")
    return tensors, meta


def _local(path: str | Place) -> AbstractContextManager[Path]:
    """The file itself, or a copy of what lies at a URL."""
    from fastrealign.io.places import is_url, place

    if is_url(path):
        from fastrealign.io.remote import local_copy

        return local_copy(str(path))
    return nullcontext(place(path))
