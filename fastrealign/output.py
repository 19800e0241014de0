"""Where a run writes: a folder, here or on a server, or one file and what lies beside it: empty, unfinished or complete.

empty         nothing there; a run may begin
unfinished    a journal: `resume` goes on, `overwrite` begins anew
complete      a manifest: `resume` finds nothing to do, `overwrite` begins anew
anything else is somebody's: it is neither written to nor removed
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastrealign import io
from fastrealign.alignment import Alignment
from fastrealign.baseline import Baseline, load
from fastrealign.errors import FastRealignError, InputError
from fastrealign.io.journal import Journal
from fastrealign.io.manifest import MANIFEST, Manifest, Order, ShardRecord
from fastrealign.io.places import Place, each, is_url, place

ALIGNMENT = "alignment.safetensors"
JOURNAL = ".fastrealign-run.jsonl"
METADATA = "metadata.parquet"
_TEMPORARY = re.compile(r"\.(.+)\.[0-9]+\.tmp")


class Output:
    """The names that a run over `files` writes to. Nothing on disk is touched until `claim`.

    out      a folder, or a URL that stands for one; or, for a source of one shard, a file of the same format, beside which
             the small files then lie
    root     the folder of all that is written
    names    of the shards, in the order of the source, relative to root
    alignment  where that of the run goes; None for a run that has none
    metadata names of their metadata files, None for a shard that has none
    beside   names of the files that describe shards together (Hugging Face datasets)
    """

    def __init__(self, out: str | os.PathLike, files: io.Source) -> None:
        self.out = os.fspath(out)
        path = place(out)
        kind = io.FORMATS.get(path.suffix.lower())
        self.single = kind is not None and (kind.folder or not path.is_dir())
        if self.single:
            if len(files.shards) != 1:
                raise InputError(
                    f"{out}: names one file, but {files.name} has {len(files.shards)} shards; name a folder"
                )
            if not isinstance(files.shards[0], kind):
                raise InputError(
                    f"{out}: the output keeps the format of the input, {files.shards[0].format}; "
                    f"name a {place(files.shards[0].path).suffix} file or a folder"
                )
        self.root = path.parent if self.single else path
        prefix = f"{path.name}." if self.single else ""
        self.names = [path.name] if self.single else [shard.name for shard in files.shards]
        if not self.single and ALIGNMENT in self.names:
            path = files.shards[self.names.index(ALIGNMENT)].path
            raise InputError(f"{path}: its aligned twin would have the name of the run's own {ALIGNMENT}; rename it")
        self.metadata = [
            shard.metadata and (f"{prefix}{METADATA}" if self.single else shard.metadata_name) for shard in files.shards
        ]
        self.beside = [] if self.single else [name for dataset in files.datasets for name in dataset.names]
        self.manifest = self.root / f"{prefix}{MANIFEST}"
        self.alignment: Place | None = self.root / f"{prefix}{ALIGNMENT}"
        self.journal = self.root / (f".{path.name}{JOURNAL}" if self.single else JOURNAL)

    @classmethod
    def of_new_shards(cls, out: str | os.PathLike, names: Sequence[str] = ()) -> Output:
        """A folder of shards that are no twins of others, without an alignment (embed)."""
        output = cls.__new__(cls)
        output.out = os.fspath(out)
        output.root = place(out)
        if output.root.suffix.lower() in io.FORMATS and not output.root.is_dir():
            raise InputError(f"{out}: names one file, and shards go to a folder; name one")
        output.single = False
        output.names = list(names)
        output.metadata, output.beside = [None] * len(output.names), []
        output.manifest, output.alignment, output.journal = output.root / MANIFEST, None, output.root / JOURNAL
        return output

    @property
    def small(self) -> list[Place]:
        """The run's own files beside the shards, without the journals."""
        return [self.manifest] if self.alignment is None else [self.manifest, self.alignment]

    def journal_of(self, rank: int) -> Place:
        """The journal of one of several processes that write here; the first one's is that of the run."""
        return self.journal.with_name(f"{self.journal.stem}.{rank}{self.journal.suffix}") if rank else self.journal

    def check_apart(self, specs: Iterable[Any], sources: Sequence[io.Source]) -> None:
        """InputError if the output lies inside an input, or an input inside the output."""
        root = _real(self.root)
        folders = [shard.path for source in sources for shard in source.shards if shard.folder]
        folders += [spec for spec in specs if isinstance(spec, (str, os.PathLike)) and _is_folder(spec)]
        for folder in dict.fromkeys(folders):
            if _inside(root, _real(folder)):
                raise InputError(f"{self.out}: lies inside the input {folder}; choose a folder outside of it")
        written = {_real(self.root / name) for name in self.names} if self.single else set()
        for source in sources:
            for folder in dict.fromkeys(_folder_of(shard.path) for shard in source.shards):
                if not self.single and _inside(_real(folder or "."), root):
                    raise InputError(
                        f"{self.out}: the input {folder or '.'} lies inside the output; choose a folder apart from it"
                    )
            for shard in source.shards if self.single else ():
                if _real(shard.path) in written:
                    raise InputError(f"{self.out}: is the input itself; choose another name")

    def claim(self, order: Order, *, resume: bool, overwrite: bool, fsync: bool, verify: bool = False) -> Claim:
        """Take the output for a run. Raises InputError where that would mix with, or remove, what is there.

        verify: look at every byte of the shards that are there
        """
        complete = self.look(resume=resume, overwrite=overwrite)
        made = _make_folders(self.root)
        try:
            journal = Journal(self.journal, fsync)
        except BaseException:
            _remove_folders(made)
            raise
        if not (resume or overwrite):
            self._check_still_empty(journal)
        claim = Claim(self, order, journal, complete, made, fsync, verify)
        try:
            if overwrite:
                claim.begin_anew()
            elif resume:
                claim.go_on()
            if not claim.finished:
                journal.begin(order)
        except BaseException:
            claim.leave()
            raise
        return claim

    def look(self, *, resume: bool, overwrite: bool) -> Manifest | None:
        """What `claim` can refuse before it takes anything, as InputError; the manifest of a complete run that is there."""
        if resume and overwrite:
            raise InputError("--resume goes on with what is there and --overwrite begins anew: choose one")
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root}: is a file, expected a folder to write to")
        there = self._files()
        complete = (
            Manifest.load(self.manifest) if self._here(self.manifest) in there and (resume or overwrite) else None
        )
        if there and not (resume or overwrite):
            raise InputError(f"{self.out}: {self._what_is_there(there)}")
        if resume and there and complete is None and not self.journal.exists():
            raise InputError(f"{self.out}: holds {there[0]}, but no run to go on with; choose an empty folder")
        return complete

    def _check_still_empty(self, journal: Journal) -> None:
        """Another process may have begun, or even ended, between the look at the folder and the lock."""
        if journal.noted.order is not None:
            journal.close()
        elif any(name != self._here(self.journal) for name in self._files()):
            journal.remove()
        else:
            return
        raise InputError(f"{self.out}: another fastrealign has just been writing there; look at what it wrote")

    def _what_is_there(self, there: list[str]) -> str:
        if self.journal.exists():
            done = sum(len(Journal.peek(path).shards) for path in (self.journal, *rank_journals(self.journal)))
            return (
                f"holds an unfinished run ({done} shards complete); go on with --resume or begin anew with --overwrite"
            )
        if self._here(self.manifest) in there:
            return "is not empty, a run is complete there; --resume checks it, --overwrite replaces it"
        return f"is not empty, it holds {there[0]}; choose an empty folder"

    def _files(self) -> list[str]:
        """Files that lie where the run would write, relative to root: all in a folder, the few names beside a file."""
        if self.single:
            small = [self._here(path) for path in (*self.small, self.journal)]
            names = [*self.names, *filter(None, self.metadata), *small]
            return [name for name in names if _is_there(self.root / name)]
        # On a server the journal is a folder.
        journal = self._here(self.journal)
        return sorted({journal if name.startswith(f"{journal}/") else name for name in _walk(self.root)})

    def _here(self, path: Place) -> str:
        return path.relative_to(self.root).as_posix()


class Claim:
    """An output that one run holds until it calls `finish`, or `leave`, which keeps what is complete and nothing else.

    finished   the manifest, if the run that was asked for is already complete
    """

    def __init__(
        self,
        output: Output,
        order: Order,
        journal: Journal,
        complete: Manifest | None,
        made: list[Place],
        fsync: bool,
        verify: bool,
    ) -> None:
        self.output = output
        self.order = order
        self.journal = journal
        self.finished: Manifest | None = None
        self._replaced = complete
        self._began = False  # from here on what has the names of the run is the run's
        self._made = made
        self._fsync = fsync
        self._verify = verify

    def go_on(self) -> None:
        """Take up the run that is there; InputError that names what is different about the one asked for."""
        noted = self.journal.noted
        # Shards are written only once a run that is replaced is cleared away: beside a manifest they are its own.
        if self._replaced is not None and (noted.order is None or noted.groups):
            self._check_complete(self._replaced)
            self.journal.clear()
        elif noted.order is not None:
            change = self.order.change(noted.order, {shard.name for shard in noted.shards})
            if change:
                raise InputError(
                    f"{self.output.out}: the run there cannot be gone on with: {change}; begin anew with --overwrite"
                )
            self._began = True
            self._remove_temporaries(_planned(noted.order))
            self.journal.keep([group for group in noted.groups if self._changed(group.shards) is None])
            for path in rank_journals(self.output.journal):
                other = Journal(path, self._fsync)
                self.journal.take_in([group for group in other.noted.groups if self._changed(group.shards) is None])
                other.remove()

    def begin_anew(self) -> None:
        """Clear away the run that is there, if nothing else is. A complete one stays until `begin`."""
        noted, others = self.journal.noted, rank_journals(self.output.journal)
        shards = noted.shards + (self._replaced.shards if self._replaced else [])
        for path in others:
            shards += Journal.peek(path).shards
        planned = set().union(
            *(_planned(order) for order in (noted.order, self._replaced and self._replaced.order) if order)
        )
        own = (*self.output.small, self.output.journal, *others)
        small = {self.output._here(path) for path in own}
        for name in self.output._files():
            if _final_name(name) not in planned | small:
                raise InputError(
                    f"{self.output.out}: holds {name}, which fastrealign did not write and does not remove; move it"
                )
        changed = self._changed(shards, gone=False)
        if changed is not None:
            raise InputError(f"{self.output.out}: {changed.name} was changed since it was written; move it away")
        if noted.order is not None:
            self._remove_temporaries(_planned(noted.order))
            self._remove(_planned(noted.order) - (_planned(self._replaced.order) if self._replaced else set()))
        if self._replaced is None and self.output.alignment is not None:
            self.output.alignment.unlink(missing_ok=True)
        for path in others:
            Journal(path, self._fsync).remove()
        self.journal.clear()

    def begin(self, alignment: Alignment | Baseline | None) -> None:
        """The alignment is known and shards are about to be written: note it, and clear away a run that is replaced."""
        if alignment is not None and self.journal.noted.alignment not in (None, alignment.fingerprint):
            raise InputError(
                f"{self.output.out}: the run there used another alignment (another target, machine or version?); "
                "begin anew with --overwrite"
            )
        if self._replaced is not None:
            self._remove(_planned(self._replaced.order))
            self.output.manifest.unlink(missing_ok=True)
            self._replaced = None
        self._began = True
        if alignment is not None:
            alignment.save(self.output.alignment)
            self.journal.note_alignment(alignment.fingerprint)

    def alignment_noted(self) -> Alignment | Baseline | None:
        """The alignment that the unfinished run was using, if it is still there."""
        if self.journal.noted.alignment is None:
            return None
        try:
            alignment = load(self.output.alignment)
        except InputError:
            return None
        return alignment if alignment.fingerprint == self.journal.noted.alignment else None

    def finish(
        self,
        alignment: Alignment | Baseline | None,
        gap_left: float = math.nan,
        left_out: dict[str, dict[str, str]] | None = None,
    ) -> Manifest:
        """All shards but those left out are complete: write the alignment and the manifest, do away with the journal."""
        self.journal.flush()
        if alignment is not None:
            alignment.save(self.output.alignment)
        at = {name: i for i, name in enumerate(self.output.names)}
        manifest = Manifest(
            self.order,
            alignment and alignment.fingerprint,
            alignment and alignment.gap_before,
            None if math.isnan(gap_left) else gap_left,
            sorted(self.journal.shards, key=lambda shard: at[shard.name]),
            left_out or {},
        )
        manifest.save(self.output.manifest, self._fsync)
        self.journal.remove()
        return manifest

    def leave(self, alone: bool = True) -> None:
        """End the run where it is. alone: no other process may have completed shards of it."""
        if self.journal.shards or self.journal.lost or (self._began and not alone):
            self.journal.close()
            return
        with suppress(FastRealignError):  # a server that fails now, as it may have before
            if self._began:
                # Among them what a commit that failed halfway may have put in place.
                self._remove(_planned(self.order))
                if self.output.alignment is not None:
                    self.output.alignment.unlink(missing_ok=True)
            self.journal.remove()
        _remove_folders(self._made)

    def _path(self, name: str) -> Place:
        return self.output.root / name

    def _remove(self, names: set[str]) -> None:
        """Files of a run, and the folders within the output that they leave empty."""
        remote = not isinstance(self.output.root, Path)
        for _ in each(lambda name: _remove(self._path(name)), sorted(names), remote=remote):
            pass
        _remove_folders({self._path(name).parent for name in names} - {self.output.root})

    def _changed(self, shards: list[ShardRecord], gone: bool = True) -> ShardRecord | None:
        """The first that is not as it was written, or is gone, if that counts."""

        def is_as_written(shard: ShardRecord) -> bool:
            path = self._path(shard.name)
            return (not gone and not path.exists()) or shard.is_at(path, self._verify)

        remote = not isinstance(self.output.root, Path)
        for shard, fine in zip(shards, each(is_as_written, shards, remote=remote), strict=True):
            if not fine:
                return shard
        return None

    def _check_complete(self, manifest: Manifest) -> None:
        change = self.order.change(manifest.order)
        if change:
            raise InputError(
                f"{self.output.out}: the complete run there is another one: {change}; replace it with --overwrite"
            )
        changed = self._changed(manifest.shards)
        if changed is not None:
            raise InputError(
                f"{self.output.out}: {changed.name} is gone or was changed since the run was complete; "
                "make all anew with --overwrite"
            )
        self.finished = manifest

    def _remove_temporaries(self, planned: set[str]) -> None:
        small = {self.output._here(path) for path in self.output.small}
        for folder in {self._path(name).parent for name in planned | small}:
            for name in _walk(folder, deep=False):
                here = self.output._here(folder / name)
                if _TEMPORARY.fullmatch(name) and _final_name(here) in planned | small:
                    _remove(folder / name)


def rank_journals(journal: Place) -> list[Path]:
    """Beside the journal of a run, those that other ranks have left; on a server there are none."""
    return [] if is_url(journal) else sorted(journal.parent.glob(f"{journal.stem}.*{journal.suffix}"))


def _planned(order: Order) -> set[str]:
    return {*order.source, *order.metadata}


def _final_name(name: str) -> str:
    """The name that a temporary would have taken; other names as they are."""
    path = Path(name)
    temporary = _TEMPORARY.fullmatch(path.name)
    return path.with_name(temporary[1]).as_posix() if temporary else name


def _walk(folder: Place, deep: bool = True) -> Iterator[str]:
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
    kind = io.FORMATS.get(Path(_final_name(name)).suffix.lower())
    return kind is not None and kind.folder


def _remove(path: Path) -> None:
    """A shard of the run, or another file of it, if it is there."""
    if _is_shard_folder(path.name) and path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _real(path: str | os.PathLike) -> str:
    """The same for all names of a place."""
    return place(path).canonical if is_url(path) else os.path.realpath(path)


def _folder_of(path: str) -> str:
    return str(place(path).parent) if is_url(path) else os.path.dirname(path)


def _is_folder(path: str | os.PathLike) -> bool:
    return place(path).is_dir() if is_url(path) else os.path.isdir(path)


def _is_there(path: Place) -> bool:
    return os.path.lexists(path) if isinstance(path, Path) else path.exists()


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _make_folders(folder: Place) -> list[Place]:
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
        _remove_folders(missing)
        raise FastRealignError(
            f"{missing[0]}: cannot be made: {error.strerror}; choose another output folder"
        ) from None
    return missing


def _remove_folders(folders: Iterable[Place]) -> None:
    """Those that are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
