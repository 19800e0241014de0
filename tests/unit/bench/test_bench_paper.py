"""bench.paper: the reproductions on few rows, and what they are made of. What they find is on docs/paper.md, not here."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import benchmarks
import numpy as np
import pytest

import fastrealign as fr
from fastrealign import diagnostics
from fastrealign.cli.demo.captions import caption
from fastrealign.cli.demo.samples import SEEDS, load, sample_scene
from fastrealign.cli.demo.scenes import scene
from fastrealign.core.errors import InputError

common, listing = (benchmarks.module(f"paper.{name}") for name in ("common", "__main__"))
encoders, everything, exact_sums, long_captions, domains, orderings, synthetic, two_sided = (
    benchmarks.module(f"paper.{name}")
    for name in (
        "encoders",
        "everything",
        "exact_sums",
        "long_captions",
        "domains",
        "orderings",
        "synthetic",
        "two_sided",
    )
)
REPRODUCTIONS = listing.reproductions()
SLOW = ("head_questions", "mixing", "spectra")
# sample_size has tests of its own (test_bench_runs.py).
QUICK = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in REPRODUCTIONS
    if name != "sample_size"
]


def page(folder):
    """A folder with pages that have everyone's markers."""
    (folder / "docs").mkdir()
    marks = "".join(f"<!-- results:{name} -->\nREPLACE ME\n<!-- /results:{name} -->\n" for name in REPRODUCTIONS)
    for name in {of.page for of in REPRODUCTIONS.values()}:
        (folder / name).write_text("before\n" + marks + "after\n")
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_each_is_measured_reported_and_drawn(name, tmp_path):
    pytest.importorskip("matplotlib")
    said = []
    of = REPRODUCTIONS[name]
    measured = of.measure(common.Setting(True, None, said.append))
    results = json.loads(json.dumps({"machine": {"date": "2026-01-01T00:00:00"}, **measured}))
    text = of.tell(results)
    where = page(tmp_path) / of.page
    common.write(tmp_path, of, results, text)
    written = where.read_text()
    assert written.startswith("before") and written.endswith("after\n")
    assert written.count("REPLACE ME") == len(REPRODUCTIONS) - 1 and text in written
    assert (tmp_path / f"docs/paper/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / f"bench/results/paper/{name}.json").read_text()) == results
    assert not re.search(r"\bnan\b", text)
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_a_page_without_markers_is_named_and_the_results_are_kept(tmp_path):
    of = REPRODUCTIONS["gap"]
    (tmp_path / "docs").mkdir()
    (tmp_path / of.page).write_text("no markers")
    results = {"machine": {"date": "2026-01-01T00:00:00"}}
    with pytest.raises(InputError, match=r"paper\.md: expected one <!-- results:gap -->.*restore them"):
        common.write(tmp_path, of, results, "text")
    assert json.loads((tmp_path / "bench/results/paper/gap.json").read_text()) == results
    assert (tmp_path / of.page).read_text() == "no markers"


def test_the_page_of_the_project_has_all_of_them():
    pages = {of.page: (common.ROOT / of.page).read_text() for of in REPRODUCTIONS.values()}
    for name, of in REPRODUCTIONS.items():
        text = pages[of.page]
        block = re.search(f"<!-- results:{name} -->(.*)<!-- /results:{name} -->", text, re.DOTALL)
        assert "| --- |" in block[1] and f"bench/results/paper/{name}.json" in block[1]
        assert (common.ROOT / common.PICTURE.format(name)).exists()
    text = pages[common.PAGE]
    for link in re.findall(r"\]\(#([^)]+)\)", text):
        titles = [
            re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        ]
        assert link in titles


def test_the_list_and_a_name_that_is_none_of_it(capsys):
    assert listing.main([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(REPRODUCTIONS)
    with pytest.raises(SystemExit) as stop:
        listing.main(["gaps"])
    assert stop.value.code == 2 and "'gaps'" in capsys.readouterr().err


def test_a_folder_without_encoders_is_refused_in_one_line(tmp_path, capsys):
    assert listing.main(["long_captions", "--quick", "--encoders", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_numbers():
    assert common.plus_minus([1.0, 3.0], common.small) == "2.00 ± 1"
    assert common.plus_minus([0.5], common.percent) == "50.0 %"
    assert common.plus_minus([0.31, 0.33], common.percent) == "32.0 % ± 1"
    assert common.small(0.0) == "0" and common.small(2.64e-4) == "2.6e-04"
    assert common.table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_halves_are_of_the_rows(rng):
    rows = rng.standard_normal((10, 3))
    sides = common.Sides(rows, rows + 10, rows, rows)
    part = common.half(sides, 3)
    assert len(part.text) == len(part.image) == 5 and part.pairs_text is rows
    assert all((rows == row).all(axis=1).any() for row in part.text)
    assert not np.array_equal(part.text, common.half(sides, 4).text)


def test_c3_of_both_sides(rng):
    """Each side less the mean of its own unit rows, held-out rows by the same means; noise of sigma an entry on text alone."""
    y, x, pairs_y, pairs_x = (
        rng.standard_normal((n, 40)) + shift for n, shift in ((300, 1), (200, -1), (50, 1), (50, -1))
    )
    moved = two_sided.two_sided(common.Sides(y, x, pairs_y, pairs_x), two_sided.SIGMA, seed=3)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (y, x, pairs_y, pairs_x)]
    np.testing.assert_allclose(moved.image, unit[1] - unit[1].mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(moved.pairs_image, unit[3] - unit[1].mean(axis=0), atol=1e-12)
    for rows, expected in ((moved.text, unit[0]), (moved.pairs_text, unit[2])):
        noise = rows - (expected - unit[0].mean(axis=0))
        assert np.mean(noise**2) == pytest.approx(0.016, rel=0.1) and abs(noise.mean()) < 0.01
    assert not np.array_equal(two_sided.two_sided(common.Sides(y, x, pairs_y, pairs_x), 0.1, seed=4).text, moved.text)


def test_made_up_sides_have_the_spectra_and_axes_asked_for():
    same, apart = (synthetic.power_law_sides(6000, 12, 1.0, 2.0, turn, 0) for turn in (0.0, math.inf))
    for alpha, rows in ((1.0, same.text), (2.0, same.image)):
        expected = np.arange(1, 13.0) ** -alpha
        found = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
        np.testing.assert_allclose(found, expected / expected.sum() * 0.64, rtol=0.15)
        assert np.linalg.norm(rows.mean(axis=0)) == pytest.approx(0.6, abs=0.05)
    shared = []
    for of in (same, apart):
        leading = [np.linalg.eigh(np.cov(rows.T))[1][:, -3:] for rows in (of.text, of.image)]
        shared.append(np.sum((leading[0].T @ leading[1]) ** 2) / 3)
    assert shared[0] > 0.9 and shared[1] < 0.6


def test_running_sums(rng):
    rows = [rng.standard_normal((n, 6)).astype(np.float32) + 1 for n in (40, 1, 300)]
    sums = exact_sums.Sums(6)
    for part in rows:
        sums.add(part)
    unit = np.concatenate(rows).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    truth = [math.fsum(column) / len(unit) for column in unit.T]
    for name, tolerance in (("rows", 1e-5), ("float32", 1e-6), ("float64", 1e-14), ("exact", 1e-11)):
        np.testing.assert_allclose(sums.means()[name], truth, atol=tolerance)
    errors = sums.errors()
    assert errors["float64"] < 1e-14 < errors["float32"] < 1e-6


def test_the_length_of_a_caption_follows_from_its_seed():
    found = long_captions.lengths(60)
    assert set(found) == {"short", "long", "complete"}
    words = [
        len(caption(sample_scene(seed), name).text.split()) for seed, name in zip(SEEDS["text"], found, strict=False)
    ]
    assert max(np.array(words)[found == "short"]) < max(np.array(words)[found == "complete"])


def test_what_a_domain_leaves_of_another(rng):
    """Two domains whose gaps point different ways: own statistics close them, the other's do not."""

    def domain(shift):
        text, image = (0.2 * rng.standard_normal((400, 5)) for _ in range(2))
        return text + np.eye(5)[0], image + np.eye(5)[0] + np.eye(5)[shift]

    read = domains._read({"a": domain(1), "b": domain(2)}, 0)
    gaps = np.array(read["gaps"])
    assert np.diag(gaps).max() < 0.1 < 0.4 < min(gaps[0, 1], gaps[1, 0])
    assert min(read["before"]) > 0.5 and 0.005 < read["floor"][0] < 0.1


def test_an_ordering_is_counted_by_every_inequality():
    def read(**of):
        return {name: {"gap": g, "alpha": a} for name, (g, a) in of.items()}

    good = read(**{"none": (0.4, 2.0), "c3": (0.1, 1.0), "realign": (0.01, 1.98), "realign-exact": (0.0, 1.98)})
    tied = read(**{"none": (0.4, 2.0), "c3": (0.01, 1.0), "realign": (0.01, 1.5), "realign-exact": (0.0, 1.5)})
    by_figure = {of.figure: of for of in orderings.ORDERINGS}
    assert by_figure["gap"].holds(good) and not by_figure["gap"].holds(tied)
    assert by_figure["alpha"].holds(good) and not by_figure["alpha"].holds(tied)


def test_what_is_reported_of_the_gap_is_so():
    results = json.loads((common.ROOT / common.RESULTS.format("gap")).read_text())
    found = diagnostics.gap(load("image"), load("text"))
    assert results["methods"]["none"]["all rows"] == pytest.approx(found, rel=1e-9)
    assert results["methods"]["realign-exact"]["all rows"] <= 1e-9


def test_rows_of_an_encoder_are_embedded_once_and_kept(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    pytest.importorskip("open_clip")
    pytest.importorskip("matplotlib")
    from safetensors.torch import save_file

    from fastrealign.cli.demo import encoder

    folder = tmp_path / "0"
    folder.mkdir()
    save_file(dict(encoder.build(3).state_dict()), folder / encoders.FILE)
    (folder / encoders.ABOUT).write_text('{"steps": 0}')
    wanted = {
        "image": encoders.Rows("image", "garden", range(4)),
        "text": encoders.Rows("text", "garden", range(4), "long"),
    }
    found = encoders.embedded(0, wanted, tmp_path)
    texts = [caption(scene(s, "garden"), "long").text for s in range(4)]
    np.testing.assert_allclose(found["text"], encoder.encode_texts(encoder.build(3), texts), atol=1e-6)
    assert found["image"].shape == (4, encoder.DIM)
    monkeypatch.setattr(encoders, "load", None)
    assert np.array_equal(encoders.embedded(0, wanted, tmp_path)["text"], found["text"])
    monkeypatch.undo()
    assert encoders.about(tmp_path) == "1 encoder seed, 0 steps"
    for name in ("long_captions", "domains", "orderings"):
        assert listing.main([name, "--quick", "--encoders", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("1 encoder seed, 0 steps") == 3
    save_file({"x": torch.zeros(1)}, folder / encoders.FILE)
    with pytest.raises(InputError, match=r"not an encoder of demo\.encoder"):
        encoders.load(folder / encoders.FILE)


def test_revision_tells_seeds_apart_and_compares_within_them(tmp_path, rng):
    pytest.importorskip("matplotlib")
    pytest.importorskip("transformers")
    revision = benchmarks.module("paper.revision")

    def run(value):
        scores = {name: value for name in revision.FIGURES} | {f"blind/{name}": 0.3 for name in revision.FIGURES}
        return {"scores": scores}

    given = {("realign", 0): 0.6, ("realign", 1): 0.8, ("none", 0): 0.5, ("none", 1): 0.75, ("c3", 1): 0.9}
    for (method, seed), value in given.items():
        path = revision.kept(revision.Recipe(method, "text", seed=seed), tmp_path)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(run(value)))
    alignment = tmp_path / "a.safetensors"
    fr.fit(rng.standard_normal((50, 8)), rng.standard_normal((50, 8)) + 1).save(alignment)
    for i, share in enumerate((0.002, 0.004)):
        (tmp_path / "0-trained" / f"stage{i + 1}-x").mkdir()
        made = {"config": {"alignment": str(alignment)}, "result": {"align_share": share}}
        (tmp_path / "0-trained" / f"stage{i + 1}-x" / "run.json").write_text(json.dumps(made))
    results = revision.collect(tmp_path)
    assert {label: list(by_seed) for label, by_seed in results["runs"]["text"].items()} == {
        "none": ["0", "1"],
        "C3": ["1"],
        "ReAlign": ["0", "1"],
    }
    text = revision.tell(results)
    assert "| ReAlign | 2 | 70.0 ± 14.1 | 70.0 ± 14.1 (+40.0) | 70.0 ± 14.1 (+40.0) |" in text
    assert "| C3 | 1 | 90.0 | 90.0 (+60.0) | 90.0 (+60.0) |" in text
    assert "- ReAlign minus none: captions +7.5 ± 2.5, positive in 2 of 2" in text and "minus C3" not in text
    assert text.endswith("Share of the time of a stage that is spent on alignment: ReAlign 0.2 to 0.4 %.")
    benchmarks.module("drawing").save(lambda: revision.draw(results), tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_revision_compares_recipes_that_differ():
    pytest.importorskip("transformers")
    revision = benchmarks.module("paper.revision")
    for c in revision.COMPARISONS:
        labels = [c.label(i) for i in range(len(c.recipes))]
        recipes = {c.recipe(i, 3, Path("worlds"), revision.SIZES) for i in range(len(labels))}
        assert len(set(labels)) == len(labels) == len(recipes) and {recipe.seed for recipe in recipes} == {3}


def test_all_covers_every_block_of_the_pages_and_resumes_after_a_failure(tmp_path):
    blocks = {
        name
        for path in (common.ROOT / "docs").rglob("*.md")
        for name in re.findall(r"<!-- results:(\w+) -->", path.read_text())
        if (common.ROOT / f"bench/paper/{name}.py").exists()
    }
    assert blocks <= {step.name for step in everything.STEPS}
    assert all(
        (common.ROOT / f"bench/paper/{step.name}{tail}").exists()
        for step in everything.STEPS
        for tail in ([".py"] if step.name != "real" else ["/__main__.py"])
    )
    said, ran, broken = [], [], {"mixing"}

    def run(command, output):
        name = command[2].removeprefix("bench.paper.")
        ran.append(name)
        assert output == (tmp_path / "bench/results/paper/scores.txt" if name == "scores" else None)
        return 3 if name in broken else 0

    names = ["gap", "mixing", "scores"]
    assert everything.run_all(tmp_path, tmp_path, names, said.append, run) == 3
    assert ran == ["gap", "mixing"] and "mixing ended with 3" in said[-1]
    assert json.loads((tmp_path / "done/gap.json").read_text()).keys() == {"seconds", "CPU seconds"}
    ran.clear()
    broken.clear()
    (tmp_path / "done/gap.json").write_text('{"seconds": 3.0}')  # of 0.2.0
    assert everything.run_all(tmp_path, tmp_path, names, said.append, run) == 0
    assert ran == ["mixing", "scores"] and any("gap" in line and "done, took" in line for line in said)


def test_the_page_says_what_each_step_takes():
    listed = re.findall(
        r"^\| (\w+) \| ([^|]*) \|$", (common.ROOT / common.PAGE).read_text().split("## What the steps take")[1], re.M
    )
    assert listed[1:] == [(step.name, everything.takes(step.name)) for step in everything.STEPS]
    assert {*everything.HOURS, *everything.CPU_MINUTES} <= {step.name for step in everything.STEPS}


def test_all_wants_a_folder_and_steps_that_there_are(capsys):
    for arguments, says in ((["--all"], "--work DIR"), (["--all", "--work", "w", "--skip", "gaps"], "'gaps'")):
        with pytest.raises(SystemExit) as stop:
            listing.main(arguments)
        assert stop.value.code == 2 and says in capsys.readouterr().err


def test_shares_of_one_head_stand_beside_those_of_others(tmp_path, monkeypatch):
    roles = benchmarks.module("paper.roles")
    monkeypatch.setattr(roles, "table", lambda fit, test: {"none": {"taken": "none", "splits": [len(test["query"])]}})
    kept = tmp_path / "roles.json"
    of_b1 = {"head": "B1", "query": "title", "text": "long", "part": "test", "methods": {"auto": {"taken": "none"}}}
    kept.write_text(json.dumps({"searches": [of_b1, of_b1 | {"head": "shipped"}]}))
    roles.main(["--out", str(kept)])
    searches = json.loads(kept.read_text())["searches"]
    assert [(one["head"], one["query"]) for one in searches] == [
        ("shipped", "title"),
        ("shipped", "long"),
        ("B1", "title"),
    ]
    assert searches[2] == of_b1 and searches[0]["methods"]["none"]["splits"] == [913]
