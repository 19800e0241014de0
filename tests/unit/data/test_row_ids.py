"""row_ids.py: ids of the rows of shards."""

from __future__ import annotations

import corpus
import pytest

from fastrealign import formats
from fastrealign.core.errors import InputError
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


@pytest.mark.parametrize("end", ["", "\r\n", "\n" * 5])
def test_empty_lines_at_the_end_of_a_text_file_are_ids_where_rows_are_left_for_them(tmp_path, end):
    (tmp_path / "ids.txt").write_bytes(f"a\n\nb\n\n\n{end}".encode())
    for rows in (3, 4, 5):
        (batch,) = IdsOf([], tmp_path / "ids.txt", None, rows=rows).batches(SILENT)
        assert batch == ["a", "", "b", "", ""][:rows]
    with pytest.raises(InputError, match="has 1 ids, expected one for each of 2 rows"):
        (tmp_path / "ids.txt").write_text("a")
        list(IdsOf([], tmp_path / "ids.txt", None, rows=2).batches(SILENT))


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
