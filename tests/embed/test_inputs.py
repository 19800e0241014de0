"""What is embedded, in which order, under which ids; and one line about whatever cannot be."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from embed_output import in_order

from fastrealign import InputError
from fastrealign.embed.inputs import open_input

Image = pytest.importorskip("PIL.Image")


def read(*args, **kwargs):
    return [(item.id, item.load()) for item in open_input(*args, **kwargs)]


def refused(what, *args, **kwargs):
    with pytest.raises(InputError, match=what) as told:
        read(*args, **kwargs)
    assert "\n" not in str(told.value)


def test_a_folder_is_searched_through_in_numeric_order(photos):
    found = open_input(photos)
    assert (found.side, found.ignored) == ("images", {".csv": 1})
    assert [item.id for item in found] == in_order(photos)
    for item in found:
        assert np.array_equal(item.load(), Image.open(photos / item.id).convert("RGB"))


def test_several_folders_keep_their_names(photos, tmp_path):
    (tmp_path / "other").mkdir()
    Image.new("RGB", (3, 3)).save(tmp_path / "other" / "5.png")
    ids = [item.id for item in open_input([tmp_path / "other", photos])]
    assert ids == ["other/5.png", *(f"photos/{name}" for name in in_order(photos))]


def test_a_picture_is_upright_and_rgb(tmp_path, rng):
    pixels = rng.integers(0, 256, (8, 5, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned a quarter to the right
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    assert np.array_equal(read(tmp_path / "turned.png")[0][1], np.rot90(pixels, -1))
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert np.array_equal(read(tmp_path / "grey.png")[0][1], np.repeat(pixels[..., :1], 3, 2))


def test_text_is_a_caption_a_line(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffred cat\r\n  blauer Hund, groß \nlast".encode())
    wanted = ["red cat", "blauer Hund, groß", "last"]
    assert read(tmp_path / "a.txt") == [(str(i), text) for i, text in enumerate(wanted)]
    (tmp_path / "b.txt").write_text("one")
    assert [id for id, _ in read(tmp_path)] == ["a.txt:0", "a.txt:1", "a.txt:2", "b.txt:0"]


@pytest.mark.parametrize("name", ["caption", "text", "own"])
def test_jsonl_with_and_without_ids(tmp_path, name):
    path = tmp_path / "a.jsonl"
    column = {"column": "own"} if name == "own" else {}
    path.write_text(f'{{"{name}": "red"}}\n\n{{"{name}": "blue", "more": 1}}\n')
    assert read(path, **column) == [("0", "red"), ("2", "blue")]
    path.write_text(f'{{"id": 7, "{name}": "red"}}\n{{"id": "x", "{name}": "blue"}}\n')
    assert read(path, **column) == [("7", "red"), ("x", "blue")]
    path.write_text(f'{{"id": 7, "which": "q", "{name}": "red"}}\n')
    assert read(path, ids="which", **column) == [("q", "red")]


def test_parquet_streams_its_columns(tmp_path, captions):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    ids = [f"i{i}" for i in range(len(captions))]
    pq.write_table(pa.table({"url": ids, "key": ids, "caption": captions, "text": ids}), path, row_group_size=5)
    assert read(path) == list(zip(ids, captions, strict=True))
    assert read(path, column="text", ids="caption") == list(zip(captions, ids, strict=True))
    pq.write_table(pa.table({"caption": captions}), path)
    assert read(path) == [(str(i), text) for i, text in enumerate(captions)]
    refused(r"a\.parquet: has no column 'nope'; its columns are caption$", path, column="nope")


@pytest.fixture
def tar(tmp_path, rng):
    """A WebDataset: pictures, and captions of the same keys."""
    path = tmp_path / "shard.tar"
    pictures = []
    with tarfile.open(path, "w") as file:
        for i in range(3):
            pictures.append(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
            png = io.BytesIO()
            Image.fromarray(pictures[-1]).save(png, "png")
            for suffix, data in ((".json", b"{}"), (".png", png.getvalue()), (".txt", f"caption {i}".encode())):
                member = tarfile.TarInfo(f"{i:05}{suffix}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    return path, pictures


def test_a_tar_gives_pictures_and_captions_the_same_ids(tar):
    path, pictures = tar
    refused("choose with --images or --text", path)
    assert read(path, "text") == [(f"{i:05}", f"caption {i}") for i in range(3)]
    found = read(path, "images")
    assert [id for id, _ in found] == ["00000", "00001", "00002"]
    assert all(np.array_equal(a, b) for (_, a), b in zip(found, pictures, strict=True))


def test_a_damaged_tar(tar):
    path, _ = tar
    with tarfile.open(path) as file:
        last = file.getmembers()[-1]
    whole = path.read_bytes()
    for cut in (last.offset, last.offset + 100, last.offset_data + 512):
        path.write_bytes(whole[:cut])
        refused("shard.tar: was cut short", path, "images")
    path.write_bytes(whole[: last.offset_data + 3])
    refused("shard.tar: is not a readable tar .unexpected end of data", path, "images")
    path.write_bytes(b"no tar at all")
    refused("shard.tar: is not a readable tar", path, "images")


def test_what_is_not_there_or_neither(tmp_path, photos, jsonl):
    refused("nowhere: no such file", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused("empty: holds no images and no captions; expected images", tmp_path / "empty")
    (tmp_path / "empty" / "a.mp3").touch()
    refused(r"no captions; it holds 1 \.mp3; expected", tmp_path / "empty")
    refused(r"a\.mp3: neither an image nor captions", tmp_path / "empty" / "a.mp3")
    refused("holds 11 files with images .* and 1 files with captions", [photos, jsonl])
    refused(r"captions\.jsonl: holds no images \(\.jpg.*leave out --images", jsonl, "images")
    refused("photos: holds images; --column", photos, column="caption")
    refused("an empty list", [])
    (tmp_path / "a.txt").write_text("red")
    refused("a.txt: is plain text", tmp_path / "a.txt", ids="id")


def test_a_folder_that_may_not_be_read(tmp_path, photos, monkeypatch):
    def denied(*args, onerror, **kwargs):
        onerror(PermissionError(13, "Permission denied"))

    monkeypatch.setattr("os.walk", denied)
    refused("photos: cannot be read: permission denied", photos)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"caption": "red"', "is not JSON"),
        ("[1]", "is list, expected"),
        ('{"captions": "red"}', "has no 'caption'; its keys are captions"),
        ('{"caption": " "}', "the caption is empty"),
        ('{"caption": null}', r"has no caption \(null\)"),
        ('{"caption": ["red"]}', "the caption is list, expected text"),
        ('{"caption": "\\ud800"}', "half of a surrogate pair"),
        ('{"id": null, "caption": "red"}', "the id is null, expected"),
        ('{"id": 1.5, "caption": "red"}', "the id is 1.5, expected"),
        (b'{"caption": "\xff"}', "is not JSON .*utf-8"),
    ],
)
def test_lines_that_hold_no_caption(tmp_path, line, problem, run):
    path = tmp_path / "a.jsonl"
    line = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'{"id": "a", "caption": "red"}\n' + line + b'\n{"id": "b", "caption": "blue"}\n')
    good, bad, last = open_input(path)
    assert (good.id, good.problem, last.id, last.problem) == ("a", None, "b", None)
    assert bad.where == f"{path}: line 2"
    import re

    assert re.search(problem, bad.problem)
    code, out, err = run(path, "--out", tmp_path / "out", "--clip", "never loaded")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{path}: line 2: {bad.problem}" in err and "--bad-items skip" in err
    assert not (tmp_path / "out").exists()


def test_a_file_without_captions(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"url": "x", "label": 3}) + "\n")
    refused(r"a\.jsonl: line 1: has no key of captions \(caption, text.*its keys are url, label; .*--column", path)
    path.write_text("")
    refused("is empty", path)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"no picture", "is no image that Pillow can read"),
        ("half", r"cannot be decoded \(.*"),
    ],
)
def test_pictures_that_cannot_be_read(tmp_path, photos, data, problem):
    path = photos / "1.jpg"
    path.write_bytes(path.read_bytes()[:-400] if data == "half" else data)
    refused(f"1.jpg: {problem}", path)


def test_lines_have_the_ids_that_training_looks_them_up_by(tmp_path):
    from fastrealign.revision.examples import read_examples

    path = tmp_path / "a.txt"
    path.write_text("red\nblue\ngreen\n")
    assert read(path) == [(example.id, example.turns[0][1]) for example in read_examples(str(path))]
