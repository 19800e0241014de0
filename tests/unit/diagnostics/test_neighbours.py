"""Neighbours: set by hand, found by scikit-learn and faiss, by brute force in float64; ties; shares of each side."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fastrealign import diagnostics as D
from fastrealign.core.errors import InputError
from fastrealign.data.sources import open_rows
from fastrealign.diagnostics import search
from fastrealign.diagnostics.neighbours import binary_entropy, foreign_share, kept_share, permuted_entropy
from fastrealign.diagnostics.search import Nearest, nearest


@pytest.fixture(params=search.ENGINES)
def engine(request):
    if request.param == "faiss":
        pytest.importorskip("faiss")
    return request.param


def on_circle(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def found_in(queries, pool, k, **options):
    return nearest(queries, open_rows(pool, "source"), k, **options)


def by_brute_force(queries, pool, k, own=None):
    """In float64, ties to 1e-12 by number."""
    cosines = np.rint(queries @ pool.T * 2**40)
    if own is not None:
        cosines[np.arange(len(queries)), own] = -(2.0**50)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :k]


# --- nearest ---------------------------------------------------------------------------------------------------------


def test_neighbours_set_by_hand(engine):
    pool = on_circle(0, 10, 25, 180, 100)
    found = found_in(on_circle(8, 170), pool, 3, engine=engine)
    assert found.numbers.tolist() == [[1, 0, 2], [3, 4, 2]]
    np.testing.assert_allclose(found.cosines[0], np.cos(np.radians([2, 8, 17])), atol=1e-12)
    itself = found_in(pool, pool, 2, own=np.arange(5), engine=engine)
    assert itself.numbers.tolist() == [[1, 2], [0, 2], [1, 0], [4, 2], [2, 3]]


def test_of_a_tie_the_lower_number_is_nearer(engine):
    pool = on_circle(20, 40, 0, 20, 20, 40)
    assert found_in(on_circle(20), pool, 5, engine=engine).numbers.tolist() == [[0, 3, 4, 1, 2]]
    assert found_in(pool[3:4], pool, 3, own=np.array([3]), engine=engine).numbers.tolist() == [[0, 4, 1]]


def test_they_are_those_of_brute_force(spherical, engine, monkeypatch):
    monkeypatch.setattr(search, "POOL_ROWS", 256)  # several blocks, the last one shorter
    pool = spherical(1500, 24, offset=0.5)
    own = np.arange(0, 1500, 7)
    expected = by_brute_force(pool[own], pool, 15, own)
    for rows in (pool, [pool[:100], pool[100:]]):
        np.testing.assert_array_equal(found_in(pool[own], rows, 15, own=own, engine=engine).numbers, expected)
    queries = spherical(100, 24, offset=0.2)
    found = found_in(queries, pool, 15, engine=engine)
    np.testing.assert_array_equal(found.numbers, by_brute_force(queries, pool, 15))
    np.testing.assert_allclose(found.cosines, np.take_along_axis(queries @ pool.T, found.numbers, 1), atol=1e-12)


def test_they_are_those_of_other_libraries(spherical):
    pool, queries = spherical(800, 16), spherical(50, 16)
    found = found_in(queries, pool, 10).numbers
    sklearn = pytest.importorskip("sklearn.neighbors")
    model = sklearn.NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(pool)
    np.testing.assert_array_equal(np.sort(found), np.sort(model.kneighbors(queries, return_distance=False)))
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(16)
    index.add(pool.astype(np.float32))
    np.testing.assert_array_equal(np.sort(found), np.sort(index.search(queries.astype(np.float32), 10)[1]))


@pytest.mark.parametrize("spread", [1e-3, 1e-4, 1e-6])
def test_rows_too_close_for_float32(rng, engine, spread, monkeypatch):
    """Cosines that differ by less than float32 can tell are put in order in float64; at 1e-6 they differ by a tie or two."""
    monkeypatch.setattr(search, "POOL_ROWS", 512)
    rows = np.ones(8) + spread * rng.standard_normal((2000, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    own = np.arange(0, 2000, 50)
    found = found_in(rows[own], rows, 10, own=own, engine=engine)
    expected = by_brute_force(rows[own], rows, 10, own)
    if spread > 1e-5:
        np.testing.assert_array_equal(found.numbers, expected)
    cosines = np.take_along_axis(rows[own] @ rows.T, expected, 1)
    np.testing.assert_allclose(found.cosines, cosines, rtol=0, atol=2**-39)
    assert all(len(set(row)) == 10 for row in found.numbers.tolist())


def test_many_rows_of_each_kind(rng, engine, monkeypatch):
    """A hundred copies of each of 20 rows: neighbours are the copies with the lowest numbers, then the next kind's."""
    monkeypatch.setattr(search, "POOL_ROWS", 300)
    kinds = rng.standard_normal((20, 6))
    rows = (kinds / np.linalg.norm(kinds, axis=1, keepdims=True))[rng.permutation(np.repeat(np.arange(20), 100))]
    own = np.arange(0, 2000, 13)
    for k in (30, 99, 120):
        found = found_in(rows[own], rows, k, own=own, engine=engine).numbers
        np.testing.assert_array_equal(found, by_brute_force(rows[own], rows, k, own))


def test_identical_rows(engine):
    rows = np.ones((60, 4)) / 2
    found = found_in(rows[[0, 30]], rows, 5, own=np.array([0, 30]), engine=engine)
    assert found.numbers.tolist() == [[1, 2, 3, 4, 5], [0, 1, 2, 3, 4]]


def test_all_there_are(engine):
    pool = on_circle(0, 90, 40)
    assert found_in(on_circle(50), pool, 3, engine=engine).numbers.tolist() == [[2, 1, 0]]
    assert found_in(pool[:1], pool, 2, own=np.array([0]), engine=engine).numbers.tolist() == [[2, 1]]


def test_what_nearest_refuses(monkeypatch):
    pool = on_circle(0, 1, 2, 3)
    for k, own in ((5, None), (4, np.array([0]))):
        with pytest.raises(InputError, match=f"source: 4 rows, expected more for k={k} neighbours"):
            found_in(pool[:1], pool, k, own=own)
    with pytest.raises(InputError, match="engine='annoy': expected one of faiss, numpy"):
        found_in(pool, pool, 2, engine="annoy")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match="pip install faiss-cpu"):
        found_in(pool, pool, 2, engine="faiss")


def test_a_faiss_that_cannot_be_imported(spherical, monkeypatch, tmp_path):
    """NumPy searches instead, unless faiss was asked for."""
    (tmp_path / "faiss.py").write_text("raise AttributeError('built for another NumPy')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.setattr(search, "FEW", 0)
    x, y = spherical(50, 6), spherical(60, 6)
    assert D.mixing(x, y, k=5) == D.mixing(x, y, k=5, engine="numpy")
    with pytest.raises(InputError, match=r"engine='faiss': .*built for another NumPy.*pip install faiss-cpu"):
        D.mixing(x, y, k=5, engine="faiss")


# --- mixing and support balance --------------------------------------------------------------------------------------


def test_shares_set_by_hand():
    own = Nearest(np.array([[4, 5, 6]] * 2), np.array([[0.9, 0.5, 0.1], [0.9, 0.8, 0.7]]))
    other = Nearest(np.array([[1, 2, 3]] * 2), np.array([[0.95, 0.5, 0.2], [0.1, 0.0, -1]]))
    assert foreign_share(own, other, 3).tolist() == [pytest.approx(1 / 3), 0]  # of the tie at 0.5 the own row is nearer
    assert foreign_share(own, other, 4).tolist() == [0.5, 0.25]
    after = Nearest(np.array([[6, 9, 4], [7, 8, 9]]), own.cosines)
    assert kept_share(own, after).tolist() == [pytest.approx(2 / 3), 0]


def test_mixing_set_by_hand():
    """x at 0, 1, 2 degrees; y at 2.4, 90, 91, 92: only the first of y is among x."""
    x, y = on_circle(0, 1, 2), on_circle(2.4, 90, 91, 92)
    found = D.mixing(x, y, k=1, rows=None)
    # 0 -> 1, 1 -> 0 (tie with 2 by number), 2 -> y at 2.4; 2.4 -> x at 2, the others among themselves.
    assert (found.share_x.value, found.share_y.value) == (pytest.approx(1 / 3), pytest.approx(1 / 4))
    assert found.rate == D.Estimate(pytest.approx(2 / 7), 0.0, 7, None)


@pytest.mark.parametrize("sizes", [(300, 300), (400, 150)])
def test_mixing_is_that_of_all_rows_together(spherical, sizes, engine):
    NearestNeighbors = pytest.importorskip("sklearn.neighbors").NearestNeighbors
    x, y = spherical(sizes[0], 10, offset=0.6), spherical(sizes[1], 10, offset=0.4)
    both = np.concatenate([x, y])
    is_y = np.arange(len(both)) >= len(x)
    found = NearestNeighbors(n_neighbors=20, metric="cosine", algorithm="brute").fit(both).kneighbors(None)[1]
    foreign = (is_y[found] != is_y[:, None]).mean(axis=1)
    mixed = D.mixing(x, y, rows=None, engine=engine)
    assert mixed.rate.value == pytest.approx(foreign.mean())
    assert (mixed.share_x.value, mixed.share_y.value) == (
        pytest.approx(foreign[~is_y].mean()),
        pytest.approx(foreign[is_y].mean()),
    )
    assert mixed.k == 20
    for side, found_balance in ((~is_y, mixed.balance_x), (is_y, mixed.balance_y)):
        assert found_balance.value == pytest.approx(balance(foreign, side, 20), rel=1e-12)


def balance(foreign, side, k):
    """M_k of the rows of one side: entropies in SciPy's words, over that of neighbours drawn without regard to labels."""
    stats = pytest.importorskip("scipy.stats")

    def entropy(p):
        return stats.entropy([p, 1 - p], base=2)

    others = stats.hypergeom(len(side) - 1, np.count_nonzero(~side), k)
    expected = sum(others.pmf(j) * entropy(j / k) for j in range(k + 1))
    return np.mean([entropy(p) for p in foreign[side]]) / expected


def test_support_balance_of_permuted_labels_is_one(spherical, rng):
    """Labels drawn at random, many times: the mean balance must be the 1 that it is divided by."""
    rows, n = spherical(240, 6), 90
    found = []
    for _ in range(40):
        drawn = rng.permutation(len(rows))
        mixed = D.mixing(rows[drawn[:n]], rows[drawn[n:]], k=8, rows=None)
        found.append((mixed.balance_x.value, mixed.balance_y.value))
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert np.all(np.abs(np.mean(found, axis=0) - 1) < 4 * error) and np.all(error < 0.01)


def test_support_balance_set_by_hand():
    # k = 20 of two large sides of one size: the figure that the paper states.
    assert permuted_entropy(100_000, 100_000, 20) == pytest.approx(0.962, abs=1e-3)
    # Of 3 rows beside the own one, 1 is of the other side: 2 neighbours have it with a probability of 2/3, and one bit then.
    assert permuted_entropy(3, 1, 2) == pytest.approx(2 / 3)
    assert binary_entropy(np.array([0.0, 0.5, 1.0, 0.25])).tolist() == [0, 1, 0, pytest.approx(2 - 0.75 * np.log2(3))]
    # Sides that swap places: every neighbour foreign, so the share is 1, and the balance 0.
    angles = np.arange(0.0, 360, 10)
    swapped = D.mixing(on_circle(*angles), on_circle(*(angles + 0.1)), k=1, rows=None)
    assert (swapped.rate.value, swapped.balance_x, swapped.balance_y) == (1.0, None, None)
    apart = D.mixing(on_circle(0, 1, 2, 3), on_circle(90, 91, 92, 93), k=3, rows=None)
    assert (apart.balance_x.value, apart.balance_y.value) == (0.0, 0.0)


def test_one_sided_noise_is_seen_from_the_other_side(spherical, rng):
    """What the support balance is for: noise on one side raises the share of its own rows and lowers the other's."""
    rows = spherical(1200, 30, offset=1.5)
    noisy = rows[600:] + rng.standard_normal((600, 30)) / np.sqrt(30)
    even, found = D.mixing(rows[:600], rows[600:], rows=None), D.mixing(rows[:600], noisy, rows=None)
    assert found.share_x.value < 0.05 and found.share_y.value > 0.7
    assert found.balance_x.value < 0.15 and 0.4 < found.balance_y.value < 0.8
    assert even.balance_x.value == pytest.approx(1, abs=0.05) == pytest.approx(even.balance_y.value, abs=0.05)


def test_clouds_of_one_kind_mix_and_clouds_apart_do_not(rng):
    a, b = rng.standard_normal((2, 600, 8))
    assert D.mixing(a, b).rate.value == pytest.approx(0.5, abs=0.03)
    far = np.eye(8)[0] * 40
    assert D.mixing(a + far, b - far).rate.value == 0
    assert D.mixing(a, a[::-1], rows=None).rate.value == pytest.approx(0.5, abs=0.03)


def test_the_error_of_mixing_is_that_of_repeated_sampling(cloud):
    x, y = cloud(1500, 8, offset=0.6), cloud(1500, 8, offset=0.5)
    whole = D.mixing(x, y, k=10, rows=None)
    found = [D.mixing(x, y, k=10, rows=200, seed=seed) for seed in range(30)]
    for name in ("rate", "share_x", "share_y", "balance_x", "balance_y"):
        values = [getattr(m, name) for m in found]
        spread = np.std([e.value for e in values], ddof=1)
        assert 0.6 < np.mean([e.error for e in values]) / spread < 1.6
        assert np.mean([e.value for e in values]) == pytest.approx(getattr(whole, name).value, abs=5 * spread / 5)
    assert found[3].rate.seed == 3 and (found[3].share_x.n, found[3].rate.n) == (200, 400)
    assert whole.rate.error == 0


def test_small_sides():
    x, y = on_circle(0, 10), on_circle(100, 120, 140)
    assert D.mixing(x, y, k=4, rows=None).rate.value == pytest.approx((2 * 3 / 4 + 3 * 2 / 4) / 5)
    with pytest.raises(InputError, match="2 and 3 rows, expected more for k=5"):
        D.mixing(x, y, k=5)
    with pytest.raises(InputError, match="k=0"):
        D.mixing(x, y, k=0)


# --- overlap ---------------------------------------------------------------------------------------------------------


def test_overlap(spherical, rng, engine):
    before = spherical(400, 9)
    turned = before @ np.linalg.qr(rng.standard_normal((9, 9)))[0]
    assert D.overlap(before, turned, rows=None, engine=engine) == D.Estimate(1.0, 0.0, 400, None)
    chance = D.overlap(before, spherical(400, 9), rows=None, engine=engine).value
    assert chance == pytest.approx(10 / 399, abs=0.02)
    near = before + 0.05 * rng.standard_normal(before.shape)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    a, b = (by_brute_force(rows, rows, 10, np.arange(400)) for rows in (before, near))
    expected = np.mean([len(set(p) & set(q)) / 10 for p, q in zip(a.tolist(), b.tolist(), strict=True)])
    assert D.overlap(before, near, rows=None, engine=engine).value == pytest.approx(expected)


def test_overlap_of_a_sample(cloud, rng):
    before = cloud(1200, 12)
    after = before + 0.1 * rng.standard_normal(before.shape)
    whole = D.overlap(before, after, rows=None).value
    found = [D.overlap(before, after, rows=150, seed=seed) for seed in range(30)]
    spread = np.std([e.value for e in found], ddof=1)
    assert 0.6 < np.mean([e.error for e in found]) / spread < 1.6
    assert np.mean([e.value for e in found]) == pytest.approx(whole, abs=spread)


def test_overlap_needs_pairs(spherical):
    rows = spherical(60, 5)
    with pytest.raises(InputError, match=r"neighbourhood overlap needs pairs.*60 rows, source 59"):
        D.overlap(rows, rows[1:])
    with pytest.raises(InputError, match="expected more for k=10 neighbours"):
        D.overlap(rows[:10], rows[:10])
