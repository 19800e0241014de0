"""Inputs are only read: nothing that a run writes may be one of them, or lie inside one, under any name or link."""

from __future__ import annotations

import glob
import os
from collections.abc import Hashable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.formats.open import Source
from fastrealign.jobs.folders import inside, walk
from fastrealign.storage.file_identity import identities, real
from fastrealign.storage.paths import AnyPath, Place, is_folder, named_paths, place, places_of


def files_of(source: Source) -> list[AnyPath]:
    """The paths of its shards, and of the metadata beside them."""
    return [path for shard in source.shards for path in (shard.path, shard.metadata) if path is not None]


class Inputs:
    """Files that a run reads: none of what it writes may be one of them, under any name or link."""

    def __init__(self, paths: Iterable[str | os.PathLike]) -> None:
        self._names: dict[Hashable, str] = {}
        folders = cache(real)
        for path in paths:
            for identity in identities(path, folders):
                self._names.setdefault(identity, os.fspath(path))

    @classmethod
    def named(cls, specs: Iterable[Any]) -> Inputs:
        """The files that these paths, patterns and folders name; arrays and the like name none."""
        found: list[str] = []
        for spec in specs:
            found += [os.fspath(path) for path in named_paths(spec)]
        for path in tuple(found):
            if not isinstance(place(path), Path):
                continue
            if os.path.isdir(path):
                found += [os.path.join(path, name) for name in walk(Path(path))]
            elif glob.has_magic(path):
                found += glob.glob(os.path.expanduser(path), recursive=True)
        return cls(found)

    def check(self, out: str | os.PathLike) -> None:
        """InputError if `out` is one of them."""
        for identity in identities(out):
            if identity in self._names:
                name = self._names[identity]
                also = "" if name == os.fspath(out) else f", {name}"
                raise InputError(f"{out}: is the input itself{also}; choose another name")


def check_outside(out: AnyPath, root: Place, specs: Iterable[AnyPath], sources: Iterable[Source]) -> None:
    """InputError if `root`, the folder that `out` is written to, lies inside an input: a later read would include it."""
    folders = [shard.path for source in sources for shard in source.shards if shard.folder]
    named = [at for spec in specs for at in places_of(spec)]
    folders += [at for at in named if type(place(at)) is type(root) and is_folder(at)]
    for folder in dict.fromkeys(folders):
        if inside(real(root), real(folder)):
            raise InputError(f"{out}: lies inside the input {folder}; choose a folder outside of it")
