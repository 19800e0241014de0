"""The manifest of a complete run: its job specification (JobSpec) and a record of each output shard (ShardRecord).

It has no dates and no timings: the same inputs and options make the same bytes. It carries a checksum of itself. While a
run is under way, its journal (jobs/journal.py) holds the same records.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fastrealign.core.digest import sha256
from fastrealign.core.errors import InputError
from fastrealign.core.text import one_line
from fastrealign.core.version import __version__
from fastrealign.storage.atomic import save_bytes
from fastrealign.storage.files import reading
from fastrealign.storage.fingerprint import FileFingerprint
from fastrealign.storage.paths import Place, folder_of, place
from fastrealign.storage.record_rules import COUNT, LIST, MAPPING, NUMBER, TEXT, Rule, check, or_none
from fastrealign.storage.records import checked, sealed

# 1 had no checksums.
FORMAT = 2
MANIFEST = "manifest.json"
# In the folder of a run that is not finished: its journal, and the lock that a conversion takes. The two exclude each other.
JOURNAL = ".fastrealign-run.jsonl"
# Entries whose elements (shards, fingerprints) each have a line, and at which depth.
_LEVELS = {"shards": 1, "asked": 2}
# Values of a shard's record that are there only where they say something.
_OPTIONAL = ("whole", "dropped")
_COUNTS = ("rows_in", "rows_out", "skipped", "bad_rows", "bytes")


@dataclass(frozen=True)
class JobSpec:
    """The specification of a job: everything that decides the bytes it writes.

    kind       "align", "apply" or "embed"
    options    centroid or method, dtype, bad_rows, column; for an embed also the options of its encoder
    source     the fingerprint of each source shard, by the name of its output shard; of an embed, that of a shard's
               pictures or captions together
    target     the same of the target by input name; empty where there is none or it is not a file
    metadata   names of the metadata files that will be written
    alignment  fingerprint of the alignment, where it was given (apply)
    numbers    if the alignment maps rows by their numbers: SHA-256 of the names of the source shards and how many rows each has
    implied    names of options that follow from the others, and are only recorded to be read; an earlier run may lack them
    """

    kind: str
    options: dict[str, Any]
    source: dict[str, FileFingerprint]
    target: dict[str, FileFingerprint] = field(default_factory=dict)
    metadata: list[str] = field(default_factory=list)
    alignment: str | None = None
    numbers: str | None = None
    implied: frozenset[str] = field(default=frozenset(), compare=False)

    def to_json(self) -> dict[str, Any]:
        source, target = ({name: one.to_json() for name, one in side.items()} for side in (self.source, self.target))
        sides = {"source": source, "target": target}
        entries = {**vars(self), **sides}
        del entries["implied"]
        return {name: value for name, value in entries.items() if name != "numbers" or value is not None}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> JobSpec:
        """Raises ValueError for what is not a job specification."""
        check(value, _SPEC)
        source, target = (
            {name: FileFingerprint.from_json(one) for name, one in value[side].items()} for side in ("source", "target")
        )
        check({"source": source}, {"source": _NAMES})
        kind, options, metadata, alignment = (value[name] for name in ("kind", "options", "metadata", "alignment"))
        return cls(kind, options, source, target, metadata, alignment, value.get("numbers"))

    @property
    def digest(self) -> str:
        """Equal for equal specifications."""
        return sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def change(self, earlier: JobSpec, done: set[str] | None = None) -> str | None:
        """What is different from `earlier`, in words; None if nothing is.

        done: names of the shards that are finished; a change of others does not matter to an apply or an embed, whose
        alignment or encoder is given. None: every difference counts.
        """
        if self.kind != earlier.kind:
            return f"it was made by {earlier.kind}, not by {self.kind}"
        for name in sorted(self.options.keys() | earlier.options.keys()):
            if name in self.implied and name not in earlier.options:
                continue
            before, now = earlier.options.get(name), self.options.get(name)
            # A shard that passed "error" has no bad rows, so the other choices would have written the same.
            if before != now and not (name in ("bad_rows", "bad_items") and before == "error"):
                shown = None if name in self.implied else now
                return f"{name} was {before or 'the default'}, now it is {shown or 'the default'}"
        if self.alignment != earlier.alignment:
            return "the alignment is another one"
        if self.numbers != earlier.numbers:
            return (
                "the rows of the source have other numbers (a shard was added, left out or has another number of rows)"
            )
        free = self.kind != "align"
        of = "input of" if self.kind == "embed" else None
        for side in ("source", "target"):
            before, now = getattr(earlier, side), getattr(self, side)
            for name, then in before.items():
                if free and done is not None and name not in done:
                    continue
                if name not in now:
                    return f"the {of or side} {name} is gone"
                if now[name].whole is not None and then.whole is None:
                    return f"it noted no checksum of every byte of the {of or side} {name} to verify"
                if not now[name].same(then):
                    return f"the {of or side} {name} was changed"
            added = None if free and done is not None else next((name for name in now if name not in before), None)
            if added is not None:
                return f"the {of or side} {added} was not there"
        return None


@dataclass(frozen=True)
class ShardRecord:
    """One finished shard of the output.

    rows_in, rows_out   embeddings read and written
    skipped             items of the source without an embedding
    bad_rows, first_bad rows without a direction, and the first of them as [row, why]; of an embed, all items left out
    dropped             with bad_rows "skip" all rows that were left out, as runs [first, last], numbered from 0 in the shard
    bytes, ends, whole  the fingerprint of the file
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
    dropped: list[list[int]] | None = None

    @property
    def fingerprint(self) -> FileFingerprint:
        return FileFingerprint(self.bytes, self.ends, None, self.whole)

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _OPTIONAL or value is not None}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ShardRecord:
        """Raises ValueError for what is not a record."""
        check(value, _SHARD)
        return cls(**{one.name: value[one.name] for one in fields(cls) if one.name in value})

    def is_at(self, path: Place, every_byte: bool = False) -> bool:
        """Whether the file at `path` still is what was written; every byte of it, if that was noted."""
        try:
            return FileFingerprint.of(path, whole=every_byte and self.whole is not None).same(self.fingerprint)
        except InputError:
            return False


@dataclass(frozen=True)
class Manifest:
    """The result of a complete run.

    alignment, gap_before   None of an embed
    left_out   shards that could not be read, by side ("source", "target") and name, and why
    columns    the names under which files held the embeddings (column, key, tensor), of each side that has some
    """

    spec: JobSpec
    alignment: str | None
    gap_before: float | None
    gap_left: float | None
    shards: list[ShardRecord]
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    version: str = __version__

    def save(self, path: Place, fsync: bool = True) -> None:
        spec = self.spec.to_json()
        inputs = {side: spec.pop(side) for side in ("source", "target")}
        value = {
            "fastrealign": self.version,
            "format": FORMAT,
            "kind": spec.pop("kind"),
            "alignment": self.alignment,
            "gap_before": self.gap_before,
            "gap_left": self.gap_left,
            **{name: sum(getattr(shard, name) for shard in self.shards) for name in _COUNTS},
            "columns": self.columns,
            "shards": [shard.to_json() for shard in self.shards],
            "left_out": self.left_out,
            "asked": {**spec, **inputs},
        }
        entries = [f'"{name}": {_text(part, _LEVELS.get(name, 0))}' for name, part in value.items()]
        save_bytes(path, sealed("{{\n{}\n}}\n".format(",\n".join(entries)).encode()), fsync)

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
                JobSpec.from_json({"kind": value["kind"], **value["asked"]}),
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
                f"{path}: is damaged, or not a manifest that fastrealign wrote ({one_line(error)}); nothing is changed "
                "there: write to another output folder"
            ) from None


def spec_of(shards: list[str]) -> JobSpec | None:
    """The specification of the run that wrote the embeddings at these paths, if its manifest is there."""
    folders = {folder_of(path) for path in shards}
    path = place(folders.pop()) / MANIFEST if len(folders) == 1 else None
    if not isinstance(path, Path) or not path.is_file():
        return None
    try:
        return Manifest.load(path).spec
    except InputError:  # not one of ours
        return None


def _within(name: object) -> bool:
    """Whether it is the name of a file within a folder: a run replaces nothing outside of its output."""
    return isinstance(name, str) and name != "" and not os.path.isabs(name) and ".." not in Path(name).parts


def _is_bad_row(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and COUNT.holds(value[0]) and TEXT.holds(value[1])


def _is_run(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(COUNT.holds, value)) and value[0] <= value[1]


def _is_left_out(value: object) -> bool:
    sides = list(value.values()) if isinstance(value, dict) else [None]
    return all(isinstance(side, dict) and all(map(TEXT.holds, side.values())) for side in sides)


_NAME = Rule("the name of a file within a folder", _within)
_NAMES = Rule(
    "names of files within a folder", lambda value: isinstance(value, (list, dict)) and all(map(_within, value))
)
_SPEC = {
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
    **dict.fromkeys(_COUNTS, COUNT),
    "first_bad": Rule(
        "a list of rows, each with a reason", lambda value: LIST.holds(value) and all(map(_is_bad_row, value))
    ),
    "dropped": or_none(Rule("a list of runs of rows", lambda value: LIST.holds(value) and all(map(_is_run, value)))),
    "ends": TEXT,
    "metadata": or_none(_NAME),
    "whole": or_none(TEXT),
}
_MANIFEST = {
    "kind": TEXT,
    "alignment": or_none(TEXT),
    "gap_before": or_none(NUMBER),
    "gap_left": or_none(NUMBER),
    "shards": LIST,
    "left_out": Rule("reasons by the names of shards", lambda value: value is None or _is_left_out(value)),
    "columns": Rule("names of columns", lambda value: value is None or _is_left_out({"": value})),
    "asked": MAPPING,
}


def _text(value: object, levels: int) -> str:
    """JSON whose first `levels` levels have a line for each entry; four times as fast as json.dumps(indent=1)."""
    if levels == 0 or not value or not isinstance(value, (dict, list)):
        return json.dumps(value)
    if isinstance(value, list):
        return "[\n" + ",\n".join(_text(part, levels - 1) for part in value) + "\n]"
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {_text(part, levels - 1)}" for name, part in value.items()) + "\n}"
