"""revision.json in the folder of a saved model: its widths, and the language model that it belongs to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.storage.atomic import save_bytes
from fastrealign.storage.record_rules import FLAG, TEXT, Rule, broken
from fastrealign.storage.records import parsed

RECORD = "revision.json"
_FORMAT = 1
_SIZE = Rule("a whole number of at least 1", lambda value: type(value) is int and value >= 1)
_RULES = {"dim": _SIZE, "tokens": _SIZE, "lm": TEXT, "lm_fingerprint": TEXT, "lora": FLAG}


def write_record(folder: Path, values: dict[str, Any]) -> None:
    save_bytes(folder / RECORD, json.dumps({"format": _FORMAT, **values}, indent=2).encode())


def read_record(folder: Path) -> dict[str, Any]:
    """Raises InputError if it is missing, damaged or of a newer version."""
    file = folder / RECORD
    try:
        record = parsed(file.read_bytes())
        missing = set(_RULES) - set(record)
        newer = record.get("format", 0) > _FORMAT
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder}: has no {RECORD}; expected a folder that training or save_pretrained wrote"
        ) from None
    except (ValueError, TypeError, AttributeError):
        raise InputError(f"{file}: not readable as JSON; the file is damaged") from None
    if newer:
        raise InputError(f"{file}: written by a newer fastrealign (format {record['format']}); upgrade to read it")
    if missing:
        raise InputError(f"{file}: lacks {', '.join(sorted(missing))}; the file is damaged")
    if (fault := broken(record, _RULES)) is not None:
        raise InputError(f"{file}: {fault}; the file is damaged")
    return record


def check_language_model(path: str | os.PathLike, record: dict[str, Any], found: str, source: str | None) -> None:
    """InputError where the language model with the fingerprint `found`, loaded from `source`, is not the one of the record."""
    if found != record["lm_fingerprint"]:
        raise InputError(
            f"{path}: was trained with another language model ({record['lm']}, {record['lm_fingerprint'][:12]}) "
            f"than {source or 'the one given'} ({found[:12]}); use the one that it was trained with"
        )
