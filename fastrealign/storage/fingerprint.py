"""Fingerprints of files: size and checksums, which show a later run whether an input or an output changed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastrealign.core.digest import sha256
from fastrealign.core.errors import InputError
from fastrealign.storage.files import Descriptor, read_into, reading
from fastrealign.storage.paths import AnyPath, place
from fastrealign.storage.record_rules import COUNT, TEXT, Rule, check, or_none
from fastrealign.storage.remote_session import SESSION

# Read from the head and from the tail of a file: the cost does not grow with its size. A checksum of every byte takes about
# as long as copying the file (CRC-32: 1.6 GB/s a core).
_END_BYTES = 16 << 10


@dataclass(frozen=True)
class FileFingerprint:
    """Size and SHA-256 of head and tail of a file; for inputs also when it was last modified, in ns (of a URL: its ETag).

    Of a folder: the size of its files together, the SHA-256 of their names and fingerprints, and the latest modification.

    whole   the SHA-256 of every byte, where that was asked for
    """

    bytes: int
    ends: str
    modified: int | str | None = None
    whole: str | None = None

    @classmethod
    def of(cls, path: AnyPath, *, modified: bool = False, whole: bool = False) -> FileFingerprint:
        """Raises InputError if the file, or one in the folder, cannot be read."""
        at = place(path)
        if isinstance(at, Path) and os.path.isdir(at):
            return cls._of_folder(at, modified, whole)
        if not modified:
            SESSION.forget(os.fspath(path))  # an output: earlier contents do not count
        with reading(path):
            descriptor = Descriptor(path)
            size, changed = descriptor.state()
        digest = sha256()
        for start in sorted({0, max(0, size - _END_BYTES)}):
            end = np.empty(min(_END_BYTES, size), dtype=np.uint8)
            read_into(descriptor, end, start, path)
            digest.update(end.data)
        every = _digest(descriptor, size, path) if whole else None
        descriptor.close()
        return cls(size, digest.hexdigest(), changed if modified else None, every)

    def same(self, other: FileFingerprint) -> bool:
        """Whether both have the same content: by every byte where both have that, else by ends, size and modification."""
        if self.whole is not None and other.whole is not None:
            return (self.bytes, self.whole) == (other.bytes, other.whole)
        return (self.bytes, self.ends, self.modified) == (other.bytes, other.ends, other.modified)

    def holds(self, path: AnyPath) -> bool:
        """Whether the file at `path` still has this size and time of change; its contents are not read."""
        at = place(path)
        try:
            if isinstance(at, Path) and os.path.isdir(at):
                now = FileFingerprint.of(at, modified=True)
                return (now.bytes, now.modified) == (self.bytes, self.modified)
            with reading(path):
                if isinstance(at, Path):
                    status = os.stat(at)
                    return (status.st_size, status.st_mtime_ns) == (self.bytes, self.modified)
                return Descriptor(at).state() == (self.bytes, self.modified)
        except InputError:
            return False

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "whole" or value is not None}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FileFingerprint:
        """Raises ValueError for what is no fingerprint."""
        check(value, _RULES)
        return cls(value["bytes"], value["ends"], value.get("modified"), value.get("whole"))

    @classmethod
    def _of_folder(cls, path: Path, modified: bool, whole: bool) -> FileFingerprint:
        names = sorted(os.path.relpath(Path(at, name), path) for at, _, files in os.walk(path) for name in files)
        files = [cls.of(Path(path, name), modified=modified, whole=whole) for name in names]
        ends = "".join(json.dumps([name, one.bytes, one.ends]) for name, one in zip(names, files, strict=True))
        latest = max((one.modified for one in files if isinstance(one.modified, int)), default=0) if modified else None
        every = _hex(json.dumps([names, [one.whole for one in files]])) if whole else None
        return cls(sum(one.bytes for one in files), _hex(ends), latest, every)


_RULES = {
    "bytes": COUNT,
    "ends": TEXT,
    "modified": Rule("a whole number, text or null", lambda value: value is None or type(value) in (int, str)),
    "whole": or_none(TEXT),
}


def _hex(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _digest(descriptor: Descriptor, size: int, path: AnyPath) -> str:
    """SHA-256 of every byte, by the library that is fastest at it."""
    import hashlib

    digest, buffer = hashlib.sha256(), np.empty(1 << 20, np.uint8)
    for start in range(0, size, len(buffer)):
        part = buffer[: size - start]
        read_into(descriptor, part, start, path)
        digest.update(part.data)
    return digest.hexdigest()
