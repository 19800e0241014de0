"""bench.paper.scores on few rows: parts are apart, held-out precision is counted on the other part, tables are whole."""

from __future__ import annotations

import benchmarks
import numpy as np
import pytest

scores = benchmarks.module("paper.scores")


def test_parts_are_apart():
    rows = {role: np.arange(103.0)[:, None] for role in ("query", "text", "image")}
    found = scores.parts(rows, 3, seed=1)
    assert [len(part["query"]) for part in found] == [34] * 3
    assert len(np.unique(np.concatenate([part["query"] for part in found]))) == 102
    for part in found:
        assert np.array_equal(part["query"], part["image"]) and np.array_equal(part["query"], part["text"])


def test_a_threshold_is_tested_on_the_part_given():
    rng = np.random.default_rng(0)
    query = rng.standard_normal((200, 24))
    rows = {"query": query, "image": query + 0.3 * rng.standard_normal((200, 24))}
    rows["text"] = query + 0.3 * rng.standard_normal((200, 24))
    rows = {role: side / np.linalg.norm(side, axis=1, keepdims=True) for role, side in rows.items()}
    fitted = scores.fitted(rows, "none")
    held, others = scores.Held(), {pair: np.zeros((10, 10)) for pair in (scores.IMAGE, scores.TEXT)}
    others[scores.IMAGE][:2] = 1.0  # twenty kept, two of them relevant
    held.add(fitted, scores.IMAGE, 0.8, others)
    said, found, within, _, recall, _ = held.rows[0]
    assert said >= 0.8 and not within and (found, recall) == (pytest.approx(0.1), pytest.approx(0.2))


@pytest.mark.slow
def test_tables(monkeypatch, capsys):
    monkeypatch.setattr(scores, "SPLITS", 2)
    monkeypatch.setattr(scores, "THRESHOLD_SPLITS", 1)
    rows = {role: side[::4] for role, side in scores.shipped().items()}
    scores.one_index([("shipped", rows)], ("none", "z-score"))
    scores.documents(rows)
    scores.thresholds([("shipped", rows)], ("none",))
    tables = [block.splitlines() for block in capsys.readouterr().out.strip().split("\n\n")]
    assert [len(table) - 2 for table in tables] == [6, 20, sum(map(len, scores.ASKED.values()))]
    assert all(line.count("|") == table[0].count("|") for table in tables for line in table)
    cosine, calibrated = (float(tables[0][row].split("|")[4].split("±")[0]) for row in (2, 3))
    assert cosine < 0.01 < calibrated
