"""Formats results for people: labelled lines, lists in a sentence, and numbers with units."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastrealign.core.text import shown


def listing(*entries: tuple[str, str | Sequence[str] | None], width: int = 11) -> list[str]:
    """A line for each entry, "  label    text"; each of several texts has its line, an entry without a text none.

    Control characters are escaped and the secrets of URLs hidden, as in messages.

    Examples
    --------
    >>> listing(("skipped", None), ("written", ["out", "out/manifest.json"]), width=9)
    ['  written  out', '           out/manifest.json']
    """
    lines = []
    for label, text in entries:
        texts = [text] if isinstance(text, str) else list(text or ())
        for at, one in enumerate(filter(None, texts)):
            lines.append(f"  {'' if at else label:<{width}}{shown(one)}")
    return lines


# Verbs of one thing that have no s at the end.
_OF_ONE = {"are": "is", "were": "was", "have": "has", "do": "does"}


def count(n: int, thing: str, verb: str = "") -> str:
    """A number of things, and what they do.

    Examples
    --------
    >>> count(1, "row"), count(2000, "judged query"), count(1, "id", "occur"), count(0, "class", "are")
    ('1 row', '2,000 judged queries', '1 id occurs', '0 classes are')
    """
    many = re.sub("(?<![aeiou])y$", "ie", re.sub("(s|x|ch|sh)$", r"\1e", thing)) + "s"
    return f"{n:,} {thing if n == 1 else many}{verb and f' {does(n, verb)}'}"


def does(n: int, verb: str) -> str:
    """What so many things do: "have", of one "has".

    Examples
    --------
    >>> does(2, "occur"), does(1, "occur"), does(1, "are")
    ('occur', 'occurs', 'is')
    """
    return verb if n != 1 else _OF_ONE.get(verb, f"{verb}s")


def size(nbytes: float) -> str:
    """ "1.23 GB", in powers of ten."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= one:
            return f"{nbytes / one:.3g} {unit}"
    return f"{nbytes:.0f} bytes"


def short(n: float) -> str:
    """ "1.2 M", "350 k"."""
    for unit, one in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= one:
            return f"{n / one:.3g} {unit}"
    return f"{n:.3g}"


def number(value: float) -> str:
    """Three significant digits, two below 0.01: "0.460", "0.0091", "9.2e-4"."""
    if value == 0.0:
        return "0"
    if abs(value) >= 0.001:
        return f"{value:#.{3 if abs(value) >= 0.01 else 2}g}".rstrip(".")
    digits, power = f"{value:.1e}".split("e")
    return f"{digits}e{int(power)}"


def percent(value: float) -> str:
    """A share in percent: "20.7 %", "0.32 %"."""
    return f"{100 * value:.1f} %" if value >= 0.01 or value == 0.0 else f"{100 * value:.2f} %"


def listed(parts: Sequence[str], last: str = "and") -> str:
    """The parts as a sentence lists them: "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"
