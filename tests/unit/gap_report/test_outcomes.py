"""Intervals: better only beyond chance, chance as large as fresh draws show it."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
import report_worlds as worlds

import fastrealign as fr
from fastrealign.diagnostics import covariance
from fastrealign.gap_report import measure
from fastrealign.gap_report.outcomes import gap_outcome, means_of, outcome, quantile


def test_a_difference_within_chance_is_none(rng):
    none = (rng.random(400) < 0.5).astype(float)
    alike, worse, better = none.copy(), none * (rng.random(400) < 0.7), np.maximum(none, rng.random(400) < 0.4)
    alike[:4] = 1 - alike[:4]
    of = outcome("x", {name: [(1.0, s)] for name, s in dict(none=none, a=alike, b=worse, c=better).items()}, 3)
    assert [of.better(name) for name in ("a", "b", "c")] == [None, False, True] and of.best == ("c",)
    figure = of.methods["c"]
    assert figure.value == better.mean() and figure.change == pytest.approx((better - none).mean())
    error = (better - none).std(ddof=1) / 20
    assert figure.change_margin == pytest.approx(error * NormalDist().inv_cdf(1 - 0.05 / 6), rel=0.02)


def test_best_is_what_is_not_behind_the_best(rng):
    none = np.zeros(500)
    first = (rng.random(500) < 0.6).astype(float)
    near, far = first.copy(), first * (rng.random(500) < 0.5)
    near[:2] = 1 - near[:2]
    of = outcome("x", {name: [(1.0, s)] for name, s in dict(none=none, a=first, b=near, c=far).items()}, 3)
    assert of.better("c") and set(of.best) == {"a", "b"}


def test_the_nearest_to_the_limit_is_best(rng):
    """Half the neighbours on the other side is fully mixed: 0.9 overshoots it by as much as 0.1 falls short."""
    none = np.full(400, 0.1)
    around = {"short": 0.4, "at": 0.5, "far": 0.7, "over": 0.95}
    scores = {name: [(1.0, at + 0.05 * rng.standard_normal(400))] for name, at in around.items()}
    of = outcome("mixing", {"none": [(1.0, none)], **scores}, 4, limits=[0.5])
    assert of.best == ("at",) and [of.better(name) for name in around] == [True, True, True, False]
    value = 1.0 - scores["far"][0][1].mean()
    assert of.methods["far"].value == pytest.approx(value) and of.methods["far"].change == pytest.approx(value - 0.1)
    # Two that do not differ from the limit by more than chance are both best, whichever is above.
    both = {"none": [(1.0, none)], "a": scores["at"], "b": [(1.0, 1.0 - scores["at"][0][1])]}
    assert set(outcome("mixing", both, 2, limits=[0.5]).best) == {"a", "b"}


def test_at_the_limit_nothing_is_gained():
    none, more = np.full(100, 0.5), np.full(100, 0.6)
    of = outcome("mixing", {"none": [(1.0, none)], "a": [(1.0, none)], "b": [(1.0, more)]}, 2, limits=[0.5])
    assert of.full and of.best == () and of.better("a") is None and of.better("b") is False
    above = outcome("mixing", {"none": [(1.0, more)], "a": [(1.0, none)], "b": [(1.0, more + 0.1)]}, 2, limits=[0.5])
    assert not above.full and above.best == ("a",) and above.better("b") is False, "beyond the limit is not at it"


def test_each_side_has_a_limit_of_its_own():
    """What one side has beyond its limit counts as missing, until nothing is left."""

    def sides(x, y):
        return [(0.5, at + np.tile([-0.05, 0.05], 250)) for at in (x, y)]

    scores = {"none": sides(0.0, 0.0), "even": sides(0.3, 0.3), "noisy": sides(0.02, 0.71), "over": sides(0.0, 1.01)}
    of = outcome("mixing", scores, 3, limits=[0.5, 0.5])
    assert of.best == ("even",) and not of.full and of.limit == 0.5
    assert [of.methods[name].value for name in scores] == pytest.approx([0.0, 0.3, (0.02 + 0.29) / 2, 0.0])
    assert of.better("noisy") and of.better("over") is None
    # Of sides of 900 and 100 rows, one row in ten of the first has a foreign neighbour, nine of the second.
    few = {
        name: [(0.9, x[1] / 5), (0.1, 0.38 + y[1])]
        for name, (x, y) in {"none": sides(0, 0), "a": sides(0.5, 0.5)}.items()
    }
    of = outcome("mixing", few, 1, limits=[0.1, 0.9])
    assert of.limit == pytest.approx(0.18) and of.best == ("a",) and of.methods["a"].value == pytest.approx(0.178)
    assert outcome("mixing", {"none": few["a"], "a": few["a"]}, 1, limits=[0.1, 0.88]).full
    # A side that is beyond its limit does not make up for one that is below, and is no full mixture either.
    for x, y in ((0.0, 0.9), (0.1, 0.9), (0.9, 0.9)):
        of = outcome("mixing", {"none": sides(x, y), "a": sides(0.4, 0.4)}, 1, limits=[0.5, 0.5])
        assert not of.full and of.better("a"), (x, y)


def test_all_alike_has_the_rule_of_three():
    zeros = np.zeros(300)
    of = outcome("x", {"none": [(1.0, zeros)], "a": [(1.0, zeros)]}, 1)
    assert of.methods["none"].margin == 0.01 and of.better("a") is None
    for n, better in ((2, None), (4, None), (50, True)):
        of = outcome("x", {"none": [(1.0, np.zeros(n))], "a": [(1.0, np.ones(n))]}, 8)
        assert of.better("a") is better and of.methods["a"].margin <= 1.0, n


def test_quantiles_are_students():
    """Of a table of Student's t: 0.975 and 0.9975 at 20, 60 and 1000 degrees of freedom."""
    for degrees, one, ten in [(20, 2.086, 3.153), (60, 2.000, 2.915), (1000, 1.962, 2.813)]:
        assert quantile(1, degrees) == pytest.approx(one, rel=0.005)
        assert quantile(10, degrees) == pytest.approx(ten, rel=0.005)


@pytest.mark.parametrize("spread", [np.ones(20), np.arange(1, 21) ** -2.0], ids=["round", "narrow"])
def test_no_gap_is_found_between_samples_of_one_distribution(rng, spread):
    """At 95 %: about one in twenty; and a gap of twice the chance is found."""
    found, seen = 0, 0
    for _ in range(200):
        x, y = (rng.standard_normal((n, 20)) * spread + 2 for n in (60, 90))
        of_x, of_y = covariance(x), covariance(y)
        means = means_of(of_x, of_y, 1)
        found += means.apart
        unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y)]
        moved = np.append(unit[1], np.zeros((90, 1)), 1) + 2.5 * means.chance * np.eye(21)[-1]
        seen += means_of(covariance(np.append(unit[0], np.zeros((60, 1)), 1)), covariance(moved), 1).apart
    assert found <= 22 and seen > 150


def test_gaps_within_chance_count_as_one(few):
    y, x = few(200, 8)
    means = means_of(covariance(x), covariance(y), 4)
    assert means.apart
    of = gap_outcome({"none": 0.9, "a": 1e-9, "b": 0.5 * means.chance, "c": 0.5}, means, 200, 4)
    assert of.best == ("a", "b") and of.better("c") is True
    chance = gap_outcome({"none": 0.9, "a": 1e-9}, type(means)(False, means.margin, means.chance), 200, 4)
    assert chance.better("a") is None and chance.best == ()


@pytest.mark.slow
def test_intervals_hold_over_fresh_draws(monkeypatch):
    """All rows redrawn, methods refitted: the changes scatter no more than their intervals say."""
    monkeypatch.setattr(measure, "ANGLES", 60)
    found = {}
    for seed in range(40):
        y, x, classes = worlds._things(300, 100 + seed, apart=0.5, own=0.5)
        report = fr.report(y, x, pairs=True, labels=classes, methods=("realign", "bca", "c3"))
        for name, of in report.outcomes.items():
            for method, figure in list(of.methods.items())[1:]:
                found.setdefault((name, method), []).append((figure.change, figure.change_margin))
    for key, changes in found.items():
        change, margin = np.array(changes).T
        if key[0] != "kept":
            assert np.mean(np.abs(change - change.mean()) <= margin) >= 0.95, key
