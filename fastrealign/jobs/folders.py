"""Files and folders, local or remote: list, make and remove them. A shard may itself be a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.formats.registry import FORMATS
from fastrealign.formats.unsupported import FILE_SUFFIXES
from fastrealign.storage.leftovers import TEMPORARY
from fastrealign.storage.paths import AnyPath, Place, place

# Advice where `names_other_format`.
A_FOLDER = "a folder (a slash at the end makes one of that name)"


def check_local(path: Place, out: AnyPath) -> None:
    """InputError if the output is on a server: the one format whose shards are folders is Lance."""
    if not isinstance(path, Path):
        raise InputError(
            f"{out}: Lance datasets can only be written to a local folder; write to one, then copy it to the server"
        )


def final_name(name: str) -> str:
    """The final name of a temporary file; other names unchanged."""
    path = Path(name)
    temporary = TEMPORARY.fullmatch(path.name)
    return path.with_name(temporary[1]).as_posix() if temporary else name


def walk(folder: Place, deep: bool = True) -> Iterator[str]:
    """The files below a folder, relative to it; a folder that is a shard counts as one file."""
    if not isinstance(folder, Path):
        yield from folder.walk(deep)
        return
    for at, folders, files in os.walk(folder):
        shards = [name for name in folders if _is_shard_folder(name)]
        for name in (*files, *shards):
            yield Path(at, name).relative_to(folder).as_posix()
        folders[:] = [name for name in folders if deep and name not in shards]


def _is_shard_folder(name: str) -> bool:
    kind = FORMATS.get(Path(final_name(name)).suffix.lower())
    return kind is not None and kind.folder


def remove(path: Place) -> None:
    """Remove a shard, or another file, if it exists."""
    if isinstance(path, Path) and _is_shard_folder(path.name) and path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_temporaries(paths: Collection[Place]) -> None:
    """Remove the temporary files that killed processes left beside these files."""
    for folder in {path.parent for path in paths}:
        for name in walk(folder, deep=False):
            if TEMPORARY.fullmatch(name) and folder / final_name(name) in paths:
                remove(folder / name)


def names_other_format(out: str | os.PathLike) -> bool:
    """Whether this would be a new file of a format that is not written, by its name; with a slash at the end it is a folder."""
    text = os.fspath(out)
    return not text.endswith("/") and place(text).suffix.lower() in FILE_SUFFIXES and not is_there(place(text))


def is_there(path: Place) -> bool:
    return os.path.lexists(path) if isinstance(path, Path) else path.exists()


def inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def make_folders(folder: Place) -> list[Place]:
    """Make a folder and those above it; returns those made, deepest first."""
    missing: list[Place] = []
    if not isinstance(folder, Path) and folder.is_object_store:  # it has none
        return missing
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    try:
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
    except OSError as error:
        remove_folders(missing)
        raise FastRealignError(
            f"{missing[0]}: cannot be made: {error.strerror}; choose another output folder"
        ) from None
    return missing


def remove_folders(folders: Iterable[Place]) -> None:
    """Remove those that are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
