"""The output folder of a run that can be resumed: output shards, a journal while it is written, in the end a manifest.

empty         a run may begin
unfinished    it has a journal: `resume` continues the run, `overwrite` restarts it
complete      it has a manifest: `resume` finds nothing to do, `overwrite` restarts the run
Any other file was not written by fastrealign: it is neither written to nor removed.
"""

from __future__ import annotations

import math

from fastrealign.core.errors import InputError
from fastrealign.core.formatting import count
from fastrealign.core.wording import option
from fastrealign.data.options import OutputOptions
from fastrealign.formats.manifest import JobSpec, Manifest
from fastrealign.jobs.journal import Journal, unrecorded, what_is_done
from fastrealign.jobs.layout import Layout
from fastrealign.jobs.output_folder import OutputFolder
from fastrealign.jobs.resume import PreviousRun, planned, remove_files
from fastrealign.methods.loading import load
from fastrealign.methods.method import Method
from fastrealign.storage.append_log import check_not_held

_JUST_WRITTEN = "another fastrealign has just been writing there; look at what it wrote"


class ResumableFolder(OutputFolder):
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
            raise InputError(
                f"{option('resume', True)} continues what is there and {option('overwrite', True)} restarts: choose one"
            )
        super().check()
        there = layout.files()
        if there and not may_be_there:
            raise InputError(f"{layout.out}: {self._what_is_there(there)}")
        if layout.here(layout.manifest) in there and may_be_there:
            self._replaced = Manifest.load(layout.manifest)
        elif self._options.resume and there and not layout.journal.exists():
            raise InputError(f"{layout.out}: holds {there[0]}, but no run to resume; {layout.elsewhere}")

    def open_log(self) -> Journal:
        self.journal = Journal(self.layout.journal, self.fsync)
        if not (self._options.resume or self._options.overwrite):
            self._check_still_empty()
        return self.journal

    def begin(self) -> None:
        previous = PreviousRun(self.layout, self._options, self.journal, self.spec, self._replaced)
        if self._options.overwrite:
            previous.clear()
        elif self._options.resume:
            try:
                self.finished = previous.resume()
            finally:
                self._began = previous.is_ours
        if self.finished is None:
            self.journal.begin(self.spec)

    def start_writing(self, alignment: Method | None) -> None:
        """Before the first shard is written: record the method and clear a run that is replaced."""
        if alignment is not None and self.journal.noted.alignment not in (None, alignment.fingerprint):
            raise InputError(
                f"{self.layout.out}: the run there used another alignment (another target, machine or version?); "
                f"restart with {option('overwrite', True)}"
            )
        if self._replaced is not None:
            remove_files(self.root, planned(self._replaced.spec))
            if self.layout.alignment is not None:
                self.layout.alignment.unlink(missing_ok=True)
            self.layout.manifest.unlink(missing_ok=True)
            self._replaced = None
        self._began = True
        if alignment is not None and self.layout.alignment is not None:
            # Noted first: a file beside a journal that notes none is not of the run.
            self.journal.note_alignment(alignment.fingerprint)
            alignment.save(self.layout.alignment, self.fsync)

    def noted_alignment(self) -> Method | None:
        """The method that the unfinished run recorded, if its file is intact."""
        if self.journal.noted.alignment is None or self.layout.alignment is None:
            return None
        try:
            alignment = load(self.layout.alignment)
        except InputError:
            return None
        return alignment if alignment.fingerprint == self.journal.noted.alignment else None

    def write_manifest(
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
            remove_files(self.root, planned(self.spec))
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
            check_not_held(journal)  # another process may write there now, and neither way to go on would be open
            try:
                noted, done = what_is_done(journal)
            except InputError:
                if journal.exists():
                    raise
                return _JUST_WRITTEN
            state = f"{count(len(done), 'shard')} complete{unrecorded(noted, done, there)}"
            return (
                f"holds an unfinished run ({state}); continue it with {option('resume', True)} or restart with "
                f"{option('overwrite', True)}"
            )
        if self.layout.here(self.layout.manifest) in there:
            resume, overwrite = option("resume", True), option("overwrite", True)
            return f"is not empty, a run is complete there; {resume} checks it, {overwrite} replaces it"
        if self.layout.single:
            beside = f"{there[0]} " if there[0] not in self.layout.names else ""
            return f"{beside}exists and was not written by a run with this output; {self.layout.elsewhere}"
        return f"is not empty, it holds {there[0]}; {self.layout.elsewhere}"
