"""What an earlier run left in the output folder: which of its shards `resume` keeps, and what `overwrite` removes."""

from __future__ import annotations

from pathlib import Path

from fastrealign.core.errors import FastRealignError, InputError, warn
from fastrealign.core.wording import option
from fastrealign.data.options import OutputOptions
from fastrealign.formats.manifest import JobSpec, Manifest, ShardRecord
from fastrealign.jobs.folders import final_name, is_there, remove, remove_folders, remove_temporaries
from fastrealign.jobs.journal import Group, Journal, rank_journals
from fastrealign.jobs.layout import Layout
from fastrealign.methods.loading import load
from fastrealign.storage.paths import Place, each


class PreviousRun:
    """An earlier run in an output folder that this run, of job specification `spec`, holds the lock of.

    complete   its manifest, if it is complete
    is_ours    whether `resume` found it to be this run: from then on, files with the names of the run are its own
    """

    def __init__(
        self, layout: Layout, options: OutputOptions, journal: Journal, spec: JobSpec, complete: Manifest | None
    ) -> None:
        self.root = layout.root
        self.layout = layout
        self.journal = journal
        self.spec = spec
        self.complete = complete
        self.is_ours = False
        self._fsync, self._verify = options.fsync, options.verify

    def resume(self) -> Manifest | None:
        """Keep the shards of the run in the folder that are as they were written. InputError if it is another run.

        Returns the manifest if that run is complete and this run has nothing to do.
        """
        noted = self.journal.noted
        # Shards are written only once a replaced run is cleared: shards beside a manifest belong to it.
        if self.complete is not None and (noted.spec is None or noted.groups):
            self._check_complete(self.complete)
            self.journal.clear()
            return self.complete
        if noted.spec is not None or noted.groups or noted.damaged:
            self._continue()
        return None

    def _continue(self) -> None:
        noted = self.journal.noted
        if noted.spec is None:
            self._check_own()
        else:
            known = [group for group in noted.groups if group.spec in noted.specs | {""}]
            change = self.spec.change(noted.spec, set().union(*(group.names for group in known)))
            if change:
                raise InputError(
                    f"{self.layout.out}: the run there cannot be resumed: {change}; restart with {option('overwrite', True)}"
                )
            if noted.alignment is None and not noted.damaged:
                self._check_alignment()
        self.is_ours = True
        self._remove_temporaries(planned(noted.spec or self.spec))
        others = [Journal(path, self._fsync) for path in rank_journals(self.layout.journal)]
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
        own = planned(self.spec) | self._small()
        foreign = [name for name in self.layout.files() if final_name(name) not in own]
        if foreign or any(group.spec != digest for group in noted.groups):
            what = f"{foreign[0]} may not be" if foreign else "the shards noted are not"
            raise InputError(
                f"{self.layout.out}: the job specification in the journal there is damaged, and {what} of this run; "
                f"restart with {option('overwrite', True)}, or choose another output folder"
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

    def clear(self) -> None:
        """Remove the previous run, if the folder holds nothing else. A complete one stays until `start_writing`."""
        noted, others = self.journal.noted, rank_journals(self.layout.journal)
        shards = noted.shards + (self.complete.shards if self.complete else [])
        for path in others:
            shards += Journal.peek(path).shards
        names = set().union(*(planned(spec) for spec in (noted.spec, self.complete and self.complete.spec) if spec))
        # Where the journal is damaged, the specification of its shards may be lost.
        names |= {name for shard in noted.shards for name in (shard.name, shard.metadata) if name is not None}
        for name in self.layout.files():
            if final_name(name) not in names | self._small():
                raise InputError(
                    f"{self.layout.out}: holds {name}, which fastrealign did not write and does not remove; {self._aside}"
                )
        self._check_alignment()
        changed = self._changed(shards, gone=False)
        if changed is not None:
            raise InputError(f"{self.layout.out}: {changed.name} was changed since it was written; move it away")
        if noted.spec is not None or noted.groups:
            self._remove_temporaries(names)
            remove_files(self.root, names - (planned(self.complete.spec) if self.complete else set()))
        if self.complete is None and self.layout.alignment is not None:
            self.layout.alignment.unlink(missing_ok=True)
        for path in others:
            Journal(path, self._fsync).remove()
        self.journal.clear()

    @property
    def _aside(self) -> str:
        return f"move it away{', or choose another name' if self.layout.single else ''}"

    def _check_alignment(self) -> None:
        """InputError if the file that has the name of the run's alignment is not of the previous run."""
        if self.layout.alignment is not None and not self._wrote_alignment(self.layout.alignment):
            named = self.layout.here(self.layout.alignment)
            raise InputError(
                f"{self.layout.out}: holds {named}, which the run with this output did not write; {self._aside}"
            )

    def _wrote_alignment(self, path: Place) -> bool:
        """Whether the file that has the name of the run's alignment is what the previous run saved, or there is none."""
        if not is_there(path):
            return True
        noted = self.journal.noted
        begun = self.complete is None and noted.spec is not None and noted.alignment is None
        # Shards are written after the alignment is noted: where there are some, the journal has lost that line.
        if begun and not planned(noted.spec or self.spec).isdisjoint(self.layout.files()):
            return path.is_file()
        saved = {noted.alignment, self.complete and self.complete.alignment}
        try:
            return load(path).fingerprint in saved
        except FastRealignError:
            return False

    def _changed(self, shards: list[ShardRecord], gone: bool = True) -> ShardRecord | None:
        """The first shard that is not as it was written, or is gone, if `gone` counts."""

        def is_as_written(shard: ShardRecord) -> bool:
            path = self.root / shard.name
            return (not gone and not path.exists()) or shard.is_at(path, self._verify)

        remote = not isinstance(self.root, Path)
        for shard, fine in zip(shards, each(is_as_written, shards, several=remote), strict=True):
            if not fine:
                return shard
        return None

    def _check_complete(self, manifest: Manifest) -> None:
        change = self.spec.change(manifest.spec)
        if change:
            raise InputError(
                f"{self.layout.out}: the complete run there is another one: {change}; replace it with "
                f"{option('overwrite', True)}"
            )
        shard, alignment = self._changed(manifest.shards), self.layout.alignment
        changed = None if shard is None else self.root / shard.name
        if changed is None and manifest.alignment is not None and alignment is not None:
            changed = None if is_there(alignment) and self._wrote_alignment(alignment) else alignment
        if changed is None:
            return
        name, restart = self.layout.here(changed), f"restart with {option('overwrite', True)}"
        raise InputError(
            f"{self.layout.out}: {name} was changed since the run was complete; move it away, and {restart}"
            if is_there(changed)
            else f"{self.layout.out}: {name} is missing: put it back, or {restart}"
        )

    def _remove_temporaries(self, names: set[str]) -> None:
        remove_temporaries({*(self.root / name for name in names), *self.layout.small})


def planned(spec: JobSpec) -> set[str]:
    """The names of all files that a run of this job specification writes."""
    return {*spec.source, *spec.metadata}


def remove_files(root: Place, names: set[str]) -> None:
    """Remove files of a run, and the folders within the output that they leave empty."""
    for _ in each(lambda name: remove(root / name), sorted(names), several=not isinstance(root, Path)):
        pass
    remove_folders({(root / name).parent for name in names} - {root})
