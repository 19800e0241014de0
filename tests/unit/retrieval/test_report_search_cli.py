"""`fastrealign report --search`: what it writes, prints and exits with."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

import fastrealign as fr
from fastrealign.cli import report_search
from fastrealign.cli.main import main
from fastrealign.data.usual_names import ID_NAMES
from fastrealign.formats.open import open_source

pytest.importorskip("matplotlib")
pytest.importorskip("pytrec_eval")


@pytest.fixture
def run(capfd):
    def run(*argv):
        code = main(["report", "--search", *(str(word) for word in argv)])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def given(tmp_path, rng, monkeypatch):
    """Files of 40 queries, their text and their images, in the current folder."""
    monkeypatch.chdir(tmp_path)
    things = rng.standard_normal((40, 6))
    rows = {"queries": things + 2, "text": things + 2.1, "images": things - 2}
    for name, of in rows.items():
        np.save(f"{name}.npy", of.astype(np.float32))
    fr.fit_roles({"text": rows["text"], "image": rows["images"]}, anchor="image", method="centred").save(
        "roles.safetensors"
    )
    (tmp_path / "ids.txt").write_text("".join(f"p{i}\n" for i in range(40)))
    (tmp_path / "judged.csv").write_text("query,doc\n" + "".join(f"{i},p{i}\n" for i in range(40)))


@pytest.mark.usefixtures("undrawn")
def test_few_rows_are_said_once_for_each_role(rng, run, tmp_path, monkeypatch):
    """However many methods are fitted on them, and on each half of the queries."""
    monkeypatch.chdir(tmp_path)
    things = rng.standard_normal((60, 64))
    for name, at in (("queries_1", 2), ("text_1", 2.1), ("text_2", -2)):
        np.save(f"{name}.npy", (things + at).astype(np.float32))
    rows = ("--queries", "queries_1.npy", "--text", "text_1.npy", "--images", "text_2.npy", "--pairs")
    code, _, err = run(*rows, "--methods", "realign,realign-exact,centred,blockwise", "--out", "s.html")
    few = [line for line in err.splitlines() if "for a width of 64" in line]
    assert code == 0 and len(few) == 3
    assert all(any(f"warning: {of}: " in line for line in few) for of in ("role query", "text_1.npy", "text_2.npy"))


def test_a_page_with_json_and_the_advice_first(given, run, tmp_path):
    arguments = (
        "--queries",
        "queries.npy",
        "--text",
        "text.npy",
        "--images",
        "images.npy",
        "--pairs",
        "--out",
        "s.html",
    )
    code, out, err = run(*arguments)
    assert (code, err) == (0, "") and out.startswith("Advice: Take ") and out.endswith("written: s.html, s.json\n")
    assert "note: queries have 2 relevant documents in the mean, so the highest possible is R@1 0.500 among all" in out
    few = "they need 100 of text and 100 of images in each half of the queries, one of which has 2"
    assert f"note: not tried: balanced and auto, which choose by judged pairs: {few}" in out
    stored = json.loads((tmp_path / "s.json").read_text())
    assert list(stored["corpora"]) == ["mixed", "text", "image"] and stored["names"]["image"] == "images.npy"
    assert list(stored["scores"]) == ["none", "realign", "centred"]
    code, out, err = run(*arguments)
    assert code == 2 and "s.html: exists" in err
    code, out, _ = run(*arguments, "--overwrite", "--json", "--sample", 30, "--methods", "none", "--quiet")
    value = json.loads(out)
    assert code == 0 and value["judged_queries"] == 30 and value["files"] == ["s.html", "s.json"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_ids_of_a_column_of_a_table(given, run, suffix):
    table = pa.table({"other": [*range(40)], "name": [f"p{i}" for i in range(40)]})
    (pc.write_csv if suffix == "csv" else pq.write_table)(table, f"dids.{suffix}")
    words = ("--queries", "queries.npy", "--images", "images.npy", "--qrels", "judged.csv", "--overwrite", "--ids")
    code, out, _ = run(*words, f"image=dids.{suffix}:name", "--out", "s.html")
    assert code == 0 and "40 judged queries of 40" in out
    code, _, err = run(*words, f"image=dids.{suffix}", "--out", "s.html")
    said = (
        f"dids.{suffix}: has no column 'id'; its columns are other, name; name one of them, such as dids.{suffix}:other"
    )
    assert code == 2 and said in err
    code, _, err = run(*words, "image=ids.txt:name", "--out", "s.html")
    assert code == 2 and "ids.txt:name: only .csv and .parquet files have columns of ids; leave out ':name'" in err


def test_help_names_the_columns_of_ids(run):
    parser = argparse.ArgumentParser()
    report_search.add_search_options(parser)
    (ids,) = (action for action in parser._actions if action.dest == "ids")
    for name in (*ID_NAMES, "FILE:COLUMN"):
        assert re.search(rf"(?<!\w){name}(?!\w)", ids.help)


@pytest.mark.usefixtures("undrawn")
def test_ids_qrels_and_roles_of_files(given, run):
    Path("queries.txt").write_text("".join(f"{i}\n" for i in range(len(np.load("queries.npy")))))
    code, out, _ = run(
        "--queries", "queries.npy", "--images", "images.npy", "--ids", "image=ids.txt", "query=queries.txt",
        "--qrels", "judged.csv", "--roles", "roles.safetensors", "--out", "s.html",
    )  # fmt: skip
    assert code == 0 and "roles (centred)" in out and "note: all documents are images" in out
    assert "40 judged queries of 40" in out


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "more",
    [
        ("--queries", "queries.npy", "--text", "text.npy", "--images", "images.npy", "--methods", "centred"),
        ("--queries", "both.parquet", "--text", "both.parquet", "--images", "both.parquet", "--column", "t vec",
         "--target-column", "i vec", "--methods", "centred"),
        ("--queries", "queries.npy", "--text", "half 1.npy", "half 2.npy", "--images", "images.npy", "--methods", "centred"),
        ("--queries", "queries.npy", "--text", "text.npy", "--images", "images.npy", "--roles", "roles.safetensors"),
    ],
)  # fmt: skip
def test_the_commands_of_the_advice_run(given, run, more):
    rows = {"t vec": list(np.load("text.npy")), "i vec": list(np.load("images.npy"))}
    pq.write_table(pa.table(rows), "both.parquet")
    for half, part in enumerate(np.split(np.load("text.npy"), 2), 1):
        np.save(f"half {half}.npy", part)
    code, out, err = run(*more, "--pairs", "--out", "s.html")
    assert (code, err) == (0, "")
    commands = json.loads(Path("s.json").read_text())["take"]
    assert len(commands) == (3 if "--roles" in more else 4) and "".join(f"  {one}\n" for one in commands) in out
    for one in commands:
        words = shlex.split(one)
        if words[0] == "python":
            subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)
        else:
            assert words[0] == "fastrealign" and main(words[1:]) == 0
    name = "roles_centred"
    folder = f"query_{name}" if "--roles" in more else "query_centred"
    found = np.concatenate(list(open_source(folder, side="source", column="t vec" if "both.parquet" in more else None)))
    roles = fr.Roles.load("roles.safetensors" if "--roles" in more else f"{name}.safetensors")
    queries = np.load("text.npy" if "both.parquet" in more else "queries.npy")
    assert np.array_equal(found, roles["query" if "query" in roles else "text"](queries))


def test_the_commands_of_a_method_that_chooses_by_judgements_run(tmp_path, rng, monkeypatch):
    """As they stand: the pairs are those of the judgements."""
    monkeypatch.chdir(tmp_path)
    n, up = 460, 3 * np.eye(8)[0]
    things = rng.standard_normal((n, 8)).astype(np.float32)
    rows = {"queries": things + up, "text": things[::2] + up, "images": things - up}
    for name, of in rows.items():
        np.save(f"{name} 1.npy", of.astype(np.float32))
    ids = {"text": [f"t{i}" for i in range(0, n, 2)], "image": [f"p{i}" for i in range(n)]}
    for name, of in ids.items():
        Path(f"{name}.txt").write_text("".join(f"{one}\n" for one in of))
    Path("judged.csv").write_text("query,doc\n" + "".join(f"{i},p{i}\n{i},t{i - i % 2}\n" for i in range(n)))
    where = {"text": "text 1.npy", "images": "images 1.npy"}
    named = {"qrels": Path("judged.csv"), "ids": {name: Path(f"{name}.txt") for name in ids}}
    report = fr.retrieval.evaluate("queries 1.npy", **where, **named, methods=["balanced"])
    fit, *apply = report.take["balanced"]
    subprocess.run([sys.executable, *shlex.split(fit)[1:]], check=True, capture_output=True)
    assert all(main(shlex.split(one)[1:]) == 0 for one in apply)
    found = np.concatenate(list(open_source("image_balanced", side="source")))
    expected = fr.Roles.load("roles_balanced.safetensors")
    assert np.array_equal(found, expected["image"](np.load("images 1.npy")))
    qrels = {str(i): {f"p{i}": 1, f"t{i - i % 2}": 1} for i in range(n)}
    report = fr.retrieval.evaluate(**rows, qrels=qrels, ids=ids, methods=["balanced"])
    names = {"fastrealign": fr, **rows, "qrels": qrels, "ids": ids}
    exec("\n".join(report.take["balanced"]), names)
    assert np.allclose(names["roles"]["image"](rows["images"]), expected["image"](rows["images"]), atol=1e-5)


def test_when_methods_that_choose_are_advised(tmp_path, rng):
    """Where both halves of the queries have enough pairs, and else the note says how many there are."""
    things = rng.standard_normal((260, 6))
    for n, said in ((260, "methods= names them"), (100, "they need 100 of text .* one of which has [45][0-9]$")):
        report = fr.retrieval.evaluate(things[:n] + 2, text=things[:n] + 2.1, images=things[:n] - 2, pairs=True)
        (note,) = [note for note in report.notes if note.startswith("not tried")]
        assert re.search(said, note)


@pytest.mark.usefixtures("undrawn")
def test_a_column_of_files_without_columns(given, run):
    code, _, err = run(
        "--queries", "queries.npy", "--images", "images.npy", "--pairs", "--column", "x", "--out", "s.html"
    )
    assert code == 2 and "queries.npy: has no 'x': npy files such as this one" in err and "leave out --column" in err
    pq.write_table(pa.table({"x": list(np.load("images.npy"))}), "images.parquet")
    code, _, err = run(
        "--queries", "queries.npy", "--images", "images.parquet", "--pairs", "--column", "x", "--out", "s.html"
    )
    assert (code, err) == (0, "")


@pytest.mark.usefixtures("undrawn")
def test_several_files_of_roles(given, run):
    shutil.copy("roles.safetensors", "again.safetensors")
    these = ("--queries", "queries.npy", "--images", "images.npy", "--pairs", "--out", "s.html", "--overwrite")
    for roles in (
        ("old=roles.safetensors", "--roles", "again.safetensors"),
        ("old=roles.safetensors", "again.safetensors"),
    ):
        code, _, err = run(*these, "--roles", *roles)
        assert (code, err) == (0, "") or "few" in err
        assert list(json.loads(Path("s.json").read_text())["scores"]) == ["none", "old", "again"]
    code, _, err = run(*these, "--roles", "roles.safetensors", "roles=again.safetensors")
    assert code == 2 and "'roles' is roles.safetensors already; give another name" in err
    assert run(*these, "--roles", "=again.safetensors")[0] == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--pairs --images images.npy", "--search needs --queries"),
        ("--pairs --queries queries.npy", "--search needs documents"),
        ("--queries queries.npy --images images.npy", "needs either --qrels PATH or --pairs"),
        ("--queries queries.npy --images images.npy --pairs a b", "--pairs takes no paths with --search"),
        ("--queries queries.npy --images images.npy --pairs --labels x", "--labels is for a report of the gap"),
        ("--queries queries.npy --images images.npy --pairs --ids imag=x", "no role 'imag', did you mean 'image'"),
        ("--queries queries.npy --images images.npy --pairs --ids x", "--ids x: expected ROLE=FILE"),
        ("--queries queries.npy --images images.npy --pairs --roles text.npy", "text.npy"),
        ("--queries queries.npy --images images.npy --qrels judged.csv", "the first is 'p0'"),
    ],
)
def test_one_line_for_what_is_wrong(given, run, arguments, message):
    code, out, err = run(*arguments.split(), "--out", "s.html")
    assert (code, out, err.count("\n")) == (2, "", 1) and message in err


def test_options_of_search_need_the_flag(given, capfd):
    assert main(["report", "--source", "text.npy", "--target", "images.npy", "--qrels", "x", "--out", "r.html"]) == 2
    assert "--qrels is for a report of search; add --search" in capfd.readouterr().err
    assert main(["report", "--source", "text.npy", "--out", "r.html"]) == 2
    assert "--target is missing" in capfd.readouterr().err
