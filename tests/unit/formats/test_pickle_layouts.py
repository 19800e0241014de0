"""pickle_layouts.py: pickles that are no list of items, read as if they were."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from fastrealign.formats.pickle_layouts import AnyPickleShard

X = np.random.default_rng(3).standard_normal((5, 4)).astype(np.float32)
IDS = [f"i{i}" for i in range(5)]


@pytest.fixture
def opened(tmp_path):
    def opened(value, column=None):
        path = tmp_path / "x.pkl"
        path.write_bytes(pickle.dumps(value))
        return AnyPickleShard(path, "x.pkl", column)

    return opened


def others(shard):
    return [{key: value for key, value in item.items() if key != shard.key} for item in shard.items()]


@pytest.mark.parametrize("wrap", [False, True])
def test_a_list_of_items(opened, rows_in, wrap):
    items = [{"id": name, "embed": row[None] if wrap else row} for name, row in zip(IDS, X, strict=True)]
    shard = opened([*items, {"id": "none", "embed": None}])
    assert np.array_equal(rows_in(shard), X) and shard.skipped == 1
    assert others(shard) == [{"id": name} for name in IDS]


@pytest.mark.parametrize("key", ["embedding", "embeddings", "emb", "vectors"])
def test_an_array_beside_lists(opened, rows_in, key):
    value = {"ids": IDS, "n": np.arange(5), "pair": ((1, 2),) * 5, key: X, "model": "ViT-B/32", "short": [1], "d": 4}
    shard = opened(value)
    assert np.array_equal(rows_in(shard), X)
    assert (shard.rows, shard.dim, shard.left_out) == (5, 4, ["model", "short", "d"])
    assert others(shard) == [{"ids": name, "n": i, "pair": (1, 2)} for i, name in enumerate(IDS)]


def test_several_arrays(opened, rows_in, refused):
    value = {"a": X, "b": X + 1, "ids": IDS}
    refused(lambda: opened(value), "several arrays of embeddings, a, b", "name the one")
    shard = opened(value, "b")
    assert np.array_equal(rows_in(shard), X + 1)
    assert np.array_equal([item["a"] for item in shard.items()], X)
    refused(lambda: opened(value, "ids"), "'ids' is", "expected a 2-D float array")
    assert np.array_equal(rows_in(opened({"embedding": X, "b": X + 1})), X)


def test_what_is_of_another_split_is_left_out(opened, rows_in):
    value = {"val_emb": X, "val_ids": IDS, "test_emb": X + 1, "test_ids": IDS[::-1], "n": [0] * 5}
    shard = opened(value, "test_emb")
    assert np.array_equal(rows_in(shard), X + 1) and shard.left_out == ["val_emb", "val_ids"]
    assert others(shard) == [{"test_ids": name, "n": 0} for name in IDS[::-1]]


def test_items_by_id(opened, rows_in):
    shard = opened({i: {"caption": name, "embed": row[None]} for i, (name, row) in enumerate(zip(IDS, X, strict=True))})
    assert np.array_equal(rows_in(shard), X)
    assert others(shard) == [{"id": i, "caption": name} for i, name in enumerate(IDS)]
    shard = opened({"k": {"id": "own", "vector": X[0]}}, "vector")
    assert others(shard) == [{"id": "own"}] and np.array_equal(rows_in(shard), X[:1])


@pytest.mark.parametrize(
    "other",
    [X.astype("i1"), X.astype("c8"), np.stack([X, X], axis=1), list(X), X.tolist()],
    ids=["int8", "complex", "3-D", "arrays", "lists"],
)
def test_what_may_be_the_embeddings_and_is_not_taken_is_named(opened, rows_in, refused, other):
    value = {"text_features": other, "boxes": X}
    refused(lambda: opened(value), "'text_features'", "'boxes' (float32", "column='boxes'")
    assert np.array_equal(rows_in(opened(value, "boxes")), X)
    refused(lambda: opened({"embeddings": other, "boxes": X}), "'embeddings'", "column='boxes'")


def test_one_vector_a_row_in_three_dimensions(opened, rows_in):
    assert np.array_equal(rows_in(opened({"ids": IDS, "embeddings": X[:, None]})), X)


def test_several_sets_of_items(opened, rows_in, refused):
    value = {
        "images": {i: {"img_path": name, "embed": row[None]} for i, (name, row) in enumerate(zip(IDS, X, strict=True))},
        "captions": {
            i: {"caption": name, "embed": -row[None]} for i, (name, row) in enumerate(zip(IDS, X, strict=True))
        },
    }
    refused(lambda: opened(value), "several sets of items, 'images', 'captions'", "name the one to take")
    refused(lambda: opened(value, "embed"), "several sets of items")
    assert np.array_equal(rows_in(opened(value, "captions")), -X)
    assert others(opened(value, "images"))[1] == {"id": 1, "img_path": "i1"}
    assert np.array_equal(rows_in(opened({"images": value["images"]})), X)


def test_embeddings_by_id(opened, rows_in):
    shard = opened(dict(zip(IDS, X, strict=True)))
    assert np.array_equal(rows_in(shard), X)
    assert others(shard) == [{"id": name} for name in IDS]


@pytest.mark.parametrize("value", [X, X[:, None], list(X), list(X[:, None]), X.astype("f8")])
def test_embeddings_alone(opened, rows_in, value):
    shard = opened(value)
    assert np.array_equal(rows_in(shard), X) and others(shard) == [{}] * 5 and shard.column == "embed"


@pytest.mark.parametrize(
    ("value", "pieces"),
    [
        ({}, ["holds a dict", "a list or a dict with embeddings"]),
        (X[0], ["'embed' is float32 (4,), expected a 2-D float array"]),
        ("text", ["holds a str, expected a list or a dict with embeddings; pickle a list of {'id': "]),
        ({"ids": IDS, "embeddings": list(X)}, ["'embeddings' is a list, expected a 2-D float array"]),
        ({"a": X[0], "b": X[1, :3]}, ["item 1 has 3 values"]),
        ({"a": {"caption": "x"}}, ["no item has the key 'embed'", "'id'"]),
    ],
)
def test_other_layouts(opened, refused, value, pieces):
    refused(lambda: opened(value), "x.pkl", *pieces)


def test_not_written_back(opened, tmp_path):
    with pytest.raises(TypeError, match="not written back"):
        opened({"embeddings": X}).writer(tmp_path / "y.pkl", X.dtype)
