"""The journal of a run to files: JSON lines, only ever appended, from which a run that was killed resumes.

{"order": ...}                      the job specification; a later one takes the place of an earlier one
{"alignment": fingerprint}          what the shards are mapped with
{"shards": [...], "low": ..., ...}  shards that are complete, and the exact sums of the columns of these together; for what
                                    job specification and with what alignment they were made
{"forget": true}                    the shards recorded so far are done again

Each line begins with a checksum of the rest. A line that does not match is ignored, wherever it stands: what it recorded is
done again. A shard counts once, as the last line says that names it.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.exact_sum import FRACTION_BITS, ExactSum
from fastrealign.core.formatting import does
from fastrealign.core.version import __version__
from fastrealign.formats.manifest import FORMAT, JobSpec, ShardRecord
from fastrealign.storage.append_log import open_append_log, read_append_log
from fastrealign.storage.paths import Place
from fastrealign.storage.record_rules import COUNT, LIST, TEXT, check, or_none
from fastrealign.storage.records import is_sealed, record_of, sealed, unsealed


@dataclass
class Group:
    """Finished shards and the sums of their columns: what a line records.

    spec, alignment    digest of the job specification and fingerprint of the alignment that they were made for; "" and None
                       where that is not recorded, as in a journal of format 1
    """

    shards: list[ShardRecord]
    sums: ExactSum
    spec: str = ""
    alignment: str | None = None

    @property
    def names(self) -> set[str]:
        return {shard.name for shard in self.shards}


@dataclass
class Noted:
    """What a journal records so far.

    specs     digests of all job specifications in it
    damaged   how many lines, since shards were last forgotten, are unreadable or contradict a later one
    """

    spec: JobSpec | None = None
    alignment: str | None = None
    groups: list[Group] = field(default_factory=list)
    specs: set[str] = field(default_factory=set)
    damaged: int = 0
    _without_checksums: bool = False
    _group_of: dict[str, Group] = field(default_factory=dict, compare=False)

    @property
    def shards(self) -> list[ShardRecord]:
        return [shard for group in self.groups for shard in group.shards]

    @property
    def names(self) -> set[str]:
        return {name for group in self.groups for name in group.names}

    def read(self, text: bytes, path: Place) -> int:
        """Take in lines; returns how many bytes of them are whole. The rest was cut off when the run was killed."""
        *lines, rest = text.split(b"\n")
        for line in lines:
            try:
                self._take_in(self._record(line))
            except InputError as error:
                raise InputError(f"{path}: {error}") from None
            except (ValueError, KeyError):
                self.damaged += 1
        self.damaged += rest != b""
        return len(text) - len(rest)

    def _record(self, line: bytes) -> dict[str, Any]:
        """What the line records; ValueError if it is damaged. Only journals that begin without checksums may lack them."""
        if is_sealed(line):
            return unsealed(line)
        value = record_of(line)
        self._without_checksums |= self == Noted() and value.get("format") == 1
        if not self._without_checksums and value.get("format") in (None, 0, FORMAT):
            raise ValueError("it has no checksum")
        return value

    def _take_in(self, value: dict[str, Any]) -> None:
        check(value, _LINE)
        if (value.get("format") or 0) > FORMAT:
            raise InputError(f"a journal of a newer fastrealign (format {value['format']}); upgrade to resume that run")
        if "order" in value:
            self.spec = JobSpec.from_json(value["order"])
            self.specs.add(self.spec.digest)
        elif "shards" in value:
            self._take_in_group(_group(value))
        elif "alignment" in value:
            self.alignment = value["alignment"]
        elif "forget" in value:
            self.groups, self._group_of, self.damaged = [], {}, 0
        else:
            raise ValueError("it holds nothing that is known")

    def _take_in_group(self, group: Group) -> None:
        if len(group.names) < len(group.shards):
            raise ValueError("it names a shard twice")
        for name in group.names:
            earlier = self._group_of.get(name)
            if earlier is not None:
                self.damaged += (earlier.shards, earlier.sums) != (group.shards, group.sums)
                self.groups = [one for one in self.groups if one is not earlier]
                for shard in earlier.names:
                    del self._group_of[shard]
        self.groups.append(group)
        self._group_of |= dict.fromkeys(group.names, group)
        self.alignment = group.alignment or self.alignment


class Journal:
    """An open journal. Open means locked: one process writes to an output at a time."""

    def __init__(self, path: Place, fsync: bool = True) -> None:
        """Opens or makes it. Raises InputError if another process has it open."""
        self.path = path
        self.noted = Noted()
        self._lock = threading.Lock()
        self._pending: Group | None = None
        self._written = time.monotonic()
        self._log = open_append_log(path, fsync)
        try:
            text = self._log.text()
            whole = self.noted.read(text, path)
            if whole < len(text):
                self._log.cut(whole)
        except BaseException:
            self._log.close()
            raise

    @property
    def lost(self) -> bool:
        """Whether another process has taken over the output folder."""
        return self._log.lost

    @classmethod
    def peek(cls, path: Place) -> Noted:
        """What the journal records, without opening it for a run."""
        noted = Noted()
        noted.read(read_append_log(path), path)
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
        self._log.cut(0)
        self.noted = Noted()

    def begin(self, spec: JobSpec) -> None:
        """Record the job specification; finished shards that were recorded before stay."""
        if spec != self.noted.spec:
            self.noted.spec = spec
            self.noted.specs.add(spec.digest)
            self._append({"fastrealign": __version__, "format": FORMAT, "order": spec.to_json()})

    def keep(self, groups: list[Group]) -> None:
        """Forget all groups of shards but these, and that there were damaged lines."""
        if len(groups) < len(self.noted.groups) or self.noted.damaged:
            self._append({"forget": True})
            for group in groups:
                self._append(_line(group))
            self.noted.groups, self.noted.damaged = groups, 0

    def note_alignment(self, fingerprint: str) -> None:
        if fingerprint != self.noted.alignment:
            self.noted.alignment = fingerprint
            self._append({"alignment": fingerprint})

    def add(self, shard: ShardRecord, sums: ExactSum) -> None:
        """A shard is complete; called from any thread.

        It is recorded together with others of about the same second; a run that is killed before that does those again.
        """
        with self._lock:
            if self._pending is None:
                of = "" if self.noted.spec is None else self.noted.spec.digest
                self._pending = Group([], ExactSum(sums.d), of, self.noted.alignment)
            self._pending.shards.append(shard)
            self._pending.sums.add(sums)
            if time.monotonic() - self._written >= self._log.seconds_a_line:
                self._flush()

    def take_in(self, groups: list[Group]) -> None:
        """Note shards that others have completed, but for those that are noted already."""
        known = {shard.name for shard in self.shards}
        for group in groups:
            if known.isdisjoint(group.names):
                self._append(_line(group))
                self.noted.groups.append(group)
                known |= group.names

    def flush(self) -> None:
        """Note now what is complete. Raises FastRealignError if the output is not this process's any more."""
        with self._lock:
            self._flush()
        self._log.check()

    def close(self) -> None:
        """Note what is complete and give the lock back. The journal stays, for a later run to resume from."""
        with suppress(FastRealignError):  # on a full disk the shards of the last second are done again
            self.flush()
        self._log.close()

    def remove(self) -> None:
        """Remove the file: the run is complete, or has left nothing behind."""
        self._log.remove()

    def _flush(self) -> None:
        if self._pending is not None:
            self._append(_line(self._pending))
            self.noted.groups.append(self._pending)
            self._pending = None
            self._written = time.monotonic()

    def _append(self, value: dict[str, Any]) -> None:
        self._log.append(sealed(json.dumps(value).encode()) + b"\n")


def _line(group: Group) -> dict[str, Any]:
    return {
        "of": group.spec,
        "alignment": group.alignment,
        "shards": [shard.to_json() for shard in group.shards],
        "count": group.sums.count,
        "fraction_bits": FRACTION_BITS,
        "low": base64.b64encode(group.sums.low.astype("<u8").tobytes()).decode(),
        "high": base64.b64encode(group.sums.high.astype("<i8").tobytes()).decode(),
    }


def _group(value: dict[str, Any]) -> Group:
    """The group that a line records; ValueError or KeyError for another line."""
    check(value, _GROUP)
    low, high = (
        np.frombuffer(base64.b64decode(value[limb], validate=True), dtype).astype(dtype[1:])
        for limb, dtype in (("low", "<u8"), ("high", "<i8"))
    )
    if len(low) != len(high):
        raise ValueError("its sums are of two widths")
    sums = ExactSum.saved(low, high, value["count"], value.get("fraction_bits"))
    shards = [ShardRecord.from_json(shard) for shard in value["shards"]]
    return Group(shards, sums, value.get("of") or "", value.get("alignment"))


_LINE = {"format": or_none(COUNT), "alignment": or_none(TEXT)}
_GROUP = {
    "shards": LIST,
    "count": COUNT,
    "fraction_bits": or_none(COUNT),
    "low": TEXT,
    "high": TEXT,
    "of": or_none(TEXT),
}


def rank_journals(journal: Place) -> list[Path]:
    """Beside the journal of a run, those that other ranks have left; on a server there are none."""
    return sorted(journal.parent.glob(f"{journal.stem}.*{journal.suffix}")) if isinstance(journal, Path) else []


def what_is_done(journal: Place) -> tuple[Noted, set[str]]:
    """What the journal of an unfinished run notes, and the names of the shards that it and those of other ranks record."""
    noted = Journal.peek(journal)
    return noted, noted.names.union(*(Journal.peek(path).names for path in rank_journals(journal)))


def unrecorded(noted: Noted, done: set[str], there: Iterable[str]) -> str:
    """For a message: the shards of an unfinished run that are in place without a record, as a kill may leave them."""
    found = {path.as_posix() for name in there for path in (PurePosixPath(name), *PurePosixPath(name).parents)}
    names = sorted(found.intersection(noted.spec.source if noted.spec else ()) - done)
    if not names:
        return ""
    which = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more"
    return f"; {which} {does(len(names), 'are')} there without a record and will be made again"
