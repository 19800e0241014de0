"""by_length: lengths from every kind of source, bins, figures of each bin, the sentence that follows from them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.core.errors import InputError
from fastrealign.core.progress import SILENT
from fastrealign.data.sources import ArraySource, open_rows
from fastrealign.gap_report import by_length
from fastrealign.gap_report.by_length import binned, guideline, lengths_of
from fastrealign.gap_report.row_lengths import row_lengths

D = 12


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def sides(rng):
    """(image, text, lengths): text moves away from the images with its length."""

    lengths = rng.integers(1, 31, 3000).astype(float)
    away, centre = np.eye(D)[0], np.eye(D)[1]
    text = unit(centre + 0.05 * lengths[:, None] * away + 0.3 * rng.standard_normal((3000, D)))
    return unit(centre + 0.3 * rng.standard_normal((2000, D))), text, lengths


def measured(image, text, lengths, seed=0):
    return lengths_of(ArraySource(image, "image"), ArraySource(text, "text"), lengths, seed)


def test_bins_are_ordered_complete_and_keep_equal_lengths_together(rng):
    for lengths in (rng.integers(0, 40, 5000), rng.poisson(2.0, 5000), np.repeat([3.0, 9.0, 9.5], [200, 4000, 800])):
        parts = binned(np.asarray(lengths, float))
        assert sorted(np.concatenate(parts)) == list(range(len(lengths)))
        assert 2 <= len(parts) <= by_length.BINS and min(map(len, parts)) >= by_length.FEWEST
        for a, b in itertools.pairwise(parts):
            assert lengths[a].max() < lengths[b].min()
    for few in (np.full(500, 7.0), np.arange(150.0), np.repeat([1.0, 2.0], [99, 900])):
        with pytest.raises(InputError, match="do not make two bins of at least 100 rows"):
            binned(few)


def test_figures_of_each_bin(sides, rng):
    image, text, lengths = sides
    found = measured(image, text, lengths)
    assert [of.rows for of in found.bins] == [len(part) for part in binned(lengths)]
    x = image.astype(np.float64).mean(axis=0)
    whole = fr.fit(text, image)
    for of, part in zip(found.bins, binned(lengths), strict=True):
        mean = text[part].astype(np.float64).mean(axis=0)
        assert of.gap == pytest.approx(np.linalg.norm(mean - x), abs=1e-6)
        draws = [rng.choice(part, len(part)) for _ in range(100)]  # the images stay
        spread = np.std([np.linalg.norm(text[rows].mean(axis=0) - x) for rows in draws])
        assert 0.6 * spread < of.gap_error < 1.8 * spread and of.gap_error < of.chance < 0.15
        assert of.radius == pytest.approx(np.linalg.norm(mean), abs=1e-6)
        left = whole(text[part], dtype=np.float64).mean(axis=0) - x
        assert of.left == pytest.approx(np.linalg.norm(left), abs=2 * of.chance)
        # On other captions of this length, where a fit leaves far more than on its own.
        assert 5 * fr.fit(text[part], image).gap_left < of.left_own < 3 * of.chance
        assert 1 <= of.effective_rank <= D and 0 <= of.mixing.value <= 1 and of.kept.value > 0.5
    gaps = [of.gap for of in found.bins]
    assert gaps == sorted(gaps) and found.trend < -10 * found.trend_error
    assert "long captions are farther from the target" in guideline(found)
    assert "if you use only some lengths, fit on those" in guideline(found)


def test_lengths_that_mean_nothing_are_said_to_mean_nothing(sides, rng):
    image, text, _ = sides
    found = measured(image, text, rng.permutation(3000).astype(float))
    assert abs(found.trend) < 5 * found.trend_error
    gaps, errors = ([getattr(of, name) for of in found.bins] for name in ("gap", "gap_error"))
    assert max(gaps) - min(gaps) < 6 * max(errors) and max(of.left for of in found.bins) < 3 * found.bins[0].chance
    alike = dataclasses.replace(found, bins=tuple(dataclasses.replace(of, gap=gaps[0], left=0.0) for of in found.bins))
    assert "do not differ by more than chance" in guideline(alike) and "one fit serves all lengths" in guideline(alike)


def test_a_length_between_that_is_farther_is_said(sides, rng):
    """The shortest and the longest are as far from the target: the sentence said that lengths do not differ."""
    image, _, lengths = sides
    between = (lengths > 10) & (lengths <= 20)
    along = np.eye(D)[1] + between[:, None] * np.eye(D)[2]
    found = measured(image, unit(along + 0.3 * rng.standard_normal((3000, D))), lengths)
    first, *_, last = found.bins
    far = max(found.bins, key=lambda of: of.gap)
    assert far not in (first, last) and "do not differ by more than chance" not in guideline(found)
    said = (
        rf"of length {far.least:g} to {far.most:g} are farther from the target \([\d.]+\) than those of length \d+ to"
    )
    assert re.search(said, guideline(found))


def test_a_small_target_does_not_hide_what_one_fit_leaves(sides):
    """All fits are made to the same rows of the target, so its number is no reason for them to leave a gap."""
    image, text, lengths = sides
    for target in (image, image[:100]):
        assert "if you use only some lengths, fit on those" in guideline(measured(target, text, lengths))
    found = measured(image, text, lengths)
    better = dataclasses.replace(found, bins=tuple(dataclasses.replace(of, left_own=2 * of.left) for of in found.bins))
    assert "one fit serves all lengths" in guideline(better)


def test_numbers_as_text_are_numbers(tmp_path):
    held = ArraySource(np.ones((3, D), np.float32), "text")
    (tmp_path / "l.txt").write_text("12\n7\n30\n")
    for given in (["12", "7", "30"], np.array(["12", "7", "30"]), str(tmp_path / "l.txt")):
        assert row_lengths(given, held, SILENT).tolist() == [12.0, 7.0, 30.0]
    assert row_lengths(["12", "seven of them", "30"], held, SILENT).tolist() == [1.0, 3.0, 1.0]


def test_lengths_from_numbers_captions_and_files(tmp_path, rng):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = rng.standard_normal((3, D)).astype(np.float32)
    captions = ["a cat", "", "  two   red\tcircles "]
    np.save(tmp_path / "numbers.npy", np.array([2, 0, 3]))
    (tmp_path / "captions.txt").write_text("a cat\n\ntwo red circles\n")
    table = {"emb": list(rows), "caption": captions, "tokens": [2, 0, 3]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    held, files = ArraySource(rows, "text"), open_rows(str(tmp_path / "t.parquet"), "source", "emb")
    for given, source in (
        ([2, 0, 3], held),
        (captions, held),
        (np.array(captions, object), held),
        (tmp_path / "numbers.npy", held),
        (str(tmp_path / "captions.txt"), held),
        ("caption", files),
        ("tokens", files),
    ):
        assert row_lengths(given, source, SILENT).tolist() == [2, 0, 3], given


def test_refused(tmp_path, rng):
    held = ArraySource(rng.standard_normal((3, D)).astype(np.float32), "text")
    np.save(tmp_path / "wide.npy", np.zeros((3, 2)))
    (tmp_path / "broken.npy").write_bytes(b"no array")
    np.save(tmp_path / "objects.npy", np.array(["one", "two", "three"], object), allow_pickle=True)
    (tmp_path / "latin.txt").write_bytes(b"\xff\n\xfe\n\xfd\n")
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    for given, says in (
        (str(tmp_path / "none.npy"), "none.npy: no such file"),
        (str(tmp_path / "wide.npy"), r"expected one number or one caption for each row, got an array \(3, 2\)"),
        (str(tmp_path / "broken.npy"), "broken.npy: is not readable as .npy"),
        (
            str(tmp_path / "objects.npy"),
            r"holds Python objects; save captions as text, np\.save\(path, values\.astype\(str\)\)",
        ),
        (str(tmp_path / "latin.txt"), "latin.txt: is not UTF-8 text"),
        (str(tmp_path / "few.txt"), "has 2 lengths, expected one for each of 3 rows of text"),
        ("caption", "by_length='caption': expected a text column of the source, a .txt file"),
        ([1, -2, 3], "number 1 is -2, expected a length of 0 or more"),
        ([1, 2, float("nan")], "number 2 is nan, expected a length of 0 or more"),
        ([1, None, 3], "expected one number or one caption for each row"),
        (7, "expected one number or one caption for each row"),
        ([[1], [1, 2], [3]], "got lists of unequal length"),
        ([1, "two words", 3], "holds both captions and numbers"),
    ):
        with pytest.raises(InputError, match=says):
            row_lengths(given, held, SILENT)


@pytest.mark.usefixtures("undrawn")
def test_the_report_and_the_command(sides, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    image, text, lengths = sides
    few = slice(0, 450)
    np.save(tmp_path / "text.npy", text[few])
    np.save(tmp_path / "image.npy", image[few])
    (tmp_path / "captions.txt").write_text("".join("word " * int(n) + "\n" for n in lengths[few]))
    source, target, captions, out = (
        str(tmp_path / name) for name in ("text.npy", "image.npy", "captions.txt", "r.html")
    )
    words = ["report", "--source", source, "--target", target, "--methods", "realign", "--out", out]
    assert main([*words, "--by-length", captions]) == 0
    said = capsys.readouterr().out
    kept = json.loads((tmp_path / "r.json").read_text())["by_length"]
    expected = measured(image[few], text[few], lengths[few])
    assert [(of["least"], of["most"], of["rows"]) for of in kept["bins"]] == [
        (of.least, of.most, of.rows) for of in expected.bins
    ]
    assert [of["gap"] for of in kept["bins"]] == pytest.approx([of.gap for of in expected.bins], abs=1e-6)
    page = (tmp_path / "r.html").read_text()
    assert kept["guideline"] in said and kept["guideline"] in page
    for of in kept["bins"]:
        assert f"{of['least']:g} to {of['most']:g}<small>({of['rows']} rows)</small>" in page
    for more, says in (
        (["--by-length", str(tmp_path / "none.txt"), "--overwrite"], "none.txt: no such file"),
        (["--by-length", "caption", "--overwrite"], "beside the embeddings"),
    ):
        assert main([*words, *more]) == 2
        assert says in capsys.readouterr().err


def test_lengths_follow_the_rows_that_are_drawn(sides):
    image, text, lengths = sides
    found = fr.report(text, image, methods=["none"], by_length=lengths, rows=900, seed=5).by_length
    assert sum(of.rows for of in found.bins) == 900 and found.trend < -5 * found.trend_error
    assert fr.report(text[:400], image[:400], methods=["none"]).by_length is None


def test_what_an_own_fit_leaves_is_what_it_leaves_on_fresh_captions(rng):
    """Few captions for the width: in sample a fit leaves next to nothing, on others as much as chance."""
    d = 64
    image, text, fresh = (rng.standard_normal((n, d)) + shift for n, shift in ((2000, 0.3), (400, 0.0), (20_000, 0.0)))
    found = measured(image.astype(np.float32), text.astype(np.float32), np.arange(400.0))
    with pytest.warns(fr.FitWarning, match="50 rows for a width of 64"):
        fits = [fr.fit(text[first : first + 50], image) for first in range(0, 400, 50)]
    left = np.mean([fr.diagnostics.gap(image, one(fresh)) for one in fits])
    # A bin of 50 fits on 25 of them: chance is larger by the root of two. In 120 worlds 1.42 with a deviation of 0.07.
    assert left < np.mean([of.left_own for of in found.bins]) < 1.85 * left
    assert "one fit serves all lengths" in guideline(found)


def test_lengths_that_are_drawn_must_make_bins(sides):
    """Known before anything is measured."""
    image, text, lengths = sides
    with pytest.raises(InputError, match=r"150 captions .* do not make two bins"):
        fr.report(text, image, rows=150, by_length=lengths, methods=["none"])


def test_a_column_of_another_type_is_named_for_what_it_is(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = np.eye(3, D, dtype=np.float32)
    pq.write_table(
        pa.table({"emb": list(rows), "n": [1.5, 2.0, 3.0], "gone": ["a", None, "b"]}), tmp_path / "t.parquet"
    )
    files = open_rows(str(tmp_path / "t.parquet"), "source", "emb")
    assert row_lengths("n", files, SILENT).tolist() == [1.5, 2.0, 3.0]
    for column, says in (("gone", "expected a caption or a number"), ("other", "has no column of lengths 'other'")):
        with pytest.raises(InputError, match=says):
            row_lengths(column, files, SILENT)
