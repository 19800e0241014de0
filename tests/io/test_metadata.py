"""metadata.py: the parquet files that clip-retrieval keeps beside embeddings follow their shards."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fastrealign.errors import FastRealignError
from fastrealign.io import open_source, write_metadata

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def shard_file(path, rows, suffix=".npy"):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.ones((rows, 3), np.float32))


def metadata_file(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"url": [f"u{i}" for i in range(rows)], "caption": [f"c{i}" for i in range(rows)]})
    pq.write_table(table, path, **options)
    return table


@pytest.fixture
def root(tmp_path):
    for i in (0, 1, 10):
        shard_file(tmp_path / "root" / "text_emb" / f"text_emb_{i}.npy", 5 + i)
        shard_file(tmp_path / "root" / "img_emb" / f"img_emb_{i}.npy", 5 + i)
        metadata_file(tmp_path / "root" / "metadata" / f"metadata_{i}.parquet", 5 + i)
    return tmp_path / "root"


def paired(spec, side="source"):
    return [(shard.name, shard.metadata_name) for shard in open_source(spec, side=side).shards]


def test_pairs_by_number(root):
    expected = [(f"text_emb/text_emb_{i}.npy", f"metadata/metadata_{i}.parquet") for i in (0, 1, 10)]
    assert paired(root) == expected
    assert open_source(root, side="source").shards[2].metadata == root / "metadata" / "metadata_10.parquet"


def test_found_from_the_folder_of_shards_as_well(root, monkeypatch):
    expected = [(f"text_emb_{i}.npy", f"metadata/metadata_{i}.parquet") for i in (0, 1, 10)]
    assert paired(root / "text_emb") == expected
    assert paired(f"{root}/text_emb/*.npy") == expected
    assert paired(root / "text_emb" / "text_emb_1.npy") == expected[1:2]
    assert [name for _, name in paired(root / "img_emb")] == [name for _, name in expected]
    assert paired(f"{root.parent}/*/text_emb/*_1.npy") == [
        ("root/text_emb/text_emb_1.npy", "root/metadata/metadata_1.parquet")
    ]
    monkeypatch.chdir(root / "text_emb")
    assert paired(".") == paired("*.npy") == expected


def test_not_looked_for_on_the_side_that_is_only_read(root):
    assert paired(root, "target") == [(f"img_emb/img_emb_{i}.npy", None) for i in (0, 1, 10)]


def test_zeros_in_front(tmp_path):
    shard_file(tmp_path / "text_emb" / "text_emb_7.npy", 3)
    metadata_file(tmp_path / "metadata" / "metadata_007.parquet", 3)
    assert paired(tmp_path) == [("text_emb/text_emb_7.npy", "metadata/metadata_007.parquet")]


def test_beside_the_shards(tmp_path):
    shard_file(tmp_path / "flat" / "emb_0.npy", 3)
    metadata_file(tmp_path / "flat" / "metadata_0.parquet", 3)
    assert paired(tmp_path / "flat") == [("emb_0.npy", "metadata_0.parquet")]
    shard_file(tmp_path / "under" / "emb_0.npy", 3)
    metadata_file(tmp_path / "under" / "metadata" / "metadata_0.parquet", 3)
    assert paired(tmp_path / "under") == [("emb_0.npy", "metadata/metadata_0.parquet")]


def test_parquet_shards_with_metadata_beside_them(tmp_path):
    vectors = pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"emb": vectors}), tmp_path / "emb_0.parquet")
    metadata_file(tmp_path / "metadata_0.parquet", 3)
    assert paired(tmp_path) == [("emb_0.parquet", "metadata_0.parquet")]


def test_a_file_is_not_its_own_metadata(tmp_path):
    vectors = pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"emb": vectors}), tmp_path / "metadata_0.parquet")
    assert paired(tmp_path) == [("metadata_0.parquet", None)]


def test_shards_without_a_number_or_a_partner(root):
    shard_file(root / "text_emb" / "text_emb_99.npy", 2)
    shard_file(root / "text_emb" / "plain.npy", 2)
    pairs = dict(paired(root))
    assert pairs["text_emb/text_emb_99.npy"] is None and pairs["text_emb/plain.npy"] is None
    assert pairs["text_emb/text_emb_1.npy"] == "metadata/metadata_1.parquet"
    shard = next(s for s in open_source(root, side="source").shards if s.metadata is None)
    assert write_metadata(shard, root / "out") is None
    assert not (root / "out").exists()


def test_number_of_rows_must_agree(root, refused):
    metadata_file(root / "metadata" / "metadata_10.parquet", 14)
    text, metadata = root / "text_emb" / "text_emb_10.npy", root / "metadata" / "metadata_10.parquet"
    refused(lambda: paired(root), f"{text}: has 15 rows", f"{metadata} has 14")
    assert paired(root, "target")


def test_one_number_twice(root, refused):
    metadata_file(root / "metadata" / "metadata_01.parquet", 6)
    refused(lambda: paired(root), root / "metadata", "metadata_01.parquet and metadata_1.parquet", "number 1")


def test_damaged(root, refused):
    (root / "metadata" / "metadata_0.parquet").write_bytes(b"no")
    refused(lambda: paired(root), root / "metadata" / "metadata_0.parquet", "not a readable parquet file")


def test_without_pyarrow(root, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(lambda: paired(root), "metadata_0.parquet", "pip install 'fastrealign[parquet]'")


@pytest.mark.parametrize("keep", [None, np.ones(15, bool)])
def test_copied_byte_for_byte(root, tmp_path, keep, tree):
    shard = open_source(root, side="source").shards[2]
    out = write_metadata(shard, tmp_path / "out", keep, fsync=False)
    assert out == tmp_path / "out" / "metadata" / "metadata_10.parquet"
    assert out.read_bytes() == shard.metadata.read_bytes()
    assert tree(tmp_path / "out") == ["metadata/metadata_10.parquet"]


def test_the_same_rows_are_dropped(root, tmp_path):
    table = metadata_file(root / "metadata" / "metadata_10.parquet", 15, row_group_size=4, compression="zstd")
    shard = open_source(root, side="source").shards[2]
    keep = np.arange(15) % 3 != 1
    out = write_metadata(shard, str(tmp_path / "out"), keep)
    assert pq.read_table(out).equals(table.filter(pa.array(keep)), check_metadata=True)
    group = pq.ParquetFile(out).metadata.row_group(0)
    assert {group.column(i).compression for i in range(2)} == {"ZSTD"}
    with pytest.raises(ValueError, match=r"mask of shape \(15,\)"):
        write_metadata(shard, tmp_path / "out", keep[1:])


def test_output_can_be_read_as_a_root_again(root, tmp_path):
    for spec in (root, root / "text_emb"):
        out = tmp_path / spec.name
        out = tmp_path / "out" / spec.name
        for shard in open_source(spec, side="source").shards:
            with shard.writer(out / shard.name, shard.dtype, shard.rows) as writer:
                for part in shard.chunks(4):
                    writer.write(part)
                writer.commit()
            write_metadata(shard, out)
        assert paired(out) == paired(spec)


@pytest.mark.parametrize("drop", [False, True])
def test_disk_full(root, tmp_path, refused, disk_full, tree, drop):
    shard = open_source(root, side="source").shards[2]
    keep = np.arange(15) > 0 if drop else None
    disk_full(100)
    name = "metadata_10.parquet"
    refused(
        lambda: write_metadata(shard, tmp_path / "out", keep), name, "No space left on device", error=FastRealignError
    )
    assert tree(tmp_path / "out") == []


def test_metadata_gone_before_it_is_copied(root, tmp_path, refused, tree):
    shard = open_source(root, side="source").shards[2]
    shard.metadata.unlink()
    refused(lambda: write_metadata(shard, tmp_path / "out"), shard.metadata, "no such file")
    assert tree(tmp_path / "out") == []
