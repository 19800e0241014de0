"""The recipes of docs/recipes.md, run as they are printed."""

from __future__ import annotations

import re
from pathlib import Path

import corpus
import numpy as np
import pytest

import fastrealign as fr

RECIPES = Path(__file__).parents[2] / "docs" / "recipes.md"


def code_of(title):
    section = RECIPES.read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A folder to run a recipe in, with an alignment."""
    monkeypatch.chdir(tmp_path)
    alignment = fr.fit(corpus.rows(300, 1, dim=16), corpus.rows(300, 2, dim=16))
    alignment.save("text2image.safetensors")
    return alignment


def test_hugging_face_datasets(saved):
    datasets = pytest.importorskip("datasets")
    rows = corpus.rows(500, 3, dim=16)
    datasets.Dataset.from_dict({"id": list(range(500)), "embedding": rows.tolist()}).save_to_disk("captions")
    names = {}
    exec(code_of("Hugging Face datasets"), names)
    assert names["dataset"]["id"][:] == list(range(500))
    np.testing.assert_array_equal(np.asarray(names["dataset"]["embedding"][:], np.float32), saved(rows))


def test_spark_without_spark(saved):
    """What mapInArrow is given: a function from record batches to record batches."""
    pa = pytest.importorskip("pyarrow")
    rows = corpus.rows(50, 3, dim=16)
    table = pa.table({"id": range(50), "embedding": pa.array(list(rows), pa.list_(pa.float32()))})
    code = code_of("Spark").split("frame = spark")[0].replace("/dbfs/", "")
    names = {}
    exec(code, names)
    out = pa.Table.from_batches(names["aligned"](iter(table.to_batches(max_chunksize=20))))
    assert out.schema.names == table.schema.names and out["id"].to_pylist() == list(range(50))
    np.testing.assert_array_equal(np.stack(out["embedding"].to_numpy()), saved(rows))
