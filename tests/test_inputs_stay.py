"""No command writes over an input of its own, by whatever name, link or suffix, with --overwrite or without."""

from __future__ import annotations

import os
from pathlib import Path

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli import main
from fastrealign.errors import InputError
from fastrealign.folders import Inputs


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("sub")
    for name, seed in (("text.npy", 1), ("image.npy", 2), ("more.npy", 3)):
        np.save(name, corpus.rows(60, seed))
    corpus.npy_folder(tmp_path / "shards", [corpus.rows(40, 4), corpus.rows(40, 5)])
    fr.fit("text.npy", "image.npy").save("saved.safetensors")
    return tmp_path


def spellings(path):
    """Other names of a file."""
    path = Path(path)
    yield "its name", str(path)
    yield "absolute", str(path.absolute())
    yield "dots", f"./sub/.././{path}"
    os.symlink(path.absolute(), f"symbolic{path.suffix}")
    yield "symbolic link", f"symbolic{path.suffix}"
    os.link(path, f"hard{path.suffix}")
    yield "hard link", f"hard{path.suffix}"
    os.symlink(path.absolute().parent, "folder")
    yield "folder by a link", f"folder/{path.name}"


def refused(args, capsys, before, says="is the input itself"):
    for more in ([], ["--overwrite"]):
        code = main([*args, *more])
        said = capsys.readouterr().err
        assert code == 2 and said.count("\n") == 1, (args, said)
        if more:
            assert says in said, (args, said)
        assert corpus.tree(Path.cwd()) == before, args


def test_arrays_to_themselves(here, capsys):
    outs = dict(spellings("text.npy"))
    before = corpus.tree(here)
    for out in outs.values():
        refused(["align", "text.npy", "--target", "image.npy", "--out", out], capsys, before)
        refused(["apply", "saved.safetensors", "text.npy", "--out", out], capsys, before)
        refused(["convert", "text.npy", "--out", out], capsys, before)
        # And an input by a link.
        refused(["align", out, "--target", "image.npy", "--out", "text.npy"], capsys, before)
        refused(["align", "more.npy", "--target", out, "--out", "text.npy"], capsys, before)


@pytest.mark.parametrize("name", ["text.html", "text.json"])
def test_a_report_over_what_it_measures(here, capsys, name):
    """The page by a link to an input, or an input by a link that ends in .html."""
    pytest.importorskip("matplotlib")
    for kind, link in enumerate((os.link, os.symlink)):
        os.mkdir(str(kind))
        link(here / "text.npy", f"{kind}/{name}")
        before = corpus.tree(here)
        for source, target in (("text.npy", "image.npy"), ("image.npy", "text.npy"), ("t*t.npy", "image.npy")):
            args = ["report", "--source", source, "--target", target, "--out", f"{kind}/text.html"]
            refused(args, capsys, before)
        args = ["report", "--source", "more.npy", "--target", "image.npy", "--pairs", "text.npy", "image.npy"]
        refused([*args, "--out", f"{kind}/text.html"], capsys, before)
        args = ["report", "--source", "more.npy", "--target", "image.npy", "--domain", "a", "text.npy", "image.npy"]
        refused([*args, "--out", f"{kind}/text.html"], capsys, before)


@pytest.mark.parametrize("out", ["text.npy", "new.npy", "report", "report.json", "report.png", "saved.safetensors"])
def test_a_report_is_a_page(here, capsys, out):
    pytest.importorskip("matplotlib")
    before = corpus.tree(here)
    says = "a report is a page, expected a name that ends in .html"
    refused(["report", "--source", "text.npy", "--target", "image.npy", "--out", out], capsys, before, says)
    # The same from Python.
    found = fr.report("text.npy", "image.npy", methods=["none"], rows=60)
    with pytest.raises(InputError, match=says):
        found.save(out)
    assert corpus.tree(here) == before
    found.save("page.HTM")


def test_folders(here, capsys):
    """An earlier output read by a link, an alignment that the output has, a target in the output."""
    assert main(["align", "shards", "--target", "image.npy", "--out", "out"]) == 0
    os.symlink(here / "out" / "part_0.npy", "link.npy")
    os.symlink(here / "out" / "alignment.safetensors", "link.safetensors")
    capsys.readouterr()
    before = corpus.tree(here)
    says = "lies inside the output"
    for args in (
        ["align", "link.npy", "--target", "image.npy", "--out", "out"],
        ["align", "shards", "--target", "link.npy", "--out", "out"],
        ["align", "shards", "--target", "out/part_0.npy", "--out", "out"],
        ["apply", "out/alignment.safetensors", "shards", "--out", "out"],
        ["apply", "link.safetensors", "shards", "--out", "out"],
    ):
        refused(args, capsys, before, says)
    assert main(["apply", "out/alignment.safetensors", "shards", "--out", "other"]) == 0


def test_an_alignment_beside_a_single_output(here, capsys):
    assert main(["align", "text.npy", "--target", "image.npy", "--out", "done.npy"]) == 0
    capsys.readouterr()
    alignment = next(path.name for path in here.iterdir() if path.name.startswith("done.npy.alignment"))
    refused(["apply", alignment, "text.npy", "--out", "done.npy"], capsys, corpus.tree(here))


def test_fit_replaces_only_alignments_and_may_update_one_in_its_place(here, capsys):
    before = corpus.tree(here)
    args = ["fit", "text.npy", "--target", "image.npy", "--overwrite", "--out"]
    for out in ("text.npy", "image.npy"):
        assert main([*args, out]) == 2
        assert corpus.tree(here) == before
    os.rename("text.npy", "text.safetensors.npy")
    args = ["fit", "more.npy", "--from", "saved.safetensors", "--out", "saved.safetensors"]
    assert main(args) == 2 and main([*args, "--overwrite"]) == 0
    assert fr.load("saved.safetensors").count_source == 120


@pytest.mark.parametrize("spec", ["text.npy", "shards", "sh*/*_1.npy", ["text.npy", "shards/part_1.npy"]])
def test_the_files_that_are_named(here, spec):
    inputs = Inputs.named([spec, np.zeros(3), None])
    wanted = {"text.npy": "text" in str(spec), "shards/part_1.npy": "sh" in str(spec), "more.npy": False}
    for path, named in wanted.items():
        if named:
            with pytest.raises(InputError, match="is the input itself"):
                inputs.check(path)
        else:
            inputs.check(path)
