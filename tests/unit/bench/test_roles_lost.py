"""bench.paper.roles: what a map loses, by query over divisions of the index, and the shares of one division."""

from __future__ import annotations

import benchmarks
import numpy as np
import pytest

import fastrealign as fr

roles = benchmarks.module("paper.roles")


def test_what_is_lost_has_the_error_of_its_queries():
    """One division: the standard error of a mean. Five alike: no smaller, since the queries are the same."""
    rng = np.random.default_rng(0)
    before, after = (rng.random((1, 4, 300)).round() for _ in range(2))
    before[:, 0, 200:] = np.nan  # of the other kind
    apart = (before - after)[0, 0, :200]
    expected = [apart.mean(), apart.std(ddof=1) / 200**0.5, before[0, 0, :200].std(ddof=1) / 200**0.5]
    assert roles.lost(before, after)[0] == pytest.approx(expected)
    assert roles.lost(np.repeat(before, 5, axis=0), np.repeat(after, 5, axis=0))[0] == pytest.approx(expected)


def test_what_is_lost_weighs_every_search_alike():
    before = np.full((2, 4, 3), np.nan)
    before[0, :, 0], before[:, :, 1:] = 1.0, 1.0  # the first query is searched with once, the others twice
    after = before.copy()
    after[0, :, 0] = 0.0
    assert [mean for mean, *_ in roles.lost(before, after)] == pytest.approx([1 / 5] * 4)
    assert roles.lost(before, before) == [[0.0, 0.0, 0.0]] * 4


def test_shares_that_fell_are_counted():
    """Of heads with a small gap and searches where auto took a map; a share that no query changes never falls."""
    kept = [[0.02, 0.01, 0.03], [0.02, 0.01, 0.02], [-0.1, 0.01, 0.01], [0.0, 0.0, 0.01]]

    def search(head, taken):
        return {"head": head, "part": "test", "methods": {roles.AUTO: {"taken": taken, "lost": kept}}}

    said = roles.fallen([search("B0", "centred"), search("A0", "none"), search(roles.SHIPPED, "balanced")])
    assert said.startswith("auto took a map in 1 of 2 searches of heads with a small gap; of their 4 shares 2 fell by")
    assert "(by chance 0.5), 1 by one of the share (by chance 0.2); at most by 0.0200" in said


def test_half_of_the_documents_are_pictures():
    rng = np.random.default_rng(1)
    rows = {role: rng.standard_normal((41, 6)) for role in ("query", "text", "image")}
    rows["text"] = rows["query"]  # each caption is found, first
    none = fr.fit_roles(rows, anchor="image", method="none")
    by = roles.by_query(none, rows, 0)
    pictures = ~np.isnan(by[0])
    assert pictures.sum() == 20 and (np.isnan(by[1]) == pictures).all() and (by[1][~pictures] == 1).all()
    share, picture, caption, alone, _ = roles.shares(by)
    assert share == pytest.approx((20 * picture + 21) / 41) and caption == 1.0 and alone >= picture
