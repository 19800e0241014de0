"""row_ids.py: ids of the rows of shards."""

from __future__ import annotations

import corpus
import pytest

from fastrealign import formats
from fastrealign.core.errors import InputError
from fastrealign.core.progress import SILENT
from fastrealign.data.row_ids import IdsOf
from fastrealign.formats.torch_files import TorchShard
from fastrealign.gap_report.class_labels import LabelsOf


def test_ids_of_a_csv_file(tmp_path):
    (tmp_path / "ids.csv").write_text("caption,id\n" + "".join(f"a b,{i}\n" for i in range(70_000)))
    ids = IdsOf([], tmp_path / "ids.csv", None, rows=70_000)
    batches = list(ids.batches(SILENT))
    assert len(batches) == 2 and [text for batch in batches for text in batch] == [*map(str, range(70_000))]
    assert ids.of_row(69_999) == "69999"
    assert [*IdsOf([], tmp_path / "ids.csv", "caption", rows=70_000).batches(SILENT)][1][0] == "a b"


@pytest.mark.parametrize("name", ["i.txt", "i.csv"])
@pytest.mark.parametrize("end", ["", "\r\n", "\n" * 5])
def test_empty_lines_at_the_end_of_a_file_are_no_ids(tmp_path, end, name):
    """Of labels they are rows without one, as many as there are rows left: a missing id is an error, not an empty id."""
    header = "" if name == "i.txt" else "id\n"
    (tmp_path / name).write_bytes(f"{header}a\n\nb\n\n\n{end}".encode())
    (batch,) = IdsOf([], tmp_path / name, None, rows=3).batches(SILENT)
    assert batch == ["a", "", "b"]
    with pytest.raises(InputError, match="has 3 ids, expected one for each of 5 rows"):
        list(IdsOf([], tmp_path / name, None, rows=5).batches(SILENT))
    for rows in (3, 4, 5):
        (batch,) = LabelsOf([], tmp_path / name, None if name == "i.txt" else "id", rows=rows).batches(SILENT)
        assert batch == ["a", "", "b", "", ""][:rows]


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
