"""measurements.py on clouds whose gap, retrieval and mixing are known."""

from __future__ import annotations

import numpy as np
import pytest

from fastrealign.cli.demo.measurements import measure_pairs


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(200, 16))


def test_equal_pairs_have_no_gap_and_always_find_each_other(rows):
    reading = measure_pairs(rows.astype(np.float32), 2 * rows.astype(np.float32))
    assert reading.gap < 1e-12
    # The twin of a row is a tie with the row itself, which rounding decides: each is the other's nearest neighbour.
    assert reading.mixing > 0.4
    noisy = measure_pairs(rows + 1e-6 * rows[::-1], rows)
    assert noisy.recall == {1: 1.0, 5: 1.0, 10: 1.0}


def test_clouds_apart_do_not_mix(rows):
    east = np.eye(16)[0] * 30
    reading = measure_pairs(rows + east, rows - east)
    assert reading.mixing == 0.0
    assert reading.gap == pytest.approx(2, abs=0.05)


def test_strangers_are_found_by_chance(rows):
    strangers = np.random.default_rng(1).normal(size=rows.shape)
    recall = measure_pairs(strangers, rows).recall
    assert 0.01 < recall[10] < 0.12 and recall[1] <= recall[5] <= recall[10]


def test_ties_count_against(rows):
    assert measure_pairs(rows, np.ones_like(rows)).recall == {1: 0.0, 5: 0.0, 10: 0.0}


def test_mixing_by_hand():
    # Forty rows in two heaps; in each, twenty captions and one picture, or the other way round.
    heap = np.eye(2)
    text = np.concatenate([np.tile(heap[0], (20, 1)), heap[1:]])
    image = np.concatenate([heap[:1], np.tile(heap[1], (20, 1))])
    # Each of 20 in the crowd sees 19 alike and 1 other; the lone one sees 20 others: in all (20/20 + 20) / (21 * 20).
    assert measure_pairs(text, image).mixing == pytest.approx((20 * 1 + 20) / (21 * 20))
