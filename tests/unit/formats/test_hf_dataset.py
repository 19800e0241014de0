"""hf_folder.py: what `Dataset.save_to_disk` leaves is read in its order and written so that `load_from_disk` takes it."""

from __future__ import annotations

import json

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.formats import open_source

pytest.importorskip("pyarrow")
datasets = pytest.importorskip("datasets")

ROWS = 90


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()


def dataset_of(x, kind="list", dtype="float32", **more):
    length = x.shape[1] if kind == "fixed" else -1
    features = {
        "id": datasets.Value("string"),
        "embedding": datasets.Sequence(datasets.Value(dtype), length=length),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
        "box": datasets.Array2D((2, 2), "float32"),
    }
    rows = range(len(x))
    columns = {
        "id": [f"row {i}" for i in rows],
        "embedding": x,
        "label": [i % 2 for i in rows],
        "box": np.arange(4.0 * len(x), dtype=np.float32).reshape(-1, 2, 2),
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features), **more)


def saved(dataset, folder, shards=3):
    dataset.save_to_disk(folder, num_shards=shards)
    return folder


TYPES, OUT = ("float16", "float32", "float64"), (None, "float16", "float64")


# Both kinds with every type of the input and of the output.
@pytest.mark.parametrize(
    ("kind", "dtype", "out"),
    [(("list", "fixed")[(i + k) % 2], dtype, out) for i, dtype in enumerate(TYPES) for k, out in enumerate(OUT)],
)
def test_load_from_disk_takes_the_output(tmp_path, kind, dtype, out):
    x = corpus.rows(ROWS, 1).astype(dtype)
    given = dataset_of(x, kind, dtype)
    report = fr.align(saved(given, tmp_path / "in"), corpus.rows(40, 2), tmp_path / "out", dtype=out)
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    assert len(loaded) == ROWS
    for column in ("id", "label", "box"):
        assert loaded[column][:] == given[column][:]
        assert loaded.features[column] == given.features[column]
    assert loaded.features["embedding"] == dataset_of(x, kind, out or dtype).features["embedding"]
    rows = np.array(loaded["embedding"][:])
    assert np.array_equal(rows, report.alignment(x, dtype=out or dtype))
    assert loaded.map(lambda row: {"n": len(row["embedding"])})["n"][:] == [corpus.DIM] * ROWS


def test_shards_come_in_the_order_of_the_dataset(tmp_path, monkeypatch):
    folder = saved(dataset_of(corpus.rows(ROWS, 1)), tmp_path / "in", shards=12)
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"].reverse()
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "cache-0.arrow").write_bytes(b"left by datasets, and no part of it")
    source = open_source(folder, side="source")
    assert [shard.name for shard in source.shards] == [f"data-{i:05}-of-00012.arrow" for i in reversed(range(12))]
    assert source.rows == ROWS
    fr.align(folder, corpus.rows(40, 2), tmp_path / "out")
    given, loaded = datasets.load_from_disk(str(folder)), datasets.load_from_disk(str(tmp_path / "out"))
    assert loaded["id"][:] == given["id"][:] and given["id"][0] == "row 83"


def test_rows_left_out_are_left_out_of_what_describes_them(tmp_path):
    x = corpus.rows(ROWS, 1)
    x[[4, 50]] = 0
    given = dataset_of(x, split="train")
    noted = {"name": "train", "num_bytes": 1234, "num_examples": ROWS, "shard_lengths": [50, 40]}
    given.info.splits = datasets.SplitDict.from_split_dict([noted])
    folder = saved(given, tmp_path / "in")
    fr.align(folder, corpus.rows(40, 2), tmp_path / "out", bad_rows="skip")
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    assert loaded["id"][:] == [f"row {i}" for i in range(ROWS) if i not in (4, 50)]
    assert loaded.info.splits["train"].num_examples == ROWS - 2
    fr.align(folder, corpus.rows(40, 2), tmp_path / "kept", bad_rows="keep")
    assert datasets.load_from_disk(str(tmp_path / "kept")).info.splits["train"] == given.info.splits["train"]


def test_fingerprints_follow_what_was_written(tmp_path):
    folder = saved(dataset_of(corpus.rows(ROWS, 1)), tmp_path / "in")
    prints = [json.loads((folder / "state.json").read_text())["_fingerprint"]]
    for name, options in (("a", {}), ("b", {}), ("c", {"centroid": "exact"}), ("d", {"dtype": "float16"})):
        fr.align(folder, corpus.rows(40, 2), tmp_path / name, **options)
        prints.append(json.loads((tmp_path / name / "state.json").read_text())["_fingerprint"])
    assert prints[1] == prints[2]
    assert len(set(prints)) == 4


def test_the_output_aligns_again(tmp_path):
    folder = saved(dataset_of(corpus.rows(ROWS, 1)), tmp_path / "in")
    fr.align(folder, corpus.rows(40, 2), tmp_path / "out")
    fr.align(tmp_path / "out", corpus.rows(40, 3), tmp_path / "again")
    assert datasets.load_from_disk(str(tmp_path / "again"))["id"][:] == [f"row {i}" for i in range(ROWS)]
    assert fr.align(tmp_path / "out", corpus.rows(40, 3), tmp_path / "again", resume=True).nothing_to_do


def test_overwrite_removes_what_describes_a_dataset(tmp_path):
    folder = saved(dataset_of(corpus.rows(ROWS, 1)), tmp_path / "in")
    fr.align(folder, corpus.rows(40, 2), tmp_path / "out")
    text, image = corpus.two_sides(tmp_path)
    fr.align(text, image, tmp_path / "out", overwrite=True)
    assert sorted(corpus.tree(tmp_path / "out")) == [
        "alignment.safetensors",
        "manifest.json",
        *(f"part_{i}.npy" for i in range(3)),
    ]


def test_one_file_of_a_dataset_is_a_shard_like_any_other(tmp_path):
    folder = saved(dataset_of(corpus.rows(ROWS, 1)), tmp_path / "in")
    fr.align(folder / "data-00001-of-00003.arrow", corpus.rows(40, 2), tmp_path / "one.arrow")
    fr.align(str(folder / "*.arrow"), corpus.rows(40, 2), tmp_path / "all")
    assert datasets.Dataset.from_file(str(tmp_path / "one.arrow"))["id"][:] == [f"row {i}" for i in range(30, 60)]
    assert not (tmp_path / "all" / "state.json").exists()


def test_several_datasets(tmp_path):
    x = corpus.rows(ROWS, 1)
    for i in range(2):
        saved(dataset_of(x[i * 45 : (i + 1) * 45]), tmp_path / f"in{i}", shards=2)
    fr.align([tmp_path / "in1", tmp_path / "in0"], corpus.rows(40, 2), tmp_path / "out")
    for i in range(2):
        assert datasets.load_from_disk(str(tmp_path / "out" / f"in{i}"))["id"][:] == [f"row {j}" for j in range(45)]


def test_splits_have_to_be_named(tmp_path, refused):
    dataset = dataset_of(corpus.rows(ROWS, 1))
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "all")
    wanted = ("is a DatasetDict with the splits train, test", f"name one, for example {tmp_path / 'all' / 'train'}")
    refused(lambda: open_source(tmp_path / "all", side="source"), tmp_path / "all", *wanted)
    assert open_source(tmp_path / "all" / "test", side="target").rows == ROWS
    (tmp_path / "all" / "dataset_dict.json").write_text("{}")
    refused(lambda: open_source(tmp_path / "all", side="source"), "names no splits")


@pytest.mark.parametrize("key", ["_indices_data_files", "_indices_files"])
def test_an_indices_mapping_is_refused(tmp_path, refused, key):
    folder = saved(dataset_of(corpus.rows(ROWS, 1)), tmp_path / "in")
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, key: None}))
    assert open_source(folder, side="source").rows == ROWS
    (folder / "state.json").write_text(json.dumps({**state, key: [{"filename": "indices.arrow"}]}))
    refused(lambda: open_source(folder, side="source"), folder, "indices mapping", "flatten_indices()")


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("", "not readable JSON"),
        ("[1]", "it holds no object"),
        ("{}", "does not list the dataset's files"),
        ('{"_data_files": ["x"]}', "does not list the dataset's files"),
        ('{"_data_files": [{"filename": "../x.arrow"}]}', "does not list the dataset's files"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "gone.arrow: no such file"),
    ],
)
def test_a_damaged_state(tmp_path, refused, text, piece):
    folder = saved(dataset_of(corpus.rows(ROWS, 1)), tmp_path / "in")
    (folder / "state.json").write_text(text)
    refused(lambda: open_source(folder, side="source"), folder, piece)


def test_damaged_information_is_reported_and_what_is_complete_is_kept(tmp_path, refused):
    folder = saved(dataset_of(corpus.rows(ROWS, 1)), tmp_path / "in")
    whole = (folder / "dataset_info.json").read_text()
    (folder / "dataset_info.json").write_text(whole[:-9])
    image = corpus.rows(40, 2)
    message = refused(lambda: fr.align(folder, image, tmp_path / "out"), folder / "dataset_info.json", "readable JSON")
    assert "3 of 3 shards are complete" in message
    (folder / "dataset_info.json").write_text(whole)
    fr.align(folder, image, tmp_path / "out", resume=True)
    assert len(datasets.load_from_disk(str(tmp_path / "out"))) == ROWS
