"""Fits on a random sample of blocks: what they certify holds, also where shards are sorted by topic."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

import fastrealign as fr
from fastrealign.core import ops, reference
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import UNIT
from fastrealign.data import cluster_sampling, error_bound
from fastrealign.data.options import PassOptions
from fastrealign.data.reduction import reduce_source
from fastrealign.data.row_source import Piece
from fastrealign.data.sources import open_rows
from fastrealign.data.strata import Strata
from fastrealign.data.workers import Workers
from fastrealign.methods import certified


def by_topic(rng, topics, rows, d, spread=0.6):
    """Rows sorted by topic: those of one topic lie around a centre of its own."""
    centre = rng.standard_normal(d) / np.sqrt(d)
    parts = [
        centre + spread * rng.standard_normal(d) / np.sqrt(d) + 0.5 * rng.standard_normal((rows, d)) / np.sqrt(d)
        for _ in range(topics)
    ]
    return np.concatenate(parts).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(cluster_sampling, "BLOCK_BYTES", 1024)


def left_by(alignment, y, x):
    """The gap that the alignment leaves between all rows, in float64."""
    mapped = reference.row_map(y, alignment.s, alignment.b, alignment.c)
    return np.linalg.norm(mapped.mean(axis=0) - reference.project(x).mean(axis=0))


@pytest.mark.parametrize("centroid", ["paper", "exact"])
def test_what_is_certified_holds(rng, small_blocks, centroid):
    y, x = by_topic(rng, 40, 1000, 16), by_topic(rng, 30, 1000, 16)
    found = fr.fit(y, x, tol=0.2, confidence=0.99, centroid=centroid, seed=3)
    sampling = found.sampling
    assert sampling.how == "certified" and sampling.bound <= 0.2 and sampling.confidence == 0.99 and sampling.seed == 3
    assert 0 < sampling.rows_source < sampling.of_source == 40_000
    assert 0 < sampling.rows_target < sampling.of_target == 30_000
    assert (found.count_source, found.count_target) == (sampling.rows_source, sampling.rows_target)
    assert left_by(found, y, x) <= found.gap_left + sampling.bound
    if centroid == "exact":
        assert found.gap_left < 1e-9


def test_a_tighter_bound_reads_more_and_in_the_end_everything(rng, small_blocks):
    y, x = by_topic(rng, 40, 1000, 16), by_topic(rng, 30, 1000, 16)
    read = [fr.fit(y, x, tol=tol).sampling.rows_source for tol in (0.2, 0.1, 1e-6)]
    assert read[0] < read[1] < read[2] == 40_000
    whole, expected = fr.fit(y, x, tol=1e-6), fr.fit(y, x)
    assert whole.sampling.bound == whole.sampling.error == 0.0
    assert whole.c.tobytes() == expected.c.tobytes() and whole.s == expected.s
    assert whole.gap_left == pytest.approx(expected.gap_left, abs=1e-12)


def test_a_small_source_is_read_whole(rng):
    y, x = by_topic(rng, 4, 100, 8), by_topic(rng, 4, 100, 8)
    found = fr.fit(y, x, tol=10.0)
    assert found.sampling.rows_source == 400 and found.sampling.bound == 0.0


def test_the_bound_covers_at_least_as_often_as_stated(rng, small_blocks, monkeypatch):
    """100 seeds, here with float64 NumPy as the judge; the slow test has 500, and more confidences."""
    assert share_covered(rng, monkeypatch, 0.8, 100) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95, 0.99])
def test_the_bound_covers_at_least_as_often_as_stated_over_500_seeds(rng, small_blocks, monkeypatch, confidence):
    assert share_covered(rng, monkeypatch, confidence, 500) >= confidence


def share_covered(rng, monkeypatch, confidence, seeds):
    """Sorted by topic, a topic many blocks long, and one direction in which topics differ most: the hardest for a bound.

    How many blocks a bound takes is chance too: a draw that ends in reading everything certifies nothing, and is not judged.
    """
    d = 8
    y, x = by_topic(rng, 25, 640, d), by_topic(rng, 25, 640, d)
    y[:8000] += np.float32(0.5) * np.eye(d, dtype=np.float32)[0]
    unit_mean = reference.project(x).mean(axis=0)
    covered = sampled = 0
    tol = 0.2 if confidence < 0.95 else 0.25 if confidence < 0.99 else 0.4
    for seed in range(seeds):
        found = fr.fit(y, x, tol=tol, confidence=confidence, seed=seed)
        if found.sampling.rows_source == len(y):
            continue
        sampled += 1
        left = np.linalg.norm(reference.row_map(y, found.s, found.b, found.c).mean(axis=0) - unit_mean)
        covered += left <= found.gap_left + found.sampling.bound
    assert sampled > 0.8 * seeds
    return covered / sampled


def test_the_sample_is_the_same_for_threads_and_any_order_of_shards(rng, small_blocks, tmp_path):
    y, x = by_topic(rng, 40, 500, 16), by_topic(rng, 40, 500, 16)
    paths = []
    for i, part in enumerate(np.split(y, [300, 301, 15_000])):
        paths.append(tmp_path / f"part_{i}.npy")
        np.save(paths[-1], part)
    expected = fr.fit(paths, x, tol=0.2, threads=1)
    assert expected.sampling.rows_source < len(y)
    for source in (paths[::-1], tmp_path):
        found = fr.fit(source, x, tol=0.2, threads=3)
        assert found.c.tobytes() == expected.c.tobytes()
        assert found.sampling == expected.sampling and found.gap_left == expected.gap_left
    other = fr.fit(paths, x, tol=0.2, seed=1)
    assert other.c.tobytes() != expected.c.tobytes()


def test_every_stretch_of_rows_is_in_the_sample_with_the_same_share(small_blocks):
    source = open_rows(np.ones((10_000, 16), np.float32), "source")
    drawn = Strata(source, (5, 0)).draw(0.1)
    pieces = list(drawn.pieces())
    assert len(set(pieces)) == len(pieces) == 2 * 32 and drawn.rows == 1000
    assert all(0 < piece.hi - piece.lo <= 16 for piece in pieces)
    assert [block.stratum for block in drawn.blocks.values()] == [i // 2 for i in range(64)]
    assert {block.of for block in drawn.blocks.values()} == {20}
    assert all((piece.lo + piece.hi) * 16 // 10_000 == i // 2 for i, piece in enumerate(pieces))
    assert list(Strata(source, (5, 0)).draw(0.1).pieces()) == pieces
    assert list(Strata(source, (6, 0)).draw(0.1).pieces()) != pieces
    assert Strata(source, (5, 0)).draw(0.51).whole and not Strata(source, (5, 0)).draw(0.5).whole


def test_every_block_and_every_pair_of_a_stratum_is_drawn_equally_often(small_blocks):
    source = open_rows(np.ones((160, 16), np.float32), "source")
    pairs = Counter(tuple(piece.lo for piece in Strata(source, (seed, 0)).draw(0.4).pieces()) for seed in range(4000))
    assert len(pairs) == 10 * 10  # two strata of five blocks
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-4


def shards_of(tmp_path, sizes, d=16):
    """Files of so many rows, whose entries are the number of the file."""
    for i, size in enumerate(sizes):
        np.save(tmp_path / f"{i:05}.npy", np.full((size, d), float(i + 1), np.float32))
    return open_rows(tmp_path, "source")


def test_a_stratum_lies_in_one_shard_and_each_shard_is_drawn_with_its_share(small_blocks, tmp_path):
    sizes = [4000, 1000, 2500, 320]
    drawn = Strata(shards_of(tmp_path, sizes), (0, 0)).draw(0.1)
    rows, strata = Counter(), {}
    for piece, block in drawn.blocks.items():
        rows[piece.shard] += piece.hi - piece.lo
        strata.setdefault(block.stratum, set()).add(piece.shard)
    assert all(len(shards) == 1 for shards in strata.values())
    assert [rows[i] for i in range(4)] == pytest.approx([0.1 * size for size in sizes], abs=2)


def test_shards_smaller_than_a_stratum_are_drawn_in_runs_of_neighbours(small_blocks, tmp_path):
    """Each shard is a block: two are drawn of every 20, and of what is left at the end with the others."""
    drawn = Strata(shards_of(tmp_path, [7] * 205), (0, 0)).draw(0.1)
    strata = {}
    for piece, block in drawn.blocks.items():
        assert (piece.lo, piece.hi) == (0, 7)
        strata.setdefault(block.stratum, []).append(piece.shard)
    assert len(strata) == 10 and all(len(shards) == 2 for shards in strata.values())
    assert all(20 * i <= shard < 20 * (i + 1) for i in range(9) for shard in strata[i])
    assert all(180 <= shard < 205 for shard in strata[9])
    assert [block.of for block in drawn.blocks.values()] == [20] * 18 + [25] * 2


def test_what_differs_between_shards_costs_nothing(small_blocks, tmp_path):
    """Shards far apart, each of equal rows: the mean of any sample is that of all rows."""
    rng = np.random.default_rng(0)
    for i in range(40):
        np.save(tmp_path / f"{i}.npy", np.tile(rng.standard_normal(16), (640, 1)).astype(np.float32))
    source = open_rows(tmp_path, "source")
    sample = Strata(source, (0, 0)).draw(0.1)
    spread = cluster_sampling.measure_spread(sample, UNIT, "spread", PassOptions())
    whole, _ = reduce_source(source, UNIT, "mean")
    np.testing.assert_allclose(spread.mean, whole.mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(spread.errors, 0.0, atol=1e-12)
    assert sample.rows < source.rows / 9


def test_formats_that_are_read_in_order_are_drawn_whole(rng, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    for i in range(300):
        rows = rng.standard_normal((5 + i % 3, 4)) + np.array([3, 0, 0, 0])
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel(), pa.float32()), 4)
        pq.write_table(pa.table({"embedding": column}), tmp_path / f"part_{i}.parquet")
    x = rng.standard_normal((100, 4))
    found = fr.fit(tmp_path, x, tol=0.5)
    assert found.sampling.rows_source < found.sampling.of_source == sum(5 + i % 3 for i in range(300))
    assert found.sampling.rows_target == 100


def test_the_covariance_is_that_of_the_error_of_the_mean(rng):
    """Unequal blocks in unequal strata, drawn many times: the covariance of the error against what Spread says of it."""
    d, strata = 3, [int(n) for n in rng.integers(2, 12, 30)]
    sizes = [rng.integers(5, 30, n) for n in strata]
    centres = rng.standard_normal((len(strata), 1, d)) + np.array([2, 0, 0])
    totals = [
        size[:, None] * (centre + 0.5 * rng.standard_normal((len(size), d)) * [1.0, 2.0, 0.5])
        for size, centre in zip(sizes, centres, strict=True)
    ]
    truth = sum(total.sum(axis=0) for total in totals) / sum(size.sum() for size in sizes)
    errors, said = [], []
    for _ in range(2000):
        spread = cluster_sampling.Spread(d)
        for i, (total, size) in enumerate(zip(totals, sizes, strict=True)):
            for sign, j in zip((1, -1), rng.permutation(len(size))[:2], strict=True):
                block = cluster_sampling.Block(Piece(0, 0, 1, 0), i, len(size), sign if len(size) > 2 else 0)
                spread.add(total[j], int(size[j]), block)
        errors.append(spread.mean - truth)
        said.append(spread.errors.T @ spread.errors)
    scale = np.trace(np.mean(said, axis=0))
    np.testing.assert_allclose(np.mean(said, axis=0), np.cov(np.transpose(errors)), atol=0.1 * scale)
    assert np.linalg.norm(np.mean(errors, axis=0)) < 0.1 * math.sqrt(scale)


@pytest.mark.parametrize("max_memory", [None, 200_000])
def test_the_gap_left_is_measured_whatever_the_memory(rng, tmp_path, max_memory):
    """A sample that became the whole source is read in pieces as small as the buffers."""
    y, x = by_topic(rng, 10, 300, 64), by_topic(rng, 10, 300, 64)
    np.save(tmp_path / "y.npy", y)
    found = fr.fit(tmp_path / "y.npy", x, tol=1e-6, max_memory=max_memory, threads=2)
    assert found.gap_left == pytest.approx(fr.fit(y, x).gap_left, rel=1e-9)


def test_blocks_larger_than_the_buffers_are_read(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_sampling, "SMALL_BLOCK_BYTES", 96 << 10)
    y, x = by_topic(rng, 100, 1000, 64), by_topic(rng, 100, 1000, 64)
    np.save(tmp_path / "y.npy", y)
    found, expected = (fr.fit(tmp_path / "y.npy", x, tol=0.5, max_memory=memory) for memory in (128 << 10, None))
    assert found.sampling.rows_source < len(y) and found.fingerprint == expected.fingerprint


@pytest.mark.parametrize("freedom", [1.5, 12.0, 256.0])
@pytest.mark.parametrize("terms", [1.0, 2.5, 60.0])
def test_quantiles_of_f(terms, freedom):
    exceeded = np.array([0.9, 0.5, 0.1, 1e-2, 1e-4])
    found = error_bound._quantile(exceeded, terms, freedom)
    np.testing.assert_allclose(found, stats.f.isf(exceeded, terms, freedom), rtol=1e-3)


SPECTRA = {
    "one direction": np.ones(1),
    "one above many": np.array([0.5, *[0.5 / 60] * 60]),
    "many": np.full(64, 1 / 64),
    "falling": np.arange(1.0, 200.0) ** -1.3,
}


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_a_normal_error_exceeds_the_bound_as_often_as_allowed_whatever_was_missed(rng, spectrum):
    variances = SPECTRA[spectrum] / SPECTRA[spectrum].sum()
    errors = np.sqrt(variances) * rng.standard_normal((100_000, len(variances)))
    squares, along = np.square(errors).sum(axis=1), errors[:, 0]  # the first direction has the largest variance
    for reach, allowed in itertools.product((0.0, 0.2, 1.0), (0.1, 0.01)):
        bound = error_bound.ErrorBound(variances, 1e4, reach).at(allowed)
        fails = [
            math.exp(-missed) * (squares + 2.0 * missed * reach * along + (missed * reach) ** 2 > bound**2).mean()
            for missed in np.linspace(0.0, -math.log(allowed), 60)[:-1]
        ]
        assert 0.5 * allowed < max(fails) < 1.15 * allowed, (reach, allowed)


def test_few_strata_that_stand_out_leave_few_degrees_of_freedom(rng):
    """One direction, n strata: Student's t, at least. Then the same with one stratum that outweighs the others."""
    errors = np.ones((40, 1)) * rng.choice([-1.0, 1.0], (40, 1))
    known = error_bound.ErrorBound.of(errors, 0.0)
    assert known.freedom == pytest.approx(40.0)
    assert known.at(0.05) == pytest.approx(stats.t.ppf(0.975, 40) * math.sqrt(40), rel=2e-3)
    errors[7] = 60.0
    odd = error_bound.ErrorBound.of(errors, 0.0)
    assert odd.freedom < 1.1 and odd.at(0.05) > 8.0 * 60.0


def test_no_error_and_nothing_missed_is_no_bound_and_the_bound_is_rounded_up():
    assert error_bound.ErrorBound.of(np.zeros((0, 5)), 0.0).at(0.01) == 0.0
    exact = math.sqrt(stats.chi2.isf(0.05, 1))
    assert error_bound.ErrorBound(np.ones(1), 1e4, 0.0).at(0.05) in (1.961, 1.96) and exact <= 1.961
    # Rows that are all alike: what was missed lies on the other side.
    assert error_bound.ErrorBound.of(np.zeros((9, 5)), 0.01).at(0.05) == pytest.approx(0.01 * math.log(20), rel=1e-3)


def spread_of(sample, size):
    """Of a sample, all whose blocks but two are alike: the error of the mean is about `size`, along one direction."""
    spread = cluster_sampling.Spread(16)
    blocks = list(sample.blocks.values())
    for block in blocks:
        rows = block.piece.hi - block.piece.lo
        off = size * len(blocks) * np.eye(16)[0] * block.sign if block is blocks[0] else 0.0
        spread.add(rows * (np.eye(16)[1] + off), rows, block)
    return spread


def looks_at(*rows, wanted=0.1):
    return certified.Looks([open_rows(np.ones((n, 16), np.float32), "source") for n in rows], wanted, 0.9, 0)


def test_looking_again_spends_no_more_than_is_allowed(small_blocks):
    looks = looks_at(100_000)
    error = error_bound.ErrorBound(np.ones(1), 1e4, 0.0)
    spent, rows = [], []
    for _ in range(3):
        spent.append(2 * stats.norm.sf(looks.bound(error)))
        rows.append(looks.samples[0].rows)
        looks.widen({0: spread_of(looks.samples[0], 0.0)}, 1.5)
    np.testing.assert_allclose(spent, [0.05, 0.025, 0.0125], rtol=5e-3)
    assert rows[1] >= 1.45 * rows[0] and rows[2] >= 1.45 * rows[1]


def test_a_prediction_of_how_many_blocks_a_bound_takes(small_blocks):
    """Four times as many where the error decides, twice as many where a part that was missed does; for 0.9 of the bound."""
    for size, growth in ((1.0, 4.0), (0.0, 2.0)):
        looks = looks_at(1_000_000)
        spreads, rows = {0: spread_of(looks.samples[0], size)}, looks.samples[0].rows
        looks.widen(spreads, looks.error(spreads).at(0.025) / 1.8)
        assert looks.samples[0].rows / rows == pytest.approx(growth, rel=0.12)


def test_the_side_that_errs_more_grows_more(small_blocks):
    looks = looks_at(1_000_000, 1_000_000)
    before = [sample.rows for sample in looks.samples]
    spreads = {0: spread_of(looks.samples[0], 0.01), 1: spread_of(looks.samples[1], 1.0)}
    looks.widen(spreads, looks.error(spreads).at(0.025) / 2.0)
    after = [sample.rows for sample in looks.samples]
    assert after[0] < 1.2 * before[0] and after[1] > 3.5 * before[1]
    # Nothing but all of it is enough.
    looks.widen(spreads, 1e-9)
    assert looks.whole


def test_a_part_that_is_missed_holds_no_more_rows_than_is_said(rng, tmp_path):
    """Any group of blocks (shards of unequal size), one a stratum above all: none of it is drawn with a probability exp(-x)."""
    pytest.importorskip("pyarrow")
    sizes = rng.integers(1, 40, 200)
    for i, size in enumerate(sizes):
        parquet(tmp_path / f"part_{i:03}.parquet", rng.standard_normal((size, 4)), 1000)
    drawn = Strata(open_rows(tmp_path, "source"), (0, 0)).draw(0.2)
    strata = [range(10 * i, 10 * i + 10) for i in range(20)]
    assert {block.of for block in drawn.blocks.values()} == {10}
    for _ in range(200):
        groups = [rng.choice(stratum, rng.integers(0, 4), replace=False) for stratum in strata]
        missed = sum(math.log(math.comb(10 - len(group), 2) / math.comb(10, 2)) for group in groups)
        assert sizes[np.concatenate(groups)].sum() / sizes.sum() <= -missed * drawn.rarity
    largest = [stratum[int(np.argmax(sizes[stratum]))] for stratum in strata]
    assert sizes[largest].sum() / sizes.sum() > 0.8 * 20 * -math.log(0.8) * drawn.rarity
    assert Strata(open_rows(tmp_path, "source"), (0, 0)).draw(0.6).rarity == 0.0


def around(rng, centres, spread=0.3):
    """A row around each of these centres (n, d)."""
    return (centres + spread * rng.standard_normal(centres.shape) / np.sqrt(centres.shape[1])).astype(np.float32)


def rare_blocks(rng, d):
    """All alike, but for a run of 1 % of the rows that lie on the other side: most samples of 64 blocks see none or one."""
    y = np.tile(np.eye(d)[0], (64_000, 1))
    at = 16 * rng.integers(0, 3900)
    y[at : at + 640] *= -1
    return around(rng, y, 0.05)


def heavy_tails(rng, d):
    """Topics of very unequal length, their distances from the centre without a variance, along one direction."""
    lengths = np.ceil(20 * (1 + rng.pareto(1.1, 4000))).astype(int)
    lengths = lengths[np.cumsum(lengths) < 64_000]
    away = 0.1 * np.abs(rng.standard_t(1.2, len(lengths)))[:, None] * np.eye(d)[1]
    return around(rng, np.repeat(np.eye(d)[0] + away, lengths, axis=0))


def sorted_by_topic(rng, d):
    return by_topic(rng, 100, 640, d)


WORLDS = {"rare blocks": (rare_blocks, 0.1), "heavy tails": (heavy_tails, 0.15), "topics": (sorted_by_topic, 0.15)}


@pytest.mark.parametrize(
    ("seeds", "confidence"), [(40, 0.8), *(pytest.param(500, c, marks=pytest.mark.slow) for c in (0.8, 0.95))]
)
@pytest.mark.parametrize("world", WORLDS)
def test_the_bound_covers_what_few_blocks_hide(rng, small_blocks, world, seeds, confidence):
    make, tol = WORLDS[world]
    d = 16
    y, x = make(rng, d), around(rng, np.tile(np.eye(d)[2], (20_000, 1)), 0.1)
    assert covered(y, y, x, tol, confidence, seeds) >= confidence


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_bound_covers_for_few_shards_that_are_read_whole(rng, small_blocks, tmp_path, confidence):
    """200 shards of unequal length, each a block, sorted by topic; a few lie on the other side."""
    d = 8
    lengths = rng.integers(5, 60, 200)
    centres = np.eye(d)[0] + 0.2 * rng.standard_normal((200, d)) / np.sqrt(d)
    centres[50:53] *= -1
    parts = np.split(around(rng, np.repeat(centres, lengths, axis=0)), np.cumsum(lengths)[:-1])
    paths = [parquet(tmp_path / f"{i}.parquet", part, 1000) for i, part in enumerate(parts)]
    x = around(rng, np.tile(np.eye(d)[2], (20_000, 1)), 0.1)
    assert covered(paths, np.concatenate(parts), x, 0.3 if confidence < 0.9 else 0.4, confidence, 500) >= confidence


def covered(source, y, x, tol, confidence, seeds):
    """In what share of draws that read less than all of the source the bound held.

    The core computes the mean of all mapped rows, once compared with float64 NumPy.
    """
    unit_mean = reference.project(x).mean(axis=0)
    held = sampled = 0
    for seed in range(seeds):
        found = fr.fit(source, x, tol=tol, confidence=confidence, seed=seed, threads=1)
        if found.sampling.rows_source < len(y):
            mapped = ExactSum(y.shape[1])
            ops.reduce(y, found.row_map, mapped)
            left = np.linalg.norm(mapped.mean - unit_mean)
            if not sampled:
                assert left == pytest.approx(left_by(found, y, x), abs=1e-9)
            sampled += 1
            held += left <= found.gap_left + found.sampling.bound
    assert sampled > 0.8 * seeds
    return held / sampled


def test_bad_rows(rng, small_blocks):
    y, x = by_topic(rng, 40, 500, 16), by_topic(rng, 40, 500, 16)
    y[::7] = 0
    with pytest.raises(BadRowsError, match=r"source: row \d+ is all zeros"):
        fr.fit(y, x, tol=0.25)
    found = fr.fit(y, x, tol=0.25, bad_rows="skip")
    good = y.any(axis=1)
    assert left_by(found, y[good], x) <= found.gap_left + found.sampling.bound
    assert found.count_source < found.sampling.rows_source


def test_refused(rng):
    some = rng.standard_normal((100, 4))
    for options, says in (
        ({"tol": 0.0}, "tol=0.0: expected a number above 0"),
        ({"tol": float("nan")}, "tol=nan: expected a number above 0"),
        ({"tol": float("inf")}, "tol=inf: expected a number above 0, and finite"),
        ({"tol": 0.1, "seed": -1}, "seed=-1: expected a whole number from 0 to 2"),
        ({"tol": 0.1, "confidence": 1.0}, "confidence=1.0: expected a number from 0.5 to below 1"),
        ({"tol": 0.1, "one_pass": True}, "tol= samples the source, one_pass= reads all of it: choose one"),
    ):
        with pytest.raises(InputError, match=says):
            fr.fit(some, some[::-1] + 1.0, **options)
    with pytest.raises(
        InputError,
        match="source: chunks come in their own order, and a sample needs files or arrays; pass a path or an array",
    ):
        fr.fit([some, some], some, tol=0.1)


def test_threads_do_not_change_the_spread(rng, tmp_path, small_blocks):
    y = by_topic(rng, 10, 500, 16)
    np.save(tmp_path / "y.npy", y)
    drawn = Strata(open_rows(tmp_path, "source"), (0, 0)).draw(0.2)
    ways = [PassOptions("error", Workers.of(threads)) for threads in (1, 2, 5)]
    results = [cluster_sampling.measure_spread(drawn, UNIT, "spread", options) for options in ways]
    assert len({spread.errors.tobytes() for spread in results}) == 1
    assert len({spread.mean.tobytes() for spread in results}) == 1


def parquet(path, rows, group):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    pq.write_table(pa.table({"embedding": values}), path, row_group_size=group)
    return path


def test_row_groups_of_a_parquet_file_are_drawn_singly(rng, small_blocks, tmp_path):
    y, x = by_topic(rng, 40, 500, 16), by_topic(rng, 40, 500, 16)
    whole = parquet(tmp_path / "text.parquet", y, 20)
    found = fr.fit(whole, x, tol=0.3, threads=1)
    sampling = found.sampling
    assert 64 * 20 <= sampling.rows_source < sampling.of_source == len(y) and sampling.rows_source % 20 == 0
    assert left_by(found, y, x) <= found.gap_left + sampling.bound
    assert fr.fit(whole, x, tol=0.3, threads=3).c.tobytes() == found.c.tobytes()
    # The rows that were read are those of whole groups.
    drawn = Strata(open_rows(whole, "source"), (0, 0)).draw(0.07)
    for piece in drawn.pieces():
        assert piece.lo % 20 == 0 and piece.hi - piece.lo == 20
        (lo, read), *more = drawn.chunks(piece, np.empty(1 << 20, np.uint8))
        assert lo == piece.lo and not more
        np.testing.assert_array_equal(read, y[piece.lo : piece.hi])
        parts = list(drawn.chunks(piece, np.empty(6 * 16 * 4, np.uint8)))
        assert [lo for lo, _ in parts] == list(range(piece.lo, piece.hi, 6))
        np.testing.assert_array_equal(np.concatenate([rows for _, rows in parts]), y[piece.lo : piece.hi])


def test_parquet_in_any_order_of_shards(rng, small_blocks, tmp_path):
    y, x = by_topic(rng, 40, 500, 16), by_topic(rng, 40, 500, 16)
    paths = [
        parquet(tmp_path / f"part_{i}.parquet", part, group)
        for i, (part, group) in enumerate(zip(np.split(y, [300, 301, 15_000]), (70, 5, 40, 33), strict=True))
    ]
    expected = fr.fit(paths, x, tol=0.3, threads=1)
    assert expected.sampling.rows_source < len(y)
    for source in (paths[::-1], tmp_path):
        found = fr.fit(source, x, tol=0.3, threads=3)
        assert found.c.tobytes() == expected.c.tobytes() and found.sampling == expected.sampling


def test_small_row_groups_are_drawn_together(rng, small_blocks, tmp_path):
    """A block has at least BLOCK_BYTES, here 16 rows, and ends where a group does."""
    y = by_topic(rng, 1, 1007, 16)
    source = open_rows(parquet(tmp_path / "y.parquet", y, 5), "source")
    drawn = [Strata(source, (seed, 0)).draw(0.5) for seed in range(20)]
    pieces = sorted({piece for sample in drawn for piece in sample.pieces()}, key=lambda piece: piece.lo)
    assert [piece.hi - piece.lo for piece in pieces] == [20] * 50 + [7]
    assert [piece.lo for piece in pieces] == list(range(0, 1007, 20))
    read = [np.concatenate([r for _, r in source.chunks(p, np.empty(1 << 20, np.uint8))]) for p in pieces]
    np.testing.assert_array_equal(np.concatenate(read), y)


def test_row_groups_of_a_block_give_what_the_blocks_of_an_array_give(rng, small_blocks, tmp_path):
    """So that what is tested of arrays, how often the bound covers above all, is tested of row groups."""
    y = by_topic(rng, 25, 640, 8)
    path = parquet(tmp_path / "y.parquet", y, 32)
    of_groups, of_array = (Strata(open_rows(source, "source"), (0, 0)).draw(0.1) for source in (path, y))
    assert list(of_groups.pieces()) == list(of_array.pieces()) and of_groups.rarity == of_array.rarity
    one, other = (cluster_sampling.measure_spread(s, UNIT, "spread", PassOptions()) for s in (of_groups, of_array))
    assert one.mean.tobytes() == other.mean.tobytes() and one.errors.tobytes() == other.errors.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_bound_covers_for_row_groups_of_unequal_size(rng, small_blocks, tmp_path, confidence):
    """As for arrays: topics in a row, each many groups long."""
    y, x = by_topic(rng, 25, 640, 8), by_topic(rng, 25, 640, 8)
    y[:8000] += np.float32(0.5) * np.eye(8, dtype=np.float32)[0]
    parts = [(y[:7000], 40), (y[7000:9000], 70), (y[9000:], 51)]
    source = [parquet(tmp_path / f"{i}.parquet", *part) for i, part in enumerate(parts)]
    unit_mean = reference.project(x).mean(axis=0)
    covered = sampled = 0
    for seed in range(200):
        found = fr.fit(source, x, tol=0.2 if confidence < 0.95 else 0.3, confidence=confidence, seed=seed)
        if found.sampling.rows_source < len(y):
            sampled += 1
            left = np.linalg.norm(reference.row_map(y, found.s, found.b, found.c).mean(axis=0) - unit_mean)
            covered += left <= found.gap_left + found.sampling.bound
    assert sampled > 150 and covered / sampled >= confidence


def test_a_row_without_a_direction_in_a_row_group(rng, small_blocks, tmp_path):
    y, x = by_topic(rng, 40, 500, 16), by_topic(rng, 40, 500, 16)
    y[::100] = 0
    path = parquet(tmp_path / "y.parquet", y, 100)
    with pytest.raises(BadRowsError, match=r"y\.parquet: row (0|\d+00) is all zeros"):
        fr.fit(path, x, tol=0.3)


def test_a_run_says_what_it_was_fitted_on(rng, small_blocks, tmp_path):
    np.save(tmp_path / "y.npy", by_topic(rng, 40, 500, 16))
    x = by_topic(rng, 40, 500, 16)
    report = fr.align(tmp_path / "y.npy", x, tmp_path / "out.npy", tol=0.3)
    sampling = report.alignment.sampling
    assert f"from {sampling.rows_source:,} of 20,000 source and" in str(report)
    assert report.to_json()["alignment"]["sampling"]["bound"] == sampling.bound
    once = fr.align(tmp_path / "y.npy", x, tmp_path / "once.npy", one_pass=True)
    assert f"standard error {once.alignment.sampling.error:.2g}" in str(once)
    assert "not measured" in repr(fr.fit(iter([x[:500]]), x)) and "nan" not in repr(fr.fit(iter([x[:500]]), x))
