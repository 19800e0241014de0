"""Rows that are equal, in a report: one document, on one side of a split, and one in an interval."""

from __future__ import annotations

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core.errors import InputError
from fastrealign.gap_report import copies
from fastrealign.gap_report.copies import by_thing, first_rows, halves, independent, numbered, things


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_equal_rows_have_one_number():
    rows = np.array([[1.0, 0.0], [2.0, 0.0], [1.0, -0.0], [2.0, 0.0]])
    numbers = numbered(rows)
    assert numbers.tolist() == [0, 1, 0, 1] and first_rows(numbers).tolist() == [0, 1]
    assert numbered(rows[::2, 1:]).tolist() == [0, 0], "zero has one sign"


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "noise"])
def test_rows_that_differ_by_rounding_have_one_number(kind, rng):
    """In the order of their first rows, whatever lies between; 200 rows have no copy."""
    torch = pytest.importorskip("torch")
    plain = rng.standard_normal((400, 24)) + 0.5
    if kind == "noise":
        others = plain[:200] * (1 + 1e-4 * rng.standard_normal((200, 24)))
    else:
        others = torch.from_numpy(plain[:200]).to(getattr(torch, kind)).double().numpy()
    rows, expected = np.concatenate([plain, others]), np.concatenate([np.arange(400), np.arange(200)])
    order = rng.permutation(600)
    numbers = numbered(unit(rows)[order])
    firsts = first_rows(numbers)
    assert len(firsts) == 400 and (np.diff(firsts) > 0).all()
    assert len(set(zip(numbers.tolist(), expected[order].tolist(), strict=True))) == 400


@pytest.mark.parametrize("d", [2, 3])
def test_rows_that_are_near_by_chance_are_no_copies(d, rng):
    rows = unit(rng.standard_normal((3000, d)))
    assert numbered(rows).max() + 1 == len(np.unique(rows.astype(np.float32), axis=0))


def test_one_row_many_times_and_rows_in_a_narrow_cone():
    rng = np.random.default_rng(7)
    cone = unit(100 + rng.standard_normal((300, 32)))
    assert numbered(cone).tolist() == list(range(300)), "their cosines are 1 - 1e-4"
    assert numbered(np.ones((30, 4))).tolist() == [0] * 30
    many = unit(np.ones((500, 32)) + 1e-5 * rng.standard_normal((500, 32)))
    assert numbered(np.concatenate([many, unit(rng.standard_normal((50, 32)))])).max() == 50


def test_a_cluster_that_takes_too_long_has_no_near_copies(monkeypatch):
    """Rows a little further apart than near copies: the search ends, and equal rows are still one."""
    compared = []
    apart = copies._apart
    monkeypatch.setattr(
        copies, "_apart", lambda rows, some, others: compared.append(len(some)) or apart(rows, some, others)
    )
    # The same rows each time: others of this kind are dense, or few enough to be compared.
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((900, 64))
    cluster = plain[0] + 0.03 * rng.standard_normal((1000, 64))
    rows = unit(np.concatenate([plain, plain * (1 + 1e-4 * rng.standard_normal((900, 64))), cluster, plain[:5]]))
    numbers = numbered(rows)
    assert 0 < sum(compared) <= 20 * len(rows)
    assert numbers[-5:].tolist() == numbers[:5].tolist()
    assert len(set(numbers[:2800].tolist())) == 2800


def test_no_rows_and_one_row():
    assert numbered(np.empty((0, 4))).tolist() == [] and numbered(np.ones((1, 4))).tolist() == [0]


def test_what_shares_a_row_on_a_side_is_one_thing(rng):
    """Against a search through rows of one thing."""
    sides = rng.integers(0, 100, (2, 60))
    numbers = things(*(np.unique(side, return_inverse=True)[1] for side in sides))
    for start in range(60):
        reached = np.zeros(60, bool)
        reached[start] = True
        for _ in range(60):
            reached |= np.any([np.isin(side, side[reached]) for side in sides], axis=0)
        assert np.array_equal(numbers == numbers[start], reached)
    assert set(numbers) == set(range(numbers.max() + 1)) and numbers.max() > 3


def test_halves_are_random_and_have_no_thing_in_common(rng):
    numbers = rng.integers(0, 30, 200)
    first, second = halves(numbers, np.random.default_rng(0))
    assert not set(numbers[first]) & set(numbers[second])
    assert sorted([*first, *second]) == list(range(200)) and first.tolist() == sorted(first)
    order = np.random.default_rng(1).permutation(9)
    assert [half.tolist() for half in halves(np.arange(9), np.random.default_rng(1))] == [
        sorted(order[::2]),
        sorted(order[1::2]),
    ]


def test_a_mean_over_things_is_as_uncertain_as_the_means_of_draws(rng):
    """The standard error, against the spread of the means of many draws of things of 1 to 9 rows."""
    means, errors, counts = [], [], []
    for _ in range(2000):
        sizes = rng.integers(1, 10, 80)
        numbers = np.repeat(np.arange(80), sizes)
        scores = (rng.standard_normal(80)[numbers] + 0.3 * rng.standard_normal(len(numbers)) > 0).astype(float)
        of = by_thing(scores, numbers)
        assert of.mean() == pytest.approx(scores.mean()) and len(of) == 80
        means.append(of.mean())
        errors.append(of.std(ddof=1) / np.sqrt(80))
        counts.append(scores.std() / np.sqrt(independent(numbers)))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.06)
    assert np.mean(counts) == pytest.approx(np.std(means), rel=0.2), "rows of a thing are not quite equal here"
    rows = rng.standard_normal(50)
    assert np.allclose(by_thing(rows, rng.permutation(50)[np.arange(50)]).mean(), rows.mean())
    assert np.allclose(by_thing(rows, np.arange(50)), rows) and independent(np.arange(50)) == 50


@pytest.mark.parametrize(("rounding", "off"), [(0.0, 1e-6), (1e-6, 0.04)])
def test_rows_that_are_there_five_times_give_the_report_of_one(rounding, off, few, rng):
    """Search, intervals, the margin of the gap and the accuracy: those of each row once. Rounding may turn a rank or two."""
    pytest.importorskip("sklearn")
    y, x = few(120, 8)
    labels = np.arange(120) % 3
    once = fr.report(y, x, pairs=True, labels=labels, methods=("realign",))
    copies = [np.repeat(side, 5, 0) for side in (y, x)]
    copies = [(side * (1 + rounding * rng.standard_normal(side.shape))).astype(np.float32) for side in copies]
    five = fr.report(*copies, pairs=True, labels=np.repeat(labels, 5), methods=("realign",))
    assert five.means.margin == pytest.approx(once.means.margin, rel=off)
    assert five.means.chance == pytest.approx(once.means.chance, rel=off) and five.means.apart == once.means.apart
    for name in ("recall@1", "recall@5", "recall@10", "one_index_recall@10"):
        for method in ("none", "realign"):
            one, other = (report.outcomes[name].methods[method] for report in (once, five))
            assert other.value == pytest.approx(one.value, abs=off)
            assert other.margin == pytest.approx(one.margin, abs=off)
    assert five.outcomes["accuracy"].n == once.outcomes["accuracy"].n == 60
    assert five.outcomes["mixing"].n == once.outcomes["mixing"].n


def test_a_classifier_is_not_tested_on_copies_of_what_it_was_trained_on(rng):
    """Classes drawn by lot, in 64 columns: only a row that was seen in training can be classified right."""
    pytest.importorskip("sklearn")
    y, x = rng.standard_normal((2, 40, 64))
    labels = rng.permutation(np.arange(40) % 2)
    report = fr.report(
        np.repeat(y, 20, 0) + 0.01 * rng.standard_normal((800, 64)),
        np.repeat(x, 20, 0),
        labels=np.repeat(labels, 20),
        methods=("none",),
    )
    assert report.classes.own < 0.8, "trained on copies it would be 1"


def test_classes_of_one_side_alone_are_noted(few):
    pytest.importorskip("sklearn")
    y, x = few(80, 4)
    labels = np.array(["a", "b", "c", "d"] * 20), np.array(["a", "b"] * 40)
    notes = fr.report(y, x, labels=labels, methods=("none",)).notes
    assert (
        "source: 40 of its 80 rows are of classes that the other side does not have; the classifier leaves them out"
        in notes
    )
    assert not any(note.startswith("target") and "classes" in note for note in notes)


def test_a_single_row_is_said_in_the_singular(few):
    y, x = few(30, 4)
    with pytest.raises(InputError, match=r"^source: 1 row, expected at least 21, for 20 neighbours of each row$"):
        fr.report(y[:1], x)


def test_the_rows_of_an_array_are_read_once(few, monkeypatch):
    """Checked and numbered in one pass over each side."""
    from fastrealign.core.progress import SILENT
    from fastrealign.gap_report import sides

    seen, real = [], sides.unit_blocks
    monkeypatch.setattr(sides, "unit_blocks", lambda source: seen.append(source.name) or real(source))
    y, x = few(100, 4)
    options = sides.ReportOptions(None, ("none",), {}, 1000, 0, None, None)
    drawn = sides.open_and_draw(y, x, options, SILENT).drawn
    assert seen == ["target", "source"] and drawn[0].array is x
