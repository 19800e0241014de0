"""What a report measures: the figures of the diagnostics, in the order the methods come in, and rows it cannot measure."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fastrealign as fr
from fastrealign import diagnostics
from fastrealign.cli.main import main
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.progress import Progress
from fastrealign.diagnostics.unit_rows import draw
from fastrealign.gap_report import measure
from fastrealign.methods.baselines import Mapped, fit_baseline


def test_figures_are_those_of_the_diagnostics(sides):
    y, x = sides
    report = fr.report(y, x, pairs=True, methods=("realign", "c3"), seed=7)
    assert list(report.methods) == ["none", "realign", "c3"] and report.fitted_on is None
    frame = diagnostics.fixed_frame(diagnostics.covariance(x), diagnostics.covariance(y))
    for name, options in (("realign", {}), ("c3", {"seed": 7})):
        after = Mapped(fit_baseline(name, y, x, **options), y)
        of, covariance = report.methods[name], diagnostics.covariance(after)
        assert of.gap == diagnostics.gap(x, after)
        assert of.sigma_gap == diagnostics.sigma_gap(diagnostics.covariance(x), covariance)
        assert of.spectrum.power == diagnostics.power_law(covariance.eigenvalues)
        assert of.mixing == diagnostics.mixing(x, after, k=20, rows=measure.QUERIES, seed=7)
        assert of.kept == diagnostics.overlap(y, after, k=10, rows=measure.QUERIES, seed=7)
        topology = diagnostics.angular_topology(x, after, rows=measure.ANGLES, seed=7)
        assert of.topology.divergence == topology.divergence
        assert of.correlation == diagnostics.pairwise_correlation(y, after, rows=measure.ANGLES, seed=7)
        assert of.cosine == diagnostics.instance_cosine(y, after)
        parts = diagnostics.decompose(frame, diagnostics.difference_covariance(x, after))
        assert of.pairs.parts.total == pytest.approx(parts.total, rel=1e-12)
        assert of.pairs.distance.value == pytest.approx(parts.total, rel=1e-6)
        assert of.pairs.parts.bias_v == pytest.approx(parts.bias_v, rel=1e-9)


def test_sampled_queries_are_those_of_the_diagnostics(sides, monkeypatch):
    monkeypatch.setattr(measure, "QUERIES", 50)
    y, x = sides
    report = fr.report(y, x, methods=("none", "realign"), seed=3)
    after = Mapped(fr.fit(y, x), y)
    for name, rows in (("none", y), ("realign", after)):
        assert report.methods[name].mixing == diagnostics.mixing(x, rows, k=20, rows=50, seed=3)
        assert report.methods[name].mixing.rate.error > 0
        assert report.methods[name].kept == diagnostics.overlap(y, rows, k=10, rows=50, seed=3)


def test_methods_come_in_the_order_of_the_paper_on_the_shipped_embeddings(demo_report):
    of = demo_report.methods
    assert of["none"].gap > of["c3"].gap > of["realign"].gap
    assert of["c3"].topology.divergence.value > 2 * of["realign"].topology.divergence.value
    assert of["none"].mixing.rate.value < of["c3"].mixing.rate.value < of["realign"].mixing.rate.value
    assert of["bca"].kept.value < of["realign"].kept.value - 0.1
    slope = {name: m.spectrum.power.alpha for name, m in of.items()}
    assert abs(slope["realign"] - slope["none"]) < 0.05 < slope["none"] - slope["c3"]
    best = {name: set(outcome.best) for name, outcome in demo_report.outcomes.items()}
    assert best["mixing"] == {"bca"} and {"realign", "realign-exact"} <= best["gap"] and "c3" not in best["gap"]
    assert best["recall@1"] == set(), "on these rows no method raises it by more than chance"
    assert "ReAlign exact" in demo_report.verdict and "no method raises that" in demo_report.verdict
    assert "leave the source as it is for search from the source for the target" in demo_report.advice


def test_the_rows_of_the_table_are_the_successor_papers_figures(sides):
    y, x = sides
    report = fr.report(y, x, pairs=True, methods=("none", "bca"))
    lines = {line[: line.index("  ")]: line for line in str(report).splitlines() if "  " in line}
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (y.astype(float), x.astype(float))]
    difference = unit[1] - unit[0]
    r_res = difference.var(axis=0).sum() / np.mean(np.sum(difference**2, axis=1))
    moments = difference.T @ difference
    pairs = report.methods["none"].pairs
    assert pairs.parts.r_res == pytest.approx(r_res, rel=0.05)
    assert pairs.anisotropy == pytest.approx(
        len(moments) * np.linalg.eigvalsh(moments)[-1] / np.trace(moments), rel=0.05
    )
    assert f"{pairs.parts.r_res:.3f}" in lines["R_res"]
    for name, value in (("source", "balance_y"), ("target", "balance_x")):
        shown = lines[f"Support balance, {name}"]
        assert f"{getattr(report.methods['none'].mixing, value).value:.3f}" in shown
    assert f"({report.pair_rows:,} pairs)" in str(report)
    written = report.to_json()["methods"]["none"]
    assert written["pairs"]["eta_u"] == pairs.parts.eta_u and written["mixing"]["balance_x"]["value"] > 0


def test_parts_of_the_gap_add_up(demo_report):
    for of in demo_report.methods.values():
        parts = of.pairs.parts
        assert parts.bias_u + parts.bias_v + parts.residual_u + parts.residual_v == pytest.approx(
            of.pairs.distance.value
        )
    before, after = demo_report.methods["none"].pairs.parts, demo_report.methods["realign"].pairs.parts
    assert after.bias_u + after.bias_v < 0.02 * (before.bias_u + before.bias_v)
    # The bias of pairs is the gap of their means, squared.
    assert before.bias_u + before.bias_v == pytest.approx(demo_report.domains.before[1] ** 2, rel=1e-6)


def test_more_rows_leave_less_and_other_domains_more(demo_report):
    medians = [np.median(size.gaps) for size in demo_report.sizes]
    assert [size.rows for size in demo_report.sizes] == [30, 100, 300, 1000, 4000]
    assert medians == sorted(medians, reverse=True) and all(len(size.gaps) == 5 for size in demo_report.sizes[:-1])
    gaps = demo_report.domains.gaps
    assert demo_report.domains.names == ("these rows", "held out")
    assert gaps[0, 0] == pytest.approx(demo_report.sizes[-1].gaps[0], rel=1e-6)
    assert min(gaps[0, 1], gaps[1, 0]) > 2 * max(gaps[0, 0], gaps[1, 1])


def test_domains_by_the_reference(few):
    (y, x), (v, u) = few(80, 8, np.float64), few(90, 8, np.float64)
    found = fr.report(y, x, methods=("none",), domains={"other": (v, u)}).domains
    from fastrealign.core import reference

    for i, sides in enumerate(((y, x), (v, u))):
        fitted = reference.fit(*sides)
        for j, (source, target) in enumerate(((y, x), (v, u))):
            moved = reference.row_map(source, fitted.s, fitted.b, fitted.c)
            assert found.gaps[i, j] == pytest.approx(reference.gap(reference.project(target), moved), abs=1e-9)


def test_sides_with_more_rows_than_asked_for_are_drawn_and_that_is_said(sides):
    y, x = sides
    report = fr.report(y, x, pairs=True, rows=100, methods=("none", "realign"))
    assert (report.source.rows, report.source.of, report.pair_rows) == (100, 1000, 50)
    whole = fr.report(y, x, pairs=True, methods=("none", "realign"))
    assert 0.0 < whole.means.margin < report.means.margin < 0.2
    assert abs(report.gap_before - whole.gap_before) < 2 * report.means.margin
    found, true = (r.methods["none"].pairs.distance for r in (report, whole))
    assert true.error == 0.0 and abs(found.value - true.value) < 5 * found.error
    assert "100 source rows of 1,000, " in str(report) and "fitted on 50 + 50 of them" in str(report)


def test_the_same_seed_gives_the_same_and_another_seed_another(few):
    y, x = few(50, 8)
    one, same, other = (fr.report(y, x, rows=30, seed=seed).to_json() for seed in (1, 1, 2))
    assert one == same != other


def test_json_survives_a_round_trip(demo_report):
    value = demo_report.to_json()
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert value["methods"]["realign"]["gap"] == demo_report.methods["realign"].gap
    assert value["methods"]["c3"]["mixing"]["rate"]["error"] > 0
    # The means of the demo's sides are too short for the expansion.
    drift = value["drift"]
    assert drift["ratio"] > 1 and (drift["predicted"], drift["cosine"]) == (None, None) and drift["measured"] > 0
    assert not any("drift" in note for note in value["notes"])


def test_the_drift_of_long_means_is_predicted(few):
    pytest.importorskip("matplotlib")
    report = fr.report(*few(200, 8), methods=("none", "realign"))
    drift = report.to_json()["drift"]
    assert drift["ratio"] < 0.5 and 0.9 < drift["cosine"] <= 1
    assert drift["predicted"] == pytest.approx(drift["measured"], rel=0.5)
    assert 'id="drift"' in report.to_html()


def test_files_tensors_and_chunks_give_what_arrays_give(tmp_path, sides):
    y, x = sides
    for i in range(3):
        np.save(tmp_path / f"part_{i}.npy", y[400 * i : 400 * (i + 1)])
    arrays, files, chunks = (
        fr.report(source, x, methods=("realign",)).methods["realign"] for source in (y, tmp_path, [y[:120], y[120:]])
    )
    for other in (files, chunks):
        assert other.gap == pytest.approx(arrays.gap, rel=1e-5)
        assert other.mixing.rate.value == pytest.approx(arrays.mixing.rate.value, abs=1e-3)


def test_progress_comes_to_its_end(few):
    class Counted(Progress):
        def start(self, phase, rows, nbytes):
            self.phase, self.left = phase, rows

        def advance(self, rows, nbytes):
            self.left -= rows

        def finish(self):
            self.done = True

    shown = Counted()
    y, x = few(30, 6)
    fr.report(y, x, pairs=True, progress=shown)
    assert (shown.phase, shown.left, shown.done) == ("measuring", 0, True)


def test_fewer_rows_than_directions_are_named_not_nan(few):
    y, x = few(40, 64)
    report = fr.report(y, x, pairs=True)
    json.dumps(report.to_json(), allow_nan=False)
    assert report.target_spectrum.rank == 39
    said = "\n".join(report.notes)
    assert "source: its 40 rows span 39 of 64 directions (rank-deficient)" in said
    assert "source: 40 rows for a width of 64; the mean is uncertain" in said
    assert report.methods["realign"].spectrum.power.last <= 39


@pytest.mark.parametrize("d", [2, 3])
def test_narrow_rows_leave_out_what_they_do_not_have(few, d):
    y, x = few(60, d)
    report = fr.report(y, x, pairs=True, methods=("none", "c3", "realign"))
    json.dumps(report.to_json(), allow_nan=False)
    assert report.methods["realign"].gap < report.methods["none"].gap


def test_pairs_that_are_the_same(sides):
    y, x = sides
    report = fr.report(y, x, pairs=(x, x.copy()), methods=("none", "realign"))
    assert report.methods["none"].pairs.distance.value == 0.0
    assert report.methods["none"].pairs.anisotropy is None and any("no spread" in note for note in report.notes)
    json.dumps(report.to_json(), allow_nan=False)
    pytest.importorskip("matplotlib")
    assert "nan" not in report.to_html().lower()


def test_many_identical_rows(few):
    y, x = few(40, 6)
    y[:25] = y[0]
    report = fr.report(y, x)
    assert 0 <= report.methods["none"].kept.value <= 1
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize("differ", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_few_rows_that_differ(rng, differ, seed):
    """A sample may have none of them, or have them in one of the groups that errors come of."""
    rows = np.repeat(rng.standard_normal((1, 8)), 2000, 0)
    rows[rng.choice(2000, differ, replace=False)] = rng.standard_normal((differ, 8))
    report = fr.report(rows, rng.standard_normal((60, 8)), methods=("none", "realign"), seed=seed)
    json.dumps(report.to_json(), allow_nan=False)
    for of in report.methods.values():
        assert of.correlation is None or of.correlation.error < 1
    said = "\n".join(report.notes)
    assert (report.methods["none"].topology is None) == (
        "none, angles: source: all rows sampled are at one angle" in said
    )


def test_no_angles(few):
    """Two directions, the second of one row that is not drawn: there are no densities, and the page does without."""
    y, x = few(2000, 6)
    y[:] = y[0]
    y[np.setdiff1d(np.arange(2000), draw(2000, measure.ANGLES, 0))[0]] *= [1, 1, 1, 1, 1, -1]
    report = fr.report(y, x, methods=("none", "realign"))
    assert all(of.topology is None and of.correlation is None for of in report.methods.values())
    assert report.to_json()["methods"]["realign"]["jensen_shannon"] is None
    assert "Angles" in str(report) and "realign, angles" in str(report)
    pytest.importorskip("matplotlib")
    assert 'id="angles"' not in report.to_html()


def refused(error, *words):
    """The context in which an error of one line with these words is raised."""
    return pytest.raises(error, match="(?s)^(?!.*\n).*" + ".*".join(words))


@pytest.mark.parametrize("side", ["source", "target"])
def test_bad_rows_and_sides_are_reported_in_one_line(few, side):
    both = dict(zip(("source", "target"), few(40, 8), strict=True))

    def report(rows, **options):
        return fr.report(**{**both, side: rows}, **options)

    rows = both[side]
    with refused(InputError, side, "20 rows", "at least 21"):
        report(rows[:20])
    with refused(InputError, side, "point the same way"):
        report(np.tile(rows[:1], (40, 1)))
    spoiled = rows.copy()
    spoiled[17, 3] = np.nan
    for given in (spoiled, spoiled.astype(np.float16), [spoiled[:10], spoiled[10:]]):
        with refused(BadRowsError, side, "row 17", "NaN"):
            report(given)
    with refused(InputError, "gap between pairs", rf"{side}( has)? 39"):
        report(rows[:-1], pairs=True)
    with refused(InputError, "wide", "one encoder pair"):
        report(rows[:, :-1])


def test_options_that_mean_nothing_are_reported_in_one_line(few):
    y, x = few(40, 8)
    with refused(InputError, "'realing'", "did you mean 'realign'"):
        fr.report(y, x, methods=("none", "realing"))
    with refused(InputError, "no method"):
        fr.report(y, x, methods=())
    with refused(InputError, "several names"):
        fr.report(y, x, methods="realign")
    with refused(InputError, "methods=5: expected names"):
        fr.report(y, x, methods=5)
    with refused(InputError, "domains=.*: expected a dict of sides by name"):
        fr.report(y, x, domains=[(y, x)])
    for name in ("column", "target_column"):
        with refused(InputError, f"{name}=5: expected the name of a column"):
            fr.report(y, x, **{name: 5})
    with refused(InputError, "progress=True: expected an object"):
        fr.report("nowhere.npy", "nowhere.npy", progress=True)
    with refused(InputError, "rows=20"):
        fr.report(y, x, rows=20)
    with refused(InputError, "seed=-1"):
        fr.report(y, x, seed=-1)
    with refused(InputError, "gap between pairs", "40 rows", "30"):
        fr.report(y, x, pairs=(y[:30], x))
    with refused(InputError, "pairs are 7 wide"):
        fr.report(y, x, pairs=(y[:, :7], x[:, :7]))
    for pairs, words in (([y], "a list of 1"), (3, "an int"), ((y, x, y), "a tuple of 3"), ("text.npy", "a str")):
        with refused(InputError, f"pairs: {words}, expected True or .source, target."):
            fr.report(y, x, pairs=pairs)
    with refused(InputError, "domain other: a tuple of 1, expected .source, target."):
        fr.report(y, x, domains={"other": (y,)})
    with refused(InputError, "domain other", "7 wide"):
        fr.report(y, x, domains={"other": (y[:, :7], x[:, :7])})
    with refused(InputError, "domain named 'these rows'", "another name"):
        fr.report("nowhere.npy", "nowhere.npy", domains={"these rows": (y, x)})
    with refused(InputError, "read once"):
        fr.report(iter([y]), x)


def test_pairs_in_a_list_are_pairs(few):
    """They passed for True: row i of the sides, which are not the pairs that were named."""
    y, x = few(120, 4)
    in_list, in_tuple = (
        fr.report(y, x, pairs=pairs, methods=["none"]) for pairs in ([y[:30], x[:30]], (y[:30], x[:30]))
    )
    assert in_list.pair_rows == in_tuple.pair_rows == 30


def test_noise_that_a_run_added_is_noted(sides, tmp_path):
    y, x = sides
    np.save(tmp_path / "text.npy", y)
    np.save(tmp_path / "image.npy", x)
    for noise in (0.0, 0.5):
        fr.align(tmp_path / "text.npy", tmp_path / "image.npy", tmp_path / f"out{noise}", noise=noise, seed=8)
        report = fr.report(tmp_path / f"out{noise}", tmp_path / "image.npy", methods=["none"])
        said = [note for note in report.notes if "noise of length 0.5 (seed 8)" in note]
        assert bool(said) == (noise > 0) and all(note in str(report) for note in said)


def test_noise_that_a_method_adds_by_itself_is_noted(sides, tmp_path, capsys):
    """C3's, whether it was fitted with the files or saved, of the usual length or of another."""
    y, x = sides
    np.save(tmp_path / "text.npy", y)
    np.save(tmp_path / "image.npy", x)
    named, target = tmp_path / "text.npy", tmp_path / "image.npy"
    fr.align(named, target, tmp_path / "fitted", method="c3", seed=8)
    fit_baseline("c3", y, x, sigma=0.1, seed=3).save(tmp_path / "c3.safetensors")
    done = fr.apply_files(tmp_path / "c3.safetensors", named, tmp_path / "saved")
    for out, said in (("fitted", "of length 0.5 (seed 8)"), ("saved", "of length 0.8 (seed 3)")):
        report = fr.report(tmp_path / out, target, methods=["none"])
        assert [note for note in report.notes if said in note]
        assert main(["inspect", str(tmp_path / out)]) == 0
        assert f"noise          {said}, added to every row" in capsys.readouterr().out
    assert "noise" in str(done) and "of length 0.8 (seed 3)" in str(done)
    np.testing.assert_array_equal(np.load(tmp_path / "saved" / "text.npy"), fr.load(tmp_path / "c3.safetensors")(y))
