"""Pictures in the public domain, with a title, a long caption and a category.

A title is that of the SVG (`dc:title`). Where more than four pictures share it, it names a collection ("Flat Icon Collection"),
and the words of the file's name take its place. The long caption adds the collection, keywords and the description.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.paper.real.packages import Packages
from fastrealign.core.errors import InputError
from fastrealign.core.text import printable

SHARED = 4  # pictures that may share a title
LONGEST = 1000  # characters of a long caption


@dataclass(frozen=True)
class Picture:
    """id: its path without folder and ending; path: of the PNG."""

    id: str
    path: Path
    title: str
    long: str
    category: str


@dataclass(frozen=True)
class _Said:
    title: str
    creator: str
    keywords: list[str]
    description: str
    public: bool


def pictures(of: Packages, say: Callable[[str], None]) -> list[Picture]:
    """All distinct pictures whose SVG says public domain, in the order of their paths; equal files count once.

    Raises InputError if there is none: the packages have another layout.
    """
    said = {path: _said(path.read_text("utf-8", "replace")) for path in sorted(of.svg.rglob("*.svg"))}
    times = Counter(_plain(one.title).lower() for one in said.values())
    found, seen, without = [], set(), []
    for path, one in said.items():
        if not one.public:
            continue
        id = path.relative_to(of.svg).as_posix().removesuffix(".svg")
        png = of.png / f"{id}.png"
        if not png.is_file():
            without.append(id)
            continue
        digest = hashlib.sha256(png.read_bytes()).digest()
        if digest in seen:
            continue
        seen.add(digest)
        plain = re.sub(r"^Clipart by Nicu Buculei - ", "", _plain(one.title))
        own = plain and times[_plain(one.title).lower()] <= SHARED
        title = " ".join(
            (plain if own else _words(path.stem, one.creator) or plain or path.stem).replace("_", " ").split()
        )
        found.append(Picture(id, png, title, _long(title, plain, one), id.partition("/")[0]))
    for id in without:
        say(f"left out: {printable(id)}: no {printable(str(of.png / id))}.png")
    if not found:
        raise InputError(
            f"{of.svg}: no picture in the public domain, expected CATEGORY/NAME.svg with a <cc:license> of PublicDomain, "
            f"and {of.png}/CATEGORY/NAME.png, as openclipart 0.18 has them"
        )
    return found


def _said(svg: str) -> _Said:
    def first(pattern: str) -> str:
        match = re.search(pattern, svg, re.DOTALL)
        return _clean(match[1]) if match else ""

    words = [_clean(word) for word in re.findall(r"<rdf:li>(.*?)</rdf:li>", svg, re.DOTALL)]
    return _Said(
        title=first(r"<dc:title>(.*?)</dc:title>"),
        creator=first(r"<dc:creator>.*?<dc:title>(.*?)</dc:title>"),
        keywords=[w.lower() for w in words if w and not re.match(r"(hash|0x[0-9a-f]+)", w, re.IGNORECASE)],
        description=first(r"<dc:description>(.*?)</dc:description>"),
        public=re.search(r"public ?domain", svg, re.IGNORECASE) is not None,
    )


def _clean(text: str) -> str:
    """Without tags, addresses and control characters."""
    text = re.sub(r"<[^>]*>|\S+@\S+|https?://\S+", " ", html.unescape(text))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _plain(title: str) -> str:
    """Without the date that a collection adds."""
    return re.sub(r"\s*\([A-Z][a-z]{2} [A-Z][a-z]{2} [^)]*\)", "", title).strip()


def _words(stem: str, creator: str) -> str:
    """The words of a file's name, without numbers and the creator's name, which many names end with, cut off."""
    names = [name for name in re.split(r"\W+", creator.lower()) if len(name) > 2]
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", stem).lower())
    return " ".join(w for w in words if len(w) > 1 and not any(n.startswith(w) or w.startswith(n) for n in names))


def _long(title: str, collection: str, of: _Said) -> str:
    text = title if not collection or collection.lower() == title.lower() else f"{title} ({collection})"
    words = [word for word in dict.fromkeys(of.keywords) if word != title.lower()]
    if words:
        text += f". {', '.join(words)}"
    if of.description and of.description.lower() != title.lower():
        text += f". {of.description}"
    return text[:LONGEST]
