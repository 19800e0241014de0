"""Numbers of things in messages agree with their verbs."""

from __future__ import annotations

import re
from pathlib import Path

import fastrealign
from fastrealign.core.formatting import count, does


def test_one_thing_and_several():
    assert [count(n, "row", "have") for n in (0, 1, 2)] == ["0 rows have", "1 row has", "2 rows have"]
    assert [count(2, thing) for thing in ("query", "array", "class")] == ["2 queries", "2 arrays", "2 classes"]
    assert [count(2, thing) for thing in ("index", "batch", "hash")] == ["2 indexes", "2 batches", "2 hashes"]
    assert [does(1, verb) for verb in ("are", "were", "occur", "begin")] == ["is", "was", "occurs", "begins"]


def test_messages_leave_the_verb_to_count():
    """No text continues with a verb of several things after a number that may be 1."""
    verbs = r"(are|have|were|occur|begin|do|differ|count|stay)"
    wrong = re.compile(
        rf"\{{count\([^{{}}]*\)\}} {verbs}\b"
        rf"|\{{(len\([^{{}}]*\)|\w+)(:,)?\}} of \{{[^{{}}]*\}} \w+ {verbs}\b"
        rf"|\{{\w+:,\}} \w+s {verbs}\b"
    )
    for text in (
        "{count(n, 'row')} are",
        "{len(found):,} of {n} rows have",
        "{n:,} of {counts[0]:,} queries have",
        "{n:,} rows are",
    ):
        assert wrong.search(text)
    folder = Path(fastrealign.__file__).parent
    texts = {path: path.read_text() for path in folder.rglob("*.py")}
    assert [f"{path}: {found[0]}" for path, text in texts.items() if (found := wrong.search(text))] == []
