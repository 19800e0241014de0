"""What is embedded, in which order, under which ids; and one line about whatever cannot be."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile

import numpy as np
import pytest
from embed_output import in_order, read, refused

from fastrealign.embed.inputs import open_input
from fastrealign.embed.pictures import upright_rgb

Image = pytest.importorskip("PIL.Image")


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


@pytest.fixture
def wide(rng):
    """16-bit grey, and what it is in 8 bits."""
    pixels = rng.integers(0, 65536, (8, 5), dtype=np.uint16)
    pixels[0, :4] = [0, 128, 129, 65535]
    return pixels, np.repeat(np.rint(pixels / 257).astype(np.uint8)[..., None], 3, 2)


@pytest.mark.parametrize("kind", ["png", "tif", "ppm"])
def test_grey_of_16_bits_comes_down_to_8(tmp_path, wide, kind):
    pixels, wanted = wide
    path = tmp_path / f"grey.{kind}"
    if kind == "ppm":
        path.write_bytes(b"P5 5 8 65535\n" + pixels.astype(">u2").tobytes())
    else:
        turned = Image.Exif()
        turned[0x0112] = 6
        Image.fromarray(pixels).save(path, exif=turned)
        wanted = np.rot90(wanted, -1)
    assert np.array_equal(read(path)[0][1], wanted)


def test_grey_of_16_bits_as_older_versions_of_pillow_read_a_png(wide):
    pixels, wanted = wide
    picture = Image.fromarray(pixels.astype(np.int32))
    picture.format = "PNG"
    assert np.array_equal(upright_rgb(picture), wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_numbers_of_no_known_range_are_no_picture(tmp_path, rng, dtype):
    Image.fromarray(rng.integers(0, 256, (8, 5)).astype(dtype)).save(tmp_path / "a.tif")
    refused(r"a\.tif: has pixels of unknown range \(Pillow's mode [FI]\), expected", tmp_path / "a.tif")


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


def test_parquet_with_text_that_is_none(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    binary = pa.array([b"one", b"\xff", b"three"], pa.binary())
    said_text = pa.StringArray.from_buffers(3, binary.buffers()[1], binary.buffers()[2])
    pq.write_table(pa.table({"caption": said_text}), path)
    found = list(open_input(path))
    assert [item.text for item in found] == ["one", "", "three"]
    assert "the caption is not UTF-8" in found[1].problem and found[0].problem is found[2].problem is None
    pq.write_table(pa.table([pa.array(["x"]), pa.array(["y"])], names=["caption", "caption"]), path)
    refused(r"a\.parquet: has two columns 'caption'; rename one", path)


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
    refused("choose with side='images' or side='text'", path)
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
    refused("shard.tar: was cut short, it lacks the end of 00002.txt", path, "images")
    path.write_bytes(b"no tar at all")
    refused("shard.tar: is not a readable tar", path, "images")


@pytest.mark.parametrize("name", ["pipe.jpg", "pipe.tar", "pipe.txt"])
def test_a_pipe_is_not_waited_for(tmp_path, run, name, llama_folder):
    os.mkfifo(tmp_path / name)
    code, out, err = run(tmp_path, "--out", tmp_path.parent / "out", "--model", llama_folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{tmp_path / name}: is not a regular file" in err
    if name == "pipe.jpg":  # nor by the threads that load what was looked at
        refused("pipe.jpg: is not a regular file", tmp_path)


def test_links_to_folders_are_not_followed_and_counted(tmp_path, photos):
    wanted = {*in_order(photos), "link.jpg"}
    (photos / "round").symlink_to(".")
    (photos / "more" / "other").symlink_to(tmp_path)
    (photos / "link.jpg").symlink_to("1.jpg")
    found = open_input(photos)
    assert found.ignored == {".csv": 1, "linked folders (not followed)": 2}
    assert {item.id for item in found} == wanted


def test_what_is_not_there_or_neither(tmp_path, photos, jsonl):
    refused("nowhere: no such file", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused("empty: holds no images and no captions; expected images", tmp_path / "empty")
    (tmp_path / "empty" / "a.mp3").touch()
    refused(r"no captions; it holds 1 \.mp3; expected", tmp_path / "empty")
    refused(r"a\.mp3: neither an image nor captions", tmp_path / "empty" / "a.mp3")
    refused("holds 11 files with images .* and 1 file with captions", [photos, jsonl])
    refused(r"captions\.jsonl: holds no images \(\.jpg.*leave out side='images'", jsonl, "images")
    refused("photos: holds images; column=", photos, column="caption")
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
        ('{"captions": "red"}', r"has no 'caption', did you mean 'captions'\? Its keys are captions"),
        ('{"caption": " "}', "the caption is empty"),
        ('{"caption": null}', r"has no caption \(null\)"),
        ('{"caption": ["red"]}', "the caption is list, expected text"),
        ('{"caption": "\\ud800"}', "half of a surrogate pair"),
        ('{"id": null, "caption": "red"}', "has the id None, expected"),
        ('{"id": 1.5, "caption": "red"}', "has the id 1.5, expected"),
        ('{"id": "\\ud800", "caption": "red"}', 'the id "\\\\ud800" holds half of a surrogate pair'),
        ('{"key": "x", "caption": "red"}', "has no 'id'; its keys are key, caption"),
        ('{"\\ud800": "red"}', r"has no 'caption'; its keys are \\ud800"),
        (b'{"caption": "\xff"}', "is not JSON .*utf-8"),
    ],
)
def test_lines_that_hold_no_caption(tmp_path, line, problem, run, llama_folder):
    path = tmp_path / "a.jsonl"
    line = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'{"id": "a", "caption": "red"}\n' + line + b'\n{"id": "b", "caption": "blue"}\n')
    good, bad, last = open_input(path)
    assert (good.id, good.problem, last.id, last.problem) == ("a", None, "b", None)
    assert bad.where == f"{path}: line 2"
    assert re.search(problem, bad.problem)
    code, out, err = run(path, "--out", tmp_path / "out", "--model", llama_folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{path}: line 2: {bad.problem}" in err and "--bad-items skip" in err
    assert not (tmp_path / "out").exists()


def test_a_file_without_captions(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"url": "x", "label": 3}) + "\n")
    (item,) = open_input(path)
    assert item.where == f"{path}: line 1"
    assert re.search(r"has no key of captions \(caption, text.*its keys are url, label; .*column=$", item.problem)
    path.write_text("")
    refused("is empty", path)


def problems(*args, **kwargs):
    return [(item.id, item.problem) for item in open_input(*args, **kwargs)]


def test_the_first_caption_tells_the_keys_of_all(tmp_path):
    path = tmp_path / "a.jsonl"
    none, own = '{"caption": "red"}\n', '{"id": "x", "caption": "blue"}\n'
    path.write_text(none + own)
    (first, why), (second, found) = problems(path)
    assert (first, why, second) == ("0", None, "1") and found.startswith("has 'id', and those before it have no id")
    path.write_text(own + none)
    assert problems(path) == [("x", None), ("1", "has no 'id'; its keys are caption")]
    for before in ('{"url": "y"}\n', "[]\n", '{"key": "y"}\n'):
        path.write_text(before + own)
        (_, why), after = problems(path)
        assert why is not None and after == ("x", None)


def test_a_key_of_ids_that_is_not_there(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "x", "caption": "red", "url": 1}\n')
    assert problems(path, ids="nope") == [("0", "has no 'nope'; its keys are id, caption, url")]


def test_names_that_are_not_utf8(tmp_path):
    folder = os.fsencode(tmp_path) + b"/of\xe9"
    os.mkdir(folder)
    for name in (b"a.png", b"\xff.png"):
        with open(folder + b"/" + name, "wb") as file:
            Image.new("RGB", (3, 3)).save(file, "png")
    found = open_input(os.fsdecode(folder))
    good, bad = found
    assert found.name == rf"{tmp_path}/of\xe9"
    assert (good.id, good.where, good.problem) == ("a.png", rf"{tmp_path}/of\xe9/a.png", None)
    assert (bad.where, bad.problem) == (rf"{tmp_path}/of\xe9/\xff.png", "the name is not UTF-8, as an id must be")
    for name in (b"a.txt", b"\xff.txt"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(b"red\n")
    good, bad = open_input(os.fsdecode(folder), "text")
    assert (good.id, good.problem) == ("a.txt:0", None)
    assert (bad.where, bad.problem) == (
        rf"{tmp_path}/of\xe9/\xff.txt: line 1",
        "the name is not UTF-8, as an id must be",
    )
    (alone,) = open_input(os.fsdecode(folder + b"/\xff.txt"))
    assert (alone.id, alone.problem) == ("0", None)


@pytest.mark.parametrize("side", ["images", "text"])
def test_members_whose_names_are_not_utf8(tmp_path, side):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for suffix in ("png", "txt"):
            member = tarfile.TarInfo(f"\udcff.{suffix}")
            member.size = 3
            file.addfile(member, io.BytesIO(b"red"))
    (bad,) = open_input(tmp_path / "a.tar", side)
    assert bad.where == rf"{tmp_path}/a.tar: \xff." + {"images": "png", "text": "txt"}[side]
    assert bad.problem == "the name is not UTF-8, as an id must be"


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
