"""A run from files to an output folder, in named phases: open -> hold -> fit -> write -> finish."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Generic, TypeVar

from fastrealign.core.errors import FastRealignError, InputError, shortage
from fastrealign.core.formatting import count, does
from fastrealign.core.progress import Progress
from fastrealign.core.wording import option
from fastrealign.data.process_group import ALONE, ProcessGroup
from fastrealign.formats.manifest import JobSpec, Manifest
from fastrealign.jobs.journal import Journal
from fastrealign.jobs.resumable_folder import ResumableFolder

R = TypeVar("R")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a signal that the command line treats alike, during a run; the message says what is complete."""


class Job(ABC, Generic[R]):
    """A run from files to an output folder.

    Phases, and what is known after each:

    open     (the constructor) the inputs and the job specification
    hold     that no other run writes to the output folder, and which output shards were complete before
    fit      the method that maps the rows; of an embed, nothing
    write    that every output shard is complete and recorded in the journal
    finish   the manifest, which is written last

    Attributes: `folder` is the output folder, held by rank 0; `journal` that of this rank, from `hold` on; `before` has the
    names of the output shards that were complete before this run.
    """

    journal: Journal

    def __init__(self, folder: ResumableFolder, spec: JobSpec, progress: Progress, ranks: ProcessGroup = ALONE) -> None:
        self.folder = folder
        self.spec = folder.spec = spec
        self.progress = progress
        self.ranks = ranks
        self.before: set[str] = set()

    @abstractmethod
    def fit(self) -> None: ...

    @abstractmethod
    def write(self) -> None: ...

    @abstractmethod
    def finish(self) -> Manifest: ...

    @abstractmethod
    def report(self, manifest: Manifest) -> R: ...

    def reopen(self, manifest: Manifest) -> None:
        """Load what `report` needs of a run that was complete already."""

    def run(self) -> R:
        """All phases after `open`. An error says how many shards are complete and how to resume."""
        try:
            with self.hold() as manifest:
                if manifest is not None:
                    self.reopen(manifest)
                else:
                    self.fit()
                    self.write()
                    manifest = self.finish()
        except BaseException as error:
            done = len(self.journal.shards) if hasattr(self, "journal") else 0
            explained = with_state(error, done, len(self.folder.layout.names))
            if explained is error:
                raise
            raise explained from error
        return self.report(manifest)

    @contextmanager
    def hold(self) -> Iterator[Manifest | None]:
        """Hold the output folder on rank 0, a journal beside it on other ranks. Yields the manifest of a complete run."""
        self.folder.alone = self.ranks.size == 1
        with ExitStack() as held:
            self.ranks.on_rank_0(lambda: held.enter_context(self.folder))
            manifest = self.ranks.broadcast(self.folder.finished)
            if self.ranks.rank == 0:
                self.journal = self.folder.journal
            elif manifest is None:
                self.journal = self._own_journal(held)
            done = self.journal.shards if manifest is None else manifest.shards
            self.before = {shard.name for shard in self.ranks.broadcast(done)}
            yield manifest

    def _own_journal(self, held: ExitStack) -> Journal:
        journal = Journal(self.folder.layout.journal_of(self.ranks.rank), self.folder.fsync)

        @held.push
        def release(kind: type[BaseException] | None, *_: object) -> None:
            journal.remove() if kind is None else journal.close()

        journal.begin(self.spec)
        return journal


def with_state(error: BaseException, done: int, of: int) -> BaseException:
    """The error of a run of `of` shards, saying how many are complete and how to resume.

    An InputError returns where the same command is resumed: it or its input has to change first.
    """
    complete = f"{done} of {count(of, 'shard')} {does(done, 'are')} complete"
    state = f"{complete}, resume with {option('resume', True)}"
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(f"interrupted; {state if done else 'nothing was written'}")
    short = shortage(error)
    if short is not None:
        return FastRealignError(f"{short}; {state}" if done else short)
    if isinstance(error, FastRealignError) and done:
        then = f"then add {option('resume', True)}, since {complete}" if isinstance(error, InputError) else state
        return type(error)(f"{error}; {then}")
    return error
