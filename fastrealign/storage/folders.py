"""What is in a folder, here or on a server: names, what lies below it, making and removing. A shard may itself be a folder."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from fastrealign import formats
from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.storage.paths import Place, is_url, place, places_of

# A file that is being written (io/atomic.py): ".name.process.tmp".
TEMPORARY = re.compile(r"\.(.+)\.[0-9]+\.tmp")


def final_name(name: str) -> str:
    """The name that a temporary would have taken; other names as they are."""
    path = Path(name)
    temporary = TEMPORARY.fullmatch(path.name)
    return path.with_name(temporary[1]).as_posix() if temporary else name


def walk(folder: Place, deep: bool = True) -> Iterator[str]:
    """Everything below a folder but folders, relative to it; a folder that is a shard counts as one thing."""
    if not isinstance(folder, Path):
        yield from folder.walk(deep)
        return
    for at, folders, files in os.walk(folder):
        shards = [name for name in folders if _is_shard_folder(name)]
        for name in (*files, *shards):
            yield Path(at, name).relative_to(folder).as_posix()
        folders[:] = [name for name in folders if deep and name not in shards]


def _is_shard_folder(name: str) -> bool:
    kind = formats.FORMATS.get(Path(final_name(name)).suffix.lower())
    return kind is not None and kind.folder


def remove(path: Path) -> None:
    """A shard of the run, or another file of it, if it is there."""
    if _is_shard_folder(path.name) and path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_temporaries(paths: Collection[Place]) -> None:
    """What killed processes left of these files, half-written beside them."""
    for folder in {path.parent for path in paths}:
        for name in walk(folder, deep=False):
            if TEMPORARY.fullmatch(name) and folder / final_name(name) in paths:
                remove(folder / name)


def real(path: str | os.PathLike) -> str:
    """The same for all names of a place."""
    return place(path).canonical if is_url(path) else os.path.realpath(path)


class Inputs:
    """Files that a run reads: none of what it writes may be one of them, by whatever name or link."""

    def __init__(self, paths: Iterable[str | os.PathLike]) -> None:
        self._names: dict[Hashable, str] = {}
        folders = cache(real)
        for path in map(os.fspath, paths):
            for identity in self._identities(path, folders):
                self._names.setdefault(identity, path)

    @classmethod
    def named(cls, specs: Iterable[Any]) -> Inputs:
        """The files that these paths, patterns and folders name; arrays and the like name none."""
        found: list[str] = []
        for spec in specs:
            if isinstance(spec, (list, tuple)):
                found += [path for path in spec if isinstance(path, (str, os.PathLike))]
            elif isinstance(spec, (str, os.PathLike)):
                found.append(os.fspath(spec))
        for path in tuple(found):
            if is_url(path):
                continue
            if os.path.isdir(path):
                found += [os.path.join(path, name) for name in walk(Path(path))]
            elif glob.has_magic(path):
                found += glob.glob(os.path.expanduser(path), recursive=True)
        return cls(found)

    def check(self, out: str | os.PathLike) -> None:
        """InputError if `out` is one of them."""
        for identity in self._identities(os.fspath(out), real):
            if identity in self._names:
                name = self._names[identity]
                also = "" if name == os.fspath(out) else f", {name}"
                raise InputError(f"{out}: is the input itself{also}; choose another name")

    @staticmethod
    def _identities(path: str, folders: Callable[[str], str]) -> Iterator[Hashable]:
        for at in places_of(path):
            if is_url(at):
                yield real(at)
                continue
            link = os.path.islink(at)
            folder, name = os.path.split(os.path.abspath(at))
            yield os.path.realpath(at) if link else os.path.join(folders(folder), name)
            with suppress(OSError):
                status = os.stat(at)
                yield status.st_dev, status.st_ino


def check_outside(out: str | os.PathLike, root: Place, specs: Iterable[Any], sources: Iterable[formats.Source]) -> None:
    """InputError if `root`, the folder that `out` is written to, lies inside an input: a later read would take it in."""
    folders = [shard.path for source in sources for shard in source.shards if shard.folder]
    named = [at for spec in specs if isinstance(spec, (str, os.PathLike)) for at in places_of(spec)]
    folders += [at for at in named if is_url(at) == is_url(root) and is_folder(at)]
    for folder in dict.fromkeys(folders):
        if inside(real(root), real(folder)):
            raise InputError(f"{out}: lies inside the input {folder}; choose a folder outside of it")


def is_folder(path: str | os.PathLike) -> bool:
    return place(path).is_dir() if is_url(path) else os.path.isdir(path)


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
    """Those that are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
