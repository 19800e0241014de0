"""Verdicts and advice on sides whose truth is known: what must be said, and which methods may be named."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import report_worlds as worlds

import fastrealign as fr
from fastrealign.core.errors import FitWarning, InputError
from fastrealign.core.formatting import percent
from fastrealign.gap_report import measure, verdict
from fastrealign.gap_report.method_style import name_of
from fastrealign.gap_report.outcomes import Compared, Outcome
from fastrealign.gap_report.table import as_text, table
from fastrealign.gap_report.verdict import headline


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Of each world, by name; made once."""
    made = {}

    def of(world):
        if world.__name__ not in made:
            given = world(tmp_path_factory.mktemp("world")) if world is worlds.swapped else world()
            with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
                warnings.simplefilter("ignore", FitWarning)
                patched.setattr(measure, "ANGLES", 100)
                made[world.__name__] = fr.report(given.source, given.target, **given.options)
        return made[world.__name__]

    return of


def named(text, report):
    """The methods that a text names."""
    names = sorted(report.methods, key=lambda name: -len(name_of(name)))  # "ReAlign exact" before "ReAlign"
    found = set()
    for name in names:
        if name != "none" and re.search(rf"\b{re.escape(name_of(name))}\b", text):
            found.add(name)
            text = text.replace(name_of(name), "")
    return found


def better(report, outcome):
    return {name for name in report.methods if report.outcomes[outcome].better(name)}


REALIGN = {"realign", "realign-exact"}


def test_where_nothing_helps_that_is_said(reports):
    report = reports(worlds.nothing_helps)
    assert report.means.apart and "The gap between source and target is" in report.verdict
    assert report.verdict.count("no method") == 4 and "no method mixes them better" in report.verdict
    assert report.advice.startswith(
        "Leave the source as it is: no method is better than doing nothing for a classifier"
    )
    assert named(report.advice, report) == set() and headline(report).endswith(
        "; no method helps a classifier, search or one index of both"
    )
    judged = [of for name, of in report.outcomes.items() if name != "gap"]
    assert all(of.best == () for of in judged), "nothing is marked for being best among worse ones"
    assert report.outcomes["recall@1"].better("c3") is False and "less with C3" in report.verdict


def test_closing_a_gap_that_mixes_nothing(reports):
    report = reports(worlds.circles)
    assert set(report.outcomes["gap"].best) == {*REALIGN, "anchor"}
    assert report.outcomes["mixing"].best == () and "no method mixes them better" in report.verdict
    assert report.advice.startswith("Leave the source as it is") and report.advice.count(".") == 1


def test_where_blockwise_wins(reports):
    report = reports(worlds.blockwise_wins)
    assert {report.outcomes[name].best for name in ("recall@1", "one_index_recall@10", "mixing")} == {("bca",)}
    assert report.advice.startswith("Use blockwise for search") and named(report.advice, report) == {"bca"}
    assert "of the neighbours within the source and a product with a matrix" in report.advice
    # ReAlign does not help search among the target alone, so it may not be named beside it.
    assert not REALIGN & better(report, "recall@1")


def test_no_gap(reports):
    report = reports(worlds.no_gap)
    assert not report.means.apart and "no more than by chance" in report.verdict
    assert "there is no gap to close" in report.advice and headline(report).startswith("No gap; ")
    assert all(better(report, name) == set() for name in ("gap", "mixing"))


def test_swapped_sides(reports):
    report = reports(worlds.swapped)
    assert report.swapped and report.advice.startswith("Swap the sides first, text is the source; as they are, use ")
    assert any("look swapped" in note for note in report.notes)
    assert not reports(worlds.clip_like).swapped


def test_a_clip_like_gap(reports):
    report = reports(worlds.clip_like)
    assert report.gap_before > 0.9 and report.outcomes["mixing"].methods["none"].value < 0.01
    assert better(report, "mixing") == {*REALIGN, "bca", "c3"}
    assert set(report.outcomes["gap"].best) >= REALIGN and "c3" not in report.outcomes["gap"].best
    assert report.advice.startswith("Use ")


def test_no_gap_to_speak_of_and_other_spectra(reports):
    report = reports(worlds.small_gap_other_spectra)
    assert better(report, "mixing") == {"bca", "c3"} and report.outcomes["mixing"].best == ("c3",)
    assert report.advice.startswith("Use blockwise") and named(report.advice, report) == {"bca"}, (
        "noise mixes any sides"
    )


def test_more_than_fully_mixed_is_no_gain(reports):
    report = reports(worlds.unequal_sides)
    mixing = report.outcomes["mixing"]
    share = report.methods["c3"].mixing.rate.value
    assert share > mixing.limit + 0.05 and mixing.methods["c3"].value < mixing.limit - 0.05
    assert mixing.better("c3") is False and mixing.best == ()
    assert f"C3 ({percent(mixing.methods['c3'].value)})" in report.verdict.partition("; worse with ")[2]
    assert "no method mixes them better" in report.verdict
    for text in (report.verdict, report.advice, headline(report)):
        assert "no method" in text and "by more than chance" not in text


def test_equal_means_of_sides_that_are_apart(reports):
    report = reports(worlds.clusters_apart)
    assert not report.means.apart and report.outcomes["mixing"].methods["realign"].value < 0.1
    assert "there is no gap to close, but the sides mix less than two parts of one set would: " in report.verdict
    assert "parts of one set" not in reports(worlds.no_gap).verdict


def test_few_rows_are_judged_on_others(reports):
    report = reports(worlds.few_rows)
    assert report.fitted_on == (30, 30) and "methods fitted on 30 + 30 of them and measured on the others" in str(
        report
    )
    assert not report.means.apart and report.advice.startswith("Leave the source as it is: there is no gap")
    assert better(report, "mixing") == set() and report.outcomes["mixing"].better("bca") is False
    assert "with more, they may do better" in report.verdict and "look again with more" in report.advice
    assert report.measured == (30, 30)
    # The means that were fitted are those of other rows.
    assert report.methods["realign-exact"].gap > 0.1


def test_a_small_gap_beside_a_smaller_spread(reports):
    report = reports(worlds.anisotropic)
    assert report.gap_before < 0.1 and report.means.apart and set(report.outcomes["gap"].best) >= REALIGN
    assert report.advice.startswith("Use ReAlign ") and set(report.outcomes["mixing"].best) >= REALIGN


def test_identical_sides(reports):
    report = reports(worlds.identical)
    assert report.same == 1.0 and headline(report).startswith("Both sides hold the same embeddings")
    assert report.advice == "Leave the source as it is: both sides hold the same embeddings."
    rows = worlds.identical().source
    with pytest.raises(InputError, match="source and target hold the same rows"):
        fr.report(rows, rows.copy())


def test_pairs_with_labels(reports):
    report = reports(worlds.pairs_with_labels)
    accuracy = report.outcomes["accuracy"]
    assert better(report, "accuracy") >= REALIGN and better(report, "recall@1") >= REALIGN
    assert accuracy.methods["realign"].value > accuracy.methods["none"].value + 0.15
    assert report.advice.startswith("Use ReAlign for a classifier") and "it costs" in report.advice
    assert accuracy.n == report.classes.test == 300 and report.classes.train == 300
    assert report.classes.most < accuracy.methods["none"].value < report.classes.own


def test_captions_of_one_picture(reports):
    """Sixty pictures, each in five rows: one document each, and as uncertain as sixty."""
    report = reports(worlds.captions_of_pictures)
    assert (report.search.queries, report.search.pool, report.search.sources) == (300, 60, 299)
    assert report.outcomes["recall@1"].n == 60 and report.outcomes["recall@1"].methods["none"].value > 0.8
    assert any("240 of its 300 rows are copies of others" in note for note in report.notes)
    assert report.advice.startswith("Use ReAlign for search in one index of both sides")


def test_copies_of_other_lengths_are_copies(rng):
    """Only the direction of a row counts, in an array as in a file."""
    rows = np.repeat(rng.normal(size=(60, 16)), 5, axis=0).astype(np.float32)
    other = rng.normal(size=rows.shape).astype(np.float32)
    found = [fr.report(other, of, pairs=True) for of in (rows, rows * 2.0 ** rng.integers(-3, 4, (300, 1)))]
    assert [report.search.pool for report in found] == [60, 60]
    notes = [[note for note in report.notes if "240 of its 300 rows are copies of others" in note] for report in found]
    assert len(notes[0]) == 1 and notes[0] == notes[1]


def test_a_rise_that_may_be_chance_is_not_called_none(reports):
    """With fifty queries R@1 rises from 70 to 100 %: not more than chance, and not "no method raises that"."""
    report = reports(worlds.wide_with_a_gap)
    first = report.outcomes["recall@1"]
    assert first.methods["realign"].change > 0.2 and not better(report, "recall@1")
    assert "; no method raises that by more than chance" in report.verdict
    assert "no method is better than doing nothing by more than chance" in report.advice
    assert "by more than chance" not in reports(worlds.nothing_helps).verdict
    assert first.better("bca") is False and named(report.advice, report) == {"realign"}
    y, x, _ = worlds._things(60, 103, apart=1.0)
    few = fr.report(np.repeat(y, 10, 0), np.repeat(x, 10, 0), pairs=True, methods=("realign",))
    assert few.outcomes["recall@1"].methods["realign"].change > 0.1
    assert headline(few).endswith("; no method helps search or one index of both by more than chance")


def test_a_kinder_method_is_compared_in_what_decides(reports):
    """Where R@1 shows no difference and R@5 decides, the other method's R@5 is named beside it."""
    report = reports(worlds.pairs_with_labels)
    outcomes = dict(report.outcomes)

    def figures(name, **values):
        """none at 0.1; a difference of more than 0.05 counts."""
        found = {method: Compared(value, 0.02, value - 0.1, 0.05) for method, value in {"none": 0.1, **values}.items()}
        better = {method: of.value for method, of in found.items() if of.change > 0.05}
        best = max(better, key=better.get, default=None)
        outcomes[name] = Outcome(name, 100, found, best=(best,) if best else ())

    others = {name: 0.1 for name in report.methods if name not in ("none", "bca", "realign")}
    for name, bca, realign in (
        ("recall@1", 0.12, 0.11),
        ("recall@5", 0.5, 0.3),
        ("recall@10", 0.6, 0.4),
        ("one_index_recall@10", 0.1, 0.1),
        ("accuracy", 0.1, 0.1),
        ("kept", 0.2, 0.9),
    ):
        figures(name, bca=bca, realign=realign, **others)
    advice = dataclasses.replace(report, outcomes=outcomes).advice
    assert advice.startswith(
        "Use blockwise for search from the source for the target: R@5 rises from 10.0 % to 50.0 %; "
    )
    assert "where ReAlign reaches 30.0 % and costs 10.0 %" in advice


@pytest.mark.parametrize(
    "realign, chosen",
    [(0.52, "realign"), (0.46, "realign"), (0.44, "bca"), (0.54, "realign"), (0.57, "bca")],
)
def test_of_methods_that_mix_about_as_well_the_one_that_keeps_neighbours(reports, realign, chosen):
    """Blockwise mixes fully and keeps few neighbours; ReAlign keeps most. Nine tenths of the change is about as well mixed."""
    report = reports(worlds.clip_like)
    methods = {name: report.methods[name] for name in ("none", "bca", "realign")}

    def figures(**values):
        return {name: Compared(value, 0.001, 0.5 - abs(value - 0.5), 0.002) for name, value in values.items()}

    outcomes = report.outcomes | {
        "mixing": Outcome("mixing", 800, figures(none=0.0, bca=0.503, realign=realign), best=("bca",), limit=0.5),
        "kept": Outcome(
            "kept", 800, {name: Compared(of, 0.01) for name, of in zip(methods, (1.0, 0.1, 0.8), strict=True)}
        ),
    }
    report = dataclasses.replace(report, methods=methods, outcomes=outcomes)
    other, costs = ("bca", "20.0 %") if chosen == "realign" else ("realign", "90.0 %")
    mixed = {"bca": "50.3 %", "realign": percent(realign)}
    lost = {"bca": "90.0 %", "realign": "20.0 %"}[other]
    assert report.advice.startswith(f"Use {name_of(chosen)} for mixing the sides: mixing ")
    assert (
        f"rises from 0.0 % to {mixed[chosen]} (50.0 % is fully mixed); it costs {costs} of the neighbours"
        in report.advice
    )
    assert f", where {name_of(other)} reaches {mixed[other]} and costs {lost}" in report.advice
    assert headline(report).endswith(f"; {name_of(chosen)} helps mix the sides")
    assert verdict.plane_title(report).endswith(f"{mixed[chosen]} with {name_of(chosen)}")


def test_noise_is_not_advised_for_mixing():
    """C3 makes rows random and costs most neighbours; it mixes even sides that nothing else mixes, and may not be advised."""
    rng = np.random.default_rng(0)
    spread, centre, gap = np.arange(1, 65) ** -0.5, 2 * np.eye(64)[0], np.eye(64)[-1]
    things, *own = rng.standard_normal((3, 3000, 64)) * spread
    y, x = 0.9 * (things + 0.2 * own[0]) + centre - gap, things + 0.2 * own[1] + centre + gap
    report = fr.report(y, x, methods=("realign", "c3"))
    kept = report.outcomes["kept"].methods
    assert better(report, "mixing") == {"realign", "c3"} and kept["c3"].value < 0.3 < 0.6 < kept["realign"].value
    assert report.advice.startswith("Use ReAlign for mixing the sides") and named(report.advice, report) == {"realign"}
    spectra = worlds.small_gap_other_spectra()
    noisy = fr.report(spectra.source, spectra.target, methods=("realign", "c3"))
    assert noisy.outcomes["mixing"].best == ("c3",) and "better mixed with C3 (" in noisy.verdict
    assert "no method without noise is better than doing nothing for mixing the sides" in noisy.advice
    assert headline(noisy).endswith("; no method without noise helps mix the sides")
    assert verdict.plane_title(noisy).endswith("; no method without noise mixes the sides better")
    # Where nothing else was compared, nothing is known of what else would help.
    alone = fr.report(y, x, methods=("c3",))
    assert alone.advice.startswith("Leave the source as it is: only methods that add noise were compared")
    for text in (headline(alone), verdict.plane_title(alone)):
        assert text.endswith("; only methods that add noise were compared")
    # With pairs it is judged by search, like any other.
    searched = fr.report(y, x, methods=("c3",), pairs=True)
    assert searched.advice.startswith("Use C3 for search") and "C3 helps" in headline(searched)
    assert verdict.plane_title(searched).endswith("; only methods that add noise were compared")


def test_sides_that_noise_has_mixed_unevenly_are_not_mixed():
    """Rows that were aligned with noise: the mean of both sides is nearly that of mixed ones, and neither side is mixed."""
    rng = np.random.default_rng(1)
    things, *own = rng.standard_normal((3, 2000, 32)) * np.arange(1, 33) ** -0.5
    centre, gap = 2 * np.eye(32)[0], np.eye(32)[-1]
    y, x = 0.9 * (things + 0.2 * own[0]) + centre - gap, things + 0.2 * own[1] + centre + gap
    report = fr.report(fr.fit(y, x)(y, noise=0.5), x, methods=("realign", "bca"))
    none = report.methods["none"].mixing
    assert none.rate.value > 0.4 and none.share_x.value < 0.3 and none.share_y.value > 0.6
    mixing = report.outcomes["mixing"]
    assert mixing.methods["none"].value < 0.3 and not mixing.full and mixing.best == ("bca",)
    shown = [percent(mixing.methods[name].value) for name in ("none", "bca")]
    assert f"mixing rises from {shown[0]} to {shown[1]} (50.0 % is fully mixed)" in report.advice


def test_heavy_tails(reports):
    report = reports(worlds.heavy_tails)
    assert set(report.outcomes["recall@1"].best) >= REALIGN and report.outcomes["recall@1"].better("c3") is False
    assert report.advice.startswith("Use ReAlign for search from the source for the target and search in one index")


def test_where_the_gap_is_one_of_classes_aligning_is_not_advised(reports):
    report = reports(worlds.classes_in_other_shares)
    assert report.means.apart and all(report.outcomes["accuracy"].better(name) is False for name in REALIGN)
    assert "less with ReAlign" in report.verdict and better(report, "mixing") >= REALIGN
    assert report.advice.startswith("Leave the source as it is: no method is better") and not named(
        report.advice, report
    )


@pytest.mark.parametrize("world", worlds.WORLDS, ids=lambda world: world.__name__)
def test_what_holds_of_every_report(reports, world):
    report = reports(world)
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert next(iter(report.methods)) == "none" and value["advice"] == report.advice
    for name, of in report.outcomes.items():
        for method, figure in of.methods.items():
            judged = value["outcomes"][name]["methods"][method]
            low, high = judged["change_interval"]
            if judged["better"] is not None:
                assert low > 0 or high < 0, "better and worse only where the interval excludes zero"
                assert judged["better"] == ((figure.change < 0) == of.lower)
            if method in of.best:
                assert judged["better"] is True
        assert of.n > 0 and "none" not in of.best
    # The text marks what the table marks, and says of every metric what it is and what it was measured on.
    text = as_text(report)
    for row in table(report):
        assert row.meaning in text and row.measured in text
        assert len(row.meaning) < 170
    assert text.startswith(report.verdict) and f"\nAdvice: {report.advice}\n" in text
    assert report.advice.endswith(".") and ". " not in report.advice, "one sentence"
    # A method is advised for what it is better in, and only then.
    if report.advice.startswith("Leave"):
        assert named(report.advice, report) == set()
    else:
        helps = set().union(*(better(report, name) for name in report.outcomes if name not in ("gap", "kept")))
        assert named(report.advice, report) <= helps


def test_a_single_method_is_still_compared_with_doing_nothing():
    world = worlds.clip_like()
    report = fr.report(world.source, world.target, methods=("realign",))
    assert list(report.methods) == ["none", "realign"] and "better mixed with ReAlign" in report.verdict
    alone = fr.report(world.source, world.target, methods=("none",))
    assert "no method was asked to close the gap" in alone.advice and "no method" not in alone.verdict


def test_rows_of_a_side_that_are_on_the_other_are_counted():
    y, x, _ = worlds._things(200, 12, apart=0.5)
    assert fr.report(np.concatenate([y, x[:50]]), x, methods=("none",)).same == pytest.approx(0.2)

    [note] = [
        note for note in fr.report(np.concatenate([y, x[:50]]), x, methods=("none",)).notes if "a copy among" in note
    ]
    assert note == "of 250 source rows, 50 have a copy among the 200 target rows; check that no file is on both sides"
    # Of half of the source's rows the copies are in the target, of which half of the rows are drawn.
    drawn = fr.report(np.concatenate([y, x]), x, methods=("none",), rows=100)
    [note] = [note for note in drawn.notes if "a copy among" in note]
    assert re.match(r"of \d+ source rows, \d+ have a copy among 100 target rows drawn \(of 200\); ", note)
    assert not any("have a copy among" in note for note in fr.report(y, x, methods=("none",)).notes)


@pytest.mark.parametrize("kind", [np.float16, "shuffled"])
def test_the_same_rows_in_another_type_or_order_are_the_same(kind, rng):
    """Of few rows, too, of which one half of a side is measured."""
    for n in (120, 400):
        rows = rng.normal(size=(n, 16)).astype(np.float32)
        other = (
            rng.permutation(rows) * np.float32(1.0001) if kind == "shuffled" else rows.astype(kind).astype(np.float32)
        )
        other += np.float32(1e-5) * rng.normal(size=rows.shape).astype(np.float32)
        report = fr.report(rows, other, methods=("realign",))
        assert report.same == 1.0 and headline(report).startswith("Both sides hold the same embeddings")


def test_rows_in_a_narrow_cone_or_of_few_columns_are_not_the_same(rng):
    """All cosines are near to 1 in a cone, and rows on a circle are near to others by chance."""
    things = rng.normal(size=(400, 16))
    source = things + 3000 + 0.3 * rng.normal(size=things.shape) + 3 * np.eye(16)[0]
    report = fr.report(source, things + 3000, pairs=True, methods=("realign",))
    assert (
        report.same == 0.0 and report.means.apart and report.verdict.startswith("The gap between source and target is")
    )
    assert report.advice.startswith("Use ReAlign for search")
    circle = fr.report(*rng.normal(size=(2, 3000, 2)), methods=("realign",))
    assert circle.same == 0.0 and not headline(circle).startswith("Both sides")
    assert not any("a copy among" in note for note in circle.notes)


def test_a_slope_that_every_method_changes_is_not_called_kept(reports):
    report = reports(worlds.clip_like)

    def title(**slopes):
        methods = {}
        for name, slope in slopes.items():
            of = report.methods[name]
            power = dataclasses.replace(of.spectrum.power, alpha=slope)
            methods[name] = dataclasses.replace(of, spectrum=dataclasses.replace(of.spectrum, power=power))
        return verdict.spectra_title(dataclasses.replace(report, methods=methods))

    assert title(none=1.0, realign=0.7, c3=0.5) == (
        "No method keeps the source's slope (1.00): ReAlign changes it to 0.70, C3 to 0.50"
    )
    assert title(none=1.0, realign=1.09, c3=0.5) == (
        "ReAlign keeps the source's slope (1.00, 1.09 after); C3 changes it to 0.50"
    )
    assert title(none=1.0, realign=1.0, bca=1.09) == (
        "Every method keeps the source's slope (1.00): ReAlign 1.00 after, blockwise 1.09"
    )


def test_angles_that_differ_by_chance_are_not_brought_closer(reports):
    """A method brings them closer by more than two standard errors of the difference over other rows."""
    report = reports(worlds.clip_like)

    def title(before, after, error):
        methods = {}
        for name, value in (("none", before), ("realign", after)):
            of = report.methods[name]
            js = dataclasses.replace(of.topology.divergence, value=value)
            topology = dataclasses.replace(of.topology, divergence=js, other_rows=error)
            methods[name] = dataclasses.replace(of, topology=topology)
        return verdict.angles_title(dataclasses.replace(report, methods=methods))

    two = 2 * np.sqrt(2) * 0.01
    inside, outside = title(0.5, 0.5 - 0.99 * two, 0.01), title(0.5, 0.5 - 1.01 * two, 0.01)
    assert (
        inside == "No method brings the angles closer to the target's by more than chance: 0.500 nats before alignment"
    )
    assert outside == "ReAlign brings the angles closest to the target's: 0.471 nats, 0.500 nats before alignment"
    assert title(0.5, 0.6, 0.0) == "No method brings the angles closer to the target's: 0.500 nats before alignment"


def test_rows_too_few_for_two_halves_are_said_to_be_fitted_and_measured(rng, monkeypatch):
    monkeypatch.setattr(measure, "ANGLES", 1500)
    report = fr.report(rng.normal(size=(30, 16)) + 1, rng.normal(size=(2000, 16)) - 1, methods=("realign",))
    assert report.reused and report.few and report.fitted_on is None
    assert (
        "The source has 30 rows, few for a width of 16, and no halves to fit methods on one and measure on the other; on other "
        "rows methods leave a larger gap."
    ) in report.verdict
    assert "look again with more" in report.advice
    text = report.to_html()
    assert "methods fitted on the rows that they are measured on" in text
    assert (
        "n = 30 source and 300 target rows drawn" in text and "n = 30 source and 1,500 target rows, all pairs" in text
    )
    assert verdict.sizes_title(report).startswith("Fitted on all 30 + 2,000 rows, ReAlign leaves")


def test_a_side_alone_that_is_halved(rng):
    report = fr.report(rng.normal(size=(100, 16)) + 1, rng.normal(size=(2000, 16)) - 1, methods=("realign",))
    assert report.fitted_on == (50, 2000) and report.measured == (50, 2000) and report.halved == {"source": 50}
    assert "methods fitted on 50 of the source rows and measured on the others" in str(report)
    assert "Methods were fitted on 50 source rows, few for a width of 16" in report.verdict
    assert re.match(r"Fitted on 50 \+ 2,000 rows, ReAlign leaves [\d.]+ on others", verdict.sizes_title(report))


def test_pairs_that_methods_are_fitted_on_are_left_out():
    """Named once more as pairs, rows are what they are: half of them are fitted on, and only the other half is searched."""
    rng = np.random.default_rng(3)
    things = rng.normal(size=(150, 20))
    y, x = (things @ rng.normal(size=(20, 200)) + 2 * rng.normal(size=(150, 200)) for _ in range(2))
    own, named = (fr.report(y, x, pairs=pairs, methods=("bca",)) for pairs in (True, (y.copy(), x.copy())))
    assert named.search == own.search and named.search.queries == 75 == named.pair_rows
    assert named.outcomes["recall@10"].methods == own.outcomes["recall@10"].methods
    assert (
        "75 of 150 pairs contain a row that methods were fitted on; search is measured on the other 75" in named.notes
    )
    others = fr.report(y[:100], x[:100], pairs=(y[100:], x[100:]), methods=("bca",))
    assert others.search.queries == 50 and not any("a row that methods" in note for note in others.notes)
    few = fr.report(y, x, pairs=(y[: own.search.queries], x[: own.search.queries]), methods=("none",))
    assert 0 < few.search.queries < 75


@pytest.mark.slow
def test_the_example_of_the_docs():
    """On real embeddings: docs/diagnostics.md quotes the advice."""
    pytest.importorskip("sklearn")
    from fastrealign.cli.demo import real_world

    world = real_world.load()
    fit, test = world.part("fit"), world.part("test")
    report = fr.report(fit.title, fit.image, labels=fit.categories, pairs=(test.title, test.image))
    page = (Path(__file__).parents[3] / "docs" / "diagnostics.md").read_text()
    quoted = " ".join(re.findall(r"^> (.*)$", page, re.MULTILINE))
    figures = r"\d+\.\d+"
    assert re.sub(figures, "#", quoted) == re.sub(figures, "#", report.advice)
    said, found = (np.array(re.findall(figures, text), float) for text in (quoted, report.advice))
    assert np.abs(said - found).max() < 1.0
