"""Evaluation of search: metrics against their definitions, intervals, advice, warnings, and input that cannot be measured."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core.errors import warn
from fastrealign.core.formatting import count
from fastrealign.methods.baseline import Baseline
from fastrealign.retrieval import evaluate, evaluation
from fastrealign.retrieval.bootstrap import Figure, figures
from fastrealign.retrieval.search_verdict import headline


@pytest.fixture(scope="module")
def world():
    """150 things: queries and their text close together, images elsewhere; document i is text (odd) or an image (even)."""
    rng = np.random.default_rng(3)
    n, d = 150, 16
    things = rng.standard_normal((n, d))
    noisy = lambda size: things + size * rng.standard_normal((n, d))  # noqa: E731
    up, down = 4 * np.eye(d)[0], -4 * np.eye(d)[0]
    image = np.arange(n) % 2 == 0
    ids = [f"d{i}" for i in range(n)]
    return {
        "queries": (noisy(0.3) + up).astype(np.float32),
        "text": (noisy(0.3) + up + np.eye(d)[1]).astype(np.float32)[~image],
        "images": (noisy(0.5) + down).astype(np.float32)[image],
        "ids": {"query": ids, "text": list(np.array(ids)[~image]), "image": list(np.array(ids)[image])},
        "qrels": {f"d{i}": {f"d{i}": 1 + i % 3, f"d{(i + 1) % n}": 0, f"d{(i + 2) % n}": 1} for i in range(n)},
    }


@pytest.fixture(scope="module")
def found(world):
    return evaluate(**world)


def by_definition(world, queries, text, images):
    """R@10, NDCG@10 and MRR of every query in the mixed corpus, from the full matrix of scores and the formulas."""
    unit = lambda rows: rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)  # noqa: E731
    names = np.array([*world["ids"]["text"], *world["ids"]["image"]])
    scores = unit(queries) @ unit(np.concatenate([text, images])).T
    values = []
    for row, of in zip(scores, world["qrels"].values(), strict=True):
        order = np.argsort(-row, kind="stable")
        grades = np.array([of.get(name, 0) for name in names[order]])
        ideal = np.sort(list(of.values()))[::-1][:10]
        gain = (grades[:10] / np.log2(np.arange(2, 12))).sum() / (ideal / np.log2(np.arange(2, len(ideal) + 2))).sum()
        first = int(np.flatnonzero(grades)[0]) + 1
        recall = (grades[:10] > 0).sum() / sum(grade > 0 for grade in of.values())
        values.append((recall, gain, 1 / first if first <= 100 else 0.0))
    return np.mean(values, axis=0)


def test_metrics_are_those_of_the_definitions(world, found):
    plain = by_definition(world, world["queries"], world["text"], world["images"])
    names = ("R@10", "NDCG@10", "MRR")
    np.testing.assert_allclose([found.figures["mixed", name]["none"].value for name in names], plain, atol=1e-9)
    roles = fr.fit_roles({"query": world["queries"], "text": world["text"], "image": world["images"]}, anchor="image")
    after = evaluate(**world, roles={"mine": roles})
    mapped = by_definition(
        world, roles["query"](world["queries"]), roles["text"](world["text"]), roles["image"](world["images"])
    )
    assert after.methods == ("none", "mine")
    np.testing.assert_allclose([after.figures["mixed", name]["mine"].value for name in names], mapped, atol=1e-6)


def test_corpora_are_measured_on_their_own_documents(found):
    assert found.corpora == ("mixed", "text", "image")
    # Relevant: document i and document i + 2, which are of one modality.
    assert (
        found.counted["mixed", "R@10"] == 150 and found.counted["image", "R@10"] == found.counted["text", "R@10"] == 75
    )
    share = found.figures["mixed", "images in the top 10"]
    assert share["none"].value < 0.01 and 0.4 < share["centred"].value < 0.6
    mixed = found.figures["mixed", "R@10"]["none"].value
    text, image = (found.figures["mixed", f"R@10 of {of}s"]["none"].value for of in ("text", "image"))
    assert image < 0.01 and mixed == pytest.approx((text + image) / 2)


def test_the_method_that_helps_is_advised(found):
    assert found.choice == "realign"
    before, after = (f"{found.figures['mixed', 'NDCG@10'][name].value:.3f}" for name in ("none", "realign"))
    assert found.advice.startswith(
        f"Take ReAlign: NDCG@10 in the mixed index rises from {before} to {after} (change 0."
    )
    assert str(found).startswith(f"Advice: {found.advice}")
    change = found.figures["mixed", "NDCG@10"]["realign"]
    assert change.better and change.change_interval[0] < change.change < change.change_interval[1]


def test_a_method_that_lowers_what_was_good_is_warned_of(world):
    """Roles that turn the queries round: nothing is found any more."""
    sides = {"query": world["queries"], "text": world["text"], "image": world["images"]}
    maps = fr.fit_roles(sides, anchor="image", method="none").maps
    turning = Baseline("z-score", np.zeros(16), 0.0, matrix=-np.eye(16), shift=np.zeros(16))
    report = evaluate(**world, roles={"turned": fr.Roles({**maps, "query": turning}, "image", "none")})
    assert report.choice is None and "no method raises NDCG@10 in the mixed index" in report.advice
    assert any("turned lowers R@1 from" in one and "in text alone" in one for one in report.warnings)
    assert "warning: turned lowers" in str(report)


def test_intervals_have_the_width_of_the_bootstrap(rng):
    values = rng.random((2, 1, 400))
    values[1] = values[0] + 0.01 + 0.001 * rng.standard_normal(400)
    values[:, :, :100] = np.nan  # queries that do not count
    (none,), (other,) = figures(values, 0)
    counted = values[0, 0, 100:]
    error = counted.std() / np.sqrt(300)
    assert none.value == pytest.approx(counted.mean())
    np.testing.assert_allclose(none.interval, counted.mean() + 1.96 * error * np.array([-1, 1]), atol=0.2 * error)
    assert none.better is None and none.change == 0.0
    # The same queries are drawn for both: the difference is known much better than either value.
    assert other.better and np.ptp(other.change_interval) < 0.02 * np.ptp(other.interval)


@pytest.mark.parametrize("n", [1, 5, 6, 200])
def test_a_few_queries_that_rise_exclude_no_chance(n):
    """Every draw of one query that rises rises; five that rise, and no other that differs, are chance in one of 16."""
    values = np.zeros((2, 1, 300))
    values[1, 0, :n] = 1.0
    values[:, :, 290:] = np.nan
    change = figures(values if n > 1 else values[:, :, :1], 0)[1][0]
    assert change.better is (True if n >= 6 else None) and change.change > 0
    assert change.differ == min(n, 290)
    assert figures(values[::-1], 0)[1][0].better is (False if n >= 6 else None)


@pytest.mark.filterwarnings("ignore:role query")
def test_one_judged_query_advises_nothing(world):
    report = evaluate(**{**world, "sample": 1})
    assert report.choice is None and report.advice == "Too few queries differ to say (0); judge more queries."
    assert headline(report).endswith("; too few queries to compare")
    assert not report.warnings and not report.to_json()["take"]
    assert all(of.better is None for figures in report.figures.values() for of in figures.values())


def test_scores_and_thresholds(found):
    before, after = (found.scores[name].distributions for name in ("none", "centred"))
    middle = lambda of, pair: of[pair].quantiles[2]  # noqa: E731
    assert middle(before, "image–text") < 0 < middle(before, "text–text")
    assert abs(middle(after, "image–text") - middle(after, "text–text")) < 0.1
    assert before["text–text"].rows == (75, 75)
    curves = found.scores["centred"].curves
    for curve in curves.values():
        assert (np.diff(curve.threshold) < 0).all() and (np.diff(curve.recall) >= 0).all()
        assert curve.precision.min() >= 0 and curve.precision.max() <= 1
    # All documents are within the first 100, so the lowest threshold keeps all.
    assert curves["text"].recall[-1] == 1.0 and curves["text"].precision[-1] == pytest.approx(150 / (150 * 75))


@pytest.mark.usefixtures("undrawn")
def test_json_and_page(found, tmp_path):
    pytest.importorskip("matplotlib")
    page, figures_file = found.save(tmp_path / "search.html")
    stored = json.loads(figures_file.read_text())
    assert stored == json.loads(json.dumps(found.to_json()))
    one = stored["corpora"]["image"]["NDCG@10"]
    assert one["queries"] == 75 and one["methods"]["none"]["value"] == found.figures["image", "NDCG@10"]["none"].value
    html = page.read_text()
    assert html.index("Advice") < html.index("<table>") < html.index("Cosines between documents")
    assert html.count("<svg") == 6 and "<script" not in html and "http" not in html.replace("http://www.w3.org", "")
    assert f"{found.figures['mixed', 'MRR']['centred'].value:.3f}" in html


@pytest.mark.usefixtures("undrawn")
def test_documents_of_one_modality(world):
    given = {name: of for name, of in world.items() if name not in ("text", "ids")}
    report = evaluate(**given, ids={role: world["ids"][role] for role in ("query", "image")}, methods=["centred"])
    assert report.corpora == ("image",)
    assert any("all documents are images: figures of a mixed index cannot be measured" in note for note in report.notes)
    assert "in images alone" in report.advice and any("75 queries" in f"{n} queries" for n in report.counted.values())
    assert report.to_html().count("<svg") == 4


def test_pairs_files_and_samples(world, tmp_path):
    for name in ("queries", "images"):
        np.save(tmp_path / f"{name}.npy", world[name][:75])
    report = evaluate(
        tmp_path / "queries.npy", images=tmp_path / "images.npy", pairs=True, methods=[], sample=40, seed=1
    )
    assert report.judged == 40 and report.methods == ("none",)
    assert any("40 of 75 judged queries are measured" in note for note in report.notes)
    assert report.names["image"].endswith("images.npy") and report.advice.startswith("Nothing is compared")


@pytest.mark.filterwarnings("ignore:role query")
def test_few_queries_are_said_to_be_few(world):
    report = evaluate(
        world["queries"][:10],
        images=world["images"],
        qrels={str(i): {str(i): 1} for i in range(10)},
        methods=["centred"],
    )
    notes = " ".join(report.notes)
    assert "10 judged queries are few" in notes and "fewer than 20 queries" in notes


@pytest.mark.parametrize(
    "change, message",
    [
        ({"text": None, "images": None}, "no documents"),
        ({"qrels": None}, "either qrels"),
        ({"pairs": True}, "either qrels"),
        ({"methods": ["centered"]}, "no method 'centered' for roles, did you mean 'centred'"),
        ({"methods": ["blockwize"]}, "no method 'blockwize' for roles, did you mean 'blockwise'"),
        ({"ids": {"picture": []}}, "ids: there is no role 'picture'"),
        ({"images": np.ones((4, 5))}, "images: rows are 5 wide, those of queries 16"),
        ({"sample": 0}, "sample=0"),
        ({"qrels": [("d0", "d0", 1)]}, "qrels: a list, expected a path, or a mapping of query ids"),
        ({"qrels": {}}, "qrels: holds no judgement"),
        ({"qrels": None, "pairs": (np.ones((4, 16)), np.ones((4, 16)))}, "pairs=.*: expected True or False"),
        ({"methods": 5}, "methods: an int, expected names"),
        ({"qrels": {"d0": {"d0": -1}}}, "grade '-1'"),
        ({"qrels": {"x": {"d0": 1}}}, "no judged query is left.*1 judged query has no embedding, the first is 'x'"),
        ({"qrels": {"d0": {"d0": 0}, "d1": {"d1": 0}}}, "qrels: all grades are 0, .* give .* a grade of at least 1$"),
        (
            {"methods": ["auto"]},
            "auto is fitted on one half .* each half needs at least 100 pairs of text and 100 of images, and one "
            r"has \d+ of text and \d+ of images; judge more queries, or leave auto out of methods=$",
        ),
        ({"roles": 3}, "roles: int"),
    ],
)
def test_what_cannot_be_measured(world, change, message):
    given = {**world, **change}
    if given["images"] is None or len(given["images"]) == 4:
        given["ids"] = {}
    with pytest.raises(fr.InputError, match=message) as error:
        evaluate(**given)
    assert "\n" not in str(error.value)


def test_roles_of_another_width_and_of_other_names(world, rng):
    narrow = fr.fit_roles({"text": rng.random((9, 4)), "image": rng.random((9, 4))}, anchor="image", method="centred")
    with pytest.raises(fr.InputError, match="roles: maps rows 4 wide, these are 16 wide"):
        evaluate(**world, roles=narrow)
    same = fr.fit_roles({"text": world["text"], "image": world["images"]}, anchor="image", method="centred")
    with pytest.raises(fr.InputError, match="'none' is a method that is measured"):
        evaluate(**world, roles={"none": same})
    other = fr.fit_roles({"query": world["queries"], "picture": world["images"]}, anchor="picture", method="centred")
    with pytest.raises(fr.InputError, match="roles: has no role 'text'; its roles are query, picture"):
        evaluate(**world, roles=other)


def test_a_method_that_chooses_by_pairs_is_measured_on_others(world, monkeypatch):
    monkeypatch.setattr("fastrealign.methods.role_pairs.FEWEST", 20)
    report = evaluate(**world, methods=["auto"])
    assert any(note.startswith("auto takes ") and "half of the queries" in note for note in report.notes)
    assert report.choice == "auto" and report.counted["mixed", "R@10"] == 150
    with pytest.raises(fr.InputError, match="auto chooses by judged pairs of text and of images"):
        evaluate(world["queries"][:75], images=world["images"], pairs=True, methods=["auto"])


def test_a_document_without_a_direction_is_named(world, tmp_path):
    images = world["images"] * (np.arange(75) != 3)[:, None]
    with pytest.raises(fr.BadRowsError, match="images: row 3 is all zeros; leave such rows out") as caught:
        evaluate(**{**world, "images": images})
    assert "numbers" not in str(caught.value)
    by_number = {"qrels": {str(i): {str(i): 1} for i in range(75)}, "ids": None}
    with pytest.raises(
        fr.BadRowsError, match=r"images: row 3 .*; rows without ids are judged by their numbers, which shift"
    ):
        evaluate(**{**world, "images": images, **by_number})
    for role, rows, shifts in (("query", 150, True), ("image", 75, False)):
        given = {"ids": {role: [str(i) for i in range(rows)]}, "qrels": by_number["qrels"]}
        with pytest.raises(fr.BadRowsError, match="images: row 3") as caught:
            evaluate(**{**world, "images": images, **given})
        assert ("which shift" in str(caught.value)) is shifts
    np.save(tmp_path / "i.npy", images)
    with pytest.raises(fr.BadRowsError, match=r"i\.npy: row 3 .*, which shift"):
        evaluate(**{**world, "images": tmp_path / "i.npy", **by_number})


def test_nothing_is_better_without_a_difference():
    assert Figure(0.5, (0.4, 0.6), 0.0, (0.0, 0.0), 0).better is None


def test_warnings_are_said_at_once_and_once(world, monkeypatch):
    """Whatever happens later, of every category, and once where figures and so the number of words differ."""
    real, calls = evaluation.search, []

    def search(*given):
        calls.append(given)
        warn(f"role query: {count(len(calls), 'row', 'are')} few")
        warn(f"role text: row {len(calls)}", UserWarning)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(evaluation, "search", search)
    shown = warnings.showwarning
    with pytest.warns(UserWarning) as said, pytest.raises(KeyboardInterrupt):
        evaluate(**world)
    texts = [str(one.message) for one in said if "role " in str(one.message)]
    assert texts == ["role query: 1 row is few", "role text: row 1", "role text: row 2", "role text: row 3"]
    assert warnings.showwarning is shown
