"""Maps from pairs: against their float64 definitions, on fresh random data, awkward widths and degenerate pairs."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.methods.pair_moments import PairMoments, shares
from fastrealign.methods.pair_solutions import STRENGTHS, procrustes, ridge
from fastrealign.methods.recall_kept import Kept, recall_kept

pytestmark = pytest.mark.filterwarnings("ignore::fastrealign.FitWarning")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def pairs(rng, n, d_old, d_new, noise=0.3):
    """Rows of items by two encoders that share a linear world, each with a mean of its own."""
    world = rng.standard_normal((n, max(d_old, d_new)))
    sides = []
    for d in (d_old, d_new):
        mixed = world @ rng.standard_normal((world.shape[1], d)) + noise * rng.standard_normal((n, d))
        sides.append(mixed + 0.5 * rng.standard_normal(d))
    return sides


def moments_of(e, f, own=True):
    found = PairMoments(e.shape[1], f.shape[1], own)
    for lo in range(0, len(e), 700):
        found.add(e[lo : lo + 700], f[lo : lo + 700])
    return found


def procrustes_by_definition(e, f):
    a, b = e - e.mean(0), f - f.mean(0)
    u, s, vt = np.linalg.svd(a.T @ b, full_matrices=False)
    matrix = s.sum() / (a * a).sum() * (u @ vt).T
    return matrix, f.mean(0) - matrix @ e.mean(0)


WIDTHS = [(24, 24), (24, 9), (9, 24), (3, 7), (5, 1), (1, 1)]


@pytest.mark.parametrize(("d_old", "d_new"), WIDTHS)
def test_procrustes_is_its_definition(rng, d_old, d_new):
    e, f = map(unit, pairs(rng, 1500, d_old, d_new))
    found = procrustes(moments_of(e, f, own=False))
    matrix, shift = procrustes_by_definition(e, f)
    assert np.allclose(found.matrix, matrix, atol=1e-9)
    assert np.allclose(found.shift, shift, atol=1e-9)


@pytest.mark.parametrize(("d_old", "d_new"), WIDTHS)
def test_ridge_is_least_squares_with_the_strength_that_others_choose(rng, d_old, d_new):
    e, f = map(unit, pairs(rng, 600, d_old, d_new))

    def solved(e, f, strength):  # as least squares of rows extended by sqrt(n strength) I
        a, b = e - e.mean(0), f - f.mean(0)
        extended = np.vstack([a, np.sqrt(len(e) * strength) * np.eye(d_old)]), np.vstack([b, np.zeros((d_old, d_new))])
        matrix = np.linalg.lstsq(*extended, rcond=None)[0].T
        return matrix, f.mean(0) - matrix @ e.mean(0)

    found = ridge(moments_of(e[:500], f[:500]), moments_of(e[500:], f[500:]))
    errors = []
    for strength in STRENGTHS:
        matrix, shift = solved(e[:500], f[:500], strength)
        errors.append(np.square(e[500:] @ matrix.T + shift - f[500:]).sum(1).mean())
    assert errors[STRENGTHS.index(found.strength)] == pytest.approx(min(errors), rel=1e-9)
    matrix, shift = solved(e, f, found.strength)
    assert np.allclose(found.matrix, matrix, atol=1e-7)
    assert np.allclose(found.shift, shift, atol=1e-7)


def test_sums_are_exact(rng):
    e, f = (unit(rng.standard_normal((900, d))) for d in (5, 3))
    a, b = (np.rint(np.ldexp(np.rint(np.ldexp(x, 40)), -40) * 2.0**20).astype(object) for x in (e, f))
    high = sum(int(x) * int(y) for x, y in zip(a[:, 1], b[:, 2], strict=True))
    found = moments_of(e, f)
    assert int(found._cross.high[1, 2]) == high
    assert np.allclose(found.cross, e.T @ f / 900 - np.outer(e.mean(0), f.mean(0)), atol=1e-13)
    assert np.allclose(found.own, np.cov(e.T, bias=True), atol=1e-13)


def test_the_same_bits_for_any_chunks_and_order_of_the_sums(rng):
    old, new = (rows.astype(np.float32) for rows in pairs(rng, 5000, 20, 12))
    whole = fr.fit_map(old, new, method="ridge")
    cuts = [[part[lo:hi] for lo, hi in ((0, 1), (1, 2047), (2047, 4100), (4100, 5000))] for part in (old, new)]
    chunks = fr.fit_map(cuts[0], [new[:3333], new[3333:]], method="ridge")
    assert whole.fingerprint == chunks.fingerprint
    assert whole.kept == chunks.kept
    e, f = unit(old.astype(float)), unit(new.astype(float))
    order = rng.permutation(5000)
    one, other = moments_of(e, f), moments_of(e[order], f[order])
    assert np.array_equal(one.cross, other.cross)
    assert np.array_equal(one.own, other.own)


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


def test_recall_kept_is_its_definition(rng):
    mapped, new, queries = (unit(rng.standard_normal((60, 8))) for _ in range(3))
    mapped, queries = unit(new + 0.4 * mapped), unit(new + 0.6 * queries)
    found = recall_kept(mapped, new, queries)
    own = np.arange(60)[:, None]

    def ten(queries, documents, apart=False):
        scores = queries @ documents.T - 9.0 * apart * np.eye(60)
        return np.argsort(-scores, axis=1)[:, :10]

    assert found.own == (ten(mapped, new) == own).any(1).mean()
    both = [set(a) & set(b) for a, b in zip(ten(new, new, True), ten(new, mapped, True), strict=True)]
    assert found.neighbours == pytest.approx(np.mean([len(one) / 10 for one in both]))
    there, here = ((ten(queries, documents) == own).any(1) for documents in (new, mapped))
    assert (found.re_embedded, found.mapped) == (there.mean(), here.mean())
    assert found.kept == here.sum() / there.sum()
    # The percentile interval against the normal one of a ratio of means.
    spread = np.std(here - found.kept * there) / np.sqrt(60) / there.mean()
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.25)


@pytest.mark.parametrize(
    ("kept", "low", "high", "queries", "said"),
    [
        (0.98, 0.96, 0.99, True, "use the map: it keeps 98.0%"),
        (0.7, 0.65, 0.75, True, "re-embed: the map keeps only 70.0%"),
        (0.7, 0.65, 0.75, False, "measure the recall that users see"),
        (0.9, 0.8, 0.98, True, "give more pairs"),
        (0.93, 0.91, 0.95, True, "between"),
        (0.2, 0.1, 0.9, "strangers", "are the pairs matched"),
        (0.98, 0.96, 0.99, "few", "199 held-out documents are too few to tell"),
    ],
)
def test_advice(kept, low, high, queries, said):
    own = 0.3 if queries == "strangers" else 1.0
    documents = 199 if queries == "few" else 200
    assert said in Kept(documents, kept, low, high, own, kept, *((0.5, 0.5) if queries else ())).advice


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
    with pytest.raises(fr.InputError, match="takes none"):
        fr.fit_map(old, new)(old, noise=1.0)
    with pytest.warns(fr.FitWarning, match="aim for 80 or more"):
        fr.fit_map(old[:70], new[:70], held_out=0)


def test_saved_and_loaded(rng, tmp_path):
    old, new = pairs(rng, 400, 7, 4)
    for method, held_out in (("procrustes", 0.2), ("ridge", 0)):
        found = fr.fit_map(old, new, method=method, held_out=held_out)
        found.save(tmp_path / "map.safetensors")
        again = fr.load(tmp_path / "map.safetensors")
        assert isinstance(again, fr.PairedMap)
        assert (again.fingerprint, again.kept, again.strength) == (found.fingerprint, found.kept, found.strength)
        assert repr(again) == repr(found)
        assert np.array_equal(again(old), found(old))
    with pytest.raises(fr.InputError, match=r"name it map\.safetensors|\.npy is not"):
        found.save(tmp_path / "map.npy")


def table(path, rows, ids):
    pq.write_table(pa.table({"id": ids, "embedding": list(rows.astype(np.float32))}), path)
    return path


def test_files_equal_arrays_and_ids_find_their_pairs(rng, tmp_path):
    old, new = (rows.astype(np.float32) for rows in pairs(rng, 700, 8, 5))
    (tmp_path / "old").mkdir()
    for i, part in enumerate(np.split(old, [100, 400])):
        np.save(tmp_path / f"old/{i}.npy", part)
    np.save(tmp_path / "new.npy", new)
    arrays = fr.fit_map(old, new)
    files = fr.fit_map(tmp_path / "old", tmp_path / "new.npy")
    assert (files.fingerprint, files.kept, files.matched) == (arrays.fingerprint, arrays.kept, "rows")
    # A re-embedded sample in another order, with ten items that the old index never had.
    order = rng.permutation(700)[:500]
    names = np.array([f"item-{i}" for i in range(700)])
    there = table(tmp_path / "old.parquet", old, names)
    extra = rng.standard_normal((10, 5)).astype(np.float32)
    ids = [*names[order], *(f"later-{i}" for i in range(10))]
    sample = table(tmp_path / "sample.parquet", np.concatenate([new[order], extra]), ids)
    with pytest.warns(fr.FitWarning, match=r"10 of 510 ids are not in .*old\.parquet, the first is 'later-0'"):
        found = fr.fit_map(there, sample)
    expected = fr.fit_map(old[order], new[order])
    assert (found.fingerprint, found.kept, found.matched) == (expected.fingerprint, expected.kept, "ids")
    queries = np.concatenate([new[order] + 0.1, extra])
    asked = fr.fit_map(there, sample, queries=queries)
    assert asked.kept == fr.fit_map(old[order], new[order], queries=new[order] + np.float32(0.1)).kept
    twice = table(tmp_path / "twice.parquet", new[:300], ["a", *names[:298], "a"])
    with pytest.raises(fr.InputError, match=r"twice\.parquet: row 299: has the id 'a', as .* row 0 has"):
        fr.fit_map(there, twice)
    others = table(tmp_path / "others.parquet", new[:300], [f"x{i}" for i in range(300)])
    with pytest.raises(fr.InputError, match="none of its 300 ids is in"):
        fr.fit_map(there, others)
    bad = new.copy()
    bad[order[0]] = 0.0
    with pytest.raises(fr.BadRowsError, match=r"bad\.parquet: row 0 is all zeros"):
        fr.fit_map(there, table(tmp_path / "bad.parquet", bad[order], names[order]))


def test_a_data_frame_has_no_names_for_other_columns(rng):
    pandas = pytest.importorskip("pandas")
    old, new = pairs(rng, 400, 6, 3)
    frame = pandas.DataFrame(old)
    with pytest.raises(fr.InputError, match=r"DataFrame of 6 columns has no names; pass its \.to_numpy\(\)"):
        fr.fit_map(old, new)(frame)
    same = fr.fit_map(old, old @ np.linalg.qr(rng.standard_normal((6, 6)))[0])
    assert isinstance(same(frame), pandas.DataFrame)


def test_the_command_line_is_advised_in_its_own_options(tmp_path, rng, capsys):
    old, new = rng.standard_normal((2, 60, 8))
    bad = old.copy()
    bad[3] = np.nan
    for name, rows in (("old", old), ("new", new), ("bad", bad)):
        np.save(tmp_path / f"{name}.npy", rows)
    o, n, b = (str(tmp_path / f"{name}.npy") for name in ("old", "new", "bad"))
    out = ["-o", str(tmp_path / "m.safetensors")]
    role = [
        "fit",
        "--role",
        f"query={o}",
        "--role",
        f"image={n}",
        "--anchor",
        "image",
        "--method",
        "auto",
        "--out",
        out[1],
    ]
    for arguments, advice in (
        (["map", b, n, *out], "leave such pairs out with --bad-rows skip"),
        (["map", o, o, *out], "by its column: --column and --target-column"),
        (["map", o, n, *out, "--pairs", "ids"], "in the same order: --pairs rows"),
        (["map", o, n, *out], "--held-out 0 for a map that is not measured"),
        (role, "--pairs query:image=PATH,PATH --pairs query:text=PATH,PATH"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        error = next(line for line in said.splitlines() if "error:" in line)
        assert advice in error and not re.search(r"\b(bad_rows|column|pairs|held_out|method)=", error)
