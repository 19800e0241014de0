"""Names of shards taken apart: which numbers may count shards, and which do not (fp16, v2, -of-00003, dates, hashes)."""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

# Marks of versions of the same rows, not of shards.
_VERSION = r"(?:fp|float|bf|bfloat)[-_]?(?:8|16|32|64)|u?int8|v\d+(?:\.\d+)*|version[-_]?\d+"
_TOTAL = r"of[-_. ]?\d+"
_WIDTH = r"dim[-_]?\d+|\d+d(?:im)?"
_DATE = (
    r"(?:19|20)\d\d[-_.](?:0[1-9]|1[0-2])[-_.](?:0[1-9]|[12]\d|3[01])|20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
)
_HASH = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?=[0-9]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{8,}"
_PIECES = re.compile(
    rf"(?P<hash>(?<![a-z0-9])(?:{_HASH})(?![a-z0-9]))"
    rf"|(?P<mark>(?<![a-z])(?:{_TOTAL})(?![a-z0-9])|(?<![a-z0-9])(?:{_DATE}|{_VERSION}|{_WIDTH})(?![a-z0-9])|\(\d+\))"
    r"|(?P<number>[0-9]+)",
    re.IGNORECASE,
)
_VERSION_MARK = re.compile(rf"[-_. ]+(?:{_VERSION})(?![a-z0-9])", re.IGNORECASE)
_COPY_MARK = re.compile(
    r"^copy of |(?: -)? ?\((?:\d+|(?:another |\d+[a-z]+ )?copy(?: \d+)?)\)$"
    r"|[-_. ]+(?:copy|backup|bak|orig|original|dedup|deduped|deduplicated|filtered|normed|normalized|aligned)"
    r"(?: ?\(\d+\)| \d+)?$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Name:
    """The stem of a file name, taken apart.

    template  with # for each number that may count shards and * for a hash: the same for all shards of a set
    numbers   those numbers
    tail      from the first digits on, without leading zeros: metadata is named after it
    """

    template: str
    numbers: tuple[int, ...]
    tail: str

    @classmethod
    def of(cls, stem: str) -> Name:
        pieces = list(_PIECES.finditer(stem))
        template = _PIECES.sub(lambda found: {"hash": "*", "number": "#"}.get(found.lastgroup or "", found[0]), stem)
        numbers = tuple(int(found[0]) for found in pieces if found.lastgroup == "number")
        return cls(template, numbers, re.sub("(?<![0-9])0+(?=[0-9])", "", tail_of(stem).lower()))


def tail_of(stem: str) -> str:
    """The stem from its first digits on, with the mark before them (v2)."""
    first = _PIECES.search(stem)
    return stem[first.start() :] if first else ""


def counting(names: Collection[Name]) -> list[int]:
    """The positions of the numbers in which names of one template differ; of a single name, all."""
    columns = zip(*(name.numbers for name in names), strict=True)
    return [at for at, column in enumerate(columns) if len(names) == 1 or len(set(column)) > 1]


def copied_from(stem: str) -> tuple[str, bool] | None:
    """The stem of the file that this one is a copy of by its name, and whether it is another version (fp16, v2)."""
    for mark, version in ((_COPY_MARK, False), (_VERSION_MARK, True)):
        rest = mark.sub("", stem)
        if rest != stem:
            return rest, version
    return None


def pattern_of(names: Sequence[str], others: Iterable[str]) -> str | None:
    """A glob pattern that matches all of `names`, which have one template, and none of `others`; None if there is none."""
    stems = [re.split("([0-9]+)", PurePosixPath(name).stem) for name in names]
    suffix = glob.escape(PurePosixPath(names[0]).suffix)
    start = glob.escape(stems[0][0]) if len({pieces[0] for pieces in stems}) == 1 else "*"
    patterns = [f"{start}*{suffix}", f"{start}[0-9]*{suffix}"]
    if len({len(pieces) for pieces in stems}) == 1:  # hashes have runs of digits as they come
        patterns.append("".join(_piece(set(pieces)) for pieces in zip(*stems, strict=True)) + suffix)
    others = list(others)
    for pattern in patterns:
        if all(fnmatchcase(name, pattern) for name in names) and not any(fnmatchcase(name, pattern) for name in others):
            return pattern
    return None


def _piece(values: set[str]) -> str:
    """A pattern for a piece of names: text, or digits."""
    if len(values) == 1:
        return glob.escape(*values)
    if not all(value.isdigit() for value in values):
        return "*"
    widths = {len(value) for value in values}
    return "[0-9]" * widths.pop() if len(widths) == 1 else "[0-9]*"
