"""The output folder of a conversion: which files it writes, and what writes them."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import numpy as np

from fastrealign import formats
from fastrealign.core.choices import SIDES, TARGETS
from fastrealign.core.errors import InputError
from fastrealign.core.formatting import listed
from fastrealign.core.wording import option
from fastrealign.data.options import OutputOptions
from fastrealign.formats.manifest import JOURNAL
from fastrealign.formats.metadata import SIDE_FOLDERS, metadata_name
from fastrealign.formats.shard_names import Name
from fastrealign.formats.tables import no_bfloat16
from fastrealign.jobs.folders import (
    A_FOLDER,
    check_local,
    is_there,
    names_other_format,
    remove,
    remove_folders,
    remove_temporaries,
)
from fastrealign.jobs.layout import METADATA
from fastrealign.jobs.output_folder import OutputFolder
from fastrealign.jobs.protected_inputs import Inputs, files_of
from fastrealign.jobs.row_columns import NpyOutput, Output, RowColumns, TableOutput
from fastrealign.storage.paths import Place, check_length, each, place


class ConvertedFiles(OutputFolder):
    """The files that a conversion writes. A failure leaves nothing new behind.

    root   the folder of all of them
    paths  of the embeddings, one a shard; `metadata`: of the tables beside them (npy only)
    written  files that have their final name
    """

    def __init__(
        self, out: str | os.PathLike, to: str | None, side: str | None, files: formats.Source, options: OutputOptions
    ) -> None:
        path = place(out)
        suffix = path.suffix.lower()
        named = next((name for name, known in TARGETS.items() if known == suffix), None)
        if to is not None and to not in TARGETS:
            raise InputError(f"to={to!r}: expected one of {', '.join(TARGETS)}")
        if named is not None and (named == "lance" or not path.is_dir()):
            if to not in (None, named):
                raise InputError(f"{out}: is the name of a {named} file, but {to} was asked for; choose one of them")
            if len(files.shards) != 1:
                raise InputError(f"{out}: names one file, but {files.name} has {len(files.shards)}; name a folder")
            self.to = named
            super().__init__(path.parent, path.with_name(f".{path.name}{JOURNAL}"), options.fsync)
            names, metadata = [path.name], [f"{path.name}.{METADATA}"]
        else:
            other = names_other_format(out)
            if other or (suffix in formats.FORMATS and not path.is_dir()):
                file = f"a {listed(list(TARGETS.values()), 'or')} file or " if len(files.shards) == 1 else ""
                raise InputError(f"{out}: {suffix} is not written; name {file}{A_FOLDER if other else 'a folder'}")
            self.to = to or "parquet"
            super().__init__(path, path / JOURNAL, options.fsync)
            names, metadata = names_of(files.shards, self.to, side)
        if self.to == "lance":
            check_local(path, out)
        check_length(self._lock, out)
        self.paths: list[Place] = [self.root / name for name in names]
        self.metadata: list[Place] = [self.root / name for name in metadata] if self.to == "npy" else []
        self._dim = files.dim
        self._inputs = Inputs(files_of(files))
        self._overwrite = options.overwrite
        self.written: list[Place] = []
        here = [path for path in (*self.paths, *self.metadata) if isinstance(path, Path)]
        self._missing = {folder for path in here for folder in path.parents if not folder.exists()}

    def check(self) -> None:
        super().check()
        seen: dict[Place, int] = {}
        for at, path in enumerate(self.paths):
            if seen.setdefault(path, at) != at:
                raise InputError(f"{path}: two files of the source would become this one; convert them to two folders")
        self._check(*self.paths)

    def _check(self, *paths: Place) -> None:
        for path, there in zip(paths, each(is_there, paths, several=not isinstance(self.root, Path)), strict=True):
            self._inputs.check(path)
            if there and not self._overwrite:
                raise InputError(f"{path}: exists; choose another name or replace it with {option('overwrite', True)}")
            if there and path.is_dir() and not (self.to == "lance" and (path / "_versions").is_dir()):
                raise InputError(f"{path}: is a folder, which is not replaced; choose another name")

    def begin(self) -> None:
        self.check()  # another process may have written here since the first check
        every = [*self.paths, *self.metadata]
        remote = not isinstance(self.root, Path)
        self._there = {path for path, there in zip(every, each(is_there, every, several=remote), strict=True) if there}
        remove_temporaries(every)

    def roll_back(self) -> None:
        """Remove what is new of the files written, and the folders made for them."""
        for path in set(self.written) - self._there:
            remove(path)
        remove_folders(sorted(self._missing, reverse=True))

    def writers(
        self, at: int, shard: formats.Shard, rest: RowColumns, dtype: np.dtype, stack: ExitStack
    ) -> list[Output]:
        """The writers of a shard; leaving the stack aborts those that are not committed."""
        path = self.paths[at]
        if self.to == "npy":
            made: list[Output] = [NpyOutput(path, dtype, self._dim, stack, self.fsync)]
            if rest.names:
                self._check(self.metadata[at])
                made.append(TableOutput(self.metadata[at], "parquet", rest.schema(), None, stack, self.fsync))
            return made
        no_bfloat16(path, dtype, self.to)
        schema, column = rest.schema_with(shard, self._dim, dtype)
        return [TableOutput(path, self.to, schema, column, stack, self.fsync)]


def names_of(shards: list[formats.Shard], to: str, side: str | None) -> tuple[list[str], list[str]]:
    """The names of the files in a folder and of their metadata files: numbered alike, by which readers pair them."""
    if to == "npy" and side is not None:
        folder = SIDE_FOLDERS[SIDES[side]]
        numbers = range(len(shards))
        return [f"{folder}/{folder}_{i}.npy" for i in numbers], [f"metadata/metadata_{i}.parquet" for i in numbers]
    names = [PurePosixPath(shard.name).with_suffix(TARGETS[to]) for shard in shards]
    if to != "npy":
        return [str(name) for name in names], []
    tails = [(name.parent, Name.of(name.stem).tail) for name in names]
    if len(set(tails)) < len(names) or not all(tail for _, tail in tails):
        names = [name.with_stem(f"{name.stem}_{i}") for i, name in enumerate(names)]
    beside = [(name, metadata_name(name.stem)) for name in names]
    return [str(name) for name in names], [str(name.with_name(other)) for name, other in beside if other is not None]
