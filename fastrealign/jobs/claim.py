"""An output while a run holds it: what is there is gone on with or cleared away, and at the end it is complete or as it was."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastrealign.core.errors import FastRealignError, InputError, warn
from fastrealign.formats.manifest import JobSpec, Manifest, ShardRecord
from fastrealign.jobs.folders import final_name, remove, remove_folders, remove_temporaries
from fastrealign.jobs.journal import Group, Journal, rank_journals
from fastrealign.methods.loading import load
from fastrealign.methods.method import Method
from fastrealign.storage.paths import Place, each

if TYPE_CHECKING:
    from fastrealign.jobs.output_folder import Output


class Claim:
    """An output that one run holds until it calls `finish`, or `leave`, which keeps what is complete and nothing else.

    finished   the manifest, if the run that was asked for is already complete
    """

    def __init__(
        self,
        output: Output,
        order: JobSpec,
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
        elif noted.order is not None or noted.groups or noted.damaged:
            if noted.order is None:
                self._check_own()
            else:
                known = [group for group in noted.groups if group.order in noted.orders | {""}]
                change = self.order.change(noted.order, set().union(*(group.names for group in known)))
                if change:
                    raise InputError(
                        f"{self.output.out}: the run there cannot be gone on with: {change}; begin anew with --overwrite"
                    )
            self._began = True
            self._remove_temporaries(_planned(noted.order or self.order))
            others = [Journal(path, self._fsync) for path in rank_journals(self.output.journal)]
            damaged = [journal for journal in (self.journal, *others) if journal.noted.damaged]
            lines = sum(journal.noted.damaged for journal in damaged)
            self.journal.keep(self._still_good(noted.groups))
            for other in others:
                self.journal.take_in(self._still_good(other.noted.groups))
                other.remove()
            if damaged:
                self._tell_of_damage(damaged[0], lines)

    def _still_good(self, groups: list[Group]) -> list[Group]:
        """Those whose shards are known to be made for this order, with the alignment noted, and are as they were written."""
        noted = self.journal.noted
        orders = noted.orders | {self.order.digest, ""}
        return [
            group
            for group in groups
            if group.order in orders
            and group.alignment in (None, noted.alignment)
            and group.names <= self.order.source.keys()
            and self._changed(group.shards) is None
        ]

    def _check_own(self) -> None:
        """The line that says what was asked for is damaged: InputError unless all that is there would be written anew."""
        noted, digest = self.journal.noted, self.order.digest
        own = _planned(self.order) | self._small()
        foreign = [name for name in self.output.files() if final_name(name) not in own]
        if foreign or any(group.order != digest for group in noted.groups):
            what = f"{foreign[0]} may not be" if foreign else "the shards noted are not"
            raise InputError(
                f"{self.output.out}: the journal there is damaged where it says what was asked for, and {what} of this run; "
                "begin anew with --overwrite, or choose another output folder"
            )

    def _tell_of_damage(self, journal: Journal, lines: int) -> None:
        done = self.journal.noted.names
        again = sum(name in self.order.source and name not in done for name in self.output.files())
        warn(
            f"{journal.path}: {lines} damaged {'line' if lines == 1 else 'lines'}; {again} of the shards that are there "
            f"{'is' if again == 1 else 'are'} done again, for what these noted of them is lost",
            UserWarning,
        )

    def _small(self) -> set[str]:
        own = (*self.output.small, self.output.journal, *rank_journals(self.output.journal))
        return {self.output.here(path) for path in own}

    def begin_anew(self) -> None:
        """Clear away the run that is there, if nothing else is. A complete one stays until `begin`."""
        noted, others = self.journal.noted, rank_journals(self.output.journal)
        shards = noted.shards + (self._replaced.shards if self._replaced else [])
        for path in others:
            shards += Journal.peek(path).shards
        planned = set().union(
            *(_planned(order) for order in (noted.order, self._replaced and self._replaced.spec) if order)
        )
        planned |= _written(noted.shards)  # whose order may be lost, where the journal is damaged
        for name in self.output.files():
            if final_name(name) not in planned | self._small():
                raise InputError(
                    f"{self.output.out}: holds {name}, which fastrealign did not write and does not remove; move it"
                )
        changed = self._changed(shards, gone=False)
        if changed is not None:
            raise InputError(f"{self.output.out}: {changed.name} was changed since it was written; move it away")
        if noted.order is not None or noted.groups:
            self._remove_temporaries(planned)
            self._remove(planned - (_planned(self._replaced.spec) if self._replaced else set()))
        if self._replaced is None and self.output.alignment is not None:
            self.output.alignment.unlink(missing_ok=True)
        for path in others:
            Journal(path, self._fsync).remove()
        self.journal.clear()

    def begin(self, alignment: Method | None) -> None:
        """The alignment is known and shards are about to be written: note it, and clear away a run that is replaced."""
        if alignment is not None and self.journal.noted.alignment not in (None, alignment.fingerprint):
            raise InputError(
                f"{self.output.out}: the run there used another alignment (another target, machine or version?); "
                "begin anew with --overwrite"
            )
        if self._replaced is not None:
            self._remove(_planned(self._replaced.spec))
            self.output.manifest.unlink(missing_ok=True)
            self._replaced = None
        self._began = True
        if alignment is not None:
            alignment.save(self.output.alignment)
            self.journal.note_alignment(alignment.fingerprint)

    def alignment_noted(self) -> Method | None:
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
        alignment: Method | None,
        gap_left: float = math.nan,
        left_out: dict[str, dict[str, str]] | None = None,
        columns: dict[str, str] | None = None,
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
            columns or {},
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
        remove_folders(self._made)

    def _path(self, name: str) -> Place:
        return self.output.root / name

    def _remove(self, names: set[str]) -> None:
        """Files of a run, and the folders within the output that they leave empty."""
        remote = not isinstance(self.output.root, Path)
        for _ in each(lambda name: remove(self._path(name)), sorted(names), remote=remote):
            pass
        remove_folders({self._path(name).parent for name in names} - {self.output.root})

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
        change = self.order.change(manifest.spec)
        if change:
            raise InputError(
                f"{self.output.out}: the complete run there is another one: {change}; replace it with --overwrite"
            )
        changed = self._changed(manifest.shards)
        if changed is not None:
            raise InputError(
                f"{self.output.out}: {changed.name} is gone or was changed since the run was complete; "
                "move it away if it is there, and make all anew with --overwrite"
            )
        self.finished = manifest

    def _remove_temporaries(self, planned: set[str]) -> None:
        remove_temporaries({*map(self._path, planned), *self.output.small})


def _planned(order: JobSpec) -> set[str]:
    return {*order.source, *order.metadata}


def _written(shards: list[ShardRecord]) -> set[str]:
    return {name for shard in shards for name in (shard.name, shard.metadata) if name is not None}
