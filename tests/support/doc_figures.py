"""What the pages say beside the committed results: for tests that compare the two."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache

import benchmarks
import numpy as np

common = benchmarks.module("paper.common")


@cache
def results(name):
    return json.loads((common.ROOT / common.RESULTS.format(name)).read_text())


@cache
def page(name):
    """Its text with single spaces."""
    return " ".join((common.ROOT / name).read_text().split())


def unsaid(name, sentences: Iterable[str]) -> list[str]:
    """Those that the page has not, whatever its line breaks."""
    return [sentence for sentence in sentences if sentence not in page(name)]


def signed(value):
    """+1.5, with the sign that the pages use for numbers below zero."""
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def span(values):
    return f"{signed(min(values))} to {signed(max(values))}"


def error(values):
    return np.std(values, ddof=1) / np.sqrt(len(values))


def shares(kind, method, figure, seeds=None):
    """Of bench.paper.uses, by seed."""
    return np.array([of["methods"][method][figure] for of in results("uses")["heads"][kind]["seeds"][:seeds]])
