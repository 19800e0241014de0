"""align, fit, apply and check on the command line: what they print where, and their exit codes."""

from __future__ import annotations

import json
import re
import shlex
import warnings

import corpus
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fastrealign as fr
from fastrealign.jobs.layout import Layout
from fastrealign.jobs.summary import gap_lines
from fastrealign.methods.baselines import fit_baseline
from fastrealign.storage.files import reading


def test_align_shows_the_gap_before_and_after_and_what_was_written(tmp_path, sides, run):
    code, out, err = run("align", sides[0], "--target", sides[1], "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"aligned 180 rows of {sides[0]}, 16 wide"
    before, left = (next(line for line in lines if f"gap {name}" in line) for name in ("before", "left"))
    assert before.count("=") == 40 > left.count("=")
    assert f"{tmp_path / 'out'}: 3 shards, 180 rows" in out and re.search(r"rows/s, \d[\d.]* [kM]B/s of source", out)
    assert str(tmp_path / "out" / "manifest.json") in out


def test_no_noise_is_not_said_of_c3(tmp_path, sides, run):
    """0 is what other methods have by default, and C3 would keep its own noise. Without it, it is the anchor."""
    out, saved = tmp_path / "out", tmp_path / "c3.safetensors"
    rows = np.load(sorted(sides[0].iterdir())[0])
    fit_baseline("c3", *sides).save(saved)
    for argv in (["align", sides[0], "--target", sides[1], "--method", "C3"], ["apply", saved, sides[0]]):
        code, _, err = run(*argv, "--out", out, "--noise", "0.0")
        assert (code, err.count("\n")) == (2, 1) and "--noise 0 would leave c3 its own noise" in err
        assert not out.exists()
    bare, anchor = fit_baseline("c3", *sides, sigma=0.0), fit_baseline("anchor", *sides)
    np.testing.assert_allclose(bare(rows), anchor(rows), atol=1e-6)
    assert run("align", sides[0], "--target", sides[1], "--out", out, "--noise", "0", "--quiet") == (0, "", "")
    assert run("apply", saved, sides[0], "--out", tmp_path / "less", "--noise", "0.1", "--quiet")[0] == 0


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


def test_the_demo_says_what_to_do_next(run):
    code, out, err = run("demo")
    assert (code, err) == (0, "")
    assert "fastrealign align" in out and "before" in out and "after" in out


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


def test_a_current_folder_that_was_removed(tmp_path, sides, run, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, out, err = run("inspect", "../text")
    assert (code, out) == (2, "")
    assert err == "fastrealign: error: the current folder was removed; change to another one, then run again\n"
    with monkeypatch.context() as patched:
        patched.setattr("fastrealign.cli.inspect.paths", lambda given: {}["a"])
        assert "KeyError" in run("inspect", "../text")[2]  # a fault of another kind is still said
    assert run("inspect", sides[0])[0] == 0  # a full path needs none


def test_warnings_of_torch_about_itself_are_not_shown(tmp_path, run):
    torch = pytest.importorskip("torch")
    torch.save(torch.eye(5).to_sparse(), tmp_path / "a.pt")
    code, _, err = run("inspect", tmp_path / "a.pt")
    assert code == 2 and err.count("\n") == 1 and "save tensor.to_dense()" in err


@pytest.mark.parametrize("name", ["o.csv", "o.TXT", "o.npz", "o.json", "o.tar"])
def test_an_output_is_not_named_like_a_file_of_another_format(tmp_path, sides, run, name):
    fr.fit(*sides).save(tmp_path / "a.safetensors")
    source, out, before = sides[0] / "part_0.npy", tmp_path / name, corpus.tree(tmp_path)
    commands = (
        ("align", source, "--target", sides[1]),
        ("apply", tmp_path / "a.safetensors", source),
        ("convert", source),
    )
    for words in commands:
        code, stdout, err = run(*words, "--out", out)
        assert (code, stdout, err.count("\n")) == (
            2,
            "",
            1,
        ) and f"{out}: {out.suffix} is not written".lower() in err.lower()
        assert " a .npy" in err and "a folder" in err and corpus.tree(tmp_path) == before
        assert "a slash at the end makes one of that name" in err
    with pytest.raises(fr.InputError, match="is not written; shards go to a folder"):
        Layout.of_new_shards(out)
    # Of several shards a file cannot be made.
    for words in (("align", sides[0], "--target", sides[1]), ("convert", sides[0])):
        code, _, err = run(*words, "--out", out)
        assert code == 2 and "is not written" in err and "; name a folder (" in err
    assert run(*commands[0], "--out", f"{out}/")[0] == 0 and (out / "part_0.npy").is_file()
    assert run(*commands[0], "--out", out, "--resume")[0] == 0


@pytest.mark.parametrize("name", ["run.dat", "x.raw", "x.bin", "x.ckpt"])
def test_a_folder_may_be_named_like_raw_data(tmp_path, sides, run, name):
    assert run("align", sides[0], "--target", sides[1], "--out", tmp_path / name)[0] == 0
    assert (tmp_path / name / "part_0.npy").is_file()


def test_what_is_no_alignment_and_what_to_name(tmp_path, sides, run):
    out = tmp_path / "out"
    assert run("align", sides[0], "--target", sides[1], "--out", out)[0] == 0
    for given in (out, out / "manifest.json", out / "part_0.npy"):
        code, _, err = run("apply", given, sides[0], "--out", tmp_path / "again")
        assert (code, err.count("\n")) == (2, 1) and f"; name {out / 'alignment.safetensors'}\n" in err
    code, _, err = run("apply", sides[1], sides[0], "--out", tmp_path / "again")
    assert code == 2 and "it is a folder; name a saved alignment" in err
    saved = out / "alignment.safetensors"
    saved.write_bytes(saved.read_bytes()[:100])
    code, _, err = run("apply", saved, sides[0], "--out", tmp_path / "again")
    assert code == 2 and "the file is damaged" in err and "name " not in err
    with pytest.raises(fr.InputError, match="it is a folder; name saved roles"):
        fr.Roles.load(out)


def test_a_name_with_spaces_that_was_not_quoted(tmp_path, sides, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sides[0].rename("my text's rows")
    words = ("--target", sides[1], "--out", "out")
    code, _, err = run("align", "my", "text's", "rows", *words)
    quoted = shlex.quote("my text's rows")
    assert (code, err.count("\n")) == (
        2,
        1,
    ) and f"my: no such file or folder; if you mean my text's rows, quote it: {quoted}" in err
    assert run("align", *shlex.split(quoted), *words)[0] == 0


def test_a_link_to_nothing(tmp_path, sides, run):
    link = sides[0] / "part_9.npy"
    link.symlink_to("gone.npy")
    for given in (link, sides[0]):
        code, _, err = run("inspect", given)
        assert (code, err.count("\n")) == (2, 1)
        assert f"{link}: no such file or folder: it is a link to gone.npy; restore that, or remove the link" in err


def test_a_link_to_a_folder_is_not_blamed_for_a_file_in_it(tmp_path):
    (tmp_path / "folder").mkdir()
    (link := tmp_path / "link").symlink_to("folder")
    with pytest.raises(fr.InputError, match=r"no such file or folder$"), reading(link):
        (link / "gone").stat()
