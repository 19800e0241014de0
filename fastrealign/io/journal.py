"""The journal of a run to files: JSON lines, only ever added to, from which a run that was killed goes on.

{"order": ...}                      what was asked for; a later one takes the place of an earlier one
{"alignment": fingerprint}          what the shards are mapped with
{"shards": [...], "low": ..., ...}  shards that are complete, and the exact sums of the columns of these together
{"forget": true}                    the shards noted so far are to be made again
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastrealign.errors import FastRealignError, InputError
from fastrealign.exact import ExactSum
from fastrealign.io.files import Descriptor, one_line, reading
from fastrealign.io.manifest import FORMAT, Order, ShardRecord
from fastrealign.version import __version__

# Sums take 16 bytes a column in a line; lines this far apart keep the journal small beside the shards.
_SECONDS_A_LINE = 1.0


@dataclass
class Group:
    """Finished shards and the sums of their columns: what a line tells."""

    shards: list[ShardRecord]
    sums: ExactSum


@dataclass
class Noted:
    """What a journal tells so far."""

    order: Order | None = None
    alignment: str | None = None
    groups: list[Group] = field(default_factory=list)

    @property
    def shards(self) -> list[ShardRecord]:
        return [shard for group in self.groups for shard in group.shards]

    def read(self, text: bytes, path: Path) -> int:
        """Take in lines; returns how many bytes of them are whole. The rest was cut off when the run was killed."""
        whole = 0
        for line in text.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                self._take_in(json.loads(line))
            except InputError as error:
                raise InputError(f"{path}: {error}") from None
            except (ValueError, TypeError, KeyError, AttributeError):
                break
            whole += len(line)
        return whole

    def _take_in(self, value: dict[str, Any]) -> None:
        if value.get("format", 0) > FORMAT:
            raise InputError(
                f"a journal of a newer fastrealign (format {value['format']}); upgrade to go on with that run"
            )
        if "order" in value:
            self.order = Order.from_json(value["order"])
        elif "alignment" in value:
            self.alignment = value["alignment"]
        elif "forget" in value:
            self.groups = []
        else:
            low, high = (
                np.frombuffer(base64.b64decode(value[limb]), dtype).astype(dtype[1:])
                for limb, dtype in (("low", "<u8"), ("high", "<i8"))
            )
            sums = ExactSum(len(low))
            sums.low, sums.high, sums.count = low, high, value["count"]
            self.groups.append(Group([ShardRecord(**shard) for shard in value["shards"]], sums))


class Journal:
    """An open journal. Open means locked: one process writes to an output at a time."""

    def __init__(self, path: Path, fsync: bool = True) -> None:
        """Opens or makes the file. Raises InputError if another process has it open."""
        self.path = path
        self.noted = Noted()
        self._fsync = fsync
        self._lock = threading.Lock()
        self._pending: Group | None = None
        self._written = time.monotonic()
        self._file = _open(path)
        try:
            self._take_lock()
            text = _read(self._file, path)
            whole = self.noted.read(text, path)
            if whole < len(text):
                os.ftruncate(self._file.fd, whole)
        except BaseException:
            self._file.close()
            raise

    @classmethod
    def peek(cls, path: Path) -> Noted:
        """What the journal tells, without opening it for a run."""
        with reading(path):
            text = path.read_bytes()
        noted = Noted()
        noted.read(text, path)
        return noted

    @property
    def shards(self) -> list[ShardRecord]:
        """All that are complete."""
        with self._lock:
            return self.noted.shards + (self._pending.shards if self._pending else [])

    def total(self, d: int) -> ExactSum:
        """The sums of all rows written, of width d."""
        total = ExactSum(d)
        with self._lock:
            for group in (*self.noted.groups, *([self._pending] if self._pending else [])):
                total.add(group.sums)
        return total

    def clear(self) -> None:
        """Forget everything noted before."""
        os.ftruncate(self._file.fd, 0)
        self.noted = Noted()

    def begin(self, order: Order) -> None:
        """Note what is asked for; finished shards that were noted before stay."""
        if order != self.noted.order:
            self.noted.order = order
            self._append({"fastrealign": __version__, "format": FORMAT, "order": order.to_json()})

    def keep(self, groups: list[Group]) -> None:
        """Forget all groups of shards but these."""
        if len(groups) < len(self.noted.groups):
            self._append({"forget": True})
            for group in groups:
                self._append(_line(group))
            self.noted.groups = groups

    def note_alignment(self, fingerprint: str) -> None:
        if fingerprint != self.noted.alignment:
            self.noted.alignment = fingerprint
            self._append({"alignment": fingerprint})

    def add(self, shard: ShardRecord, sums: ExactSum) -> None:
        """A shard is complete; called from any thread.

        It is noted together with others of the same second; a run that is killed before makes those once more.
        """
        with self._lock:
            if self._pending is None:
                self._pending = Group([], ExactSum(sums.d))
            self._pending.shards.append(shard)
            self._pending.sums.add(sums)
            if time.monotonic() - self._written >= _SECONDS_A_LINE:
                self._flush()

    def flush(self) -> None:
        """Note now what is complete."""
        with self._lock:
            self._flush()

    def close(self) -> None:
        """Note what is complete and give the lock back. The journal stays, for a later run to go on from."""
        with suppress(FastRealignError):  # on a full disk the shards of the last second are made once more
            self.flush()
        self._file.close()

    def remove(self) -> None:
        """The run is complete, or has left nothing behind."""
        self.path.unlink(missing_ok=True)
        self._file.close()

    def _flush(self) -> None:
        if self._pending is not None:
            self._append(_line(self._pending))
            self.noted.groups.append(self._pending)
            self._pending = None
            self._written = time.monotonic()

    def _append(self, value: dict[str, Any]) -> None:
        size = os.fstat(self._file.fd).st_size
        try:
            line = memoryview(json.dumps(value).encode() + b"\n")
            while line:
                line = line[os.write(self._file.fd, line) :]
            if self._fsync:
                os.fsync(self._file.fd)
        except OSError as error:
            os.ftruncate(self._file.fd, size)
            raise FastRealignError(
                f"{self.path}: could not be written: {error.strerror or one_line(error)}; mend this and run again"
            ) from error

    def _take_lock(self) -> None:
        folder = self.path.parent
        try:
            fcntl.flock(self._file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another fastrealign is writing there; wait for it or stop it") from None
        except OSError:
            pass  # a file system without locks
        if os.fstat(self._file.fd).st_nlink == 0:
            raise InputError(f"{folder}: another fastrealign has just finished there; look at what it wrote")


def _open(path: Path) -> Descriptor:
    try:
        return Descriptor(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    except OSError as error:
        raise FastRealignError(
            f"{path}: could not be written: {error.strerror or one_line(error)}; choose another output folder"
        ) from error


def _read(file: Descriptor, path: Path) -> bytes:
    with reading(path):
        size, parts, at = os.fstat(file.fd).st_size, [], 0
        while at < size and (part := os.pread(file.fd, size - at, at)):
            parts.append(part)
            at += len(part)
        return b"".join(parts)


def _line(group: Group) -> dict[str, Any]:
    return {
        "shards": [vars(shard) for shard in group.shards],
        "count": group.sums.count,
        "low": base64.b64encode(group.sums.low.astype("<u8").tobytes()).decode(),
        "high": base64.b64encode(group.sums.high.astype("<i8").tobytes()).decode(),
    }
