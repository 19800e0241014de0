"""Merged lists and fused documents."""

from __future__ import annotations

import itertools
from uuid import UUID

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core.errors import BadRowsError, InputError

fuse, fuse_scores, merge = fr.retrieval.fuse, fr.retrieval.fuse_scores, fr.retrieval.merge


def pi(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def test_merged_in_any_order(rng):
    """The same list for any order of lists and within them; scores are those given; each id once, with its best."""
    lists = []
    for role in ("image", "text", "audio"):
        ids = rng.choice(40, 25, replace=False)
        lists.append((ids, rng.integers(0, 8, 25) / 7, role))  # many ties
    best = {}
    for ids, scores, role in lists:
        for one, score in zip(ids.tolist(), scores.tolist(), strict=True):
            best[one] = min(best.get(one, (0.0, "z")), (-score, role))
    expected = sorted((score, one, role) for one, (score, role) in best.items())[:12]
    for some in itertools.permutations(lists):
        order = rng.permutation(25)
        hits = merge([(ids[order], scores[order], role) for ids, scores, role in some], 12)
        assert [(-s, i, r) for i, s, r in zip(*(part.tolist() for part in hits), strict=True)] == expected
    assert len(merge(lists, 1000).ids) == len(best)
    again = merge([merge(lists[:2], 1000), lists[2]], 12)  # in two steps
    assert all(np.array_equal(one, other) for one, other in zip(again, merge(lists, 12), strict=True))


def test_two_indexes_of_other_ranges(rng):
    """Raw, the index of texts fills the list; calibrated, a relevant picture is found, with the score that it had."""
    query = pi(rng.standard_normal((300, 16)))
    image = pi(np.c_[pi(query + 0.1 * rng.standard_normal((300, 16))), np.full(300, 2.0)])
    text = pi(np.c_[pi(query + 0.1 * rng.standard_normal((300, 16))), np.zeros(300)])
    query = pi(np.c_[query, np.zeros(300)])
    scores = fr.retrieval.fit_scores({("query", "image"): (query, image), ("query", "text"): (query, text)})
    picture = np.arange(300) < 150  # the first half is indexed as pictures, the rest as texts
    found = {}
    for calibrated in (False, True):
        hits = []
        for number in range(150):
            lists = []
            for role, rows, here in (("image", image, picture), ("text", text, ~picture)):
                cosines = rows[here] @ query[number]
                top = np.argsort(-cosines)[:10]
                values = scores("query", role, cosines[top]) if calibrated else cosines[top]
                lists.append((np.flatnonzero(here)[top], values, role))
            merged = merge(lists, 3)
            hits.append(number in merged.ids)
            given = {int(one): value for ids, values, _ in lists for one, value in zip(ids, values, strict=True)}
            assert all(given[int(one)] == value for one, value in zip(merged.ids, merged.scores, strict=True))
        found[calibrated] = np.mean(hits)
    assert found[False] < 0.2 and found[True] > 0.9


def test_merge_takes_what_indexes_return():
    faiss = np.array([4, 9, -1, -1]), np.array([0.5, 0.25, -3e38, -3e38], np.float32)
    assert merge([faiss], 5).ids.tolist() == [4, 9] and merge([], 3).ids.size == 0
    table = np.array(["b", "a"], dtype=object), [1, 1]
    assert merge([table, ([], [])], 5).ids.tolist() == ["a", "b"]
    numbers = (
        np.array([7, 3, None], dtype=object),
        np.array([0.9, 0.8, -np.inf]),
        np.array(["image", "text", None], object),
    )
    hits = merge([numbers, faiss], 5)
    assert hits.ids.dtype.kind == "i" and hits.ids.tolist() == [7, 3, 4, 9]
    assert hits.roles.tolist() == ["image", "text", "", ""]
    assert merge([(["b", None], [1, 2])], 5).ids.tolist() == ["b"] and merge([([None], [-np.inf])], 5).ids.size == 0


def test_merge_takes_calibrated_scores_of_searchers(rng, tmp_path):
    """Of two FAISS indexes, one of which has fewer rows than are asked for."""
    faiss = pytest.importorskip("faiss")
    rows = {"query": rng.standard_normal((60, 8)) + 1, "text": rng.standard_normal((60, 8)) + 1}
    rows["image"] = rng.standard_normal((60, 8)) - 1
    roles = fr.fit_roles(rows, anchor="image", method="none")
    scores = fr.retrieval.fit_scores({("query", one): (rows["query"], rows[one]) for one in ("text", "image")})
    lists, best = [], {}
    for role, ids in (("text", np.arange(3)), ("image", np.arange(10, 70))):
        index, path = faiss.index_factory(8, "IDMap,Flat", faiss.METRIC_INNER_PRODUCT), str(tmp_path / f"{role}.faiss")
        index.add_with_ids(rows[role][: len(ids)].astype(np.float32), ids)
        faiss.write_index(index, path)
        fr.retrieval.index(path, roles, role=role)
        with fr.retrieval.searcher(path, roles) as search:
            found = search.search(rows["query"][0], 5)
        lists.append((found.ids[0], scores("query", role, found.scores[0]), found.roles[0]))
        cosines = pi(rows[role][: len(ids)]) @ pi(rows["query"][:1])[0]
        best |= dict(zip(ids.tolist(), scores("query", role, cosines).tolist(), strict=True))
    assert lists[0][1][3:].tolist() == [-np.inf] * 2
    hits = merge(lists, 5)
    expected = sorted(best, key=lambda one: -best[one])
    assert hits.ids.tolist() == expected[:5]
    assert hits.roles.tolist() == ["text" if one < 10 else "image" for one in expected[:5]]


@pytest.mark.parametrize(
    ("lists", "k", "message"),
    [
        ([(["a", "b", "a"], [1.0, 2.0, 3.0])], 3, "list 0: the id 'a' is there 2 times"),
        ([(["a"], [1.0]), ([1], [1.0])], 3, "some have ids of text and some integers"),
        ([(["a"], [1.0]), (["b"], [float("nan")])], 3, "list 1: the score of 'b' is NaN"),
        ([(["a"], [1.0, 2.0])], 3, "expected one score for each id"),
        ([(["a"], [1.0], ["x", "y"])], 3, "2 roles for 1 id;"),
        ([(["a"],)], 3, r"expected \(ids, scores\)"),
        ([([0.5], [1.0])], 3, "list 0, ids: element type float64, expected text or integers"),
        (
            [(np.array([b"a", b"b"], object), [1.0, 0.5])],
            3,
            "list 0, ids: element type bytes, expected text or integers",
        ),
        (
            [(np.array([b"a", None], object), [1.0, 0.5])],
            3,
            r"list 0, ids: element type \|S1, expected text or integers",
        ),
        ([(np.array(["a", 3], object), [1.0, 0.5])], 3, "a mix of int and str, expected all text or all integers"),
        ([([2**70, 1], [1.0, 0.5])], 3, "list 0, ids: integers of more than 64 bits, expected text or integers; give"),
        ([(np.array([-1, 2**63], object), [1.0, 0.5])], 3, "list 0, ids: integers of more than 64 bits"),
        ([([UUID(int=1)], [1.0])], 3, "list 0, ids: element type UUID, expected text or integers"),
        ([(["a", None], [1.0])], 3, "expected one score for each id"),
        (5, 3, "lists: int, expected a list of"),
        ([(["a"], [1.0])], 0, "k=0: expected a whole number"),
    ],
)
def test_merge_refuses(lists, k, message):
    with pytest.raises(InputError, match=message):
        merge(lists, k)


def test_fused_rows(rng):
    image, text = rng.standard_normal((2, 50, 8)) * rng.uniform(0.1, 9, (2, 50, 1))
    has_image, has_text = rng.random(50) < 0.7, rng.random(50) < 0.7
    has_text |= ~has_image
    expected = pi(0.3 * pi(image) + 0.7 * pi(text))
    np.testing.assert_allclose(fuse(image, text, weight=0.3), expected, atol=1e-14)
    expected[~has_text], expected[~has_image] = pi(image)[~has_text], pi(text)[~has_image]
    image[~has_image] = np.nan  # is not read
    for dtype in (np.float64, np.float32):
        found = fuse(image.astype(dtype), text.astype(dtype), weight=0.3, has_image=has_image, has_text=has_text)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, atol=1e-14 if dtype == np.float64 else 3e-7)
    np.testing.assert_allclose(fuse(None, text), pi(text), atol=1e-14)
    np.testing.assert_allclose(fuse(text, None, weight=0.0), pi(text), atol=1e-14)
    assert fuse(text.astype(np.float16), None).dtype == np.float32


def test_fuse_refuses(rng):
    rows = rng.standard_normal((5, 4))
    bad = rows.copy()
    bad[2] = 0
    some = np.array([True, True, False, True, True])
    for call, message in (
        (lambda: fuse(rows, rows[:4]), r"text_rows: shape \(4, 4\)"),
        (lambda: fuse(rows, rows, weight=1.5), "weight=1.5: expected a number from 0"),
        (lambda: fuse(None, None), "both None"),
        (lambda: fuse(rows, -rows), "document 0: image and text cancel out at weight 0.5"),
        (lambda: fuse(rows, rows, has_image=some, has_text=some), "document 2 has neither"),
        (lambda: fuse(rows, None, has_image=some), "document 2 has neither"),
        (lambda: fuse(rows, rows, has_image=some.astype(int)), "has_image: element type int64, expected bool"),
        (lambda: fuse_scores([1.0], [1.0, 2.0]), "images have shape"),
        (lambda: fuse_scores([1.0, np.nan], [1.0, np.nan]), r"document \(1,\) has neither"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(BadRowsError, match=r"text_rows: row 2 .* has_text"):
        fuse(rows, bad)
    fuse(rows, bad, has_text=some)
