"""`fastrealign demo search`: its lists and figures are those of a search by hand."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.demo import real_world, search
from fastrealign.cli.main import main
from fastrealign.core.reference import project


@pytest.fixture(scope="module")
def result():
    return search.run()


def test_the_lists_are_those_of_the_largest_cosine(result):
    world = real_world.load()
    fit, test = world.part("fit"), world.part("test")
    pairs = {("query", "image"): (fit.title, fit.image), ("query", "text"): (fit.title, fit.long)}
    rows = {"query": fit.title, "text": fit.long, "image": fit.image}
    roles = fr.fit_roles(rows, anchor="image", method=result.method, pairs=pairs)
    for side, mapped in (("before", lambda role, rows: rows), ("after", lambda role, rows: roles[role](rows))):
        documents = project(mapped("text", test.long))
        documents[::2] = project(mapped("image", test.image[::2]))
        scores = project(mapped("query", test.title)) @ documents.T
        own = scores[np.arange(len(scores)), np.arange(len(scores))]
        found = (scores > own[:, None]).sum(1) < 10
        assert getattr(result, side).found.value == pytest.approx(found.mean(), abs=2e-3)
        assert getattr(result, side).pictures_found.value == pytest.approx(found[::2].mean(), abs=3e-3)
        for query in result.queries:
            number = next(i for i in range(0, len(scores), 2) if test.titles[i] == query.title)
            best = np.argsort(-scores[number], kind="stable")[:10]
            texts = [str((test.longs if i % 2 else test.titles)[i]) for i in best]
            assert [hit.text for hit in getattr(query, side)] == texts
            assert [hit.kind for hit in getattr(query, side)] == ["caption" if i % 2 else "picture" for i in best]
            assert [hit.own for hit in getattr(query, side)] == [i == number for i in best]


def test_the_titles_are_the_first_english_ones_of_their_categories_whatever_they_find(result):
    test = real_world.load().part("test")
    first: dict[str, str] = {}
    for category, title in list(zip(test.categories.tolist(), test.titles.tolist(), strict=True))[::2]:
        if category not in ("special", "unsorted") and re.search(
            r"(^| )(and|for|from|of|on|the|with)( |$)", title, re.I
        ):
            first.setdefault(category, title)
    assert [query.title for query in result.queries] == [first[name] for name in sorted(first)[:3]]


def test_the_command_prints_the_figures(result, capsys):
    main(["demo", "search"])
    text = capsys.readouterr().out
    assert all(str(side.found) in text for side in (result.before, result.after))
    assert f"Of all {result.pictures} such titles {result.finding} find" in text
    assert text.count(" *\n") + text.count(" * ") == sum(h.own for q in result.queries for h in [*q.before, *q.after])
    assert all(word in text for word in search.ENGLISH)
    assert max(len(line) for line in text.splitlines()) <= 128
    main(["demo", "search", "--json"])
    assert json.loads(capsys.readouterr().out)["finding"] == result.finding
