"""No command writes over an input of its own, by whatever name, link or suffix, with --overwrite or without."""

from __future__ import annotations

import os
from pathlib import Path

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.core.errors import InputError
from fastrealign.jobs.protected_inputs import Inputs


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


@pytest.mark.usefixtures("undrawn")
def test_a_report_is_a_page(here, capsys):
    pytest.importorskip("matplotlib")
    found, before = fr.report("text.npy", "image.npy", methods=["none"], rows=60), corpus.tree(here)
    says = "a report is a page, expected a name that ends in .html"
    for out in ("text.npy", "new.npy", "report", "report.json", "report.png", "saved.safetensors"):
        refused(["report", "--source", "text.npy", "--target", "image.npy", "--out", out], capsys, before, says)
        # The same from Python.
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


def test_a_folder_gets_nothing_that_the_next_read_would_take_for_its_own(here, capsys):
    """Nor does a folder that is read by a link, or through fsspec."""
    os.symlink("shards", "linked")
    before = corpus.tree(here)
    for source in ("shards", "linked", "shards/../shards/"):
        for out in ("shards", "shards/new", "linked"):
            refused(["convert", source, "--to", "parquet", "--out", out], capsys, before, "lies inside the input")
    one = ["convert", "shards/part_0.npy", "--out", "shards/part_9.npy"]
    assert main(one) == 0  # the file alone was named


def test_an_input_through_a_chain_of_fsspec(here, capsys):
    pytest.importorskip("fsspec")
    before = corpus.tree(here)
    for url in (f"simplecache::file://{here}/text.npy", f"file://{here}/sub/../text.npy"):
        refused(["convert", url, "--out", "text.npy"], capsys, before)
        refused(["align", url, "--target", "image.npy", "--out", "text.npy"], capsys, before)
    assert main(["align", "shards", "--target", "image.npy", "--out", "out"]) == 0
    url = f"simplecache::file://{here}/out/part_0.npy"
    refused(["align", "more.npy", "--target", url, "--out", "out"], capsys, corpus.tree(here), "lies inside the output")


@pytest.mark.parametrize(
    "one, other",
    [
        ("memory://a/b.npy", "memory:///a//x/../b.npy/"),
        ("gs://b/k.npy", "gcs://b//k.npy"),
        ("s3://b/k.npy", "simplecache::s3a://b/./k.npy"),
        ("ftp://u:p@Host.org:21/a.npy", "ftp://host.org//a.npy"),
        ("https://host.org/a b.npy", "https://HOST.org:443/x/../a%20b.npy?sig=1"),
    ],
)
def test_one_place_by_two_urls(one, other, monkeypatch):
    pytest.importorskip("fsspec")
    from types import SimpleNamespace

    import fastrealign.storage.url as module

    protocols = {"gcs": ("gs", "gcs"), "gs": ("gs", "gcs"), "s3a": ("s3", "s3a"), "s3": ("s3", "s3a")}
    monkeypatch.setattr(
        module, "filesystem", lambda url: (SimpleNamespace(protocol=protocols.get(url.split(":")[0], "x")), url)
    )
    for a, b in ((one, other), (other, one)):
        with pytest.raises(InputError, match="is the input itself"):
            Inputs([a]).check(b)
        Inputs([a]).check(b.replace(".npy", ".parquet"))


def test_save_leaves_tensors_of_others(here):
    """From Python: what was fitted, saved over what it was fitted on."""
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"emb": corpus.rows(60, 8)}, "emb.safetensors")
    found, moments = fr.fit("emb.safetensors", "image.npy"), fr.Moments(16)
    before = corpus.tree(here)
    for save in (found.save, moments.save, fr.baselines.fit_baseline("c3", "text.npy", "image.npy").save):
        with pytest.raises(InputError, match="holds tensors that fastrealign did not save"):
            save("emb.safetensors")
    assert corpus.tree(here) == before
    found.save("saved.safetensors")
    Path("torn.safetensors").write_bytes(b"")
    found.save("torn.safetensors")


@pytest.mark.parametrize("png", ["page.html", "page.json", "page.html/figures", "./sub/../page.json"])
def test_a_reports_own_files_in_each_others_place(here, capsys, png):
    pytest.importorskip("matplotlib")
    args = ["report", "--source", "text.npy", "--target", "image.npy", "--out", "page.html", "--png", png]
    refused(args, capsys, corpus.tree(here), "is the name of a file of this report")


def test_a_picture_is_a_png(here, capsys):
    pytest.importorskip("matplotlib")
    os.mkdir("folder.png")
    before = corpus.tree(here)
    for command in (["demo"], ["train", "demo", "--out", "world"]):
        for out, says in (("text.npy", "ends in .png"), ("sub", "ends in .png"), ("folder.png", "is a folder")):
            assert main([*command, "--picture", out]) == 2
            assert says in capsys.readouterr().err
    assert corpus.tree(here) == before


@pytest.mark.parametrize("content", [b"my notes, on one line", b"\x89PNG", b"{}"])
def test_a_monitor_does_not_empty_a_file_of_others(here, content):
    Path("notes").write_bytes(content)
    with pytest.raises(InputError, match="no log of a gap monitor"):
        fr.diagnostics.GapMonitor(log="notes")
    assert Path("notes").read_bytes() == content
