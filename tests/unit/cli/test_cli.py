"""The command line: what it prints where, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import select
import struct
import subprocess
import sys
import warnings

import corpus
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.jobs.summary import gap_lines
from fastrealign.methods.baselines import fit_baseline

COMMAND_NAMES = ("align", "fit", "apply", "check", "convert", "report", "inspect", "embed", "demo", "train")


@pytest.fixture
def sides(tmp_path):
    return corpus.two_sides(tmp_path)


@pytest.fixture
def run(capfd):
    """Runs a command line; returns the exit code, stdout and stderr."""

    def run(*argv):
        code = main([str(word) for word in argv])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return run


def test_align_shows_the_gap_before_and_after_and_what_was_written(tmp_path, sides, run):
    code, out, err = run("align", sides[0], "--target", sides[1], "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"aligned 180 rows of {sides[0]}, 16 wide"
    before, left = (next(line for line in lines if f"gap {name}" in line) for name in ("before", "left"))
    assert before.count("=") == 40 > left.count("=")
    assert f"{tmp_path / 'out'}: 3 shards, 180 rows" in out and "rows/s" in out
    assert str(tmp_path / "out" / "manifest.json") in out


def test_align_takes_several_files_as_a_shell_gives_them(tmp_path, sides, run):
    text, image = (sorted(side.iterdir()) for side in sides)
    assert run("align", *text, "--target", *image, "--out", tmp_path / "out", "--quiet") == (0, "", "")
    assert len(corpus.loaded(tmp_path / "out")) == 180


@pytest.mark.parametrize("command", ["align", "apply", "fit", "inspect", "demo"])
def test_json_is_one_object_and_alone_on_stdout(tmp_path, sides, run, command):
    alignment = tmp_path / "a.safetensors"
    fr.fit(*sides).save(alignment)
    argv = {
        "align": [sides[0], "--target", sides[1], "--out", tmp_path / "out"],
        "apply": [alignment, sides[0], "--out", tmp_path / "out"],
        "fit": [sides[0], "--target", sides[1], "--out", tmp_path / "new.safetensors"],
        "inspect": [sides[0]],
        "demo": [],
    }[command]
    code, out, err = run(command, *argv, "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert isinstance(json.loads(out), dict)


def test_fit_then_apply_is_align(tmp_path, sides, run):
    code, out, _ = run(
        "fit", sides[0], "--target", sides[1], "--out", tmp_path / "a.safetensors", "--centroid", "exact"
    )
    assert code == 0 and "exact centroid" in out and "gap before" in out
    assert run("apply", tmp_path / "a.safetensors", sides[0], "--out", tmp_path / "one", "--quiet") == (0, "", "")
    run("align", sides[0], "--target", sides[1], "--out", tmp_path / "two", "--centroid", "exact")
    for name in ("part_0.npy", "part_2.npy"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_fit_replaces_alignments_alone_and_only_when_asked(tmp_path, sides, run):
    out = tmp_path / "a.safetensors"
    command = ["fit", sides[0], "--target", sides[1], "--out"]
    assert run(*command, out)[0] == 0
    code, _, err = run(*command, out)
    assert code == 2 and "exists" in err and "--overwrite" in err
    assert run(*command, out, "--overwrite")[0] == 0
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    assert run(*command, notes, "--overwrite")[0] == 2
    assert notes.read_text() == "mine"
    code, _, err = run(*command, tmp_path)
    assert code == 2 and "is a folder" in err


def test_apply_of_something_that_is_no_alignment(tmp_path, sides, run):
    code, out, err = run("apply", sides[0] / "part_0.npy", sides[0], "--out", tmp_path / "out")
    assert (code, out) == (2, "") and "part_0.npy" in err and "alignment" in err
    assert run("apply", tmp_path / "none", sides[0], "--out", tmp_path / "out")[0] == 2


def test_fit_of_roles(tmp_path, sides, run):
    """What the command fits is what Python fits; each role of the file maps its files."""
    rows = {"text": corpus.loaded(sides[0]), "image": corpus.loaded(sides[1])}
    file, given = tmp_path / "roles.safetensors", ("--role", f"text={sides[0]}", "--role", f"image={sides[1]}")
    code, out, err = run("fit", *given, "--anchor", "image", "--method", "Centred", "-o", file)
    assert (code, err) == (0, "") and "method centred, anchor image" in out
    roles = fr.fit_roles(rows, anchor="image", method="centred")
    for role, side in zip(roles, sides, strict=True):
        assert run("apply", file, side, "--role", role, "--out", tmp_path / f"to_{role}", "--quiet") == (0, "", "")
        assert np.array_equal(corpus.loaded(tmp_path / f"to_{role}"), roles[role](rows[role]))
        # The anchor moves too, so no gap is left to where it was.
        assert json.loads((tmp_path / f"to_{role}" / "manifest.json").read_text())["gap_left"] is None
    assert run("fit", *given, "--anchor", "image", "--out", file)[0] == 2
    held = tmp_path / "held.npy"
    np.save(held, rows["text"])
    auto = [word for document in ("image", "text") for word in ("--pairs", f"text:{document}={held},{held}")]
    assert run("fit", *given, "--anchor", "image", "--method", "auto", *auto, "--out", file, "--overwrite")[0] == 0
    assert "chosen" in run("inspect", file)[1] and "none" in json.loads(run("inspect", file, "--json")[1])["trials"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("s --role a=s --anchor a", "fit takes either SOURCE and --target or roles"),
        ("--role a=s --role b=s --anchor a --target s --tol 0.1", "--target, --tol goes with SOURCE, not with --role"),
        ("--role a=s --role b=s", "roles need an anchor"),
        ("--role a=s --anchor a", "roles: expected at least two, such as --role text=text_emb/ --role image=img_emb/"),
        ("--role a=s --role a=s --anchor a", "--role a=s: a was given already"),
        ("--role a --anchor a", "--role a: expected NAME=PATH"),
        ("--role text=s --role image=s --anchor imgae", "no role 'imgae', did you mean 'image'?"),
        ("--role a=s --role b=s --anchor a --method auto --pairs a:b=s", "--pairs a:b=s: expected NAME:NAME=PATH,PATH"),
        ("--role a=s --role b=none.npy --anchor a", "role b: none.npy: no such file"),
        ("s --target s --anchor a", "--anchor is of the roles of one index"),
        ("", "fit needs a SOURCE and its --target, or roles"),
    ],
)
def test_forms_of_fit_that_do_not_go_together(tmp_path, sides, run, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    sides[0].rename("s")
    code, out, err = run("fit", *words.split(), "--out", "roles.safetensors")
    assert (code, out, err.count("\n")) == (2, "", 1) and said in err
    assert not (tmp_path / "roles.safetensors").exists()


def test_check_takes_one_role_and_says_which(tmp_path, sides, run):
    rows = {"text": corpus.loaded(sides[0]), "image": corpus.loaded(sides[1])}
    file, centred = tmp_path / "roles.safetensors", tmp_path / "centred.safetensors"
    fr.fit_roles(rows, anchor="image").save(file)
    fr.fit_roles(rows, anchor="image", method="centred").save(centred)
    code, _, err = run("check", file, sides[0])
    assert code == 2 and err.count("\n") == 1
    assert "holds roles of one index, method realign, and check takes one alignment: pass --role text" in err
    assert run("check", file, sides[0], "--role", "text")[0] == 0
    code, _, err = run("check", file, sides[0], "--role", "image")
    assert code == 2 and "role image is none, not an alignment to check; those of text are" in err
    code, _, err = run("check", centred, sides[0])
    assert code == 2 and "which none of them is" in err and "fastrealign fit TEXT --target IMAGES" in err
    code, _, err = run("fit", sides[0], "--from", file, "--out", tmp_path / "new.safetensors")
    assert code == 2 and "an update takes one alignment: pass what fastrealign.Roles.load(path)['text'].save" in err


def test_a_column_of_files_without_columns(tmp_path, rng, run):
    rows = {name: rng.standard_normal((60, 8)).astype(np.float32) + shift for name, shift in (("t", 1), ("i", -1))}
    for name, of in rows.items():
        np.save(tmp_path / f"{name}.npy", of)
        pq.write_table(pa.table({"vec": list(of)}), tmp_path / f"{name}.parquet")
    fr.fit(rows["t"], rows["i"]).save(tmp_path / "a.safetensors")
    text, images, file = tmp_path / "t.npy", tmp_path / "i.npy", tmp_path / "a.safetensors"
    column, target_column = ("--column", "vec"), ("--target-column", "vec")
    refused = [
        ("inspect", text, *column),
        ("convert", text, "--to", "parquet", "--out", tmp_path / "o", *column),
        ("apply", file, text, "--out", tmp_path / "o", *column),
        ("check", file, text, *column),
        ("map", text, images, "--out", tmp_path / "m.safetensors", *column),
        ("map", text, images, "--out", tmp_path / "m.safetensors", *target_column),
        ("align", text, "--target", images, "--out", tmp_path / "o", *column),
        ("align", text, "--target", images, "--out", tmp_path / "o", *target_column),
        ("fit", "--role", f"text={text}:vec", "--role", f"image={images}", "--anchor", "image", "-o",
         tmp_path / "r.safetensors"),
    ]  # fmt: skip
    for words in refused:
        code, _, err = run(*words)
        assert (code, err.count("\n")) == (2, 1), words
        assert "has no 'vec': npy files such as this one hold one matrix, without columns; leave out" in err
    assert not (tmp_path / "o").exists()
    # One name for both sides may be that of the other one.
    for number, (one, other) in enumerate((("t.npy", "i.parquet"), ("t.parquet", "i.npy"))):
        words = ("align", tmp_path / one, "--target", tmp_path / other, "--out", tmp_path / f"out{number}", *column)
        assert run(*words)[0] == 0


def test_apply_and_inspect_roles(tmp_path, sides, run):
    rows = {"text": corpus.loaded(sides[0]), "image": corpus.loaded(sides[1])}
    roles = fr.fit_roles(rows, anchor="image", method="centred")
    file = tmp_path / "roles.safetensors"
    roles.save(file)
    assert run("apply", file, sides[1], "--role", "image", "--out", tmp_path / "out")[0] == 0
    assert np.array_equal(corpus.loaded(tmp_path / "out"), roles["image"](rows["image"]))
    code, _, err = run("apply", file, sides[1], "--role", "imge", "--out", tmp_path / "other")
    assert code == 2 and "no role 'imge'" in err and "'image'" in err
    code, _, err = run("apply", file, sides[1], "--out", tmp_path / "other")
    assert code == 2 and "holds roles" in err and "--role" in err
    code, out, _ = run("inspect", file)
    assert code == 0 and "anchor image" in out and roles["text"].fingerprint[:16] in out
    value = json.loads(run("inspect", file, "--json")[1])
    assert value["roles"]["text"]["fingerprint"] == roles["text"].fingerprint
    roles["text"].save(tmp_path / "one.safetensors")
    code, _, err = run("apply", tmp_path / "one.safetensors", sides[0], "--role", "text", "--out", tmp_path / "other")
    assert code == 2 and "expected roles" in err
    code, _, err = run("align", file, "--target", sides[1], "--out", tmp_path / "other")
    assert code == 2 and "saved roles, not embeddings" in err


def test_inspect_embeddings(tmp_path, sides, run):
    bad = np.load(sides[0] / "part_0.npy")
    bad[3] = np.nan
    np.save(sides[0] / "part_0.npy", bad)
    for i in range(3, 9):
        np.save(sides[0] / f"part_{i}.npy", corpus.rows(5, i).astype(np.float16))
    code, out, _ = run("inspect", sides[0])
    assert code == 0
    assert out.startswith(
        f"{sides[0]}: 210 rows of 16, float32 (3 shards), float16 (6 shards), 12.5 kB in 9 shards of npy"
    )
    assert "and 4 more" in out and "part_0.npy: row 3 has a NaN or Inf" in out
    value = json.loads(run("inspect", sides[0], "--json")[1])
    norms = np.linalg.norm(np.delete(corpus.loaded(sides[0]), 3, axis=0).astype(np.float64), axis=1)
    assert value["sample"]["rows"] == 210 and value["sample"]["bad_rows"] == 1
    assert value["sample"]["norm_mean"] == pytest.approx(norms.mean())
    assert value["first_shards"][0] == {"name": "part_0.npy", "rows": 60, "dtype": "float32"}


def test_inspect_both_sides_of_a_retrieval_folder(tmp_path, run):
    corpus.npy_folder(tmp_path / "laion" / "text_emb", [corpus.rows(30, 1)], "text_emb")
    corpus.npy_folder(tmp_path / "laion" / "img_emb", [corpus.rows(40, 2)], "img_emb")
    value = json.loads(run("inspect", tmp_path / "laion", "--json")[1])
    assert [side["rows"] for side in value["sides"]] == [30, 40]


def test_inspect_pickles_counts_what_has_no_embedding(tmp_path, run):
    items = [{"id": 0, "embed": row} for row in corpus.rows(9, 1)] + [{"id": 1, "embed": None}]
    corpus.pickle_file(tmp_path / "a.pkl", items)
    assert "1 item without an embedding" in run("inspect", tmp_path / "a.pkl")[1]


def test_inspect_an_alignment_moments_and_other_tensors(tmp_path, sides, run):
    alignment = fr.fit(*sides)
    alignment.save(tmp_path / "a.safetensors")
    _, out, _ = run("inspect", tmp_path / "a.safetensors")
    assert alignment.fingerprint[:16] in out and "180 rows" in out and "gap left" in out
    fr.Moments(16).update(corpus.loaded(sides[0])).save(tmp_path / "m.safetensors")
    _, out, _ = run("inspect", tmp_path / "m.safetensors")
    assert "moments of 180 rows, 16 wide" in out and "trace" in out
    fr.Moments(4).save(tmp_path / "none.safetensors")
    assert "moments of 0 rows" in run("inspect", tmp_path / "none.safetensors")[1]
    from safetensors.numpy import save_file

    save_file({"x": np.ones((3, 5))}, tmp_path / "x.safetensors")
    assert "3 rows of 5, float64" in run("inspect", tmp_path / "x.safetensors")[1]
    save_file({"x": np.ones(3)}, tmp_path / "x.safetensors")
    code, _, err = run("inspect", tmp_path / "x.safetensors")
    assert code == 2 and "no tensor of embeddings" in err


def test_inspect_an_output(tmp_path, sides, run):
    out = tmp_path / "out"
    run("align", sides[0], "--target", sides[1], "--out", out, "--dtype", "float16")
    code, text, _ = run("inspect", out)
    assert code == 0 and "output of fastrealign align" in text and "dtype float16" in text and "changed" not in text
    (out / "part_1.npy").unlink()
    assert "1 shard gone or not as written, such as part_1.npy" in run("inspect", out)[1]
    assert json.loads(run("inspect", out / "manifest.json", "--json")[1])["changed"] == ["part_1.npy"]


def test_inspect_an_unfinished_output(tmp_path, sides, run):
    from stops import StopAfter

    with pytest.raises(fr.FastRealignError):
        fr.align(*sides, tmp_path / "out", threads=1, progress=StopAfter(60))
    assert "an unfinished run, 1 of 3 shards complete" in run("inspect", tmp_path / "out")[1]


def test_inspect_nothing(tmp_path, run):
    code, out, err = run("inspect", tmp_path / "none.npy")
    assert (code, out) == (2, "") and "no such file" in err


def test_the_demo_says_what_to_do_next(run):
    code, out, err = run("demo")
    assert (code, err) == (0, "")
    assert "fastrealign align" in out and "before" in out and "after" in out


@pytest.mark.parametrize(
    "argv", [["--help"], *([name, "--help"] for name in ("align", "fit", "apply", "inspect", "demo"))]
)
def test_help_has_examples_and_goes_to_stdout(run, argv):
    code, out, err = run(*argv)
    assert (code, err) == (0, "")
    assert out.startswith("usage: fastrealign") and max(map(len, out.splitlines())) <= 132
    if argv[0] not in ("inspect", "demo"):
        assert "fastrealign align text_emb/" in out or f"fastrealign {argv[0]} " in out.partition("example")[2]


def test_version(run):
    assert run("--version") == (0, f"fastrealign {fr.__version__}\n", "")


@pytest.mark.parametrize(
    "argv, named",
    [
        (["alin"], "alin"),
        (["align", "x"], "--target"),
        (["align", "x", "--target", "y", "--out", "z", "--centroid", "best"], "best"),
        (["align", "x", "--target", "y", "--out", "z", "--threads", "0"], "'0' is not a whole number of at least 1"),
        (["fit", "x", "--target", "y", "--out", "z", "--threads", "9" * 20], "or far too large"),
        (["fit", "x", "--target", "y", "--out", "z", "--seed", "-1"], "'-1' is not a whole number of at least 0"),
        (["align", "x", "--target", "y", "--out", "z", "--resume", "--overwrite"], "not allowed with"),
    ],
)
def test_usage_errors_are_one_line(run, argv, named):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("fastrealign: error: ") and err.count("\n") == 1 and named in err and "--help" in err


@pytest.mark.parametrize(
    "argv, meant",
    [
        (["align", "x", "--taget", "y", "--out", "z"], "there is no option --taget, did you mean '--target'?"),
        (["align", "x", "-target", "y", "--out", "z"], "there is no option -target, did you mean '--target'?"),
        (["align", "x", "--target", "y", "--out=z", "--resum"], "there is no option --resum, did you mean '--resume'?"),
        (
            ["align", "x", "--target", "y", "--out", "z", "--zzz"],
            "there is no option --zzz; see fastrealign align --help",
        ),
        (["--verison"], "there is no option --verison, did you mean '--version'?"),
        (["train", "stage1", "x.yaml", "--resme"], "did you mean '--resume'?"),
        (["embed", "x", "--clip", "a", "--outt", "z"], "did you mean '--out'?"),
        (["algin", "x"], "there is no 'algin', did you mean 'align'?"),
        (["train", "stage3"], "there is no 'stage3', did you mean 'stage"),
        (["align", "x", "--target", "y", "--out", "z", "--centroid", "exakt"], "did you mean 'exact'?"),
        (["align", "x", "--target", "y", "--out", "z", "--dtype", "float23"], "did you mean 'float32'?"),
        (["align", "x", "--target", "y", "--out", "z", "--method", "C33"], "did you mean 'c3'?"),
    ],
)
def test_what_was_meant_is_named(run, argv, meant):
    code, out, err = run(*argv)
    assert (code, out) == (2, "") and err.count("\n") == 1 and meant in err


@pytest.mark.parametrize("argv, usage", [([], "usage: fastrealign "), (["train"], "usage: fastrealign train ")])
def test_a_bare_command_shows_its_help(run, argv, usage):
    code, out, err = run(*argv)
    assert (code, err) == (0, "") and out.startswith(usage) and "examples:" in out


@pytest.mark.parametrize(
    "name, dtype", [("fp16", "float16"), ("HALF", "float16"), ("Float64", "float64"), ("double", "float64")]
)
def test_names_of_element_types_and_choices_in_any_letters(tmp_path, sides, run, name, dtype):
    out = tmp_path / "out"
    assert run("align", sides[0], "--target", sides[1], "--out", out, "--dtype", name, "--centroid", "Exact")[0] == 0
    assert corpus.loaded(out).dtype == dtype
    assert fr.load(out / "alignment.safetensors").centroid == "exact"
    assert run("convert", sides[0], "--out", tmp_path / "bf16", "--to", "NPY", "--dtype", "bf16")[0] == 0


def test_names_of_methods_in_any_letters(tmp_path, sides, run):
    target = [sides[1], "--out", tmp_path / "a.safetensors"]
    assert run("fit", sides[0], "--target", *target, "--method", "C3")[0] == 0
    assert fr.load(tmp_path / "a.safetensors").name == "c3"
    assert fr.fit(str(sides[0]), str(sides[1]), method="ReAlign-Exact").centroid == "exact"
    assert (
        run("fit", sides[0], "--target", *target, "--method", "REALIGN", "--centroid", "exact", "--overwrite")[0] == 0
    )


@pytest.mark.parametrize("command", ["apply", "check"])
def test_alignment_and_source_that_are_swapped(tmp_path, sides, run, command):
    run("align", sides[0], "--target", sides[1], "--out", tmp_path / "out")
    alignment = tmp_path / "out" / "alignment.safetensors"
    rest = ["--out", tmp_path / "again"] if command == "apply" else []
    for source in (sides[0], sides[0] / "part_0.npy"):
        code, out, err = run(command, source, alignment, *rest)
        assert (code, out) == (2, "") and "they look swapped; name the alignment first, then the embeddings" in err
    assert run(command, alignment, sides[0], *rest)[0] in (0, 3)
    code, _, err = run(command, tmp_path / "out", sides[0], *rest)
    assert code == 2 and f"it is a folder; name {alignment}" in err


@pytest.mark.parametrize("name", ["x.pkl", "x.npy", "x.json", "x.html", "x.npz", "", "new/"])
def test_an_alignment_is_not_saved_as_another_kind_of_file(tmp_path, sides, run, name):
    before = corpus.tree(tmp_path)
    out = f"{tmp_path}/{name}" if name else ""
    code, stdout, err = run("fit", sides[0], "--target", sides[1], "--out", out)
    assert (code, stdout) == (2, "") and corpus.tree(tmp_path) == before
    assert (f"name it {tmp_path}/x.safetensors" if "." in name else "is no name of a file") in err
    alignment, moments = fr.fit(str(sides[0]), str(sides[1])), fr.Moments(4)
    for saved in (alignment, moments, fit_baseline("c3", str(sides[0]), str(sides[1]))):
        with pytest.raises(fr.InputError, match="safetensors"):
            saved.save(out)
    alignment.save(tmp_path / "any.name")
    assert fr.load(tmp_path / "any.name").fingerprint == alignment.fingerprint
    assert run("inspect", tmp_path / "any.name")[1].startswith(f"{tmp_path / 'any.name'}: an alignment")


def test_numbers_that_are_text(sides):
    for name, value in (("tol", "1e-3"), ("confidence", "0.9"), ("seed", "3")):
        with pytest.raises(fr.InputError, match=f"{name}='"):
            fr.fit(str(sides[0]), str(sides[1]), **{"tol": 1e-3, name: value})


@pytest.mark.parametrize(
    "argv",
    [[], ["train"], ["--version"], ["--help"], ["align", "--help"], ["inspect", "IN"], ["inspect", "IN", "--json"]],
)
def test_a_full_stdout_is_one_line(sides, argv):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    command = [sys.executable, "-m", "fastrealign", *(sides[0] if word == "IN" else word for word in argv)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("fastrealign: error: standard output: cannot be written to: No space left")
    assert done.stderr.count("\n") == 1


def test_a_full_stderr_changes_no_exit_code(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastrealign", "inspect", tmp_path / "no"], stderr=full, check=False
        )
    assert done.returncode == 2


def test_bars_of_gaps_that_are_rounding_alone_are_not_full():
    for before, left, longest, last in (
        (4e-8, 3e-8, "|", "|"),
        (1e-4, 0.0, "====", "|"),
        (0.8, 0.2, "=" * 40, "=" * 10),
    ):
        bars = [line.split()[-1] for line in gap_lines(before, left)]
        assert bars == [longest, last]


def test_libraries_complain_of_each_other_in_silence(tmp_path, run, monkeypatch):
    def fit(*_, **__):
        warnings.warn("an old name of another library", DeprecationWarning, stacklevel=1)
        warnings.warn("something that matters", UserWarning, stacklevel=1)
        raise fr.InputError("stop")

    monkeypatch.setattr(fr, "fit", fit)
    code, _, err = run("fit", "a.npy", "--target", "b.npy", "--out", tmp_path / "x.safetensors")
    assert code == 2 and err.splitlines() == [
        "fastrealign: warning: something that matters",
        "fastrealign: error: stop",
    ]


def test_a_fit_warning_is_one_line(tmp_path, run):
    corpus.npy_folder(tmp_path / "few", [corpus.rows(9, 1)])
    corpus.npy_folder(tmp_path / "others", [corpus.rows(9, 2)])
    code, _, err = run("align", tmp_path / "few", "--target", tmp_path / "others", "--out", tmp_path / "out")
    assert code == 0
    lines = err.splitlines()
    assert len(lines) == 2 and all(
        line.startswith("fastrealign: warning: ") and "9 rows for a width of 16" in line for line in lines
    )
    with warnings.catch_warnings(record=True):  # and the caller's warnings are as they were
        warnings.warn("mine", fr.FitWarning, stacklevel=1)


def test_a_bug_is_one_line_too(monkeypatch, run, tmp_path):
    monkeypatch.setattr("fastrealign.cli.inspect.paths", lambda given: {}["a\nb"])
    code, out, err = run("inspect", tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith("fastrealign: error: KeyError: ") and err.count("\n") == 1 and "FASTREALIGN_DEBUG=1" in err
    monkeypatch.setenv("FASTREALIGN_DEBUG", "1")
    assert "Traceback" in run("inspect", tmp_path)[2]


def test_a_reader_who_leaves_is_no_error(sides):
    command = f"{sys.executable} -m fastrealign align --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_streams_that_the_shell_closed(sides, tmp_path):
    """Nothing is said, all is done: the numbers of the streams are not given to files that are written."""
    text, images = sides
    command = f"{sys.executable} -m fastrealign align {text} --target {images} --out {tmp_path / 'out'} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 0
    assert subprocess.run(["bash", "-c", f"{sys.executable} -m fastrealign inspect {tmp_path / 'out'}"]).returncode == 0


@pytest.mark.parametrize("argv", [["align", "--help"], ["--version"]])
def test_a_reader_who_leaves_before_the_last_line(tmp_path, monkeypatch, argv):
    """What is still in the buffer is not left to the end of the process, where it could no longer be handled."""

    class Left(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    with (tmp_path / "stdout").open("wb") as file:
        stdout = Left()
        stdout.fileno = file.fileno
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(argv) == 1 and stdout.getvalue()


def test_python_m_and_progress_on_a_terminal(tmp_path, sides):
    """On a pseudo-terminal there is a bar, and it is gone at the end."""
    pty, termios, fcntl = (pytest.importorskip(name) for name in ("pty", "termios", "fcntl"))
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    command = [sys.executable, "-m", "fastrealign", "align", sides[0], "--target", sides[1], "--out", tmp_path / "out"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=follower, check=False)
    assert select.select([leader], [], [], 1)[0], "nothing was shown"
    shown = os.read(leader, 1 << 16).decode()
    os.close(leader)
    os.close(follower)
    assert done.returncode == 0 and b"gap left" in done.stdout
    assert "aligning:   0%" in shown and shown.endswith(" \r") and "\n" not in shown


@pytest.mark.parametrize("argv", [[], ["--help"], ["--version"], *([name, "--help"] for name in COMMAND_NAMES)])
def test_help_starts_without_numpy(argv):
    code = "import sys; from fastrealign.cli.main import main; main(sys.argv[1:]); sys.exit('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
    assert done.stdout.strip() and not done.stderr


def test_nothing_is_collected_when_the_command_ends():
    code = (
        "import atexit, gc; first = gc.get_freeze_count()  # some in Python 3.12\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > first))\n"
        "from fastrealign.cli.main import main; main(['--version']); print(gc.get_freeze_count() - first)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["0", "True"]


@pytest.mark.parametrize("argv, seldom", [(["--version"], True), (["train", "stage1", "none.yaml"], False)])
def test_cycles_are_looked_for_seldom_unless_a_model_runs(argv, seldom):
    code = (
        "import gc, sys; usual = gc.get_threshold()\n"
        "from fastrealign.cli.main import main; main(sys.argv[1:]); print(gc.get_threshold() != usual)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(seldom)


def test_threads_of_openblas_do_not_spin_in_the_command(monkeypatch, capsys):
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT", raising=False)
    assert main(["--version"]) == 0
    assert int(os.environ["OPENBLAS_THREAD_TIMEOUT"]) < 26  # its own default
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "28")
    assert main(["--version"]) == 0
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "28"  # what the user set stays
    capsys.readouterr()


def test_nothing_heavy_is_imported_for_help_or_align(tmp_path, sides):
    code = (
        "import sys; from fastrealign.cli.main import main\n"
        "main(['align', sys.argv[1], '--target', sys.argv[2], '--out', sys.argv[3], '--quiet', '--no-fsync'])\n"
        "heavy = {'torch', 'pyarrow', 'matplotlib', 'sklearn', 'pandas', 'tqdm', 'socket', 'fastrealign.diagnostics'}\n"
        "heavy |= {f'fastrealign.{name}' for name in ('methods.role_fits', 'methods.pair_sources', 'data.id_index')}\n"
        "heavy |= {'_hashlib', 'concurrent.futures', 'logging', 'zipfile', 'difflib', 'uuid', 'http'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, *sides, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n", done.stderr


def test_output_in_ascii_lacks_signs_and_nothing_else(tmp_path):
    """LANG=C without Python's UTF-8 mode, as in some containers and cron jobs."""
    environ = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environ.pop("PYTHONIOENCODING", None)
    command = [sys.executable, "-m", "fastrealign", "demo"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"?" in done.stdout and done.stdout.isascii()
