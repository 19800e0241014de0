"""Opens both sides of an alignment, each with its own column; refuses the same rows on both, warns of swapped sides."""

from __future__ import annotations

import os
from collections.abc import Hashable
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastrealign.core.errors import InputError, warn
from fastrealign.core.formatting import does
from fastrealign.core.wording import option
from fastrealign.data.chunk_source import ChunkSource
from fastrealign.data.row_source import RowsLike, RowSource
from fastrealign.data.sources import ArraySource, FileSource, open_rows
from fastrealign.formats.choose_column import Wanted, role_of
from fastrealign.formats.open import check_has_names
from fastrealign.storage.file_identity import identities
from fastrealign.storage.paths import place


def name_both() -> str:
    """What to do where source and target are the same rows."""
    return (
        "give images as the target; where one file holds both, name its columns with "
        f"{option('column')} and {option('target_column')}"
    )


def open_both(
    source: RowsLike, target: RowsLike, column: str | None = None, target_column: str | None = None
) -> tuple[RowSource, RowSource]:
    """Open a source and a target; raises and warns as `open_target` does."""
    rows = open_rows(source, "source", column)
    return rows, open_target(target, rows, column, target_column)


def open_target(
    spec: RowsLike,
    source: RowSource,
    column: str | None = None,
    target_column: str | None = None,
    bad_shards: str = "error",
) -> RowSource:
    """Open the target of a source that is open.

    column         the column of the source; also that of the target, in other files that have it
    target_column  the column of the target
    Raises InputError where both sides are the same rows. Warns (FitWarning) where some are, and where the sides look swapped.
    """
    rows = open_rows(spec, "target", Wanted.on("target", target_column, elsewhere=column), bad_shards)
    of_target = target_column is None and isinstance(rows, FileSource) and rows.column == column
    if isinstance(source, FileSource) and not of_target:
        check_has_names(source.files.name, source.files.shards, Wanted.of(column))
    if column is not None and target_column is None and shared_rows(source, rows):
        rows = open_rows(spec, "target", None, bad_shards)
    check_apart(source, rows)
    if (swapped := look_swapped(source, rows)) is not None:
        warn(swapped)
    return rows


def check_apart(source: RowSource, target: RowSource) -> None:
    """InputError where both are the same files, array or chunks; a warning where some of the files are."""
    shared = shared_rows(source, target)
    if not shared:
        return
    if isinstance(source, FileSource) and isinstance(target, FileSource):
        of = max(len(source.files.shards), len(target.files.shards))
        if len(shared) < of:
            warn(
                f"{shared[0]}{' and others' if len(shared) > 1 else ''}: {len(shared)} of {of} files "
                f"{does(len(shared), 'are')} in the source and in the target; check that each file is of one side"
            )
            return
    raise InputError(f"source and target are the same rows: {shared[0]} is both; {name_both()}")


def shared_rows(source: RowSource, target: RowSource) -> list[str]:
    """The names of what is on both sides."""
    if isinstance(source, FileSource) and isinstance(target, FileSource):
        there = set(_identities(source))
        return [shown for one, shown in _identities(target).items() if one in there]
    if isinstance(source, ArraySource) and isinstance(target, ArraySource):
        return ["one array"] if _memory(source.array) == _memory(target.array) else []
    if isinstance(source, ChunkSource) and isinstance(target, ChunkSource):
        return ["one iterable of chunks"] if source.chunks_given is target.chunks_given else []
    return []


def _identities(rows: FileSource) -> dict[tuple[Hashable, str | None], str]:
    """The identity of each shard's embeddings, independent of the spelling of the path, and their name for messages."""
    found: dict[tuple[Hashable, str | None], str] = {}
    for shard in rows.files.shards:
        of = "" if shard.column is None else f", {shard.column!r}"
        found[identities(shard.path)[-1], shard.column] = f"{shard.path}{of}"
    return found


def _memory(array: Any) -> tuple:
    if hasattr(array, "data_ptr"):
        return str(array.device), array.data_ptr(), tuple(array.shape), tuple(array.stride())
    at = getattr(array, "__array_interface__", None) or array.__cuda_array_interface__
    return "cpu", at["data"][0], tuple(array.shape), tuple(n // array.dtype.itemsize for n in array.strides)


def look_swapped(source: RowSource, target: RowSource) -> str | None:
    """What names say where they say that the source is images and the target text."""
    if not (isinstance(source, FileSource) and isinstance(target, FileSource)):
        return None
    (of_source, source_name), (of_target, target_name) = _role(source, target), _role(target, source)
    if (of_source, of_target) != ("images", "text"):
        return None
    return (
        f"source and target look swapped: by {source_name} the source is images, by {target_name} the target is text; text "
        "is the source, which moves, and images are the target"
    )


def _role(rows: FileSource, other: FileSource) -> tuple[str | None, str]:
    """The role that names suggest for the rows, and the name: of column, encoder, file or folder, the nearest first."""
    shards = rows.files.shards
    columns = {shard.column for shard in shards}
    if len(columns) == 1 and (column := columns.pop()) is not None and role_of(column):
        return role_of(column), f"the column {column!r}"
    if rows.embedded is not None:
        return rows.embedded, f"what `embed` noted beside {shards[0].path}"
    if rows.encoder is not None and role_of(rows.encoder):
        return role_of(rows.encoder), f"the encoder {rows.encoder!r}"
    # The name of a folder that holds both sides suggests neither role.
    mine, theirs = ([_parts(shard.path) for shard in side.files.shards] for side in (rows, other))
    above = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*mine, *theirs, strict=False)))
    nearest = [next((part for part in reversed(parts[above:]) if role_of(part)), "") for parts in mine]
    roles = {role_of(part) if part else None for part in nearest}
    if len(roles) == 1 and None not in roles:
        return roles.pop(), f"the name {min(nearest)!r}"
    return None, ""


def _parts(path: str) -> list[str]:
    """Folders and the file, without its suffix."""
    if not isinstance(place(path), Path):
        url = urlsplit(path.rpartition("::")[2])
        parts = [url.hostname or "", *url.path.split("/")]
    else:
        parts = list(Path(os.path.abspath(path)).parts)
    return [*parts[:-1], os.path.splitext(parts[-1])[0]]
