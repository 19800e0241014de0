"""row_ids.py: ids of the rows of shards."""

from __future__ import annotations

import corpus
import pytest

from fastrealign import formats
from fastrealign.core.progress import SILENT
from fastrealign.data.row_ids import IdsOf
from fastrealign.formats.torch_files import TorchShard


def test_ids_of_a_csv_file(tmp_path):
    (tmp_path / "ids.csv").write_text("caption,id\n" + "".join(f"a b,{i}\n" for i in range(70_000)))
    ids = IdsOf([], tmp_path / "ids.csv", None, rows=70_000)
    batches = list(ids.batches(SILENT))
    assert len(batches) == 2 and [text for batch in batches for text in batch] == [*map(str, range(70_000))]
    assert ids.of_row(69_999) == "69999"
    assert [*IdsOf([], tmp_path / "ids.csv", "caption", rows=70_000).batches(SILENT)][1][0] == "a b"


def test_each_shard_is_decoded_once_for_its_ids(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    for i in range(3):
        rows = torch.from_numpy(corpus.rows(4, i))
        torch.save({"emb": rows, "ids": [f"{i}-{row}" for row in range(4)]}, tmp_path / f"{i}.pt")
    decoded, real = [], TorchShard.of_rows
    monkeypatch.setattr(TorchShard, "of_rows", lambda shard: decoded.append(shard.name) or real(shard))
    ids = IdsOf(formats.open_source(tmp_path, side="source").shards, None, None)
    assert [text for batch in ids.batches(SILENT) for text in batch] == [
        f"{i}-{row}" for i in range(3) for row in range(4)
    ]
    assert decoded == ["0.pt", "1.pt", "2.pt"]
    assert ids.of_row(5) == "1-1"
