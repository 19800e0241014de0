"""Saved results (moments, alignments): safetensors with a JSON record and checksums, replaced atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fastrealign.core.digest import sha256
from fastrealign.core.errors import FastRealignError, InputError, shortage
from fastrealign.core.float_state import computes
from fastrealign.core.text import brief
from fastrealign.formats.registry import FORMATS
from fastrealign.formats.safetensors_files import RECORD, is_of_others
from fastrealign.formats.unsupported import OTHER_SUFFIXES
from fastrealign.storage.atomic import save_bytes
from fastrealign.storage.hub_files import hub_file, is_on_hub
from fastrealign.storage.paths import AnyPath, check_given, is_folder, is_path, place
from fastrealign.storage.record_rules import Rule, broken
from fastrealign.storage.records import checked, is_sealed, sealed
from fastrealign.storage.spool import local_copy

# 1 had no checksums.
FORMAT = 2
# Suffixes that a saved file must not have, besides those of embeddings.
_OTHERS = (".html", ".md", ".yaml", ".yml", ".log", ".py", ".manifest")
# The key in the record of the checksum of the tensors; the record has one of itself (storage/records.py).
_CHECKSUM = "tensors"


class OtherKind(InputError):
    """A file that fastrealign saved, of another kind than expected: `kind`."""

    def __init__(self, message: str, kind: str | None) -> None:
        super().__init__(message)
        self.kind = kind


@computes
def save_tensors(path: AnyPath, tensors: dict[str, np.ndarray], meta: dict[str, Any], fsync: bool = True) -> None:
    """Write arrays and a JSON record to `path` atomically; see `save_bytes`. InputError for a file of another program."""
    if is_of_others(path):
        raise InputError(
            f"{path}: holds tensors that fastrealign did not save; choose another name, or remove it first"
        )

    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    record = sealed(json.dumps({"format": FORMAT, **meta, _CHECKSUM: _checksum(tensors)}).encode())
    save_bytes(path, save(tensors, {RECORD: record.decode()}), fsync)


def _checksum(tensors: dict[str, np.ndarray]) -> str:
    """SHA-256 (hex) of names, types, shapes and values."""
    digest = sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def check_saved_name(path: AnyPath, kind: str) -> None:
    """InputError for a name that a saved `kind` must not have: that of another kind of file, or none."""
    text = str(path)
    if not is_path(path) or text.endswith("/") or "\0" in text or place(path).name in ("", ".."):
        given = brief(text if is_path(path) else path)
        raise InputError(f"{given}: is no name of a file; name one to save the {kind} to, such as {kind}.safetensors")
    suffix = place(path).suffix.lower()
    if suffix != ".safetensors" and (suffix in FORMATS or suffix in _OTHERS or suffix in OTHER_SUFFIXES):
        better = f"{text[: -len(suffix)]}.safetensors"
        raise InputError(f"{text}: {suffix} is not what a saved {kind} is; name it {better}")


def _better(folder: Path, kind: str) -> str:
    """What to name instead: the alignment of the run whose output this is, where that is wanted and there."""
    beside = folder / "alignment.safetensors"
    return f"name {beside}" if kind == "alignment" and beside.exists() else f"name {_saved(kind)}"


def _advice(path: AnyPath, kind: str, error: Exception) -> str:
    if isinstance(error, OSError):
        return ""
    if place(path).suffix == ".safetensors":
        return "; the file is damaged, or no safetensors file"
    return f"; {_better(Path(path).parent, kind)}"


def _saved(kind: str) -> str:
    return f"saved {kind}" if kind.endswith("s") else f"a saved {kind}"


@computes
def load_tensors(path: AnyPath, kind: str, names: tuple[str, ...] = ()) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file that `save_tensors` wrote with meta["kind"] == kind. Raises InputError naming the file otherwise."""
    check_given(path, f"the file of {_saved(kind)}")
    if not is_on_hub(path) and isinstance(place(path), Path) and is_folder(path):
        raise InputError(
            f"{path}: cannot be read as {_saved(kind)} (.safetensors): it is a folder; {_better(Path(path), kind)}"
        )
    at = hub_file(str(path)) if is_on_hub(path) else path
    if isinstance(local_path := place(at), Path) and os.path.exists(local_path) and not os.path.isfile(local_path):
        raise InputError(f"{path}: is not a regular file; copy its contents to one first")
    try:
        with local_copy(at) as local, safe_open(str(local), framework="numpy") as file:
            record = (file.metadata() or {}).get(RECORD)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected {_saved(kind)} (.safetensors)") from None
    # TypeError and AttributeError: of element types that NumPy lacks.
    except (SafetensorError, OSError, MemoryError, TypeError, AttributeError) as error:
        if (short := shortage(error)) is not None:
            raise FastRealignError(f"{path}: cannot be read: {short}") from error
        raise InputError(
            f"{path}: cannot be read as {_saved(kind)} (.safetensors): {error}{_advice(path, kind, error)}"
        ) from None
    if record is None:
        raise InputError(f"{path}: a safetensors file, but not one that fastrealign saved; expected {_saved(kind)}")
    try:
        text = record.encode()
        meta = checked(text, FORMAT)
    except ValueError as error:
        raise InputError(f"{path}: its record is not readable ({error}); the file is damaged") from None
    if not isinstance(meta.get("format", 0), int):
        raise InputError(f"{path}: its file format is {meta['format']!r}, expected a whole number; the file is damaged")
    if meta.get("format", 0) > FORMAT:
        raise InputError(f"{path}: written by a newer fastrealign (file format {meta['format']}); upgrade to read it")
    if meta.get("kind") != kind:
        raise OtherKind(f"{path}: holds {meta.get('kind')}, expected {kind}", meta.get("kind"))
    if is_sealed(text) and meta.pop(_CHECKSUM, None) != _checksum(tensors):
        why = next((why for name, value in tensors.items() if (why := _not_finite(name, value))), None)
        raise damaged(path, kind, why or "its checksum does not match")
    check_present(path, tensors, names)
    return tensors, meta


def check_present(path: AnyPath, tensors: dict[str, np.ndarray], names: tuple[str, ...]) -> None:
    """InputError for a tensor that is missing."""
    missing = [name for name in names if name not in tensors]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; the file is damaged")


def check_tensors(
    path: AnyPath, kind: str, tensors: dict[str, np.ndarray], axes: dict[str, int], dtype: Any = np.float64
) -> None:
    """InputError for a tensor of another shape or element type than `save` writes, or with a NaN or Inf.

    axes   the number of axes of each tensor, all as long as that of the first one; only the first has to be present
    """
    width = max((1, *tensors[next(iter(axes))].shape[:1]))
    for name in filter(tensors.__contains__, axes):
        value, shape = tensors[name], (width,) * axes[name]
        if value.shape != shape:
            raise damaged(path, kind, f"{name} has shape {value.shape}, expected {shape}")
        if value.dtype != dtype:
            raise damaged(path, kind, f"{name} holds {value.dtype}, expected {np.dtype(dtype)}")
        if (why := _not_finite(name, value)) is not None:
            raise damaged(path, kind, why)


def _not_finite(name: str, value: np.ndarray) -> str | None:
    return None if value.dtype.kind != "f" or np.isfinite(value).all() else f"{name} holds a NaN or an Inf"


def check_record(path: AnyPath, kind: str, record: dict[str, Any], rules: dict[str, Rule]) -> None:
    """InputError for a value that breaks its rule."""
    found = broken(record, rules)
    if found is not None:
        raise damaged(path, kind, found)


def damaged(path: AnyPath, kind: str, how: str) -> InputError:
    """The error for a saved file whose content contradicts itself."""
    one = f"damaged {kind}" if kind.endswith("s") else f"a damaged {kind}"
    return InputError(f"{path}: {one}: {how}; copy or make it again")
