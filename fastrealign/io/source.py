"""From what a user names (file, glob, folder, clip-retrieval root, list of these) to shards in numeric order."""

from __future__ import annotations

import bisect
import glob
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate, takewhile
from pathlib import Path, PurePath

import numpy as np

from fastrealign.errors import InputError
from fastrealign.io.base import Shard
from fastrealign.io.files import reading
from fastrealign.io.formats import FORMATS, accepted, format_of
from fastrealign.io.hf_folder import DatasetFolder, is_dataset, shards_of
from fastrealign.io.metadata import METADATA_FILE, SIDE_FOLDERS, attach_metadata
from fastrealign.io.pickles import PickleShard

# What a chunk of a source takes when nobody says otherwise.
CHUNK_BYTES = 8 << 20
_OPENERS = 8


@dataclass(frozen=True)
class Source:
    """Shards of one width, in order. Iterating yields their rows in chunks, as often as asked.

    datasets   folders of Hugging Face datasets among them, whose description is written beside their shards
    """

    name: str
    shards: list[Shard]
    rows: int
    dim: int
    datasets: list[DatasetFolder] = field(default_factory=list)

    @property
    def skipped(self) -> int:
        """Items without an embedding, over all shards."""
        return sum(shard.skipped for shard in self.shards)

    def __iter__(self) -> Iterator[np.ndarray]:
        for shard in self.shards:
            try:
                yield from shard.chunks(max(1, CHUNK_BYTES // (max(shard.dim, 1) * shard.dtype.itemsize)))
            finally:
                shard.close()

    def where(self, row: int) -> str:
        """How to name in a message the row with this number, counted over all shards."""
        starts = [0, *accumulate(shard.rows for shard in self.shards)]
        at = bisect.bisect_right(starts, row) - 1
        return self.shards[at].where(row - starts[at])


def open_source(
    spec: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    side: str,
    column: str | None = None,
    pickles: type[PickleShard] = PickleShard,
) -> Source:
    """Find the shards that `spec` names, open every header and check that they fit together.

    spec    a file, a glob, a folder of shards, a Hugging Face dataset (save_to_disk), a clip-retrieval root (img_emb/,
            text_emb/, metadata/), or a list of these. Folders and globs come in numeric order (2 before 10), datasets
            and lists in their own.
    side    "source" or "target": which folder of a clip-retrieval root to take, text_emb/ or img_emb/. Metadata is
            looked for on the source side alone, the one that is written out.
    column  the parquet column or pickle key of the embeddings, where it is not the usual one
    pickles what reads pickles: one that takes more layouts than can be written back, where that is not asked for

    Raises InputError, on one line with the file's name, for anything missing, unreadable, damaged or of mixed width.
    """
    if side not in SIDE_FOLDERS:
        raise ValueError(f"side must be 'source' or 'target', not {side!r}")
    specs = [spec] if isinstance(spec, (str, os.PathLike)) else list(spec)
    if not specs:
        raise InputError(f"the {side} is an empty list of files")
    name = str(specs[0]) if len(specs) == 1 else f"{specs[0]} and {len(specs) - 1} more"
    files: list[Path] = []
    folders: dict[Path, slice] = {}
    for one in specs:
        root, found = _resolve(os.fspath(one), side)
        if _is_dataset(Path(one)):
            folders[Path(one)] = slice(len(files), len(files) + len(found))
        files += found
    if len(specs) > 1:
        root = _common_folder(files)
    shards = _open_all(files, [_relative(path, root) for path in files], column, pickles)
    widths = [shard for shard in shards if shard.dim]
    for shard in widths:
        if shard.dim != widths[0].dim:
            raise InputError(
                f"{shard.path}: rows have {shard.dim} values, those of {widths[0].path} have {widths[0].dim}; "
                "all shards must have one width"
            )
    if not widths:
        raise InputError(f"{name}: holds no embeddings at all")
    if side == "source":
        attach_metadata(shards)
    datasets = [DatasetFolder(folder, shards[which]) for folder, which in folders.items()]
    return Source(name, shards, sum(shard.rows for shard in shards), widths[0].dim, datasets)


def numeric_order(path: str | PurePath) -> tuple:
    """A sort key under which shard_2 comes before shard_10, folder by folder."""
    parts = PurePath(path).parts
    return tuple(
        tuple(int(piece) if at % 2 else piece for at, piece in enumerate(re.split("([0-9]+)", part))) for part in parts
    ), parts


def _resolve(spec: str, side: str) -> tuple[Path, list[Path]]:
    """(root that names are relative to, files in order) of one path, glob or folder."""
    path = Path(spec)
    if os.path.isdir(path) and not _is_one_shard(path):
        return path, shards_of(path) if _is_dataset(path) else _folder(path, side)
    if os.path.exists(path) or not glob.has_magic(spec):
        format_of(path)
        return path.parent, [path]
    fixed = takewhile(lambda part: not glob.has_magic(part), path.parts)
    matches = [Path(match) for match in glob.glob(spec, recursive=True)]
    files = _one_format(matches, spec)
    if not files:
        raise InputError(f"{spec}: the pattern matches no shard; expected {accepted()} files")
    return Path(*fixed), sorted(files, key=numeric_order)


def _is_one_shard(folder: Path) -> bool:
    kind = FORMATS.get(folder.suffix.lower())
    return kind is not None and kind.folder


def _is_dataset(path: Path) -> bool:
    return os.path.isdir(path) and not _is_one_shard(path) and is_dataset(path)


def _folder(folder: Path, side: str) -> list[Path]:
    wanted = folder / SIDE_FOLDERS[side]
    files = _shards_in(folder)
    if os.path.isdir(wanted):
        if files:
            raise InputError(f"{folder}: holds shards of its own and {wanted.name}/; name the files or {wanted}")
        folder, files = wanted, _shards_in(wanted)
    elif not files:
        for other in SIDE_FOLDERS.values():
            if os.path.isdir(folder / other):
                raise InputError(
                    f"{folder}: has {other}/ but no {wanted.name}/, which the {side} is taken from; "
                    f"give {folder / other} if that is the {side}"
                )
    if not files:
        raise InputError(
            f"{folder}: holds no shards; expected {accepted()} files, or the folders img_emb/ and text_emb/"
        )
    return files


def _shards_in(folder: Path) -> list[Path]:
    with reading(folder):
        entries = [folder / entry.name for entry in os.scandir(folder)]
    return sorted(_one_format(entries, folder), key=numeric_order)


def _one_format(paths: list[Path], where: str | Path) -> list[Path]:
    """Those of `paths` that are shards by their suffix; metadata files and hidden ones are not."""
    files = [path for path in paths if path.suffix.lower() in FORMATS and not path.name.startswith(".")]
    files = [path for path in files if not METADATA_FILE.fullmatch(path.name)] or files
    examples = sorted({format_of(path).format: path for path in files}.items())
    if len(examples) > 1:
        (one, a), (two, b) = examples[:2]
        raise InputError(
            f"{where}: holds two formats, {one} ({a.name}) and {two} ({b.name}); choose one with a pattern such as "
            f"{a.parent}/*{a.suffix}"
        )
    return files


def _common_folder(files: list[Path]) -> Path:
    """The deepest folder that holds all files of a list, none of which may be named twice."""
    paths = [os.path.abspath(path) for path in files]
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise InputError(f"{path}: is named twice; name each file once")
        seen.add(path)
    return Path(os.path.commonpath([os.path.dirname(path) for path in paths]))


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _open_all(files: list[Path], names: list[str], column: str | None, pickles: type[PickleShard]) -> list[Shard]:
    """Open in order; headers of many files by several threads, since a network file system answers slowly."""

    def open_one(path: Path, name: str) -> Shard:
        kind = format_of(path)
        return (pickles if kind is PickleShard else kind)(path, name, column)

    if any(format_of(path).opens_whole for path in files):
        return [open_one(path, name) for path, name in zip(files, names, strict=True)]
    with ThreadPoolExecutor(max_workers=min(_OPENERS, len(files))) as pool:
        opening = [pool.submit(open_one, path, name) for path, name in zip(files, names, strict=True)]
        try:
            return [future.result() for future in opening]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
