"""Folders of Hugging Face `Dataset.save_to_disk`: Arrow shards, and two small files that describe them.

state.json names the shards in order; dataset_info.json has the type of each column. Both are written after all shards, so that
`datasets.load_from_disk` reads the output.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fastrealign.core.digest import sha256
from fastrealign.core.errors import InputError
from fastrealign.core.text import one_line
from fastrealign.formats.arrow_schema import retyped_feature
from fastrealign.formats.base import Shard
from fastrealign.formats.manifest import ShardRecord
from fastrealign.formats.tables import TableShard
from fastrealign.storage.atomic import save_bytes
from fastrealign.storage.files import reading
from fastrealign.storage.paths import Place
from fastrealign.storage.records import parsed

_STATE = "state.json"
_INFO = "dataset_info.json"
_SPLITS = "dataset_dict.json"
_FILES = "_data_files"
_INDICES = ("_indices_data_files", "_indices_files")
_FINGERPRINT = "_fingerprint"
# Entries of dataset_info.json on bytes and rows of the original files.
_SIZES = ("num_bytes", "shard_lengths")


def is_dataset(folder: Path) -> bool:
    """Whether the folder is a dataset; InputError for a dictionary of splits, of which the user has to name one."""
    if not os.path.isfile(folder / _SPLITS):
        return os.path.isfile(folder / _STATE)
    splits = _loaded(folder / _SPLITS).get("splits")
    if not isinstance(splits, list) or not splits:
        raise InputError(f"{folder}: {_SPLITS} names no splits; save the dataset again")
    listed = ", ".join(map(str, splits))
    raise InputError(
        f"{folder}: is a DatasetDict with the splits {listed}; name one, for example {folder / str(splits[0])}"
    )


def shards_of(folder: Path) -> list[Path]:
    """The Arrow files of a dataset, in order. Raises InputError if state.json is damaged or rows are picked by indices."""
    state = _loaded(folder / _STATE)
    if any(state.get(key) for key in _INDICES):
        raise InputError(
            f"{folder}: picks its rows through an indices mapping; call flatten_indices() on the dataset and save it again"
        )
    files = state.get(_FILES)
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in files or []]
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise InputError(
            f"{folder / _STATE}: does not list the dataset's files under {_FILES!r}; save the dataset again"
        )
    return [folder / str(name) for name in names]


@dataclass(frozen=True)
class DatasetFolder:
    """A dataset among the shards of a source, and the files to write next to them once they are complete."""

    path: Path
    shards: list[Shard]

    @property
    def names(self) -> list[str]:
        """Of the files that `write` makes, relative to the root of the output."""
        beside = PurePosixPath(self.shards[0].name).parent
        return [(beside / name).as_posix() for name in (_STATE, _INFO) if (self.path / name).is_file()]

    def write(self, root: Place, records: dict[str, ShardRecord], alignment: str, fsync: bool = True) -> None:
        """Write both files below `root`, for shards with these `records`, mapped by the alignment with this fingerprint.

        The dataset gets a new fingerprint: `datasets` takes those with the same one for the same rows.
        """
        written = [records[shard.name] for shard in self.shards if shard.name in records]  # others were left out
        for name in self.names:
            path = root / name
            value = _loaded(self.path / path.name)
            if path.name == _STATE:
                there = {Path(record.name).name for record in written}
                value[_FILES] = [file for file in value[_FILES] if file["filename"] in there]
                value[_FINGERPRINT] = _fingerprint(str(value.get(_FINGERPRINT)), alignment, written)
            else:
                self._describe(value, root, written)
            save_bytes(path, json.dumps(value, indent=2, ensure_ascii=False).encode(), fsync)

    def _describe(self, info: dict[str, Any], root: Place, written: list[ShardRecord]) -> None:
        """Update dataset_info.json: the element type and the number of rows."""
        there = {record.name for record in written}
        tables = (one for one in self.shards if isinstance(one, TableShard))
        first = next((one for one in tables if one.name in there and not one.blank), None)
        features = info.get("features")
        if first is not None and isinstance(features, dict) and first.column in features:
            made = type(first)(root / first.name, first.name, first.column)
            wide = made.dim if made.dim not in (0, first.dim) else None
            features[first.column] = retyped_feature(features[first.column], made.dtype, wide)
        split = _loaded(self.path / _STATE).get("_split")
        noted = (info.get("splits") or {}).get(split)
        if isinstance(noted, dict) and "num_examples" in noted:
            rows = sum(record.rows_out for record in written)
            if rows != noted["num_examples"]:
                noted["num_examples"] = rows
                for key in _SIZES:
                    noted.pop(key, None)


def _loaded(path: Path) -> dict[str, Any]:
    with reading(path):
        text = path.read_bytes()
    try:
        value = parsed(text)
        if not isinstance(value, dict):
            raise ValueError("it holds no object")
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair could not be written back
    except ValueError as error:
        raise InputError(f"{path}: is not readable JSON ({one_line(error)}); save the dataset again") from None
    return value


def _fingerprint(before: str, alignment: str, written: list[ShardRecord]) -> str:
    """Sixteen hexadecimal digits, as `datasets` has them, from the input and the output."""
    text = " ".join([before, alignment, *(record.ends for record in written)])
    return sha256(text.encode()).hexdigest()[:16]
