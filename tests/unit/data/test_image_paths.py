"""Embeddings looked up by the path of an image: exact, by tails of paths, by stems; ambiguous ones are errors."""

from __future__ import annotations

import json
import pickle
import time

import numpy as np
import pytest

from fastrealign.core.errors import InputError
from fastrealign.data import image_paths
from fastrealign.data.id_index import IdIndex

pytest.importorskip("torch")
from fastrealign.revision.data import available, open_embeddings, read_examples

IMAGE = "coco/train2017/000000033471.jpg"


@pytest.fixture
def opened(tmp_path, rng):
    """opened(ids): embeddings with these ids."""

    def opened(ids):
        np.save(tmp_path / "rows.npy", rng.standard_normal((len(ids), 4)).astype(np.float32))
        return open_embeddings(tmp_path / "rows.npy", ids=list(ids))

    return opened


@pytest.fixture
def llava(tmp_path):
    """llava(image, ...): the examples of a file with records as LLaVA has them."""

    def llava(*images, ids=None):
        said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
        records = [{"id": f"none {i}", "image": image, "conversations": said} for i, image in enumerate(images)]
        for one, id in zip(records, ids or [], strict=bool(ids)):
            one["id"] = id
        (tmp_path / "llava.json").write_text(json.dumps(records))
        return read_examples(tmp_path / "llava.json")

    return llava


@pytest.mark.parametrize(
    "row",
    [
        "coco/train2017/000000033471.jpg",
        "./coco/train2017/000000033471.jpg",
        "train2017/000000033471.jpg",
        "000000033471.jpg",
        "000000033471",
        "train2017/000000033471",
        "coco/train2017/000000033471",
        "/data/coco/train2017/000000033471.jpg",
        "/data/coco/train2017/000000033471",
        "C:\\data\\coco\\train2017\\000000033471.JPG",
        "coco/train2017/000000033471.webp",
        "000000033471.png",
    ],
)
def test_an_image_is_found_under_every_spelling_of_its_path(opened, llava, row):
    ids = ["val2017/000000033472.jpg", "train2017/100000033471.jpg", row, "5"]
    embeddings, examples = opened(ids), llava(IMAGE)
    found = available(examples, embeddings)
    assert list(found) == list(examples)
    assert embeddings.find(["none 0"], [IMAGE]) == [2] and embeddings.find([IMAGE]) == [2]
    assert np.array_equal(embeddings.rows(["none 0"], [IMAGE]), embeddings.at(np.array([2])))
    again = pickle.loads(pickle.dumps(embeddings._near)), embeddings._index
    assert again[0].find([IMAGE], again[1])[0] == [2]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        (IMAGE, "coco/val2017/000000033471.jpg"),
        (IMAGE, "val2017/000000033471"),
        (IMAGE, "33471.jpg"),
        (IMAGE, "x000000033471.jpg"),
        ("doc.1", "doc.2"),
        ("doc.1", "doc"),
        ("a/1", "b/1"),
        ("a/1", "1"),
        ("1", "a/1"),
        ("1", "01"),
        ("", ".jpg"),
        (".", "a.jpg"),
        ("/".join("xbcdefghijklmnopqrstu") + ".jpg", "/".join("abcdefghijklmnopqrstu") + ".png"),
    ],
)
def test_what_is_another_image_is_not_found(opened, name, row):
    assert opened([row]).find([name]) == [-1]


def test_the_nearest_row_is_meant(opened):
    nearest = [
        "coco/train2017/000000033471.jpg",
        "/data/coco/train2017/000000033471.jpg",
        "train2017/000000033471.jpg",
        "000000033471.jpg",
        "coco/train2017/000000033471",
        "coco/train2017/000000033471.png",
        "train2017/000000033471",
        "train2017/000000033471.webp",
        "000000033471",
        "000000033471.bmp",
    ]
    for first in range(len(nearest)):
        ids = ["val2017/000000033471.jpg", *nearest[first:][::-1]]
        assert ids[opened(ids).find(["none"], [IMAGE])[0]] == nearest[first]
    assert opened([IMAGE, "7"]).find(["7"], [IMAGE]) == [1]  # an id goes before the image


def test_two_rows_that_may_be_meant_are_named(opened, llava):
    ids = ["5", "a/train/1.jpg", "b/train/1.jpg", "c.jpg", "c.png"]
    embeddings = opened(ids)
    message = r"'train/1.jpg' may be 'a/train/1.jpg' \(.*row 1\) or 'b/train/1.jpg' \(.*row 2\); give a longer"
    with pytest.raises(InputError, match=message):
        available(llava("a/train/1.jpg", "train/1.jpg"), embeddings, "skip")
    with pytest.raises(InputError, match=r"'c' may be 'c\.jpg' .* or 'c\.png'"):
        embeddings.find(["c"])
    assert embeddings.find(["b/train/1", "c.png", "x/c.jpg"]).tolist() == [2, 4, 3]


def test_records_without_an_id_are_looked_up_by_their_image(opened, llava):
    found = available(llava("a/1.jpg", "b/1.jpg", ids=[None, None]), opened(["1.png", "b/1.jpg", "a/1.jpg"]))
    assert [one.id for one in found] == ["a/1.jpg", "b/1.jpg"]


def test_rows_that_are_only_numbered_are_looked_up_by_number(tmp_path, rng):
    np.save(tmp_path / "rows.npy", rng.standard_normal((9, 4)).astype(np.float32))
    assert open_embeddings(tmp_path / "rows.npy").find(["7", "x"], ["1.jpg", "1.jpg"]).tolist() == [7, -1]


def _naive(name, ids):
    """Rows of which one path is the tail of the other, suffixes aside, by comparing lists of folders."""

    def parts(path):
        return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]

    def bare(path):
        return path[:-4] if path.lower().endswith((".jpg", ".png")) else path

    def tail(a, b):
        return len(a) <= len(b) and b[len(b) - len(a) :] == a

    one = parts(bare(name))
    return {
        i for i, id in enumerate(ids)
        for other in [parts(bare(id))]
        if id == name or ((bare(name) != name or bare(id) != id) and (tail(one, other) or tail(other, one)))
    }  # fmt: skip


def test_of_random_paths_one_is_found_where_there_is_one(opened, rng, monkeypatch):
    monkeypatch.setattr(image_paths, "_BLOCK", 7)
    monkeypatch.setattr("fastrealign.data.id_index.PART", 40)

    def path():
        folders = [str(rng.choice(["a", "b", "c"])) for _ in range(rng.integers(0, 4))]
        return "/".join([*folders, f"{rng.integers(40)}{rng.choice(['', '.jpg', '.png'])}"])

    ids = list(dict.fromkeys(path() for _ in range(150)))
    embeddings, ambiguous = opened(ids), 0
    for name in [path() for _ in range(300)]:
        possible = _naive(name, ids)
        try:
            found = int(embeddings.find([name])[0])
        except InputError as error:
            ambiguous += 1
            assert sum(repr(ids[i]) in str(error) for i in possible) >= 2
            continue
        assert found in possible if possible else found == -1
    assert 0 < ambiguous < 200


def test_many_ids(rng, monkeypatch):
    """Of which a part is sorted at a time, in files; some microseconds each."""
    monkeypatch.setattr("fastrealign.data.id_index.PART", 5000)
    ids = [f"train2017/{i:012d}.jpg" for i in range(20_000)]
    started = time.process_time()
    index = image_paths.Near.make([ids[:7], ids[7:]])
    names = [f"coco/train2017/{i:012d}.jpg" for i in rng.integers(0, len(ids), 1000)]
    rows, others = index.find(names, IdIndex.make([ids], len(ids), None, {}))
    assert [ids[row] for row in rows] == [name.removeprefix("coco/") for name in names] and (others < 0).all()
    assert time.process_time() - started < 5


@pytest.mark.parametrize("rows", [["1.jpg", "2.jpg"], ["1", "2"]])
def test_a_row_that_is_the_nearest_to_two_images_is_an_error(opened, llava, rows):
    """The same name comes again in COCO and in VG; the embeddings of one of them are not those of the other."""
    with pytest.raises(InputError, match=r"row 0: is the nearest to two images, 'coco/1\.jpg' and 'vg/1\.jpg'; give"):
        available(llava("coco/1.jpg", "coco/2.jpg", "vg/1.jpg"), opened(rows))
    found = available(llava("coco/1.jpg", "coco/2.jpg", "coco/1.jpg"), opened(rows))
    assert (len(found), found.by_image) == (3, 3)
    found = available(llava("coco/1.jpg", "./coco/1.jpg", "a/coco/1.jpg"), opened(rows))
    assert (len(found), found.by_image) == (3, 3)


def test_an_id_of_one_row_beside_the_image_of_another_is_an_error(opened, llava):
    embeddings = opened(["7", "a/1.jpg", "a/2.jpg"])
    with pytest.raises(
        InputError, match=r"the id '7' .* is that of .*row 0, its image 'a/1\.jpg' that of .*row 1; give"
    ):
        available(llava("a/1.jpg", ids=["7"]), embeddings)
    found = available(llava("a/1.jpg", "other/9.jpg", ids=["a/1.jpg", "7"]), embeddings)
    assert (len(found), found.by_image) == (2, 0)
