"""Exclusive hold on an output folder: resume or clear the previous run, then commit or roll back.

Everything that writes to a folder holds it: align, apply and embed (resumable_folder.py), convert (converted_files.py), train
(revision/record.py). The run lock is an append log (storage/append_log.py), which is also the journal of a run.
"""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.jobs.folders import make_folders, remove_folders
from fastrealign.storage.append_log import open_append_log
from fastrealign.storage.paths import Place

if TYPE_CHECKING:
    from typing_extensions import Self


class Log(Protocol):
    """An open append log, or a journal in one. Open means locked."""

    def close(self) -> None: ...

    def remove(self) -> None: ...


class OutputFolder:
    """Exclusive hold on an output folder: resume or clear the previous run, then commit or roll back.

    A context manager. Entering it calls `check`, makes the folder, takes the run lock and calls `begin`. An error calls
    `roll_back` and removes the folders that were made, if they are empty. The lock is released in any case; `keep_log` says
    whether its file stays.
    """

    def __init__(self, root: Place, lock: Place, fsync: bool = True) -> None:
        """Touch nothing yet. `lock` is the path of the append log."""
        self.root = root
        self.fsync = fsync
        self.keep_log = False
        self._lock = lock

    def check(self) -> None:
        """InputError if the folder is none, or holds what must not be replaced. Called before anything is touched."""
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root}: is a file, expected a folder to write to")

    def begin(self) -> None:
        """Resume or clear the previous run. Called under the lock: another process may have written since `check`."""

    def roll_back(self) -> None:
        """Remove what is incomplete. Called after an error, under the lock."""

    def open_log(self) -> Log:
        """Take the lock. Raises InputError if another process has it."""
        log = open_append_log(self._lock, self.fsync)
        self.keep_log = bool(log.text())  # the journal of an unfinished run stays
        return log

    def __enter__(self) -> Self:
        self.check()
        self._made = make_folders(self.root)
        try:
            self._log = self.open_log()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                self._remove_empty_log()
            remove_folders(self._made)
            raise
        try:
            self.begin()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if error is None:
            self._release()
            return
        try:
            self.roll_back()
        except FastRealignError:  # a server that fails now, as it may have before: the log stays for a later run
            self.keep_log = True
        with suppress(FastRealignError):
            self._release()
        if not self.keep_log:
            remove_folders(self._made)

    def _release(self) -> None:
        if self.keep_log:
            self._log.close()
        else:
            self._log.remove()

    def _remove_empty_log(self) -> None:
        """After an interrupt while the log was made: an empty journal would be taken for an unfinished run."""
        with suppress(FastRealignError):  # it is another process's
            log = open_append_log(self._lock, self.fsync)
            if log.text():
                log.close()
            else:
                log.remove()
