"""Where a run writes: a folder, here or on a server, or one file and what lies beside it: empty, unfinished or complete.

empty         nothing there; a run may begin
unfinished    a journal: `resume` goes on, `overwrite` begins anew
complete      a manifest: `resume` finds nothing to do, `overwrite` begins anew
anything else is somebody's: it is neither written to nor removed
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from fastrealign import formats
from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.formats.manifest import MANIFEST, JobSpec, Manifest
from fastrealign.jobs.claim import Claim
from fastrealign.jobs.folders import inside, is_folder, is_there, make_folders, remove_folders, walk
from fastrealign.jobs.inputs import Inputs, check_outside
from fastrealign.jobs.journal import Journal, rank_journals
from fastrealign.storage.identity import real
from fastrealign.storage.paths import Place, folder_of, place, places_of

ALIGNMENT = "alignment.safetensors"
JOURNAL = ".fastrealign-run.jsonl"
METADATA = "metadata.parquet"


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

    def __init__(self, out: str | os.PathLike, files: formats.Source) -> None:
        self.out = os.fspath(out)
        path = place(out)
        kind = formats.FORMATS.get(path.suffix.lower())
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
        taken = dict(zip(self.names, files.shards, strict=True))
        for shard, name in zip(files.shards, self.metadata, strict=True):
            if name is not None and (other := taken.setdefault(name, shard)) is not shard:
                raise InputError(
                    f"{shard.path}: its metadata would be written to {name}, which {other.path} takes too; "
                    "rename one of the two, or run them apart"
                )
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
        if output.root.suffix.lower() in formats.FORMATS and not output.root.is_dir():
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

    def check_apart(self, specs: Sequence[Any], sources: Sequence[formats.Source]) -> None:
        """InputError if the output lies inside an input, or an input inside the output, by whatever name or link."""
        check_outside(self.out, self.root, specs, sources)
        root = real(self.root)
        read = [spec for spec in specs if isinstance(spec, (str, os.PathLike)) and not is_folder(spec)]
        read += [path for source in sources for s in source.shards for path in (s.path, s.metadata) if path is not None]
        if self.single:
            inputs = Inputs(read)
            for name in (*self.names, *filter(None, self.metadata), *map(self.here, self.small)):
                inputs.check(self.root / name)
            return
        # The folder of each file, and where the file itself lies if it is a link.
        read = [at for path in read for at in places_of(str(path))]
        places = dict.fromkeys(path if os.path.islink(path) else folder_of(path) or "." for path in read)
        for at in places:
            if inside(real(at), root):
                raise InputError(f"{self.out}: the input {at} lies inside the output; choose a folder apart from it")

    def claim(self, order: JobSpec, *, resume: bool, overwrite: bool, fsync: bool, verify: bool = False) -> Claim:
        """Take the output for a run. Raises InputError where that would mix with, or remove, what is there.

        verify: look at every byte of the shards that are there
        """
        complete = self.look(resume=resume, overwrite=overwrite)
        made = make_folders(self.root)
        claim = None
        try:
            journal = Journal(self.journal, fsync)
            if not (resume or overwrite):
                self._check_still_empty(journal)
            claim = Claim(self, order, journal, complete, made, fsync, verify)
            if overwrite:
                claim.begin_anew()
            elif resume:
                claim.go_on()
            if not claim.finished:
                journal.begin(order)
        except BaseException as error:
            if claim is not None:
                claim.leave()
            else:
                if isinstance(error, KeyboardInterrupt):
                    self._clear_journal()
                remove_folders(made)
            raise
        return claim

    def look(self, *, resume: bool, overwrite: bool) -> Manifest | None:
        """What `claim` can refuse before it takes anything, as InputError; the manifest of a complete run that is there."""
        if resume and overwrite:
            raise InputError("--resume goes on with what is there and --overwrite begins anew: choose one")
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root}: is a file, expected a folder to write to")
        there = self.files()
        complete = Manifest.load(self.manifest) if self.here(self.manifest) in there and (resume or overwrite) else None
        if there and not (resume or overwrite):
            raise InputError(f"{self.out}: {self._what_is_there(there)}")
        if resume and there and complete is None and not self.journal.exists():
            raise InputError(f"{self.out}: holds {there[0]}, but no run to go on with; choose an empty folder")
        return complete

    def _clear_journal(self) -> None:
        """Of a run that was interrupted while it made it: an empty journal would be taken for an unfinished run."""
        with suppress(FastRealignError):  # it is another one's
            journal = Journal(self.journal)
            if journal.noted.order is None:
                journal.remove()
            else:
                journal.close()

    def _check_still_empty(self, journal: Journal) -> None:
        """Another process may have begun, or even ended, between the look at the folder and the lock."""
        if journal.noted.order is not None:
            journal.close()
        elif any(name != self.here(self.journal) for name in self.files()):
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
        if self.here(self.manifest) in there:
            return "is not empty, a run is complete there; --resume checks it, --overwrite replaces it"
        return f"is not empty, it holds {there[0]}; choose an empty folder"

    def files(self) -> list[str]:
        """Files that lie where the run would write, relative to root: all in a folder, the few names beside a file."""
        if self.single:
            small = [self.here(path) for path in (*self.small, self.journal)]
            names = [*self.names, *filter(None, self.metadata), *small]
            return [name for name in names if is_there(self.root / name)]
        # On a server the journal is a folder.
        journal = self.here(self.journal)
        return sorted({journal if name.startswith(f"{journal}/") else name for name in walk(self.root)})

    def here(self, path: Place) -> str:
        return path.relative_to(self.root).as_posix()
