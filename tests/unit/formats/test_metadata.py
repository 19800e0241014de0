"""metadata.py: the parquet files that clip-retrieval keeps beside embeddings follow their shards."""

from __future__ import annotations

import re
import sys
import warnings

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core.errors import FastRealignError
from fastrealign.data.lookup import open_embeddings
from fastrealign.formats import open_source, write_metadata

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


@pytest.mark.filterwarnings("ignore::UserWarning")
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


NAMES = {
    "fp16": "text_emb_{}_fp16",
    "v2": "text_emb_{}_v2",
    "version in front": "v2_text_emb_{}",
    "of": "text_emb_{:05d}-of-00012",
    "of, with signs": "shard_{:03d}_of_100",
    "uuid": "part-{:05d}-8a3f1c52-11e2-4d0a-9c58-0123456789ab-c000",
    "hash": "part-{}-1c2d3e4f5a6b7c8d",
    "width": "emb_768_{}",
    "encoder": "ViT-B-32_{:04d}",
    "date": "emb_{}_2024-01-15",
    "two dates": "20240115_emb_{}_2024-01-16",
    "dot": "{}.v2",
    "copy": "text_emb_{} (1)",
    "first": "{}_emb_16",
}


def with_ids(folder, numbers, name="metadata_{}"):
    for i in numbers:
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"id": [f"{i}:{row}" for row in range(4)]}), folder / f"{name.format(i)}.parquet")


def ids_of(folder):
    """By number of the first entry of the first row, in which each shard carries its own."""
    out = {}
    for shard in open_source(folder, side="source").shards:
        number = int(next(shard.chunks(4))[0, 0])
        out[number] = shard.metadata and pq.read_table(shard.metadata)["id"][0].as_py()
        shard.close()
    return out


def numbered(folder, name, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        np.save(folder / f"{name.format(i)}.npy", np.array([[i, row, 1 + row * i] for row in range(4)], np.float32))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_the_number_is_the_one_in_which_shards_differ(tmp_path, rng, name):
    """Whatever else has numbers; the metadata of all numbers is there, so that any other reading finds some, too."""
    root = tmp_path / "set"
    numbers = sorted(map(int, rng.choice(20, 5, replace=False)))
    numbered(root / "text_emb", name, numbers)
    with_ids(root / "metadata", range(40))
    assert ids_of(root) == {i: f"{i}:0" for i in numbers}
    one = root / "text_emb" / f"{name.format(numbers[0])}.npy"
    assert ids_of(one) == {numbers[0]: f"{numbers[0]}:0"}
    fr.align(root, np.random.default_rng(0).standard_normal((9, 3)), tmp_path / "out")
    assert ids_in_output(tmp_path / "out", root / "text_emb") == [f"{i}:0" for i in numbers]
    fr.convert(root, tmp_path / "tables", to="parquet")
    for i in numbers:
        table = pq.read_table(tmp_path / "tables" / "text_emb" / f"{name.format(i)}.parquet")
        assert table["id"][0].as_py() == f"{i}:0" and table["embedding"][0].as_py() == [i, 0, 1]


def ids_in_output(out, source):
    found = []
    for shard in open_source(out, side="source").shards:
        twin = pq.read_table(shard.metadata)
        found.append(twin["id"][0].as_py())
        assert len(twin) == shard.rows
    return found


@pytest.mark.parametrize("name", ["text_emb_{}_fp16", "text_emb_{:04d}", "emb_{}_2024-01-15", "{}_of_100"])
def test_a_shard_alone(tmp_path, rng, name):
    number = int(rng.integers(20))
    numbered(tmp_path, name, [number])
    with_ids(tmp_path / "metadata", range(40))
    assert ids_of(tmp_path) == {number: f"{number}:0"}


@pytest.mark.parametrize("twin", ["metadata_{}_fp16", "metadata_{:07d}_fp16", "metadata-{}_fp16"])
def test_metadata_named_alike_comes_before_numbers(tmp_path, twin):
    numbered(tmp_path / "text_emb", "text_emb_{:03d}_fp16", range(3))
    with_ids(tmp_path / "metadata", range(3), twin)
    with_ids(tmp_path / "metadata", range(10, 20), "metadata_{}_v2")
    assert ids_of(tmp_path) == {i: f"{i}:0" for i in range(3)}


def test_metadata_with_a_mark_that_shards_lack(tmp_path):
    numbered(tmp_path / "text_emb", "text_emb_{}", range(3))
    with_ids(tmp_path / "metadata", range(3), "metadata_{}_of_16")
    assert ids_of(tmp_path) == {i: f"{i}:0" for i in range(3)}


def test_several_numbers_that_differ(tmp_path, refused):
    """First and last row: only one of both readings has metadata for each."""
    numbered(tmp_path / "one" / "text_emb", "rows_{0}_1{0}", range(5))
    with_ids(tmp_path / "one" / "metadata", range(10, 15))
    assert ids_of(tmp_path / "one") == {i: f"{10 + i}:0" for i in range(5)}
    numbered(tmp_path / "two" / "text_emb", "rows_{0}_1{0}", range(5))
    with_ids(tmp_path / "two" / "metadata", range(15))
    first = tmp_path / "two" / "text_emb" / "rows_0_10.npy"
    refused(lambda: ids_of(tmp_path / "two"), first, "numbers 0 and 10", "metadata_0_10.parquet")
    with_ids(tmp_path / "two" / "metadata", [f"{i}_1{i}" for i in range(5)])  # the advice
    assert ids_of(tmp_path / "two") == {i: f"{i}_1{i}:0" for i in range(5)}


@pytest.mark.parametrize("there", [[5, 16], [16, 3], range(20)])
def test_a_shard_alone_with_several_numbers(tmp_path, refused, there):
    numbered(tmp_path / "text_emb", "text_emb_5_16", [0])
    with_ids(tmp_path / "metadata", there)
    refused(lambda: ids_of(tmp_path), "text_emb_5_16.npy", "numbers 5 and 16", "metadata_5_16.parquet")
    (tmp_path / "metadata" / "metadata_16.parquet").rename(tmp_path / "metadata" / "metadata_5_16.parquet")
    assert ids_of(tmp_path) == {0: "16:0"}


@pytest.mark.parametrize(("a", "b"), [("a_0", "b_0"), ("text_emb_0", "text_emb_0_l"), ("x-000", "x_0")])
def test_metadata_of_two_shards(tmp_path, refused, a, b):
    for i, name in enumerate((a, b)):
        numbered(tmp_path / "text_emb", name, [i])
    with_ids(tmp_path / "metadata", range(4))
    refused(lambda: ids_of(tmp_path), a, b, "metadata_0.parquet")
    assert ids_of(tmp_path / "text_emb" / f"{a}.npy") == {0: "0:0"}


@pytest.mark.parametrize("missing", [0, 3, 6])
def test_metadata_missing_among_others(tmp_path, missing):
    numbered(tmp_path / "text_emb", "text_emb_{}_fp16", range(7))
    with_ids(tmp_path / "metadata", [i for i in range(9) if i != missing])
    with pytest.warns(
        UserWarning,
        match=rf"text_emb_{missing}_fp16.npy: found no metadata, though 6 other shards of the folder have some",
    ):
        assert ids_of(tmp_path) == {i: None if i == missing else f"{i}:0" for i in range(7)}


@pytest.mark.parametrize("name", ["emb_v16", "emb_fp16", "emb_2024-01-16", "emb_of_16", "plain"])
def test_marks_are_no_numbers_of_shards(tmp_path, name):
    numbered(tmp_path, name, [0])
    with_ids(tmp_path, range(40))
    with pytest.warns(UserWarning, match="found no metadata"):
        assert ids_of(tmp_path) == {0: None}


def test_no_warning_where_all_have_some(tmp_path, root):
    numbered(tmp_path / "x", "text_emb_{}_fp16", range(3))
    with_ids(tmp_path / "x", range(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paired(root)
        ids_of(tmp_path / "x")


def test_a_file_written_alone_has_its_metadata_beside_it(tmp_path):
    numbered(tmp_path / "set" / "text_emb", "text_emb_{}", [3])
    with_ids(tmp_path / "set" / "metadata", [3])
    fr.align(tmp_path / "set", np.random.default_rng(0).standard_normal((9, 3)), tmp_path / "new" / "x.npy")
    (shard,) = open_source(tmp_path / "new" / "x.npy", side="source").shards
    assert pq.read_table(shard.metadata)["id"][0].as_py() == "3:0"
    numbered(tmp_path / "new", "other_{}", [7])
    with warnings.catch_warnings():  # which is no reason to expect some of other files
        warnings.simplefilter("error")
        assert open_source(tmp_path / "new" / "other_7.npy", side="source").shards[0].metadata is None


@pytest.mark.parametrize("name", ["{:05d}", "plain_{}_v2", "abc{}"])
@pytest.mark.parametrize("one", [False, True])
def test_tables_named_as_the_shards_are_noted(tmp_path, rng, name, one):
    """img2dataset's 00000.parquet beside 00000.npy: not taken, but the summary says how it would be."""
    numbers = [3] if one else [0, 1, 10]
    numbered(tmp_path / "x", name, numbers)
    spec = tmp_path / "x" / f"{name.format(3)}.npy" if one else str(tmp_path / "x" / "*.npy")
    made = str(fr.align(spec, rng.standard_normal((9, 3)), tmp_path / "without"))
    assert "note" not in made
    with_ids(tmp_path / "x", numbers, name)
    made = str(fr.align(spec, rng.standard_normal((9, 3)), tmp_path / "o1"))
    found = re.search(r"(\S+\.parquet)( and 2 more like it)? beside the source: not read; named (\S+), its ids", made)
    assert found[1] == f"{name.format(numbers[0])}.parquet" and bool(found[2]) is not one
    for i in numbers:  # as it says of the first
        mine = found[3].replace(name.format(numbers[0]), name.format(i))
        (tmp_path / "x" / f"{name.format(i)}.parquet").rename(tmp_path / "x" / mine)
    made = str(fr.align(spec, rng.standard_normal((9, 3)), tmp_path / "o2"))
    assert "note" not in made
    assert ids_of(spec) == {i: f"{i}:0" for i in numbers}
    assert len(list((tmp_path / "o2").glob("*.metadata.parquet"))) == len(numbers)


@pytest.mark.parametrize("table", [{"emb": [[1.0, 2.0]] * 4}, {"id": range(5)}], ids=["embeddings", "other rows"])
def test_other_tables_named_as_the_shards(tmp_path, rng, table):
    numbered(tmp_path, "x_{}", [0])
    pq.write_table(pa.table(table), tmp_path / "x_0.parquet")
    assert "note" not in str(fr.align(tmp_path / "x_0.npy", rng.standard_normal((9, 3)), tmp_path / "out"))


@pytest.mark.parametrize("name", [*NAMES.values(), "a_{0}_1{0}", "{}_3"])
def test_what_convert_writes_is_found_again(tmp_path, name):
    numbers = (0, 2, 9, 11)  # of one digit and of two
    for i in numbers:
        table = pa.table({"id": [f"{i}:{row}" for row in range(4)], "embedding": [[float(i)] * 3] * 4})
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "in" / f"{name.format(i)}.parquet")
    fr.convert(tmp_path / "in", tmp_path / "npy", to="npy")
    assert ids_of(tmp_path / "npy") == {i: f"{i}:0" for i in numbers}


@pytest.mark.parametrize("name", ["text_emb_{}_fp16", "shard_{:03d}_of_100"])
def test_looked_up_by_id(tmp_path, rng, name):
    numbered(tmp_path / "text_emb", name, range(12))
    with_ids(tmp_path / "metadata", range(40))
    found = open_embeddings(tmp_path)
    for i, row in rng.integers((12, 4), size=(9, 2)).tolist():
        assert found.rows([f"{i}:{row}"])[0].tolist() == [i, row, 1 + row * i]


@pytest.mark.parametrize("missing", [0, 2, 4])
@pytest.mark.filterwarnings("ignore:.*found no metadata")
def test_ids_of_some_shards_only(tmp_path, refused, missing):
    numbered(tmp_path, "text_emb_{}", range(5))
    with_ids(tmp_path / "metadata", [i for i in range(5) if i != missing])
    refused(lambda: open_embeddings(tmp_path), f"text_emb_{missing}.npy", "holds no ids")
