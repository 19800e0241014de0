"""check and update: whether an alignment still holds for new rows, and how it is brought up to date."""

from __future__ import annotations

import argparse
import json
import re
import shlex

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli import check
from fastrealign.cli.main import main
from fastrealign.core import reference
from fastrealign.core.errors import BadRowsError, FitWarning, InputError
from fastrealign.data import cluster_sampling

D = 24


@pytest.fixture
def world(rng, monkeypatch):
    """world(n, shift, spread): rows of the source, the target as it was, and of a source that has moved."""
    monkeypatch.setattr(cluster_sampling, "BLOCK_BYTES", 2048)
    centres = rng.standard_normal((2, D)) / np.sqrt(D)
    away = rng.standard_normal(D) / np.sqrt(D)

    def rows(side, n, shift=0.0, spread=0.6):
        centre = centres[side] + shift * away
        return (centre + spread * rng.standard_normal((n, D)) / np.sqrt(D)).astype(np.float32)

    return rows


@pytest.fixture
def fitted(world):
    return fr.fit(world(0, 20_000), world(1, 20_000))


def test_rows_of_the_same_kind_hold(world, fitted):
    found = fr.check(fitted, world(0, 60_000))
    assert found.holds and found.target is None
    assert found.gap_left + found.bound < found.tol == pytest.approx(0.1 * fitted.gap_before)
    assert found.source.rows < found.source.of == 60_000
    assert found.source.shift <= found.source.shift_bound + 0.02  # the fit's own sampling error
    assert abs(found.source.trace_change) <= found.source.trace_change_bound + 0.02
    assert found.gap_before == pytest.approx(fitted.gap_before, abs=0.1)


def test_rows_of_another_domain_do_not(world, fitted):
    new = world(0, 60_000, shift=0.5)
    found = fr.check(fitted, new, confidence=0.9999)  # 0.95 would be wrong about one of three figures now and then
    assert not found.holds
    assert found.source.rows < 60_000
    unit = reference.project(new)
    truth = np.linalg.norm(reference.row_map(new, fitted.s, fitted.b, fitted.c).mean(axis=0) - fitted.mean_target)
    assert abs(found.gap_left - truth) <= found.bound
    assert abs(found.source.shift - np.linalg.norm(unit.mean(axis=0) - fitted.mean_source)) <= found.source.shift_bound
    change = reference.moments(new)[1] / fitted.trace_source - 1
    assert abs(found.source.trace_change - change) <= found.source.trace_change_bound


def test_a_target_that_moved_too(world, fitted):
    same, moved = world(1, 60_000), world(1, 60_000, shift=0.5)
    assert fr.check(fitted, world(0, 60_000), same).holds
    found = fr.check(fitted, world(0, 60_000), moved, confidence=0.9999)
    assert not found.holds
    assert found.target.shift > 0.1 > found.source.shift
    truth = np.linalg.norm(reference.moments(moved)[0] - fitted.mean_target)
    assert abs(found.target.shift - truth) <= found.target.shift_bound


def test_a_close_call_reads_everything_and_then_knows(world, fitted):
    new = world(0, 4000, shift=0.2)
    truth = np.linalg.norm(reference.row_map(new, fitted.s, fitted.b, fitted.c).mean(axis=0) - fitted.mean_target)
    for tol, holds in ((truth * (1 + 1e-6), True), (truth * (1 - 1e-6), False)):
        found = fr.check(fitted, new, tol=tol)
        assert found.holds is holds and found.bound == 0.0 and found.source.rows == 4000
        assert found.gap_left == pytest.approx(truth, abs=1e-7)


def test_the_answer_is_right_as_often_as_stated(world, fitted):
    """Over 40 samples of a source near the limit."""
    new = world(0, 60_000, shift=0.25)
    truth = np.linalg.norm(reference.row_map(new, fitted.s, fitted.b, fitted.c).mean(axis=0) - fitted.mean_target)
    wrong = 0
    for seed in range(20):
        for tol, holds in ((0.8 * truth, False), (1.25 * truth, True)):
            wrong += fr.check(fitted, new, tol=tol, confidence=0.9, seed=seed).holds is not holds
    assert wrong <= 4


@pytest.mark.parametrize("centroid", ["paper", "exact"])
def test_merging_is_fitting_all_rows_together(world, centroid):
    old_y, new_y, old_x, new_x = world(0, 3000), world(0, 2000, 0.1), world(1, 4000), world(1, 1000, 0.1)
    old = fr.fit(old_y, old_x, centroid=centroid)
    merged = fr.update(old, new_y, new_x)
    together = fr.fit(np.concatenate([old_y, new_y]), np.concatenate([old_x, new_x]), centroid=centroid)
    assert (merged.count_source, merged.count_target) == (5000, 5000)
    np.testing.assert_allclose(merged.mean_source, together.mean_source, rtol=0, atol=1e-12)
    np.testing.assert_allclose(merged.b, together.b, rtol=0, atol=1e-12)
    assert merged.trace_source == pytest.approx(together.trace_source, abs=1e-12)
    assert merged.s == pytest.approx(together.s, abs=1e-12)
    # The old rows moved as the new ones did, but for what the domains differ.
    assert np.linalg.norm(merged.c - together.c) < 0.012
    assert merged.sampling.how == "updated" and merged.sampling.rows_source == 2000
    assert np.isnan(merged.gap_left) and merged.centroid == centroid


def test_merging_the_same_rows_changes_nothing(world):
    y, x = world(0, 3000), world(1, 3000)
    for centroid in ("paper", "exact"):
        old = fr.fit(y, x, centroid=centroid)
        new = fr.update(old, y, x)
        assert new.s == pytest.approx(old.s, abs=1e-12)
        np.testing.assert_allclose(new.c, old.c, rtol=0, atol=1e-9)


def test_a_decay_weighs_the_old_rows(world):
    """Against the weighted mean of all rows, over a stream of four generations of odd sizes."""
    decays, sizes = (1.0, 0.5, 0.3, 0.9), (1001, 333, 457, 205)
    sides = [[world(side, n, 0.1 * k) for k, n in enumerate(sizes)] for side in (0, 1)]
    found = fr.fit(sides[0][0], sides[1][0])
    for y, x, decay in zip(sides[0][1:], sides[1][1:], decays[1:], strict=True):
        found = fr.update(found, y, x, decay=decay)
    weight = [np.prod(decays[k + 1 :], dtype=np.longdouble) for k in range(len(sizes))]
    total = sum(w * n for w, n in zip(weight, sizes, strict=True))
    for rows, mean, trace, count in (
        (sides[0], found.mean_source, found.trace_source, found.count_source),
        (sides[1], found.mean_target, found.trace_target, found.count_target),
    ):
        units = [reference.project(of).astype(np.longdouble) for of in rows]
        expected = sum(w * unit.sum(axis=0) for w, unit in zip(weight, units, strict=True)) / total
        np.testing.assert_allclose(mean.astype(np.longdouble), expected, rtol=0, atol=1e-12)
        apart = sum(w * np.sum((unit - expected) ** 2) for w, unit in zip(weight, units, strict=True)) / total
        assert trace == pytest.approx(float(apart), abs=1e-12)
        assert count == round(float(total))
    assert [(of.rows_source, of.decay) for of in found.sampling.generations] == list(zip(sizes, decays, strict=True))


def test_a_decay_has_the_same_bits_for_any_order_threads_and_chunks(world, fitted, rng, tmp_path):
    y, x = world(0, 3001, 0.3), world(1, 2003, 0.3)
    expected = fr.update(fitted, y, x, decay=0.7)
    np.save(tmp_path / "a.npy", y[:1000])
    np.save(tmp_path / "b.npy", y[1000:])
    fitted.save(tmp_path / "old.safetensors")
    files = [str(tmp_path / name) for name in ("b.npy", "a.npy")]
    for other in (
        fr.update(fitted, rng.permutation(y), rng.permutation(x), decay=0.7, threads=1),
        fr.update(tmp_path / "old.safetensors", files, x, decay=0.7),
    ):
        assert other.mean_source.tobytes() == expected.mean_source.tobytes()
        assert other.fingerprint == expected.fingerprint and other.sampling == expected.sampling


def test_a_small_decay_is_fitting_again_in_the_limit(world):
    old, y, x = fr.fit(world(0, 3000), world(1, 3000)), world(0, 2500, 0.5), world(1, 2000, 0.5)
    new, expected = fr.update(old, y, x, decay=1e-12), fr.fit(y, x)
    np.testing.assert_allclose(new.mean_source, expected.mean_source, rtol=0, atol=1e-9)
    np.testing.assert_allclose(new.c, expected.c, rtol=0, atol=1e-9)
    assert new.count_source == 2500


def test_a_side_without_new_rows_does_not_decay(world):
    old = fr.fit(world(0, 3000), world(1, 3000))
    half = fr.update(old, world(0, 1000), decay=0.5)
    assert (half.count_source, half.count_target) == (2500, 3000)
    assert fr.update(half, world(0, 1000), world(1, 1000), decay=0.5).count_target == 2500


def test_generations_are_kept_in_the_file(world, tmp_path):
    old = fr.fit(world(0, 3000), world(1, 3000))
    updated = fr.update(fr.update(old, world(0, 999), decay=0.5), world(0, 999), decay=0.5)
    updated.save(tmp_path / "a.safetensors")
    kept = fr.load(tmp_path / "a.safetensors")
    assert kept.sampling == updated.sampling and len(kept.sampling.generations) == 3
    assert fr.update(kept, world(0, 1000), decay=0.5).count_source == round((((3000 / 2 + 999) / 2) + 999) / 2 + 1000)


def test_without_a_new_target_the_old_one_stays(world, fitted):
    new = fr.update(fitted, world(0, 2000, 0.3))
    assert new.mean_target.tobytes() == fitted.mean_target.tobytes()
    assert (new.trace_target, new.count_target) == (fitted.trace_target, fitted.count_target)
    assert new.sampling.rows_target == 0


def test_an_update_that_helps(world, fitted):
    moved = world(0, 20_000, 0.5)
    assert not fr.check(fitted, moved).holds
    assert fr.check(fr.update(fitted, moved, decay=0.05), moved).holds


def test_refused(world, fitted, rng):
    y = world(0, 100)
    for call, says in (
        (lambda: fr.check(fitted, y[:, :5]), "source: rows are 5 wide, the alignment was fitted on 24"),
        (lambda: fr.check(fitted, y, y[:, :5]), "target: rows are 5 wide, the alignment was fitted on 24"),
        (lambda: fr.check(fitted, y, tol=0.0), "tol=0.0: expected a number above 0"),
        (lambda: fr.check(fitted, y, tol=float("inf")), "tol=inf: expected a number above 0, and finite"),
        (lambda: fr.check(fitted, y, seed=-1), "seed=-1: expected a whole number from 0 to 2"),
        (lambda: fr.check(fitted, y, confidence=2.0), "confidence=2.0: expected a number from 0.5 to below 1"),
        (lambda: fr.check(fitted, iter([y])), "source: chunks come in their own order"),
        (lambda: fr.check(fitted, y[:1]), "source: 1 row, expected at least 2"),
        *(
            (
                lambda decay=decay: fr.update(fitted, y, decay=decay),
                rf"decay={decay!r}: expected a number above 0, at most 1",
            )
            for decay in (0, 0.0, -0.1, 1.5, float("nan"), "half")
        ),
        (lambda: fr.update(fitted, y[:1]), "source: 1 row, expected at least 2"),
        (lambda: fr.update(fitted, y[:, :5]), "source: rows are 5 wide"),
        (lambda: fr.check("no.safetensors", y), "no.safetensors: no such file"),
    ):
        with pytest.raises(InputError, match=says):
            call()
    y[5] = np.nan
    with pytest.raises(BadRowsError, match="source: row 5 has a NaN or Inf"):
        fr.check(fitted, y)
    assert fr.check(fitted, y, bad_rows="skip", tol=2.0).holds
    with pytest.raises(BadRowsError, match="source: row 5 has a NaN or Inf"):
        fr.update(fitted, y)


# --- on the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def saved(world, fitted, tmp_path):
    fitted.save(tmp_path / "a.safetensors")
    np.save(tmp_path / "same.npy", world(0, 5000))
    np.save(tmp_path / "moved.npy", world(0, 5000, 0.5))
    np.save(tmp_path / "images.npy", world(1, 5000))
    return tmp_path


def test_check_on_the_command_line(saved, capsys):
    a = str(saved / "a.safetensors")
    assert main(["check", a, str(saved / "same.npy"), "--target", str(saved / "images.npy"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["holds"] is True and said["source"]["of"] == 5000 and said["target"]["of"] == 5000
    assert main(["check", a, str(saved / "moved.npy"), "--quiet"]) == 3
    assert capsys.readouterr().out == ""
    assert main(["check", a, str(saved / "moved.npy")]) == 3
    said = capsys.readouterr().out
    assert "the alignment does not hold: it leaves a gap of" in said and "mean moved by" in said
    assert main(["check", a, str(saved / "gone.npy")]) == 2


def test_check_says_what_share_of_the_rows_it_read(saved, world, capsys):
    rows = world(0, 60_000)
    rows[::10] = np.nan
    np.save(saved / "bad.npy", rows)
    check = ["check", str(saved / "a.safetensors"), str(saved / "bad.npy")]
    assert main(check) == 2
    share = r"([\d,]+) of 60,000 rows read, (\d\.\d\d?) %"
    read, percent = re.search(
        rf"NaN or Inf; fix it, or leave such rows out \(--bad-rows skip\); it is of a sample, {share}: others may hold more$",
        capsys.readouterr().err,
    ).groups()
    assert float(percent) == pytest.approx(int(read.replace(",", "")) / 600, abs=0.05)
    assert main([*check, "--bad-rows", "skip"]) == 0
    found = re.search(rf"\({share}, ([\d,]+) without a direction left out\)", capsys.readouterr().out)
    assert main([*check, "--bad-rows", "skip", "--json"]) == 0
    side = json.loads(capsys.readouterr().out)["source"]
    assert (f"{side['rows']:,}", f"{side['bad_rows']:,}") == found.group(1, 3)
    assert side["bad_rows"] == pytest.approx(side["rows"] / 10, rel=0.5)
    np.save(saved / "few.npy", rows[:300])  # too few for a sample
    assert main(["check", check[1], str(saved / "few.npy")]) == 2
    assert "sample" not in capsys.readouterr().err


def test_what_check_advises_runs(saved, capsys, monkeypatch):
    """Word for word, also where a file has the name that an updated alignment gets."""
    monkeypatch.chdir(saved)
    rows = np.load("moved.npy")
    np.save("new texts.npy", rows)
    rows[7] = np.nan
    np.save("bad.npy", rows)
    for written, file, more in (
        ("a-updated", "new texts.npy", []),
        ("a-updated-2", "new texts.npy", ["--target", "images.npy"]),
        ("a-updated-3", "bad.npy", ["--bad-rows", "skip", "--threads", "1"]),
    ):
        assert main(["check", "a.safetensors", file, *more]) == 3
        [advice] = re.findall(r"next +(fastrealign .*), or fit again", capsys.readouterr().out)
        program, *words = shlex.split(advice)
        assert program == "fastrealign" and main(words) == 0
        assert fr.load(f"{written}.safetensors").count_source == 5000 - (file == "bad.npy") + 20_000 // 2
    found = fr.check(fr.load("a.safetensors"), np.load("moved.npy"))
    assert "fastrealign.update(alignment, source, target, decay=0.5)" in str(found)


def test_check_of_an_alignment_at_a_url_advises_a_local_file(saved, monkeypatch):
    monkeypatch.chdir(saved)
    for url in ("hf://someone/models/a.safetensors", "https://host/a.safetensors"):
        assert check._free_name(url) == "a-updated.safetensors"
    (saved / "a-updated.safetensors").touch()
    assert check._free_name("https://host/a.safetensors") == "a-updated-2.safetensors"


def test_what_check_of_a_role_advises():
    for source, words in (
        (["a b.npy"], "--role 'text=a b.npy'"),
        (["a.npy", "b.npy"], "in one folder or as a quoted glob"),
    ):
        assert words in check._next(argparse.Namespace(role="text", source=source))


def test_rows_at_the_target_are_named_and_no_update_is_advised(saved, capsys):
    """Images, and rows that are aligned already: an update with them would spoil the alignment."""
    fitted = fr.load(saved / "a.safetensors")
    np.save(saved / "aligned.npy", fitted(np.load(saved / "same.npy")))
    for file in ("images.npy", "aligned.npy"):
        words = [str(saved / "a.safetensors"), str(saved / file)]
        assert main(["check", *words]) == 3
        said = capsys.readouterr().out
        advice = "look like images or aligned rows; give rows of its source (text), not aligned yet"
        assert advice in said and "--decay" not in said and "mean moved by" in said
        found = fr.check(*words)
        assert found.at_target and advice in str(found) and "fr.update" not in str(found)
        with pytest.warns(FitWarning, match="look like images or aligned rows"):
            fr.update(*words)
    assert main(["check", str(saved / "a.safetensors"), str(saved / "images.npy"), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["at_target"] is True


def test_several_paths_without_a_target_are_one_source(saved, capsys, monkeypatch):
    """The result says so: the second may be meant as the target, as in Python, and the mean of both may hold by chance."""
    monkeypatch.chdir(saved)
    one_source = "read           2 paths as one source; is images.npy the target? Then write --target images.npy"
    update = ["fit", "moved.npy", "images.npy", "--from", "a.safetensors", "--overwrite", "--out", "new.safetensors"]
    for words, new in ((["check", "a.safetensors", "moved.npy", "images.npy"], 10_000), (update, 30_000)):
        main(words)
        said = capsys.readouterr().out
        assert one_source in said and f"{new:,}" in said
        words[words.index("images.npy")] = "--target=images.npy"
        main(words)
        assert "one source" not in capsys.readouterr().out


def test_shards_of_one_folder_are_not_taken_for_a_target(saved, capsys, monkeypatch):
    """A shell lists what `raw/*.npy` matches; files of another folder may be the target."""
    monkeypatch.chdir(saved)
    for folder in ("raw", "img"):
        (saved / folder).mkdir()
        for i in range(3):
            np.save(saved / folder / f"{i}.npy", np.load("moved.npy"))
    main(["check", "a.safetensors", "raw/0.npy", "raw/1.npy", "raw/2.npy"])
    said = capsys.readouterr().out
    assert "3 paths as one source\n" in said and "the target?" not in said
    main(["check", "a.safetensors", "raw/0.npy", "raw/1.npy", "img/2.npy"])
    assert "3 paths as one source; is img/2.npy the target?" in capsys.readouterr().out


def test_fit_from_on_the_command_line(saved, capsys):
    a, out = str(saved / "a.safetensors"), saved / "new.safetensors"
    words = ["fit", str(saved / "moved.npy"), "--from", a, "--decay", "0.05", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "updated        5,000 of the source rows and 0 of the target rows are new" in said
    assert "(decay 0.05, update 1)" in said
    assert main(["check", str(out), str(saved / "moved.npy"), "--quiet"]) == 0
    assert fr.load(out).count_source == 6000
    for more, says in (
        (["--tol", "0.1"], "--from keeps the way the old alignment was fitted"),
        (["--centroid", "exact"], "--from keeps the way the old alignment was fitted; leave out --centroid"),
        (["--seed", "1"], "--from keeps the way the old alignment was fitted; leave out --seed"),
        (["--decay", "0"], "--decay 0.0: expected a number above 0, at most 1"),
    ):
        assert main([*words, "--overwrite", *more]) == 2
        assert says in capsys.readouterr().err
    assert main(["fit", str(saved / "moved.npy"), "--out", str(saved / "x.safetensors")]) == 2
    assert "fit needs a --target, or an alignment to bring up to date: --from" in capsys.readouterr().err
    words = ["fit", str(saved / "moved.npy"), "--target", str(saved / "images.npy"), "--decay", "0.5"]
    assert main([*words, "--out", str(saved / "x.safetensors")]) == 2
    assert (
        "--decay weighs the old rows of an update; name the alignment to update with --from" in capsys.readouterr().err
    )


def test_what_nothing_uses_is_refused(saved, capsys):
    words = [
        "fit",
        str(saved / "same.npy"),
        "--target",
        str(saved / "images.npy"),
        "--out",
        str(saved / "x.safetensors"),
    ]
    for more, says, instead in (
        (["--seed", "0"], "nothing is random in a fit of realign on all rows", []),
        (
            ["--method", "anchor", "--seed", "3"],
            "nothing is random in a fit of anchor",
            ["--method", "c3", "--seed", "3"],
        ),
        (
            ["--confidence", "0.9"],
            "--confidence is of a fit on a sample; add --tol",
            ["--confidence", "0.9", "--tol", "1"],
        ),
    ):
        assert main([*words, *more]) == 2
        assert says in capsys.readouterr().err
        assert main([*words, *instead, "--quiet"]) == 0
        (saved / "x.safetensors").unlink()


@pytest.mark.parametrize(
    ("option", "how"),
    [(["--one-pass"], "one pass"), (["--tol", "0.2", "--confidence", "0.9", "--seed", "4"], "certified")],
)
def test_fit_and_align_by_a_sample_on_the_command_line(saved, capsys, option, how):
    source, target = str(saved / "same.npy"), str(saved / "images.npy")
    fitted, aligned = saved / "b.safetensors", saved / "aligned"
    assert main(["fit", source, "--target", target, "--out", str(fitted), *option]) == 0
    assert how in capsys.readouterr().out
    assert main(["align", source, "--target", target, "--out", str(aligned), "--json", *option]) == 0
    report = json.loads(capsys.readouterr().out)
    a, b = fr.load(fitted), fr.load(aligned / "alignment.safetensors")
    assert a.sampling.how == how and a.sampling == b.sampling and a.fingerprint == b.fingerprint
    assert b.gap_left == pytest.approx(report["gap_left"])
    assert main(["align", source, "--target", target, "--out", str(aligned), "--resume", "--quiet", *option]) == 0
    assert main(["align", source, "--target", target, "--out", str(aligned), "--resume", "--quiet"]) == 2
