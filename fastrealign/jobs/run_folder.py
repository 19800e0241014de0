"""The output folder of a run that can be resumed: output shards, a journal while it is written, in the end a manifest.

empty         a run may begin
unfinished    it has a journal: `resume` continues the run, `overwrite` restarts it
complete      it has a manifest: `resume` finds nothing to do, `overwrite` restarts the run
Any other file was not written by fastrealign: it is neither written to nor removed.
"""

from __future__ import annotations

import math
from pathlib import Path

from fastrealign.core.errors import InputError, warn
from fastrealign.data.options import OutputOptions
from fastrealign.formats.manifest import JobSpec, Manifest, ShardRecord
from fastrealign.jobs.folders import final_name, remove, remove_folders, remove_temporaries
from fastrealign.jobs.journal import Group, Journal, rank_journals
from fastrealign.jobs.layout import Layout
from fastrealign.jobs.output_folder import OutputFolder
from fastrealign.methods.loading import load
from fastrealign.methods.method import Method
from fastrealign.storage.paths import each

_JUST_WRITTEN = "another fastrealign has just been writing there; look at what it wrote"


class RunFolder(OutputFolder):
    """Hold on the output folder of one run. An error keeps the output shards that are complete and nothing else.

    spec       the job specification; to be set before the folder is entered
    finished   the manifest, if this run is complete already
    alone      whether this process alone completes shards of the run
    """

    journal: Journal
    spec: JobSpec

    def __init__(self, layout: Layout, options: OutputOptions) -> None:
        super().__init__(layout.root, layout.journal, options.fsync)
        self.layout = layout
        self.finished: Manifest | None = None
        self.alone = True
        self._options = options
        self._replaced: Manifest | None = None
        self._began = False  # from then on, files with the names of the run are its own

    def check(self) -> None:
        layout, may_be_there = self.layout, self._options.resume or self._options.overwrite
        if self._options.resume and self._options.overwrite:
            raise InputError("--resume continues what is there and --overwrite restarts: choose one")
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root}: is a file, expected a folder to write to")
        there = layout.files()
        if there and not may_be_there:
            raise InputError(f"{layout.out}: {self._what_is_there(there)}")
        if layout.here(layout.manifest) in there and may_be_there:
            self._replaced = Manifest.load(layout.manifest)
        elif self._options.resume and there and not layout.journal.exists():
            raise InputError(f"{layout.out}: holds {there[0]}, but no run to resume; choose an empty folder")

    def open_log(self) -> Journal:
        self.journal = Journal(self.layout.journal, self.fsync)
        if not (self._options.resume or self._options.overwrite):
            self._check_still_empty()
        return self.journal

    def begin(self) -> None:
        if self._options.overwrite:
            self._clear()
        elif self._options.resume:
            self._continue()
        if self.finished is None:
            self.journal.begin(self.spec)

    def start_writing(self, alignment: Method | None) -> None:
        """Before the first shard is written: record the method and clear a run that is replaced."""
        if alignment is not None and self.journal.noted.alignment not in (None, alignment.fingerprint):
            raise InputError(
                f"{self.layout.out}: the run there used another alignment (another target, machine or version?); "
                "restart with --overwrite"
            )
        if self._replaced is not None:
            self._remove(_planned(self._replaced.spec))
            self.layout.manifest.unlink(missing_ok=True)
            self._replaced = None
        self._began = True
        if alignment is not None and self.layout.alignment is not None:
            alignment.save(self.layout.alignment, self.fsync)
            self.journal.note_alignment(alignment.fingerprint)

    def noted_alignment(self) -> Method | None:
        """The method that the unfinished run recorded, if its file is intact."""
        if self.journal.noted.alignment is None or self.layout.alignment is None:
            return None
        try:
            alignment = load(self.layout.alignment)
        except InputError:
            return None
        return alignment if alignment.fingerprint == self.journal.noted.alignment else None

    def commit(
        self,
        alignment: Method | None,
        gap_left: float = math.nan,
        left_out: dict[str, dict[str, str]] | None = None,
        columns: dict[str, str] | None = None,
    ) -> Manifest:
        """Write the method and the manifest: all shards but those left out are complete."""
        self.journal.flush()
        if alignment is not None and self.layout.alignment is not None:
            alignment.save(self.layout.alignment, self.fsync)
        at = {name: i for i, name in enumerate(self.layout.names)}
        manifest = Manifest(
            self.spec,
            None if alignment is None else alignment.fingerprint,
            None if alignment is None or math.isnan(alignment.gap_before) else alignment.gap_before,
            None if math.isnan(gap_left) else gap_left,
            sorted(self.journal.shards, key=lambda shard: at[shard.name]),
            left_out or {},
            columns or {},
        )
        manifest.save(self.layout.manifest, self.fsync)
        return manifest

    def roll_back(self) -> None:
        self.keep_log = bool(self.journal.shards) or self.journal.lost or (self._began and not self.alone)
        if self._began and not self.keep_log:
            # A commit that failed halfway may have put some of them in place.
            self._remove(_planned(self.spec))
            if self.layout.alignment is not None:
                self.layout.alignment.unlink(missing_ok=True)

    def _check_still_empty(self) -> None:
        """InputError if another process began, or even ended, between `check` and the lock."""
        if self.journal.noted.spec is not None:
            self.journal.close()
        elif any(name != self.layout.here(self.layout.journal) for name in self.layout.files()):
            self.journal.remove()
        else:
            return
        raise InputError(f"{self.layout.out}: {_JUST_WRITTEN}")

    def _what_is_there(self, there: list[str]) -> str:
        journal = self.layout.journal
        if journal.exists():
            try:
                done = sum(len(Journal.peek(path).shards) for path in (journal, *rank_journals(journal)))
            except InputError:
                if journal.exists():
                    raise
                return _JUST_WRITTEN
            return f"holds an unfinished run ({done} shards complete); continue it with --resume or restart with --overwrite"
        if self.layout.here(self.layout.manifest) in there:
            return "is not empty, a run is complete there; --resume checks it, --overwrite replaces it"
        return f"is not empty, it holds {there[0]}; choose an empty folder"

    def _continue(self) -> None:
        """Resume the run in the folder; InputError that names how it differs from this one."""
        noted = self.journal.noted
        # Shards are written only once a replaced run is cleared: shards beside a manifest belong to it.
        if self._replaced is not None and (noted.spec is None or noted.groups):
            self._check_complete(self._replaced)
            self.journal.clear()
            self.finished = self._replaced
        elif noted.spec is not None or noted.groups or noted.damaged:
            if noted.spec is None:
                self._check_own()
            else:
                known = [group for group in noted.groups if group.spec in noted.specs | {""}]
                change = self.spec.change(noted.spec, set().union(*(group.names for group in known)))
                if change:
                    raise InputError(
                        f"{self.layout.out}: the run there cannot be resumed: {change}; restart with --overwrite"
                    )
            self._began = True
            self._remove_temporaries(_planned(noted.spec or self.spec))
            others = [Journal(path, self.fsync) for path in rank_journals(self.layout.journal)]
            damaged = [journal for journal in (self.journal, *others) if journal.noted.damaged]
            lines = sum(journal.noted.damaged for journal in damaged)
            self.journal.keep(self._still_good(noted.groups))
            for other in others:
                self.journal.take_in(self._still_good(other.noted.groups))
                other.remove()
            if damaged:
                self._warn_of_damage(damaged[0], lines)

    def _still_good(self, groups: list[Group]) -> list[Group]:
        """Groups whose shards were made for this job specification with this method, and are unchanged."""
        noted = self.journal.noted
        specs = noted.specs | {self.spec.digest, ""}
        return [
            group
            for group in groups
            if group.spec in specs
            and group.alignment in (None, noted.alignment)
            and group.names <= self.spec.source.keys()
            and self._changed(group.shards) is None
        ]

    def _check_own(self) -> None:
        """The job specification in the journal is damaged: InputError unless this run would write all files in the folder."""
        noted, digest = self.journal.noted, self.spec.digest
        own = _planned(self.spec) | self._small()
        foreign = [name for name in self.layout.files() if final_name(name) not in own]
        if foreign or any(group.spec != digest for group in noted.groups):
            what = f"{foreign[0]} may not be" if foreign else "the shards noted are not"
            raise InputError(
                f"{self.layout.out}: the job specification in the journal there is damaged, and {what} of this run; "
                "restart with --overwrite, or choose another output folder"
            )

    def _warn_of_damage(self, journal: Journal, lines: int) -> None:
        done = self.journal.noted.names
        again = sum(name in self.spec.source and name not in done for name in self.layout.files())
        warn(
            f"{journal.path}: {lines} damaged {'line' if lines == 1 else 'lines'}; {again} of the shards that are there "
            f"{'is' if again == 1 else 'are'} done again, because their records are lost",
            UserWarning,
        )

    def _small(self) -> set[str]:
        own = (*self.layout.small, self.layout.journal, *rank_journals(self.layout.journal))
        return {self.layout.here(path) for path in own}

    def _clear(self) -> None:
        """Remove the previous run, if the folder holds nothing else. A complete one stays until `start_writing`."""
        noted, others = self.journal.noted, rank_journals(self.layout.journal)
        shards = noted.shards + (self._replaced.shards if self._replaced else [])
        for path in others:
            shards += Journal.peek(path).shards
        planned = set().union(
            *(_planned(spec) for spec in (noted.spec, self._replaced and self._replaced.spec) if spec)
        )
        # Where the journal is damaged, the specification of its shards may be lost.
        planned |= {name for shard in noted.shards for name in (shard.name, shard.metadata) if name is not None}
        for name in self.layout.files():
            if final_name(name) not in planned | self._small():
                raise InputError(
                    f"{self.layout.out}: holds {name}, which fastrealign did not write and does not remove; move it"
                )
        changed = self._changed(shards, gone=False)
        if changed is not None:
            raise InputError(f"{self.layout.out}: {changed.name} was changed since it was written; move it away")
        if noted.spec is not None or noted.groups:
            self._remove_temporaries(planned)
            self._remove(planned - (_planned(self._replaced.spec) if self._replaced else set()))
        if self._replaced is None and self.layout.alignment is not None:
            self.layout.alignment.unlink(missing_ok=True)
        for path in others:
            Journal(path, self.fsync).remove()
        self.journal.clear()

    def _remove(self, names: set[str]) -> None:
        """Files of a run, and the folders within the output that they leave empty."""
        remote = not isinstance(self.root, Path)
        for _ in each(lambda name: remove(self.root / name), sorted(names), remote=remote):
            pass
        remove_folders({(self.root / name).parent for name in names} - {self.root})

    def _changed(self, shards: list[ShardRecord], gone: bool = True) -> ShardRecord | None:
        """The first shard that is not as it was written, or is gone, if `gone` counts."""

        def is_as_written(shard: ShardRecord) -> bool:
            path = self.root / shard.name
            return (not gone and not path.exists()) or shard.is_at(path, self._options.verify)

        remote = not isinstance(self.root, Path)
        for shard, fine in zip(shards, each(is_as_written, shards, remote=remote), strict=True):
            if not fine:
                return shard
        return None

    def _check_complete(self, manifest: Manifest) -> None:
        change = self.spec.change(manifest.spec)
        if change:
            raise InputError(
                f"{self.layout.out}: the complete run there is another one: {change}; replace it with --overwrite"
            )
        changed = self._changed(manifest.shards)
        if changed is not None:
            raise InputError(
                f"{self.layout.out}: {changed.name} is gone or was changed since the run was complete; "
                "move it away if it is there, and restart with --overwrite"
            )

    def _remove_temporaries(self, planned: set[str]) -> None:
        remove_temporaries({*(self.root / name for name in planned), *self.layout.small})


def _planned(spec: JobSpec) -> set[str]:
    return {*spec.source, *spec.metadata}
