"""The metadata files of the clip-retrieval layout: `metadata/metadata_N.parquet` describes shard number N.

A name may have several numbers. The metadata of a shard is, in this order:
1. the file named like it from the first digits on: metadata_0_fp16 for text_emb_0_fp16, metadata_7 for text_emb_07
2. the file with the number in which the shards of its folder differ (text_emb_3_v2, text_emb_00003-of-00020), if it is one
3. where they differ in several numbers: the file with the only number under which shards and metadata correspond one to one;
   without such a number it is an error
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np

from fastrealign.core.errors import InputError, warn
from fastrealign.core.formatting import count, does
from fastrealign.formats.arrow_columns import candidates_of
from fastrealign.formats.base import Shard
from fastrealign.formats.choose_column import Fit
from fastrealign.formats.parquet import ParquetTable
from fastrealign.formats.shard_names import Name, counting, tail_of
from fastrealign.formats.table_copy import TableCopy
from fastrealign.storage.atomic import AtomicFile
from fastrealign.storage.files import check_state, open_binary, reading, state_of
from fastrealign.storage.paths import Place, folder_of, place
from fastrealign.storage.retry import Denied, Missing

# Which folder of a clip-retrieval root each side of an alignment takes.
SIDE_FOLDERS = {"source": "text_emb", "target": "img_emb"}
# The metadata of a single output file x.npy is x.npy.metadata.parquet.
_OF_ONE = ".metadata.parquet"
METADATA_FILE = re.compile(rf"metadata(?:[-_. ].*)?[0-9].*\.parquet|.+{re.escape(_OF_ONE)}")
_COPY_BYTES = 1 << 20


def attach_metadata(shards: Iterable[Shard]) -> None:
    """Find the metadata file of every shard and set it there; warn of shards without one.

    Searched: the folder of the shard, `metadata/` in it, and, for shards in text_emb/ or img_emb/, `metadata/` next to that
    folder.

    Raises InputError where the name of a shard does not determine its metadata, where two shards of a folder share one file,
    and where metadata and shard differ in the number of rows.
    """
    folders: dict[tuple[str, str], list[Shard]] = {}
    for shard in shards:
        if not METADATA_FILE.fullmatch(place(shard.path).name):
            folders.setdefault((folder_of(shard.path), os.path.dirname(shard.name)), []).append(shard)
    for (folder, out_folder), of_it in folders.items():
        beside = _Beside(folder, out_folder)
        if not beside.there:
            _note_tables_beside(of_it, beside)
            continue
        taken: dict[Place, Shard] = {}
        for shard, path in zip(of_it, beside.belonging_to(of_it), strict=True):
            if path is None:
                continue
            if (other := taken.setdefault(path, shard)) is not shard:
                raise InputError(
                    f"{shard.path}: its metadata would be {path}, and so would that of {other.path}; name the shards "
                    "that are meant with a pattern, or move the others to another folder"
                )
            shard.metadata_state = state_of(path)
            with ParquetTable(path) as table:
                rows = sum(table.sizes)
            if rows != shard.rows:
                raise InputError(
                    f"{shard.path}: has {shard.rows} rows, but its metadata {path} has {rows}; make both again"
                )
            shard.metadata, shard.metadata_name = path, beside.there[path]
        without = [shard for shard in of_it if shard.metadata is None]
        _warn_without(without, len(taken), beside)
        _note_tables_beside(without, beside)


def metadata_name(stem: str) -> str | None:
    """The name of the metadata file of a shard with this stem; None where the stem has no digits."""
    return f"metadata_{tail}.parquet" if (tail := tail_of(stem)) else None


def write_metadata(
    shard: Shard, out_root: str | Place, keep: np.ndarray | None = None, fsync: bool = True
) -> Place | None:
    """Write the shard's metadata below `out_root` and return its path; None if the shard has none.

    keep   (shard.rows,) boolean, true for the rows that were kept. None, or nothing dropped: the file is copied unchanged
    """
    if shard.metadata is None or shard.metadata_name is None:
        return None
    out = place(out_root) / shard.metadata_name
    if keep is not None and keep.shape != (shard.rows,):
        raise ValueError(f"{out}: keep must be a mask of shape ({shard.rows},), got {keep.shape}")
    with AtomicFile(out, fsync) as file:
        if keep is not None and not keep.all():
            _filter(shard.metadata, file, keep)
        else:
            with reading(shard.metadata), open_binary(shard.metadata) as source:
                shutil.copyfileobj(source, file.stream(), _COPY_BYTES)
        check_state(shard.metadata, shard.metadata_state)
        file.commit()
    return out


def _filter(path: Place, file: AtomicFile, keep: np.ndarray) -> None:
    copy = TableCopy(ParquetTable(path), file, len(keep))
    try:
        copy.step(len(keep), keep)
        copy.finish()
    except BaseException:
        copy.abandon()
        raise


class _Beside:
    """The metadata files for the shards of a folder.

    there   each file, with the name of its copy
    """

    def __init__(self, folder: str, out_folder: str) -> None:
        beside, places = place(folder), [("metadata", "metadata"), (".", ".")]
        if (Path(os.path.abspath(beside)) if isinstance(beside, Path) else beside).name in SIDE_FOLDERS.values():
            # A shard at the root of its source has no parent folder: its metadata goes beside it.
            places.append(("../metadata", "../metadata" if out_folder else "metadata"))
        self.there: dict[Place, str] = {}
        self._by_tail: dict[str, list[Place]] = {}
        self.names: set[str] = set()  # all names in the folder
        for there, out_place in places:
            at = Path(os.path.normpath(beside / there)) if isinstance(beside, Path) else beside / there
            found: dict[str, list[Place]] = {}
            for name in sorted(_names(at)):
                if METADATA_FILE.fullmatch(name):
                    out_name = os.path.normpath(os.path.join(out_folder, out_place, name))
                    self.there[at / name] = Path(out_name).as_posix()
                    if not name.endswith(_OF_ONE):
                        found.setdefault(_named(name).tail, []).append(at / name)
                elif there == ".":
                    self.names.add(name)
            # Of the same name in two places, the first counts.
            self._by_tail = {**found, **self._by_tail}

    def belonging_to(self, shards: Sequence[Shard]) -> list[Place | None]:
        """The metadata of shards of the folder; None where there is none."""
        alike: dict[tuple[str, str], list[Shard]] = {}
        for shard in shards:
            alike.setdefault(_kind(place(shard.path).name), []).append(shard)
        found = {id(shard): path for kind, of_it in alike.items() for shard, path in self._of_kind(kind, of_it)}
        return [found[id(shard)] for shard in shards]

    def _of_kind(self, kind: tuple[str, str], shards: list[Shard]) -> list[tuple[Shard, Place | None]]:
        """`belonging_to` for shards whose names have one template."""
        own = [self._of_one.get(f"{place(shard.path).name}{_OF_ONE}") for shard in shards]
        if any(own):
            return list(zip(shards, own, strict=True))
        named = [_named(place(shard.path).name) for shard in shards]
        if any(name.tail in self._by_tail for name in named):
            found = [self._by_tail.get(name.tail) for name in named]
        else:
            family = {name.numbers: name for name in named}
            family.update(
                (name.numbers, name) for name in map(_named, (one for one in self.names if _kind(one) == kind))
            )
            at = counting(family.values())
            if len(at) > 1 and any(number in self._by_number for name in named for number in name.numbers):
                at = [self._one_to_one(shards[0], list(family.values()), at)]
            found = [self._by_number.get(name.numbers[at[0]]) if len(at) == 1 else None for name in named]
        return [(shard, self._only(shard, paths)) for shard, paths in zip(shards, found, strict=True)]

    @cached_property
    def _of_one(self) -> dict[str, Place]:
        return {path.name: path for path in self.there if path.name.endswith(_OF_ONE)}

    @cached_property
    def _by_number(self) -> dict[int, list[Place]]:
        """The metadata files with one number that counts them, by that number."""
        alike: dict[str, list[tuple[Name, Place]]] = {}
        for paths in self._by_tail.values():
            for path in paths:
                name = _named(path.name)
                alike.setdefault(name.template, []).append((name, path))
        found: dict[int, list[Place]] = {}
        for of_it in alike.values():
            at = counting([name for name, _ in of_it])
            if len(at) == 1:
                for name, path in of_it:
                    found.setdefault(name.numbers[at[0]], []).append(path)
        return found

    def _one_to_one(self, shard: Shard, family: list[Name], at: list[int]) -> int:
        """The number of the names under which shards and metadata correspond one to one."""
        every = set(self._by_number)
        fits = [one for one in at if {name.numbers[one] for name in family} == every and len(family) == len(every)]
        if len({tuple(name.numbers[one] for name in family) for one in fits}) == 1:
            return fits[0]
        numbers = " and ".join(str(Name.of(place(shard.path).stem).numbers[one]) for one in at)
        example = next(iter(self.there))
        raise InputError(
            f"{shard.path}: its name has the numbers {numbers}, and which one its metadata (such as {example}) has is "
            f"not clear; name the metadata after the shards from the first digits on: {metadata_name(place(shard.path).stem)}"
        )

    def _only(self, shard: Shard, paths: list[Place] | None) -> Place | None:
        if not paths:
            return None
        if len(paths) > 1:
            one, two = paths[:2]
            raise InputError(
                f"{one.parent}: {one.name} and {two.name} both carry the number {_named(one.name).tail} "
                f"of {place(shard.path).name}; remove one"
            )
        return paths[0]


def _named(name: str) -> Name:
    stem = Path(name).stem
    return Name.of(stem.removeprefix("metadata") if METADATA_FILE.fullmatch(name) else stem)


def _kind(name: str) -> tuple[str, str]:
    return _named(name).template, Path(name).suffix.lower()


def _warn_without(shards: list[Shard], others: int, beside: _Beside) -> None:
    """Warn where there is metadata, but not for all shards."""
    lies = [path for path in beside.there if not path.name.endswith(_OF_ONE)]
    if not shards or not (others or lies):
        return
    which = shards[0].path if len(shards) == 1 else f"{shards[0].path} and {len(shards) - 1:,} more"
    seen = (
        f"{count(others, 'other shard')} of the folder {does(others, 'have')} some"
        if others
        else f"{lies[0]} is beside it"
    )
    wanted = metadata_name(place(shards[0].path).stem)
    warn(
        f"{which}: found no metadata, though {seen}; ids and captions are not copied"
        + (f"; expected {wanted}" if wanted else "; give shard and metadata the same number"),
        UserWarning,
    )


def _note_tables_beside(shards: list[Shard], beside: _Beside) -> None:
    """Note parquet files with the names of shards, which may be their metadata: how to name them so that they are read."""
    tables = [
        (shard, f"{place(shard.path).stem}.parquet")
        for shard in shards
        if shard.format != "parquet" and f"{place(shard.path).stem}.parquet" in beside.names
    ]
    if not tables:
        return
    shard, name = tables[0]
    with suppress(InputError), ParquetTable(place(shard.path).parent / name) as table:
        if sum(table.sizes) == shard.rows and all(one.fit < Fit.PERHAPS for one in candidates_of(table.schema)):
            more = f" and {len(tables) - 1:,} more like it" if len(tables) > 1 else ""
            note = (
                f"{name}{more} beside the source: not read; named {place(shard.path).name}{_OF_ONE}, its ids and captions "
                "are copied"
            )
            shard.note = note if shard.note is None else f"{shard.note}; {note}"


def _names(folder: Place) -> list[str]:
    """The names in a folder; none where it is missing or a server does not list it."""
    if isinstance(folder, Path):
        with reading(folder):
            return os.listdir(folder) if os.path.isdir(folder) else []
    try:
        return [name for name, _ in folder.entries()]
    except (Missing, Denied):
        return []
    except InputError:  # a web server may answer anything when asked for a folder
        if folder.is_http:
            return []
        raise
