"""Maps from pairs of arrays: calls, odd rows, held-out pairs, bad input, saving."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from pair_worlds import pairs, unit

import fastrealign as fr
from fastrealign.methods.pair_moments import shares

pytestmark = pytest.mark.filterwarnings("ignore::fastrealign.FitWarning")


def test_the_same_bits_for_any_chunks(rng):
    old, new = (rows.astype(np.float32) for rows in pairs(rng, 5000, 20, 12))
    whole = fr.fit_map(old, new, method="ridge")
    cuts = [[part[lo:hi] for lo, hi in ((0, 1), (1, 2047), (2047, 4100), (4100, 5000))] for part in (old, new)]
    chunks = fr.fit_map(cuts[0], [new[:3333], new[3333:]], method="ridge")
    assert whole.fingerprint == chunks.fingerprint
    assert whole.kept == chunks.kept


def test_a_call_gives_unit_rows_of_the_new_width(rng):
    old, new = pairs(rng, 800, 16, 6)
    found = fr.fit_map(old, new)
    mapped = found(old)
    assert (found.dim, found.dim_out, mapped.shape) == (16, 6, (800, 6))
    assert np.allclose(mapped, unit(unit(old) @ found.matrix.T + found.shift), atol=1e-9)
    assert np.array_equal(found(old[5]), mapped[5])
    parts = np.concatenate([found(old[:1]), found(old[1:700], threads=2), found(old[700:])])
    assert np.array_equal(parts, mapped)
    assert np.array_equal(found(old.astype(np.float32), dtype="float16"), found(old.astype(np.float32)).astype("f2"))
    out = np.empty((800, 6), np.float32)
    assert found(old, out=out) is out
    assert np.allclose(out, mapped, atol=1e-6)
    for bad, said in ((np.empty((800, 16)), r"expected \(800, 6\)"), (old, r"expected \(800, 6\)")):
        with pytest.raises(fr.InputError, match=said):
            found(old, out=bad)
    with pytest.raises(fr.InputError, match="rows are 6 wide, procrustes was fitted on 16"):
        found(new)


def test_a_row_without_a_direction(rng):
    old, new = pairs(rng, 400, 6, 3)
    found = fr.fit_map(old, new)
    spoiled = old.copy()
    spoiled[7] = np.nan
    with pytest.raises(fr.BadRowsError, match="row 7 has a NaN or Inf"):
        found(spoiled)
    assert np.array_equal(found(spoiled, bad_rows="skip"), found(np.delete(old, 7, 0)))
    with pytest.raises(fr.InputError, match="width of 6 to 3; choose 'error' or 'skip'"):
        found(spoiled, bad_rows="keep")
    same = fr.fit_map(old, pairs(rng, 400, 6, 6)[0])
    assert np.isnan(same(spoiled, bad_rows="keep")[7]).all()
    with pytest.raises(fr.BadRowsError, match="old: row 7 has a NaN or Inf; fix it, or leave such pairs out"):
        fr.fit_map(spoiled, new)
    for at in (7, 300):  # on either side the pair is left out, as if it were not there
        left, right = old.copy(), new.copy()
        (left if at == 7 else right)[at] = 0.0
        found = fr.fit_map(left, right, bad_rows="skip", held_out=0)
        assert found.pairs == 399
        without = fr.fit_map(np.delete(old, at, 0), np.delete(new, at, 0), held_out=0)
        assert found.fingerprint == without.fingerprint


def test_old_rows_of_a_lower_rank_map_as_if_their_space_were_all(rng):
    old, new = pairs(rng, 500, 4, 4)
    wide = old @ np.linalg.qr(rng.standard_normal((9, 9)))[0][:4]
    for method in ("procrustes", "ridge"):
        narrow = fr.fit_map(old, new, method=method, held_out=0)
        found = fr.fit_map(wide, new, method=method, held_out=0)
        assert np.allclose(found(wide), narrow(old), atol=1e-6)
        assert np.linalg.matrix_rank(found.matrix, tol=1e-9) == 4


def test_a_rotated_copy_is_found_again(rng):
    from fastrealign.cli.demo import real_world

    rows = real_world.load().part("fit").image.astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((128, 128)))[0]
    new = rows @ turn + 0.002 * rng.standard_normal(rows.shape)
    found = fr.fit_map(rows, new)
    assert found.kept.own == 1.0
    assert found.kept.low <= found.kept.kept <= found.kept.high
    assert found.kept.kept > 0.9
    assert found.matrix @ found.matrix.T == pytest.approx(np.eye(128) * (found.matrix[0] @ found.matrix[0]), abs=1e-9)


def test_held_out_pairs_are_not_fitted_on(rng):
    old, new = pairs(rng, 600, 5, 5)
    aside = shares(np.arange(600), 3) < 0.2
    found = fr.fit_map(old, new, seed=np.int64(3))
    assert found.kept.documents == aside.sum()
    assert found.pairs == 600 - aside.sum()
    assert found.fingerprint == fr.fit_map(old[~aside], new[~aside], held_out=0).fingerprint
    measured = found.measure(old[aside], new[aside], seed=3)
    assert measured == found.kept
    other = fr.fit_map(old, new, seed=4)
    assert other.fingerprint != found.fingerprint
    queries = new + 0.1 * rng.standard_normal(new.shape)
    asked = fr.fit_map(old, new, queries=queries, seed=3)
    assert asked.kept.re_embedded is not None
    assert asked.fingerprint == found.fingerprint
    assert asked.kept == found.measure(old[aside], new[aside], queries[aside], seed=3)
    share = shares(np.arange(100_000), 0)
    assert np.histogram(share, 10, (0, 1))[0] == pytest.approx(np.full(10, 10_000), rel=0.05)


def test_bad_pairs(rng):
    old, new = pairs(rng, 300, 20, 12)
    for arguments, said in (
        (
            (old[:15], new[:15]),
            r"\d+ pairs to fit on beside \d held out \(held_out= sets their share\), expected at least 13",
        ),
        ((old, new[:-1]), "old has 300 rows, new has 299 rows; expected as many"),
        (([old[:100], old[100:]], [new[:100], new[100:250]]), "old has 300 rows, new has 250 rows"),
        ((old, old), "old and new are the same rows; name what the new encoder"),
        ((None, new), "old: NoneType"),
        ((old, new.astype(int)), "new: element type int64"),
        ((np.ones((300, 20)), new), "all point the same way"),
        ((old, np.ones((300, 12))), "do not vary with the new ones"),
        ((old[:60], new[:60]), "expected at least 20 to measure"),
        (
            (np.repeat(old[:12], 20, 0), new[:240]),
            r"pairs to fit on beside \d+ held out \(.*\), of which 12 differ, expected",
        ),
        ((old[:240], np.repeat(new[:12], 20, 0)), "of which 12 differ, expected at least 13 for rows 20 and 12 wide"),
    ):
        with pytest.raises(fr.InputError, match=said):
            fr.fit_map(*arguments)
    for options, said in (
        ({"method": "rigde"}, "expected one of procrustes, ridge"),
        ({"held_out": 1.0}, "expected a number from 0 to 0.9, a share of the pairs"),
        ({"seed": -1}, "expected a whole number"),
        ({"bad_rows": "keep"}, "expected one of error, skip"),
        ({"pairs": "ids"}, "old: holds no ids"),
        ({"queries": new[:, :5]}, "queries: rows are 5 wide, those of new 12"),
        ({"queries": new[:5]}, "queries has 5 rows"),
    ):
        with pytest.raises(fr.InputError, match=said):
            fr.fit_map(old, new, **options)
    for method in ("procrustes", "ridge"):
        with warnings.catch_warnings(), pytest.raises(fr.InputError, match="all point the same way"):
            warnings.simplefilter("error")  # no advice on more pairs before the error
            fr.fit_map(np.ones((300, 20)), new, method=method)
    with pytest.raises(fr.InputError, match="takes none"):
        fr.fit_map(old, new)(old, noise=1.0)
    with pytest.warns(fr.FitWarning, match="aim for 80 or more"):
        fr.fit_map(old[:70], new[:70], held_out=0)
    with pytest.warns(
        fr.FitWarning, match="^140 pairs to fit on, of which 70 differ, for rows 20 and 12 wide: more still"
    ):
        fr.fit_map(np.tile(old[:70], (2, 1)), np.tile(new[:70], (2, 1)), held_out=0)


def test_saved_and_loaded(rng, tmp_path):
    old, new = pairs(rng, 400, 7, 4)
    for method, held_out in (("procrustes", 0.2), ("ridge", 0)):
        found = fr.fit_map(old, new, method=method, held_out=held_out)
        found.save(tmp_path / "map.safetensors")
        again = fr.load(tmp_path / "map.safetensors")
        assert isinstance(again, fr.PairedMap)
        assert (again.fingerprint, again.kept, again.strength) == (found.fingerprint, found.kept, found.strength)
        assert repr(again) == repr(found) and again == found and again != replace(found, pairs=1)
        assert np.array_equal(again(old), found(old))
    with pytest.raises(fr.InputError, match=r"name it map\.safetensors|\.npy is not"):
        found.save(tmp_path / "map.npy")


def test_a_data_frame_has_no_names_for_other_columns(rng):
    pandas = pytest.importorskip("pandas")
    old, new = pairs(rng, 400, 6, 3)
    frame = pandas.DataFrame(old)
    with pytest.raises(fr.InputError, match=r"DataFrame of 6 columns has no names; pass its \.to_numpy\(\)"):
        fr.fit_map(old, new)(frame)
    same = fr.fit_map(old, old @ np.linalg.qr(rng.standard_normal((6, 6)))[0])
    assert isinstance(same(frame), pandas.DataFrame)
