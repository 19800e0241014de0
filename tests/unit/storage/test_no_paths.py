"""paths.py: what names no place is refused wherever a path is taken."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core.errors import InputError
from fastrealign.storage.atomic import AtomicFile
from fastrealign.storage.paths import paths_of


@pytest.fixture
def sides(tmp_path, rng, monkeypatch):
    """An alignment of two files in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, shift in (("text", 1.0), ("images", -1.0)):
        np.save(f"{name}.npy", rng.standard_normal((50, 8)) + shift)
    alignment = fr.fit("text.npy", "images.npy")
    alignment.save("fitted.safetensors")
    return alignment


@pytest.mark.parametrize("wrong", ["", None, 3, b"out", "a\0b.npy"])
def test_what_is_no_path_is_refused(sides, wrong):
    before = sorted(os.listdir())
    for call in (
        fr.load,
        sides.save,
        lambda path: fr.align("text.npy", target="images.npy", out=path),
        lambda path: fr.apply_files("fitted.safetensors", "text.npy", path),
        lambda path: fr.convert("text.npy", path, to="parquet"),
    ):
        with pytest.raises(InputError, match=r"expected a path|is no name of a file"):
            call(wrong)
    with pytest.raises(InputError, match=rf"^{re.escape(repr(wrong))}: is no name of a file; name one to save"):
        sides.save(wrong)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    "given, named",
    [
        (b"out", "b'out'"),
        ([None], "None"),
        ([3], "3"),
        (np.ones((2, 2)), "an ndarray"),
        ([np.ones((2, 2))], "an ndarray"),
    ],
)
def test_what_is_no_list_of_paths_is_named(given, named):
    with pytest.raises(InputError, match=f"^the source is {named}, expected a path$"):
        paths_of(given, "the source")


def test_a_tilde_is_the_users_folder_for_outputs_as_for_inputs(sides, monkeypatch):
    """A shell expands ~ outside of quotes; in Python and in a file of options nothing does."""
    os.mkdir("home")
    monkeypatch.setenv("HOME", os.path.abspath("home"))
    fr.align("text.npy", target="images.npy", out="~/aligned")
    fr.apply_files("~/aligned/alignment.safetensors", "~/aligned", "~/again")
    fr.convert("~/aligned", "~/converted.npy")
    sides.save("~/fitted.safetensors")
    assert fr.load("~/fitted.safetensors").fingerprint == sides.fingerprint
    assert sorted(os.listdir("home")) == ["again", "aligned", "converted.npy", "fitted.safetensors"]
    with pytest.raises(InputError, match="lies inside the input"):
        fr.align("home/aligned", target="images.npy", out="~/aligned/deeper")
    fr.align("text.npy", target="images.npy", out=Path("~/of_a_path"))
    sides.save(Path("~/path.safetensors"))
    assert sorted(os.listdir("home"))[-2:] == ["of_a_path", "path.safetensors"] and not os.path.exists("~")
    os.mkdir("~")  # a folder of that name is meant
    sides.save("~/fitted.safetensors")
    assert os.listdir("~") == ["fitted.safetensors"]


@pytest.mark.parametrize("length", [235, 300])  # the first is too long for the journal alone
def test_a_name_that_is_too_long_is_one_line(sides, length):
    out = f"{'x' * length}.npy"
    for write in (
        lambda: fr.align("text.npy", target="images.npy", out=out),
        lambda: fr.apply_files(sides, "text.npy", out),
        lambda: fr.convert("text.npy", out, overwrite=True),
    ):
        with pytest.raises(InputError, match=rf"^{out}: the name is too long; shorten it$"):
            write()
    with pytest.raises(InputError, match="no such file") as caught:
        fr.load(f"{out}.safetensors"[-length:])
    assert "\n" not in str(caught.value)


def test_a_pipe_is_no_saved_alignment(sides):
    """Opening one waits for a writer, for ever."""
    os.mkfifo("pipe.safetensors")
    with pytest.raises(InputError, match=r"^pipe\.safetensors: is not a regular file; copy its contents to one first$"):
        fr.load("pipe.safetensors")


@pytest.mark.parametrize("name", [".", "../"])
def test_a_file_without_a_name(name):
    with pytest.raises(InputError, match=r": is no name of a file; name a file to write$"):
        AtomicFile(name)


@pytest.mark.parametrize("name", [".", "..", "./", "../"])
def test_files_whose_name_is_that_of_a_folder(sides, name):
    report = fr.report("text.npy", "images.npy", methods=["realign"])
    for save in (sides.save, report.save):
        with pytest.raises(InputError, match=r"is no name of a file|is a folder, where a file of the report would go"):
            save(name)
