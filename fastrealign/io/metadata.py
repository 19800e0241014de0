"""The metadata that clip-retrieval keeps beside embeddings: `metadata/metadata_N.parquet` describes shard number N."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np

from fastrealign.errors import InputError
from fastrealign.io.atomic import AtomicFile
from fastrealign.io.base import Shard
from fastrealign.io.files import open_binary, reading
from fastrealign.io.parquet import ParquetTable
from fastrealign.io.places import Place, is_url, place
from fastrealign.io.tables import TableCopy

# Which folder of a clip-retrieval root each side of an alignment takes.
SIDE_FOLDERS = {"source": "text_emb", "target": "img_emb"}
METADATA_FILE = re.compile(r"metadata[-_]?([0-9]+)\.parquet")
_COPY_BYTES = 1 << 20


def attach_metadata(shards: Iterable[Shard]) -> None:
    """Find the metadata file of every shard and note it there; InputError if it has another number of rows.

    Looked for beside the shard, in `metadata/` beside it, and, for shards in text_emb/ or img_emb/, in `metadata/`
    beside that folder. A shard whose number has no metadata file goes without.
    """
    beside = cache(_beside)
    for shard in shards:
        described = beside(_folder_of(shard.path), os.path.dirname(shard.name))
        if not described:
            continue
        numbers = re.findall("[0-9]+", place(shard.path).stem)
        path, name = described.get(int(numbers[-1]) if numbers else None, (None, None))
        if path is not None and path != _joined(shard.path, "."):
            rows = _rows(path)
            if rows != shard.rows:
                raise InputError(
                    f"{shard.path}: has {shard.rows} rows, but its metadata {path} has {rows}; make both again"
                )
            shard.metadata, shard.metadata_name = path, name


def write_metadata(
    shard: Shard, out_root: str | Place, keep: np.ndarray | None = None, fsync: bool = True
) -> Place | None:
    """Write the shard's metadata below `out_root`, and return where; None if the shard has none.

    keep: (shard.rows,) boolean, true for the rows that were kept; with None, or nothing dropped, the file is copied
    byte for byte.
    """
    if shard.metadata is None:
        return None
    out = place(out_root) / shard.metadata_name
    if keep is not None and keep.shape != (shard.rows,):
        raise ValueError(f"{out}: keep must be a mask of shape ({shard.rows},), got {keep.shape}")
    with AtomicFile(out, fsync) as file:
        if keep is None or keep.all():
            _copy(shard.metadata, file)
        else:
            _filter(shard.metadata, file, keep)
        file.commit()
    return out


def _copy(path: Place, file: AtomicFile) -> None:
    with reading(path), open_binary(path) as source:
        while piece := source.read(_COPY_BYTES):
            file.append(piece)


def _filter(path: Place, file: AtomicFile, keep: np.ndarray) -> None:
    copy = TableCopy(ParquetTable(path), file, len(keep))
    try:
        copy.step(len(keep), keep)
        copy.finish()
    except BaseException:
        copy.abandon()
        raise


def _folder_of(path: str) -> str:
    return str(place(path).parent) if is_url(path) else os.path.dirname(path)


def _joined(folder: str, to: str) -> Place:
    return place(folder) / to if is_url(folder) else Path(os.path.normpath(os.path.join(folder, to)))


def _beside(folder: str, out_folder: str) -> dict[int | None, tuple[Place, str]]:
    """By number, the metadata files for the shards of a folder, each with the name its twin takes."""
    places = [("metadata", "metadata"), (".", ".")]
    if (folder if is_url(folder) else os.path.abspath(folder)).rpartition("/")[2] in SIDE_FOLDERS.values():
        # A shard at the root of its source has no folder to go up from: its metadata goes beside it.
        places.append(("../metadata", "../metadata" if out_folder else "metadata"))
    found: dict[int | None, tuple[Place, str]] = {}
    for there, out_place in places:
        for number, path in _numbered(_joined(folder, there)).items():
            name = os.path.normpath(os.path.join(out_folder, out_place, path.name))
            found.setdefault(number, (path, Path(name).as_posix()))
    return found


def _rows(path: Place) -> int:
    with ParquetTable(path) as table:
        return sum(table.sizes)


def _numbered(folder: Place) -> dict[int, Place]:
    """The metadata files of a folder by their number."""
    found: dict[int, Place] = {}
    for name in sorted(_names(folder)):
        match = METADATA_FILE.fullmatch(name)
        if match:
            other = found.setdefault(int(match[1]), folder / name)
            if other.name != name:
                raise InputError(f"{folder}: {other.name} and {name} both carry the number {int(match[1])}; remove one")
    return found


def _names(folder: Place) -> list[str]:
    """What lies in a folder; nothing where there is none, or where a server lists none."""
    if isinstance(folder, Path):
        with reading(folder):
            return os.listdir(folder) if os.path.isdir(folder) else []
    from fastrealign.io.retry import Denied, Missing

    try:
        return [name for name, _ in folder.entries()]
    except (Missing, Denied):
        return []
    except InputError:  # a web server may have any answer to the question for a folder
        if folder.is_http:
            return []
        raise
