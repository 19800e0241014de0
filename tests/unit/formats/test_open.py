"""source.py and formats.py: from a path, glob, folder or list to shards in order."""

from __future__ import annotations

import errno
import os
import pickle
import tempfile
import threading
from pathlib import Path

import corpus
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastrealign.formats
from fastrealign.formats import FORMATS, Shard, open_source
from fastrealign.formats.find_shards import numeric_order
from fastrealign.formats.registry import accepted


def save(path, rows=3, dim=4, dtype=np.float32, fill=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.full((rows, dim), rows if fill is None else fill, dtype)
    if path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"emb": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), dim)}), path)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({"emb": x}, path)
    elif path.suffix in (".pt", ".pth"):
        torch = pytest.importorskip("torch")
        torch.save({"emb": torch.from_numpy(x)}, path)
    elif path.suffix in (".faiss", ".index"):
        faiss = pytest.importorskip("faiss")
        index = faiss.IndexFlatIP(dim)
        index.add(x)
        faiss.write_index(index, str(path))
    elif path.suffix == ".arrow":
        corpus.arrow_file(path, x, "emb")
    elif path.suffix == ".lance":
        pytest.importorskip("lance")
        corpus.lance_folder(path, x, "emb")
    else:
        path.write_bytes(pickle.dumps([{"id": i, "embed": row} for i, row in enumerate(x)]))
    return path


def names(source):
    return [shard.name for shard in source.shards]


def source_of(spec, side="source", **options):
    return open_source(spec, side=side, **options)


def test_public_names():
    assert set(fastrealign.formats.__all__) <= set(dir(fastrealign.formats))
    assert all(issubclass(kind, Shard) and kind.format for kind in FORMATS.values())


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_one_file(tmp_path, suffix):
    path = save(tmp_path / f"x{suffix}", rows=5)
    for spec in (path, str(path)):
        source = source_of(spec)
        assert (source.name, source.rows, source.dim, source.skipped) == (str(path), 5, 4, 0)
        assert names(source) == [path.name]
        assert source.shards[0].path == str(path)
    assert source_of(path.rename(tmp_path / f"X{suffix.upper()}")).rows == 5


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_folder_in_numeric_order(tmp_path, suffix, monkeypatch):
    for i in (10, 2, 0, 1, 21, 3):
        save(tmp_path / "emb" / f"img_emb_{i}{suffix}", rows=i + 1)
    for other in ("manifest.json", "stats.txt", ".hidden.npy", f".img_emb_4{suffix}.123.tmp", "x.tmp", "README"):
        (tmp_path / "emb" / other).write_bytes(b"not a shard")
    (tmp_path / "emb" / "sub").mkdir()
    source = source_of(tmp_path / "emb")
    assert names(source) == [f"img_emb_{i}{suffix}" for i in (0, 1, 2, 3, 10, 21)]
    assert [shard.rows for shard in source.shards] == [1, 2, 3, 4, 11, 22]
    assert source.rows == 43
    for _ in range(2):  # and again: fitting passes twice
        assert np.concatenate([part.copy() for part in source])[:, 0].tolist() == [
            float(i) for i in (1, 2, 3, 4, 11, 22) for _ in range(i)
        ]
    monkeypatch.chdir(tmp_path)
    assert source_of("emb").shards[0].path == os.path.join("emb", f"img_emb_0{suffix}")


def test_chunks_are_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr("fastrealign.formats.open.CHUNK_BYTES", 100)
    save(tmp_path / "x.npy", rows=20)
    assert [len(part) for part in source_of(tmp_path)] == [6, 6, 6, 2]
    save(tmp_path / "x.npy", rows=3, dim=1000)
    assert [len(part) for part in source_of(tmp_path)] == [1, 1, 1]


def test_files_are_closed_behind_the_reader(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i}.npy")
    source = source_of(tmp_path)
    for _ in source:
        assert sum(shard._descriptor is not None for shard in source.shards) == 1
    chunks = iter(source)
    next(chunks)
    chunks.close()
    assert all(shard._descriptor is None for shard in source.shards)


@given(st.lists(st.text("ab01239_-.", min_size=1, max_size=9).filter(lambda s: s.strip(".")), max_size=8))
def test_numeric_order_is_a_total_order(texts):
    ordered = sorted(texts, key=numeric_order)
    assert sorted(reversed(texts), key=numeric_order) == ordered
    assert all(numeric_order(a) != numeric_order(b) for a in set(texts) for b in set(texts) if a != b)


@given(st.lists(st.integers(0, 10**12), unique=True), st.integers(0, 3), st.sampled_from(["x_{}.npy", "{}/x.npy"]))
def test_numeric_order_follows_numbers(numbers, zeros, pattern):
    paths = {pattern.format("0" * zeros + str(n)): n for n in numbers}
    assert [paths[p] for p in sorted(paths, key=numeric_order)] == sorted(numbers)


def test_glob(tmp_path):
    for i in (10, 9):
        save(tmp_path / f"part_{i}" / "x_2.npy")
        save(tmp_path / f"part_{i}" / "x_1.npy")
    save(tmp_path / "other" / "y.parquet")
    (tmp_path / "part_9" / "notes.txt").write_text("")
    source = source_of(tmp_path / "part_*" / "*")
    assert names(source) == ["part_9/x_1.npy", "part_9/x_2.npy", "part_10/x_1.npy", "part_10/x_2.npy"]
    assert names(source_of(f"{tmp_path}/part_9/x_[2-9].npy")) == ["x_2.npy"]
    assert names(source_of(f"{tmp_path}/**/*.npy")) == names(source)
    assert names(source_of(f"{tmp_path}/*er/*")) == ["other/y.parquet"]


def test_glob_relative_to_the_working_folder(tmp_path, monkeypatch):
    save(tmp_path / "x_1.npy")
    monkeypatch.chdir(tmp_path)
    assert names(source_of("x_*.npy")) == ["x_1.npy"]


def test_name_with_the_characters_of_a_pattern(tmp_path):
    path = save(tmp_path / "x[1].npy", rows=2)
    assert source_of(path).rows == 2


def test_list(tmp_path, monkeypatch):
    a, b = save(tmp_path / "one" / "x.npy", rows=1), save(tmp_path / "two" / "x.npy", rows=2)
    save(tmp_path / "two" / "w.npy", rows=3)
    source = source_of([b, str(a)])
    assert names(source) == ["two/x.npy", "one/x.npy"]
    assert source.name == f"{b} and 1 more"
    assert names(source_of((tmp_path / "two", a))) == ["two/w.npy", "two/x.npy", "one/x.npy"]
    assert names(source_of([a])) == ["x.npy"]
    assert names(source_of([save(tmp_path / "two" / "v.pkl"), a, b])) == ["two/v.pkl", "one/x.npy", "two/x.npy"]
    monkeypatch.chdir(tmp_path)
    assert names(source_of(["one/x.npy", b])) == ["one/x.npy", "two/x.npy"]


def test_list_that_names_a_file_twice(tmp_path, refused):
    path = save(tmp_path / "x.npy")
    refused(lambda: source_of([path, tmp_path]), path, "named twice")
    refused(lambda: source_of([]), "the source is an empty list")


def test_where(tmp_path):
    for i, rows in enumerate((3, 0, 2)):
        save(tmp_path / f"{i}.npy", rows=rows)
    source = source_of(tmp_path)
    assert source.where(2) == f"{tmp_path}/0.npy: row 2"
    assert source.where(3) == f"{tmp_path}/2.npy: row 0"
    assert source.where(4) == f"{tmp_path}/2.npy: row 1"


def test_each_header_is_obeyed(tmp_path, dtype):
    save(tmp_path / "0.npy", dtype=np.float64)
    np.save(tmp_path / "1.npy", np.asfortranarray(np.arange(12.0).reshape(3, 4)).astype(dtype))
    source = source_of(tmp_path)
    assert [shard.dtype for shard in source.shards] == [np.float64, dtype]
    assert [part.dtype for part in source] == [np.float64, dtype]


def clip_root(root, shards=(0, 1), pattern="{}_emb_{}"):
    for kind, dim in (("text", 4), ("img", 4)):
        for i in shards:
            save(root / f"{kind}_emb" / f"{pattern.format(kind, i)}.npy", rows=i + 1, dim=dim, fill=kind == "img")
    return root


def test_clip_retrieval_root(tmp_path):
    root = clip_root(tmp_path / "root", shards=(0, 10, 2))
    text, image = source_of(root), source_of(root, "target")
    assert names(text) == [f"text_emb/text_emb_{i}.npy" for i in (0, 2, 10)]
    assert names(image) == [f"img_emb/img_emb_{i}.npy" for i in (0, 2, 10)]
    assert next(iter(text))[0, 0] == 0 and next(iter(image))[0, 0] == 1
    assert names(source_of(root / "text_emb")) == ["text_emb_0.npy", "text_emb_2.npy", "text_emb_10.npy"]
    assert names(source_of(root / "img_emb")) == ["img_emb_0.npy", "img_emb_2.npy", "img_emb_10.npy"]


def test_clip_retrieval_root_with_one_side(tmp_path, refused):
    save(tmp_path / "img_emb" / "img_emb_0.npy")
    refused(lambda: source_of(tmp_path), tmp_path, "has img_emb/ but no text_emb/", f"give {tmp_path / 'img_emb'}")
    assert source_of(tmp_path, "target").rows == 3
    save(tmp_path / "x.npy")
    refused(lambda: source_of(tmp_path, "target"), tmp_path, "shards and a folder img_emb/")


def test_clip_retrieval_root_with_indexes_of_its_own(tmp_path, refused):
    root = clip_root(tmp_path / "root")
    for name in ("image.index", "text.index"):
        (root / name).write_bytes(b"whatever index: the folders are what is meant")
    assert names(source_of(root)) == ["text_emb/text_emb_0.npy", "text_emb/text_emb_1.npy"]
    assert names(source_of(root, "target")) == ["img_emb/img_emb_0.npy", "img_emb/img_emb_1.npy"]


def test_side_is_checked(tmp_path):
    with pytest.raises(ValueError, match="'image'"):
        source_of(save(tmp_path / "x.npy"), "image")


def test_column_is_passed_on(tmp_path, refused):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([{"v": np.ones(3, "f4")}]))
    assert source_of(tmp_path, column="v").dim == 3
    refused(lambda: source_of(tmp_path), tmp_path / "x.pkl", "'embed'")


def test_missing(tmp_path, refused, monkeypatch):
    refused(lambda: source_of(tmp_path / "no.npy"), tmp_path / "no.npy", "no such file")
    refused(lambda: source_of(tmp_path / "no"), tmp_path / "no", "no such file or folder")
    refused(lambda: source_of(tmp_path / "no" / "deep"), tmp_path / "no" / "deep", "no such file or folder")
    (tmp_path / "text_emb").mkdir()
    refused(lambda: source_of(tmp_path / "txt_emb"), "no such file or folder", f"did you mean {tmp_path / 'text_emb'}?")
    refused(lambda: source_of(tmp_path / "no" / "*.npy"), tmp_path / "no", "no such file or folder")
    (tmp_path / "plain").write_text("x")
    refused(lambda: source_of(tmp_path / "plain"), tmp_path / "plain", "suffix ''", accepted())
    refused(lambda: source_of(tmp_path / "*.npy"), tmp_path / "*.npy", "matches no shard", ".pkl")
    (tmp_path / "x.npz").write_bytes(b"PK")
    refused(lambda: source_of(tmp_path / "x.npz"), "x.npz", "suffix '.npz'", "numpy.load(")
    refused(lambda: source_of(tmp_path / "*"), "matches no shard")


def test_links_that_lead_to_themselves(tmp_path, refused):
    save(tmp_path / "0.npy", rows=5)
    os.symlink("loop", tmp_path / "loop")
    assert source_of(tmp_path).rows == 5
    os.symlink("1.npy", tmp_path / "1.npy")
    refused(lambda: source_of(tmp_path), tmp_path / "1.npy", "symbolic links")


def test_folder_without_shards(tmp_path, refused):
    (tmp_path / "readme.txt").write_text("")
    refused(lambda: source_of(tmp_path), tmp_path, "holds no shards", accepted(), "text_emb/")
    (tmp_path / "text_emb").mkdir()
    refused(lambda: source_of(tmp_path), tmp_path / "text_emb", "holds no shards")


def test_two_formats(tmp_path, refused):
    save(tmp_path / "a.npy")
    save(tmp_path / "b.parquet")
    for spec in (tmp_path, tmp_path / "*"):
        refused(lambda spec=spec: source_of(spec), spec, "npy (a.npy) and parquet (b.parquet)", f"{tmp_path}/*.npy")
    assert source_of(f"{tmp_path}/*.npy").rows == 3
    save(tmp_path / "c.pkl"), save(tmp_path / "d.pickle")
    assert names(source_of(f"{tmp_path}/*.p[ki]*")) == ["c.pkl", "d.pickle"]


def test_widths_that_differ(tmp_path, refused):
    for i in range(4):
        save(tmp_path / f"{i}.npy", dim=4 if i < 3 else 5)
    refused(lambda: source_of(tmp_path), tmp_path / "3.npy", "have 5 values", tmp_path / "0.npy", "have 4")


def test_shards_without_rows(tmp_path, refused):
    (tmp_path / "1.pkl").write_bytes(pickle.dumps([]))
    refused(lambda: source_of(tmp_path), tmp_path, "holds no embeddings at all")
    save(tmp_path / "2.pkl", rows=2)
    assert [shard.rows for shard in source_of(tmp_path).shards] == [0, 2]
    assert source_of(tmp_path).dim == 4
    save(tmp_path / "npy" / "1.npy", rows=0)
    source = source_of(tmp_path / "npy")
    assert (source.rows, source.dim, list(source)) == (0, 4, [])


FILES = sorted(suffix for suffix, kind in FORMATS.items() if not kind.folder)


@pytest.mark.parametrize("suffix", FILES)
def test_folder_with_the_name_of_a_shard(tmp_path, refused, suffix):
    (tmp_path / f"x{suffix}").mkdir()
    save(tmp_path / f"w{suffix}")
    refused(lambda: source_of(tmp_path), tmp_path / f"x{suffix}", "is a folder, expected a file")


@pytest.mark.parametrize("suffix", FILES)
def test_things_that_are_not_regular_files(tmp_path, refused, suffix):
    os.mkfifo(tmp_path / f"x{suffix}")
    refused(lambda: source_of(tmp_path), tmp_path / f"x{suffix}", "not a regular file")
    (tmp_path / f"x{suffix}").unlink()
    (tmp_path / f"x{suffix}").symlink_to(tmp_path / "gone")
    refused(lambda: source_of(tmp_path), tmp_path / f"x{suffix}", "no such file")


@pytest.fixture
def unprivileged():
    """A folder that everybody may enter, and this process without the rights of root."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        was_root = os.geteuid() == 0

        def drop():
            if was_root:
                os.seteuid(65534)

        yield Path(folder), drop
        if was_root:
            os.seteuid(0)


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_unreadable_file(unprivileged, refused, suffix):
    folder, drop = unprivileged
    path = save(folder / f"x{suffix}")
    path.chmod(0)
    drop()
    for spec in (path, folder):
        refused(lambda spec=spec: source_of(spec), path, "permission denied", "permissions")


def test_unreadable_folder(unprivileged, refused):
    folder, drop = unprivileged
    save(folder / "shut" / "x.npy")
    (folder / "shut").chmod(0)
    drop()
    refused(lambda: source_of(folder / "shut"), folder / "shut", "permission denied")
    refused(lambda: source_of(folder / "shut" / "x.npy"), folder / "shut" / "x.npy", "permission denied")


def test_fault_of_the_disk(tmp_path, refused, monkeypatch):
    path = save(tmp_path / "x.npy")

    def pread(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", pread)
    refused(lambda: source_of(path), path, "cannot be read: Input/output error")


def test_the_first_bad_file_in_order_is_named(tmp_path, refused):
    for i in range(30):
        save(tmp_path / f"{i}.npy")
    for i in (7, 12, 29):
        (tmp_path / f"{i}.npy").write_bytes(b"broken")
    before = threading.active_count()
    refused(lambda: source_of(tmp_path), tmp_path / "7.npy", "not a .npy file")
    assert threading.active_count() <= before


def test_many_shards(tmp_path):
    template = save(tmp_path / "all" / "x_0.npy", rows=1).read_bytes()
    for i in range(1, 2000):
        (tmp_path / "all" / f"x_{i}.npy").write_bytes(template)
    before = len(os.listdir("/proc/self/fd"))  # also those that earlier tests left open
    source = source_of(tmp_path / "all")
    assert names(source) == [f"x_{i}.npy" for i in range(2000)]
    assert len(os.listdir("/proc/self/fd")) < before + 100
