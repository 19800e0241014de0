"""The sample of a pass: uniform, bounded, and the same whatever the chunks, the order and the threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastrealign.data.reservoir import Reservoir


def numbered(n):
    """Rows whose first entry is their number, from 1 on."""
    return np.column_stack([np.arange(1, n + 1), np.ones(n)]).astype(np.float64)


def taken(n, cuts, capacity, order=None, seed=0):
    rows = numbered(n)
    reservoir = Reservoir(capacity, seed)
    firsts = [0, *cuts]
    parts = np.split(rows, cuts)
    for i in order if order is not None else range(len(parts)):
        reservoir.look(firsts[i], parts[i])
    return reservoir


@pytest.mark.parametrize("n", [1, 63, 64])
def test_a_short_source_is_held_whole(n):
    reservoir = taken(n, [], 64)
    assert reservoir.whole
    np.testing.assert_array_equal(reservoir.rows(), numbered(n))


@pytest.mark.parametrize("n", [65, 500, 10_000])
def test_chunks_and_their_order_do_not_matter(rng, n):
    expected = taken(n, [], 64)
    assert not expected.whole and 16 <= len(expected.rows()) <= 64
    for count in (1, 7, 60):
        cuts = np.sort(rng.choice(np.arange(1, n), min(count, n - 1), replace=False)).tolist()
        order = rng.permutation(len(cuts) + 1)
        np.testing.assert_array_equal(taken(n, cuts, 64, order).rows(), expected.rows())


def test_threads_do_not_matter(rng):
    n, capacity = 100_000, 300
    expected = taken(n, [], capacity).rows()
    parts = np.split(numbered(n), np.arange(500, n, 500))
    for _ in range(5):
        reservoir = Reservoir(capacity)
        order = rng.permutation(len(parts)).tolist()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(reservoir.look, [i * 500 for i in order], [parts[i] for i in order]))
        np.testing.assert_array_equal(reservoir.rows(), expected)


def test_every_row_is_drawn_equally_often():
    n, capacity, seeds = 250, 40, 1200
    times = np.zeros(n)
    for seed in range(seeds):
        times[taken(n, [100], capacity, seed=seed).rows()[:, 0].astype(int) - 1] += 1
    share = times.sum() / (n * seeds)
    # Binomial: five standard deviations.
    assert np.abs(times / seeds - share).max() < 5 * np.sqrt(share * (1 - share) / seeds)


def test_neighbours_are_drawn_independently_of_the_distance_between_them():
    """No period: sources repeat themselves, and a sample that keeps step with them would see one part alone."""
    n = 4096
    rows = taken(n, [], 256, seed=1).rows()[:, 0].astype(int)
    strata = (rows - 1) // (n // len(rows))
    assert len(set(strata)) == len(rows)
    offsets = (rows - 1) % (n // len(rows))
    assert len(set(offsets)) == n // len(rows)  # every place within a stratum is met


def test_rows_without_a_direction_are_not_held():
    rows = numbered(40)
    rows[3] = 0
    rows[7, 1] = np.nan
    reservoir = Reservoir(64)
    reservoir.look(0, rows)
    np.testing.assert_array_equal(reservoir.rows()[:, 0], np.delete(np.arange(1, 41), [3, 7]))


def test_what_is_held_does_not_keep_the_chunks_alive():
    rows = numbered(100)
    reservoir = Reservoir(64)
    reservoir.look(0, rows)
    rows[:] = -1
    assert (reservoir.rows() > 0).all()
    assert all(row.base is None for row in reservoir._rows)


@pytest.mark.parametrize("n", [1, 64, 65, 129, 500, 10_000, 65_536])
@pytest.mark.parametrize("bad", [0.0, 0.3])
def test_a_foreseen_source_gives_the_same_sample_in_any_order(rng, n, bad):
    rows = numbered(n)
    rows[rng.random(n) < bad] = np.nan
    expected = Reservoir(64)
    expected.look(0, rows)
    for count in (0, 7, 60):
        cuts = np.sort(rng.choice(np.arange(1, n), min(count, n - 1), replace=False)) if n > 1 else []
        parts, firsts = np.split(rows, cuts), [0, *cuts]
        reservoir = Reservoir(64)
        reservoir.foresee(n)
        for i in rng.permutation(len(parts)):
            reservoir.look(firsts[i], parts[i])
        assert reservoir.whole == expected.whole
        np.testing.assert_array_equal(reservoir.rows(), expected.rows())


def test_rows_beyond_those_foreseen_are_sampled_too():
    expected, reservoir = (Reservoir(64) for _ in range(2))
    reservoir.foresee(3000)
    rows = numbered(10_000)
    for lo in range(0, 10_000, 700):
        expected.look(lo, rows[lo : lo + 700])
        reservoir.look(lo, rows[lo : lo + 700])
    np.testing.assert_array_equal(reservoir.rows(), expected.rows())
