"""`fastrealign report`: what it writes, prints and exits with."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.main import main

pytest.importorskip("matplotlib")


@pytest.fixture
def run(capfd):
    def run(*argv):
        code = main(["report", *(str(word) for word in argv)])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def given(tmp_path, few):
    """The options that name both sides, on files."""
    paths = []
    for name, rows in zip(("text", "image"), few(80, 8), strict=True):
        paths += [f"--{name.replace('text', 'source').replace('image', 'target')}", tmp_path / f"{name}.npy"]
        np.save(paths[-1], rows)
    return paths


def test_report_writes_the_page_and_prints_the_verdict(tmp_path, given, run):
    code, out, err = run(*given, "--pairs", "--methods", "none,realign", "--out", tmp_path / "r.html", "--seed", 5)
    assert (code, err) == (0, "")
    assert (
        out.startswith("The gap between source and target is")
        and "\nAdvice: " in out
        and "80 source rows, 80 target rows, width 8, seed 5" in out
    )
    assert "Distance of pairs" in out and f"written: {tmp_path / 'r.html'}, {tmp_path / 'r.json'}" in out
    assert (tmp_path / "r.html").read_text("utf-8").startswith("<!doctype html>")
    assert list(json.loads((tmp_path / "r.json").read_text())["methods"]) == ["none", "realign"]


@pytest.mark.usefixtures("undrawn")
def test_a_report_goes_home_and_to_no_server(tmp_path, given, run, few, monkeypatch):
    """memory://r.html became a folder named memory: here."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    found = fr.report(*few(80, 8), methods=["none"])
    found.save("~/r.html", png=Path("~/png"))
    assert {"png", "r.html", "r.json"} <= {*os.listdir("home")}  # and what matplotlib caches
    before = sorted(os.listdir())
    says = "memory://r.html: a report is written to a local file or folder; write it there, then copy it to the server"
    for how in ({"path": "memory://r.html"}, {"path": "r.html", "png": "memory://r.html"}):
        with pytest.raises(fr.InputError) as caught:
            found.save(**how)
        assert str(caught.value) == says
    for out in (("--out", "memory://r.html"), ("--out", "r.html", "--png", "memory://r.html")):
        code, _, err = run(*given, *out)
        assert code == 2 and says in err and err.count("\n") == 1
    code, _, err = run("--search", "--queries", given[1], "--text", given[1], "--pairs", "--out", "memory://r.html")
    assert code == 2 and says in err and err.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_json_pairs_of_their_own_domains_and_pngs(tmp_path, given, run):
    _, source, _, target = given
    code, out, err = run(
        *given, "--pairs", source, target, "--domain", "again", source, target, "--rows", 30, "--methods", "realign",
        "--png", tmp_path / "png", "--out", tmp_path / "r.html", "--json",
    )  # fmt: skip
    assert (code, err, out.count("\n")) == (0, "", 1)
    value = json.loads(out)
    assert (value["source"]["rows"], value["source"]["of"], value["pairs"]) == (30, 80, 80)
    assert value["domains"]["names"] == ["these rows", "again"]
    assert str(tmp_path / "png" / "domains.png") in value["files"] and (tmp_path / "png" / "parts.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_report_is_replaced_only_when_asked(tmp_path, given, run):
    arguments = (*given, "--methods", "realign", "--quiet", "--out", tmp_path / "r.html")
    assert run(*arguments) == (0, "", "")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and "r.html: exists" in err and "--overwrite" in err
    assert run(*arguments, "--overwrite") == (0, "", "")


@pytest.mark.usefixtures("undrawn")
def test_a_report_on_mixing_alone_names_the_options_for_search_and_classifiers(tmp_path, given, run):
    words = (*given, "--methods", "none", "--out", tmp_path / "r.html", "--overwrite")
    (tmp_path / "labels.txt").write_text("cat\ndog\n" * 40)
    says = (
        "search and classifiers are not judged: give --pairs to judge search (row i of both sides belongs together), "
        "--labels to judge classifiers"
    )
    code, out, _ = run(*words)
    assert code == 0 and out.count(f"note: {says}\n") == 1
    assert (tmp_path / "r.html").read_text().count(f"<li>{says}</li>") == 1
    for more in (("--pairs",), ("--labels", tmp_path / "labels.txt")):
        code, out, _ = run(*words, *more)
        assert code == 0 and "are not judged" not in out
        assert "are not judged" not in (tmp_path / "r.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_labels_give_a_classifier(tmp_path, given, run):
    (tmp_path / "labels.txt").write_text("cat\ndog\n" * 40)
    arguments = (
        *given,
        "--methods",
        "realign",
        "--out",
        tmp_path / "r.html",
        "--labels",
        tmp_path / "labels.txt",
        "--json",
    )
    code, out, _ = run(*arguments)
    value = json.loads(out)
    assert code == 0 and value["classifier"]["names"] == ["cat", "dog"]
    assert value["outcomes"]["accuracy"]["methods"]["none"]["better"] is None and value["advice"].count(".") >= 1


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("methods, drawing", [("none", "plane.png"), ("realign", "plane-none.png")])
def test_a_drawing_is_replaced_only_when_asked(tmp_path, given, run, methods, drawing, monkeypatch):
    arguments = (*given, "--methods", methods, "--out", tmp_path / "r.html", "--png", tmp_path, "--quiet")
    (tmp_path / drawing).write_text("mine")
    (tmp_path / "parts.png").write_text("mine")  # there are no pairs to draw
    with monkeypatch.context() as patched:
        patched.setattr("fastrealign.report", None)
        code, out, err = run(*arguments)
    assert (code, out) == (2, "") and f"{drawing}: exists" in err and "--overwrite" in err
    assert (tmp_path / drawing).read_text() == "mine" and not (tmp_path / "r.html").exists()
    assert run(*arguments, "--overwrite") == (0, "", "")
    assert (tmp_path / drawing).read_bytes().startswith(b"\x89PNG") and (tmp_path / "parts.png").read_text() == "mine"


@pytest.mark.usefixtures("undrawn")
def test_a_page_of_a_name_that_is_not_utf8(tmp_path, given, run):
    out = tmp_path / os.fsdecode(b"bad\xff.html")
    try:
        out.touch()
    except OSError:
        pytest.skip("this file system wants UTF-8")
    code, printed, err = run(*given, "--methods", "realign", "--overwrite", "--out", out)
    assert (code, err) == (0, "") and r"bad\xff.html" in printed


@pytest.mark.usefixtures("undrawn")
def test_rows_without_a_direction_are_left_out_as_the_error_advises(tmp_path, few, run):
    """Of pairs the row of the other side, too; labels and lengths stay those of their rows."""
    sides = dict(zip(("text", "image"), few(240, 8), strict=True))
    sides["text"][[3, 50]], sides["image"][7] = np.nan, 0.0
    for name, rows in sides.items():
        np.save(tmp_path / f"{name}.npy", rows)
    labels, lengths = tmp_path / "labels.txt", tmp_path / "lengths.npy"
    labels.write_text("".join(f"{'ab'[i % 2] if i not in (3, 7, 50) else 'c'}\n" for i in range(240)))
    np.save(lengths, np.arange(240))
    words = [
        word
        for side, name in (("source", "text"), ("target", "image"))
        for word in (f"--{side}", tmp_path / f"{name}.npy")
    ]
    words += ["--out", tmp_path / "r.html", "--pairs"]
    words += ["--labels", labels, "--by-length", lengths, "--methods", "realign"]
    np.save(tmp_path / "others.npy", np.where(np.arange(240)[:, None] == 9, np.nan, sides["image"]))
    words += ["--domain", "same", tmp_path / "text.npy", tmp_path / "image.npy"]
    words += ["--domain", "other", tmp_path / "text.npy", tmp_path / "others.npy"]
    code, _, err = run(*words)
    [advice] = re.findall(r": row 7 is all zeros; fix it, or leave such rows out of the report \((.*)\)$", err.strip())
    assert code == 2 and advice == "--bad-rows skip"
    code, out, _ = run(*words, *advice.split())
    assert code == 0 and "237 source rows, 237 target rows" in out and "of 2 classes" in out
    said = out.replace(f"{tmp_path}/", "")
    assert "note: text.npy: 2 rows of 240 left out, the first: text.npy: row 3 has a NaN" in said
    assert "note: domain other: others.npy: 2 rows of 240 left out, the first: others.npy: row 7 is all zeros" in said
    assert "domain same: " not in said and said.count("text.npy: 2 rows of 240") == 1  # a side is looked at once
    good = np.setdiff1d(np.arange(240), [3, 7, 50])
    kept = fr.report(*(rows[good] for rows in sides.values()), pairs=True, methods=["realign"])
    skipped = fr.report(*sides.values(), pairs=True, methods=["realign"], bad_rows="skip")
    for name, of in kept.methods.items():  # rows in memory are cut to float32 where not all are drawn
        assert of.gap == pytest.approx(skipped.methods[name].gap, rel=1e-5)
        assert of.pairs.distance.value == pytest.approx(skipped.methods[name].pairs.distance.value, rel=1e-5)
    with pytest.raises(fr.InputError, match="20 rows with a direction, expected at least 21"):
        fr.report(
            np.where(np.arange(240)[:, None] < 20, sides["image"] + 1, np.nan), sides["image"][:70], bad_rows="skip"
        )


def test_errors_are_one_line(tmp_path, given, run):
    spoiled = np.load(given[1])
    spoiled[7] = np.nan
    np.save(tmp_path / "spoiled.npy", spoiled)
    np.save(tmp_path / "short.npy", spoiled[10:])
    out = ("--out", tmp_path / "r.html")
    (tmp_path / "file").write_text("")
    (tmp_path / "labels.txt").write_text("a\nb\na\n")
    for code, words, arguments in [
        (2, "did you mean 'realign'?", (*given, *out, "--methods", "none,realing")),
        (2, "spoiled.npy: row 7 has a NaN", ("--source", tmp_path / "spoiled.npy", *given[2:], *out)),
        (2, "short.npy 70", ("--source", tmp_path / "short.npy", *given[2:], *out, "--pairs")),
        (2, "--pairs takes two paths", (*given, *out, "--pairs", given[1])),
        (2, "--labels takes one list for both sides, or two", (*given, *out, "--labels", "a", "b", "c")),
        (
            2,
            "labels.txt: has 3 labels, expected one for each of 80 rows",
            (*given, *out, "--labels", tmp_path / "labels.txt"),
        ),
        (2, "two --domain of one name", (*given, *out, *("--domain", "a", given[1], given[3]) * 2)),
        (2, "is a folder", (*given, "--out", tmp_path)),
        (1, "could not be written", (*given, "--out", tmp_path / "file" / "r.html")),
        (2, "'0' is not a whole number", (*given, *out, "--rows", "0")),
    ]:
        found, printed, err = run(*arguments)
        assert (found, printed) == (code, "") and words in err
        assert err.startswith("fastrealign: error: ") and err.count("\n") == 1
    assert not (tmp_path / "r.html").exists()
