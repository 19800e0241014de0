"""Shards that cannot be read: either an error that says what to do, or they are left out and listed, and the exit code is 1."""

from __future__ import annotations

import json

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.core import reference
from fastrealign.core.errors import InputError
from fastrealign.formats.npy import NpyShard

SHARDS = 6


@pytest.fixture
def folders(tmp_path):
    text = corpus.npy_folder(tmp_path / "text", [corpus.rows(300, i, dim=16) for i in range(SHARDS)])
    image = corpus.npy_folder(tmp_path / "image", [corpus.rows(200, 50 + i, dim=16) for i in range(3)])
    return text, image


def cut(path, size=-100):
    data = path.read_bytes()
    path.write_bytes(data[:size])


@pytest.fixture
def failing(monkeypatch):
    """failing(name, after): reading that shard fails once row `after` is asked for, as a disk with a bad block does."""
    broken = {}
    read = NpyShard.read

    def failing_read(self, lo, hi, scratch):
        if hi > broken.get(self.name, hi):
            raise InputError(f"{self.path}: cannot be read: Input/output error")
        return read(self, lo, hi, scratch)

    monkeypatch.setattr(NpyShard, "read", failing_read)
    return lambda name, after: broken.update({name: after})


def without(folder, *names):
    return [path for path in sorted(folder.iterdir()) if path.name not in names]


def check_left_out(report, out, text, image, source=(), target=()):
    """The report, the manifest and the files say and hold what a run over the others does."""
    expected = fr.align(without(text, *source), without(image, *target), out.parent / "expected", dtype=None)
    assert report.rows_out == expected.rows_out
    assert report.alignment.fingerprint == expected.alignment.fingerprint
    for path in without(out.parent / "expected", "manifest.json", "alignment.safetensors"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert not any((out / name).exists() for name in source)
    left_out = json.loads((out / "manifest.json").read_text())["left_out"]
    assert {side: set(names) for side, names in left_out.items()} == {
        side: set(names) for side, names in (("source", source), ("target", target)) if names
    }
    assert len(report.left_out) == len(source) + len(target)
    assert not [path for path in out.iterdir() if path.name.endswith((".tmp", ".jsonl"))]


@pytest.mark.parametrize("threads", [1, 3])
def test_shards_that_cannot_be_opened(folders, tmp_path, threads):
    text, image = folders
    cut(text / "part_2.npy")
    (text / "part_4.npy").write_bytes(b"")
    np.save(text / "part_5.npy", corpus.rows(9, 1, dim=7))
    cut(image / "part_0.npy")
    with pytest.raises(InputError, match=r"part_2\.npy: truncated"):
        fr.align(text, image, tmp_path / "out")
    report = fr.align(text, image, tmp_path / "out", bad_shards="skip", threads=threads)
    names = ("part_2.npy", "part_4.npy", "part_5.npy")
    check_left_out(report, tmp_path / "out", text, image, names, ("part_0.npy",))
    assert "left out   4 shards that could not be read" in str(report)
    assert any("part_5.npy: rows have 7 values, those of" in line for line in report.left_out)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("after", [0, 150])
def test_shards_that_fail_while_they_are_read(folders, tmp_path, failing, threads, after, monkeypatch):
    monkeypatch.setattr("fastrealign.data.workers.PIECE_BYTES", 4096)
    text, image = folders
    failing("part_1.npy", after)
    with pytest.raises(InputError, match=r"part_1\.npy: cannot be read: Input/output error"):
        fr.align(text, image, tmp_path / "out")
    report = fr.align(text, image, tmp_path / "out", bad_shards="skip", threads=threads)
    check_left_out(report, tmp_path / "out", text, image, ("part_1.npy",), ("part_1.npy",))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_shard_that_fails_only_when_it_is_written(folders, tmp_path, failing, threads, monkeypatch):
    """apply: there is no fit that would meet it before; other pieces of the shard are already written by then."""
    monkeypatch.setattr("fastrealign.data.workers.PIECE_BYTES", 4096)
    text, image = folders
    alignment = fr.fit(text, image)
    failing("part_3.npy", 250)
    with pytest.raises(InputError, match=r"part_3\.npy: cannot be read"):
        fr.apply_files(alignment, text, tmp_path / "stopped", threads=1)
    report = fr.apply_files(alignment, text, tmp_path / "out", bad_shards="skip", threads=threads)
    assert report.shards == SHARDS - 1 and len(report.left_out) == 1
    for path in without(text, "part_3.npy"):
        expected = reference.row_map(np.load(path), alignment.s, alignment.b, alignment.c)
        np.testing.assert_allclose(np.load(tmp_path / "out" / path.name), expected, rtol=0, atol=3e-7)
    assert not (tmp_path / "out" / "part_3.npy").exists()
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.endswith(".tmp")]


def test_a_run_that_stopped_at_one_continues_without_it(folders, tmp_path, failing):
    text, image = folders
    alignment = fr.fit(text, image)
    failing("part_3.npy", 0)
    with pytest.raises(InputError, match=r"3 of 6 shards are complete"):
        fr.apply_files(alignment, text, tmp_path / "out", threads=1)
    report = fr.apply_files(alignment, text, tmp_path / "out", resume=True, bad_shards="skip")
    assert (report.shards_before, report.shards) == (3, 5)
    again = fr.apply_files(alignment, text, tmp_path / "out", resume=True, bad_shards="skip")
    assert again.nothing_to_do and again.left_out == report.left_out


def test_bad_rows_left_out_as_well(folders, tmp_path, failing):
    text, image = folders
    rows = np.load(text / "part_0.npy")
    rows[5] = 0
    np.save(text / "part_0.npy", rows)
    failing("part_1.npy", 0)
    report = fr.align(text, image.parent / "image" / "part_0.npy", tmp_path / "out", bad_rows="skip", bad_shards="skip")
    assert report.bad_rows == 1 and report.rows_out == 5 * 300 - 1


def test_a_dataset_of_hugging_face_loads_without_it(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = corpus.rows(90, 1, dim=16)
    whole = datasets.Dataset.from_dict({"id": list(range(90)), "embedding": rows.tolist()})
    whole.save_to_disk(tmp_path / "text", num_shards=3)
    cut(tmp_path / "text" / "data-00001-of-00003.arrow")
    report = fr.align(tmp_path / "text", corpus.rows(50, 2, dim=16), tmp_path / "out", bad_shards="skip")
    assert report.shards == 2
    assert datasets.load_from_disk(tmp_path / "out")["id"][:] == [*range(30), *range(60, 90)]


def test_nothing_left_is_an_error(folders, tmp_path):
    text, image = folders
    for path in text.iterdir():
        path.write_bytes(b"no")
    with pytest.raises(InputError, match=r"part_0\.npy: is not a \.npy file"):
        fr.align(text, image, tmp_path / "out", bad_shards="skip")
    assert not (tmp_path / "out").exists()


def test_a_policy_that_does_not_exist(folders, tmp_path):
    with pytest.raises(InputError, match="bad_shards='keep': expected one of error, skip"):
        fr.align(*folders, tmp_path / "out", bad_shards="keep")


def test_on_the_command_line(folders, tmp_path, capsys):
    text, image = folders
    cut(text / "part_2.npy")
    words = ["align", str(text), "--target", str(image), "--out", str(tmp_path / "out")]
    assert main([*words, "--quiet"]) == 2
    assert main([*words, "--bad-shards", "skip", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["shards"] == SHARDS - 1
    assert report["left_out"][0].startswith(f"{text / 'part_2.npy'}: truncated")
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert "left out       1 shard, such as part_2.npy" in capsys.readouterr().out
