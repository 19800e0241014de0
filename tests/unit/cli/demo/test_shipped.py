"""A shipped file that was cut is named, in one line, with what to do."""

from __future__ import annotations

import os
import shutil

import pytest

from fastrealign.cli.demo import real_world, samples, shipped
from fastrealign.cli.main import main
from fastrealign.core.errors import InputError


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A copy of what ships, which the readers take instead."""
    copy = tmp_path / "data"
    shutil.copytree(shipped.DATA, copy)
    for module in (shipped, samples, real_world):
        monkeypatch.setattr(module, "DATA", copy)
    real_world._sheet.cache_clear()
    yield copy
    real_world._sheet.cache_clear()


def read_models(data):
    pytest.importorskip("transformers")
    pytest.importorskip("open_clip")
    from fastrealign.cli.demo import models

    return {
        "encoder.safetensors": lambda: models.load_encoder(data / models.ENCODER.name),
        "backbone.safetensors": lambda: models.load_backbone(data / models.BACKBONE.name),
    }


def read_rows(data):
    pytest.importorskip("PIL")
    return {
        **{f"{name}.npy": lambda name=name: samples.load(name) for name in samples.SEEDS},
        **{f"real_{side}.npy": real_world.load for side in real_world.SIDES},
        real_world.WORDS: real_world.load,
        real_world.SHEET: lambda: real_world.thumbnail(0),
    }


@pytest.mark.parametrize("readers", [read_models, read_rows])
def test_a_cut_file_is_named(data, readers):
    for name, read in readers(data).items():
        whole = (data / name).read_bytes()
        for size in (len(whole) // 2, len(whole) - 1, 0, None):
            os.truncate(data / name, size) if size is not None else (data / name).unlink()
            with pytest.raises(InputError) as caught:
                read()
            said = str(caught.value)
            assert said.startswith(f"{data / name}: is missing or damaged (") and "\n" not in said
            assert said.endswith("; install fastrealign again, which brings it")
        (data / name).write_bytes(whole)
        read()


def test_the_command_says_so(data, capsys):
    os.truncate(data / "real_title.npy", 1000)
    assert main(["demo"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "real_title.npy: is missing or damaged" in error


def test_another_file_is_to_be_made_again(tmp_path):
    says = r"x\.npy: is missing or damaged \(.*\); make it again$"
    with pytest.raises(InputError, match=says), shipped.readable(tmp_path / "x.npy") as path:
        path.read_bytes()
