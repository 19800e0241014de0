"""The manifest that a complete run leaves beside its shards: what was asked for (Order), what each holds (ShardRecord).

It has no dates and no timings: the same inputs and options make the same bytes. It carries a checksum of itself. While a
run is under way, the same is noted in its journal (journal.py).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.text import one_line
from fastrealign.core.version import __version__
from fastrealign.storage.atomic import AtomicFile
from fastrealign.storage.files import Descriptor, look_anew, read_into, reading
from fastrealign.storage.paths import Place, is_url
from fastrealign.storage.records import checked, sealed
from fastrealign.storage.rules import COUNT, MAPPING, NUMBER, TEXT, Rule, broken, or_none

# 1 had no checksums.
FORMAT = 2
MANIFEST = "manifest.json"
# Taken from the head and from the tail of a file. Marks tell files apart at a cost that does not grow with their size;
# a checksum of every byte would take about as long as copying the file (CRC-32: 1.6 GB/s a core).
_END_BYTES = 16 << 10
# Of the manifest's entries, those that have a line for each of theirs: a shard a line, and a mark.
_LEVELS = {"shards": 1, "asked": 2}


@dataclass(frozen=True)
class FileMark:
    """Size and SHA-256 of head and tail of a file; for inputs also when it was last modified, in ns (of a URL: its ETag).

    Of a folder: the size of its files together, the SHA-256 of their names and marks, and the latest modification.
    whole: where it was asked for, the SHA-256 of every byte
    """

    bytes: int
    ends: str
    modified: int | str | None = None
    whole: str | None = None

    @classmethod
    def of(cls, path: str | Place, *, modified: bool = False, whole: bool = False) -> FileMark:
        """Raises InputError if the file, or one in the folder, cannot be read."""
        if not is_url(path) and os.path.isdir(path):
            return cls._of_folder(path, modified, whole)
        if not modified:
            look_anew(path)  # at an output: what was there before does not count
        with reading(path):
            descriptor = Descriptor(path)
            size, changed = descriptor.state()
        digest = hashlib.sha256()
        for start in sorted({0, max(0, size - _END_BYTES)}):
            end = np.empty(min(_END_BYTES, size), dtype=np.uint8)
            read_into(descriptor, end, start, path)
            digest.update(end)
        every = _digest(descriptor, size, path) if whole else None
        descriptor.close()
        return cls(size, digest.hexdigest(), changed if modified else None, every)

    def same(self, other: FileMark) -> bool:
        """Whether both are of one content: by every byte where both have that, else by ends, size and modification."""
        if self.whole is not None and other.whole is not None:
            return (self.bytes, self.whole) == (other.bytes, other.whole)
        return (self.bytes, self.ends, self.modified) == (other.bytes, other.ends, other.modified)

    def holds(self, path: str | Place) -> bool:
        """Whether size and time of change at `path` still are these: what a look at a file's state tells."""
        try:
            if not is_url(path) and os.path.isdir(path):
                now = FileMark.of(path, modified=True)
                return (now.bytes, now.modified) == (self.bytes, self.modified)
            with reading(path):
                if not is_url(path):
                    status = os.stat(path)
                    return (status.st_size, status.st_mtime_ns) == (self.bytes, self.modified)
                descriptor = Descriptor(path)
                return descriptor.state() == (self.bytes, self.modified)
        except InputError:
            return False

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "whole" or value is not None}

    @classmethod
    def _of_folder(cls, path: str | Path, modified: bool, whole: bool) -> FileMark:
        names = sorted(os.path.relpath(Path(at, name), path) for at, _, files in os.walk(path) for name in files)
        marks = [cls.of(Path(path, name), modified=modified, whole=whole) for name in names]
        digest = hashlib.sha256()
        for name, mark in zip(names, marks, strict=True):
            digest.update(json.dumps([name, mark.bytes, mark.ends]).encode())
        latest = max((mark.modified for mark in marks), default=0) if modified else None
        every = (
            hashlib.sha256(json.dumps([names, [mark.whole for mark in marks]]).encode()).hexdigest() if whole else None
        )
        return cls(sum(mark.bytes for mark in marks), digest.hexdigest(), latest, every)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FileMark:
        """ValueError for what is no mark."""
        check(value, _MARK)
        return cls(value["bytes"], value["ends"], value.get("modified"), value.get("whole"))


@dataclass(frozen=True)
class Order:
    """What a run was asked for: everything that decides the bytes it writes.

    kind       "align", "apply" or "embed"
    options    centroid or method, dtype, bad_rows, column; of an embed what makes its encoder, too
    source     the mark of each source shard, by the name that its output takes; of an embed, that of a shard's pictures or
               captions together
    target     the same of the target by input name; empty where there is none or it is no file
    metadata   names of the metadata files that will be written
    alignment  fingerprint of the alignment, where it was given (apply)
    numbers    where that maps a row by its number: SHA-256 of the names of the source shards and how many rows each has
    """

    kind: str
    options: dict[str, Any]
    source: dict[str, FileMark]
    target: dict[str, FileMark] = field(default_factory=dict)
    metadata: list[str] = field(default_factory=list)
    alignment: str | None = None
    numbers: str | None = None

    def to_json(self) -> dict[str, Any]:
        sides = {
            side: {name: mark.to_json() for name, mark in getattr(self, side).items()} for side in ("source", "target")
        }
        value = {**vars(self), **sides}
        if self.numbers is None:
            del value["numbers"]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Order:
        """ValueError for what is no order."""
        check(value, _ORDER)
        sides = {
            side: {name: FileMark.from_json(mark) for name, mark in value[side].items()}
            for side in ("source", "target")
        }
        check(sides, {"source": _NAMES})
        others = ("kind", "options", "metadata", "alignment")
        return cls(**sides, **{name: value[name] for name in others}, numbers=value.get("numbers"))

    @property
    def digest(self) -> str:
        """The same for orders that ask for the same."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def change(self, earlier: Order, done: set[str] | None = None) -> str | None:
        """What is different from `earlier`, in words; None if this order is the same.

        done: names of the shards that are finished; a change of others does not matter to an apply or an embed, whose
        alignment or encoder is given. None: every difference counts.
        """
        if self.kind != earlier.kind:
            return f"it was made by {earlier.kind}, not by {self.kind}"
        for name in sorted(self.options.keys() | earlier.options.keys()):
            before, now = earlier.options.get(name), self.options.get(name)
            # What "error" let pass has no bad rows, so the other ways would have written the same.
            if before != now and not (name in ("bad_rows", "bad_items") and before == "error"):
                return f"{name} was {before or 'the default'}, now it is {now or 'the default'}"
        if self.alignment != earlier.alignment:
            return "the alignment is another one"
        if self.numbers != earlier.numbers:
            return (
                "the rows of the source have other numbers (a shard was added, left out or has another number of rows)"
            )
        free = done is not None and self.kind != "align"
        of = "input of" if self.kind == "embed" else None
        for side in ("source", "target"):
            before, now = getattr(earlier, side), getattr(self, side)
            for name, mark in before.items():
                if free and name not in done:
                    continue
                if name not in now:
                    return f"the {of or side} {name} is gone"
                if now[name].whole is not None and mark.whole is None:
                    return f"it noted no checksum of every byte of the {of or side} {name} to verify"
                if not now[name].same(mark):
                    return f"the {of or side} {name} was changed"
            added = None if free else next((name for name in now if name not in before), None)
            if added is not None:
                return f"the {of or side} {added} was not there"
        return None


@dataclass(frozen=True)
class ShardRecord:
    """One finished shard of the output.

    rows_in, rows_out   embeddings read and written
    skipped             items of the source without an embedding
    bad_rows, first_bad rows without a direction, and the first of them as [row, why]; of an embed, all items left out
    bytes, ends, whole  the mark of the file
    metadata            name of the metadata file written with it
    """

    name: str
    rows_in: int
    rows_out: int
    skipped: int
    bad_rows: int
    first_bad: list[list[Any]]
    bytes: int
    ends: str
    metadata: str | None = None
    whole: str | None = None

    @property
    def mark(self) -> FileMark:
        return FileMark(self.bytes, self.ends, None, self.whole)

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "whole" or value is not None}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ShardRecord:
        """ValueError for what is no record."""
        check(value, _SHARD)
        return cls(**{one.name: value[one.name] for one in fields(cls) if one.name in value})

    def is_at(self, path: Place, every_byte: bool = False) -> bool:
        """Whether the file at `path` still is what was written; every byte of it, if that was noted."""
        try:
            return FileMark.of(path, whole=every_byte and self.whole is not None).same(self.mark)
        except InputError:
            return False


@dataclass(frozen=True)
class Manifest:
    """What a complete run did.

    alignment, gap_before   None of an embed
    left_out   shards that could not be read, by side ("source", "target") and name, and why
    columns    the names under which files held the embeddings (column, key, tensor), of each side that has some
    """

    order: Order
    alignment: str | None
    gap_before: float | None
    gap_left: float | None
    shards: list[ShardRecord]
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    version: str = __version__

    def save(self, path: Place, fsync: bool = True) -> None:
        order = self.order.to_json()
        marks = {side: order.pop(side) for side in ("source", "target")}
        value = {
            "fastrealign": self.version,
            "format": FORMAT,
            "kind": order.pop("kind"),
            "alignment": self.alignment,
            "gap_before": self.gap_before,
            "gap_left": self.gap_left,
            "rows_in": sum(shard.rows_in for shard in self.shards),
            "rows_out": sum(shard.rows_out for shard in self.shards),
            "skipped": sum(shard.skipped for shard in self.shards),
            "bad_rows": sum(shard.bad_rows for shard in self.shards),
            "bytes": sum(shard.bytes for shard in self.shards),
            "columns": self.columns,
            "shards": [shard.to_json() for shard in self.shards],
            "left_out": self.left_out,
            "asked": {**order, **marks},
        }
        entries = [f'"{name}": {_text(part, _LEVELS.get(name, 0))}' for name, part in value.items()]
        with AtomicFile(path, fsync) as file:
            file.append(sealed("{{\n{}\n}}\n".format(",\n".join(entries)).encode()))
            file.commit()

    @classmethod
    def load(cls, path: Place) -> Manifest:
        """Raises InputError if the file is missing, damaged, of a newer version or not a manifest of fastrealign."""
        with reading(path):
            text = path.read_bytes()
        try:
            value = checked(text, FORMAT)
            check(value, {"fastrealign": TEXT, "format": COUNT})
            if value["format"] > FORMAT:
                raise InputError(
                    f"{path}: written by a newer fastrealign (format {value['format']}); upgrade to read it"
                )
            check(value, _MANIFEST)
            return cls(
                Order.from_json({"kind": value["kind"], **value["asked"]}),
                value["alignment"],
                value["gap_before"],
                value["gap_left"],
                [ShardRecord.from_json(shard) for shard in value["shards"]],
                value.get("left_out") or {},
                value.get("columns") or {},
                value["fastrealign"],
            )
        except InputError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path}: is damaged, or not a manifest that fastrealign wrote ({one_line(error)}); nothing there is touched: "
                "make it anew in another output folder"
            ) from None


def encoder_of(shards: list[str]) -> str | None:
    """The name of the encoder that made the embeddings at these paths, where a run of `embed` that lies there wrote them."""
    folders = {os.path.dirname(path) for path in shards}
    path = Path(*folders, MANIFEST) if len(folders) == 1 and not is_url(shards[0]) else None
    if path is None or not path.is_file():
        return None
    try:
        order = Manifest.load(path).order
    except InputError:  # somebody else's
        return None
    return order.options.get("encoder") if order.kind == "embed" else None


def check(value: dict[str, Any], rules: dict[str, Rule]) -> None:
    """ValueError that names the first value that is not what its rule says."""
    found = broken(value, rules)
    if found is not None:
        raise ValueError(found)


def _within(name: Any) -> bool:
    """Whether it is the name of a file within a folder: what a run replaces lies within its output."""
    return isinstance(name, str) and name != "" and not os.path.isabs(name) and ".." not in Path(name).parts


def _is_bad_row(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and COUNT.holds(value[0]) and TEXT.holds(value[1])


def _is_left_out(value: Any) -> bool:
    sides = list(value.values()) if isinstance(value, dict) else [None]
    return all(isinstance(side, dict) and all(map(TEXT.holds, side.values())) for side in sides)


_NAME = Rule("the name of a file within a folder", _within)
_NAMES = Rule(
    "names of files within a folder", lambda value: isinstance(value, (list, dict)) and all(map(_within, value))
)
_LIST = Rule("a list", lambda value: isinstance(value, list))
_MARK = {
    "bytes": COUNT,
    "ends": TEXT,
    "modified": Rule("a whole number, text or null", lambda value: value is None or type(value) in (int, str)),
    "whole": or_none(TEXT),
}
_ORDER = {
    "kind": TEXT,
    "options": MAPPING,
    "source": MAPPING,
    "target": MAPPING,
    "metadata": _NAMES,
    "alignment": or_none(TEXT),
    "numbers": or_none(TEXT),
}
_SHARD = {
    "name": _NAME,
    **dict.fromkeys(("rows_in", "rows_out", "skipped", "bad_rows", "bytes"), COUNT),
    "first_bad": Rule(
        "a list of rows, each with a reason", lambda value: _LIST.holds(value) and all(map(_is_bad_row, value))
    ),
    "ends": TEXT,
    "metadata": or_none(_NAME),
    "whole": or_none(TEXT),
}
_MANIFEST = {
    "kind": TEXT,
    "alignment": or_none(TEXT),
    "gap_before": or_none(NUMBER),
    "gap_left": or_none(NUMBER),
    "shards": _LIST,
    "left_out": Rule("reasons by the names of shards", lambda value: value is None or _is_left_out(value)),
    "columns": Rule("names of columns", lambda value: value is None or _is_left_out({"": value})),
    "asked": MAPPING,
}


def _digest(descriptor: Descriptor, size: int, path: str | Place) -> str:
    """SHA-256 of every byte."""
    digest, buffer = hashlib.sha256(), np.empty(1 << 20, np.uint8)
    for start in range(0, size, len(buffer)):
        part = buffer[: size - start]
        read_into(descriptor, part, start, path)
        digest.update(part)
    return digest.hexdigest()


def _text(value: Any, levels: int) -> str:
    """JSON whose first `levels` levels have a line for each entry; a shard a line takes a quarter of the time of indent=1."""
    if levels == 0 or not value or not isinstance(value, (dict, list)):
        return json.dumps(value)
    if isinstance(value, list):
        return "[\n" + ",\n".join(_text(part, levels - 1) for part in value) + "\n]"
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {_text(part, levels - 1)}" for name, part in value.items()) + "\n}"
