"""torch_files.py, torch_archive.py: files of torch.save are read by position; torch.load loads the output."""

from __future__ import annotations

import gc
import os
import sys
import zipfile
import zlib
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shards import rewrite, rewrite_at_random

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.formats import torch_load
from fastrealign.formats.torch_archive import crc_of_parts
from fastrealign.formats.torch_files import TorchShard

torch = pytest.importorskip("torch")

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def matrix(rows=23, dim=5, dtype=torch.float32, seed=0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)


def torch_dtype(dtype):
    return getattr(torch, dtype.name)


def others(rows=23):
    return {
        "ids": [f"id {i}" for i in range(rows)],
        "pair": tuple(range(rows)),
        "scores": torch.arange(rows).double(),
        "wide": torch.arange(rows * 6, dtype=torch.int16).view(rows, 2, 3),
        "encoder": "clip",
        "projection": torch.ones(3, 3),
        "shape": torch.Size([rows, 5]),
        "nested": {"ids": list(range(rows)), "more": [torch.zeros(2)]},
        "empty": torch.zeros(0),
        17: None,
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and a and isinstance(a[0], torch.Tensor):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def saved(path, value, **options):
    torch.save(value, path, **options)
    return path


def opened(path, column=None):
    return TorchShard(path, path.name, column)


def numbers(tensor):
    """The tensor as a NumPy array of the same element type."""
    dtype = BFLOAT16 if tensor.dtype == torch.bfloat16 else np.dtype(str(tensor.dtype).removeprefix("torch."))
    return tensor.detach().contiguous().view(torch.uint8).numpy().view(dtype)


def copied(shard, out, dtype=None, keep=None, chunk=4):
    """Written through a ShardWriter; loaded by torch, and found a sound archive by zipfile, checksums included."""
    rewrite(shard, out, dtype, keep, chunk)
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
    mapped = torch.load(out, weights_only=True, mmap=True)
    whole = torch.load(out, weights_only=True)
    assert same(mapped, whole)
    return whole


def test_keys_that_are_no_text(tmp_path, rows_in, refused):
    """A dict by number, as a loop over layers or batches leaves it."""
    x = matrix()
    shard = opened(saved(tmp_path / "x.pt", {0: x, "ids": list(range(23)), 1: torch.arange(23)}))
    assert shard.column == "0" and rows_in(shard).tobytes() == numbers(x).tobytes()
    found, others = shard.of_rows()
    assert (sorted(found), others) == (["1", "ids"], [])
    kept = copied(shard, tmp_path / "kept.pt", keep=np.arange(23) != 3)
    assert list(kept) == [0, "ids", 1] and [len(one) for one in kept.values()] == [22, 22, 22]
    two = saved(tmp_path / "two.pt", {0: x, (1, "a"): 2 * x})
    refused(lambda: opened(two), "has several tensors of embeddings, 0, (1, 'a')")
    assert rows_in(opened(two, "(1, 'a')")).tobytes() == numbers(2 * x).tobytes()
    refused(lambda: opened(saved(tmp_path / "x.pt", {0: "text"}), "0"), "'0' is a str, expected a tensor")


def test_a_tensor_there_and_back(tmp_path, rows_in, tree, dtype):
    x = matrix(dtype=torch_dtype(dtype))
    shard = opened(saved(tmp_path / "x.pt", x))
    assert (shard.rows, shard.dim, shard.dtype, shard.skipped, shard.random_access) == (23, 5, dtype, 0, True)
    assert rows_in(shard).tobytes() == numbers(x).tobytes()
    scratch = np.empty(6 * 5 * 8, np.uint8)
    for lo, hi in [(0, 6), (5, 11), (22, 23), (23, 23)]:
        assert shard.read(lo, hi, scratch).tobytes() == numbers(x)[lo:hi].tobytes()
    assert same(copied(shard, tmp_path / "y.pt"), x)
    assert tree(tmp_path) == ["x.pt", "y.pt"]


def test_a_dict_there_and_back(tmp_path, dtype):
    x = matrix()
    value = {"embeddings": x, **others()}
    shard = opened(saved(tmp_path / "x.pt", value))
    out = copied(shard, tmp_path / "y.pt", dtype)
    assert same(out, {**value, "embeddings": x.to(torch_dtype(dtype))})
    assert copied(opened(saved(tmp_path / "x.pt", OrderedDict(b=x, a=1))), tmp_path / "y.pt").__class__ is OrderedDict


def test_the_same_bytes_for_any_pieces(tmp_path):
    x = matrix(50)
    shard = opened(saved(tmp_path / "x.pt", {"ids": list(range(50)), "emb": x, "more": torch.ones(3)}))
    written = set()
    for chunk in (1, 7, 50):
        copied(shard, tmp_path / "y.pt", chunk=chunk)
        written.add((tmp_path / "y.pt").read_bytes())
    with shard.writer(tmp_path / "y.pt", shard.dtype, 50) as writer:
        for lo in (30, 0, 10, 40, 20):
            writer.write_at(lo, numbers(x)[lo : lo + 10])
        writer.commit()
    written.add((tmp_path / "y.pt").read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize("dropped", [[], [0], [22], range(23), range(1, 23, 2)])
def test_dropped_rows_take_what_is_theirs_along(tmp_path, dropped):
    x = matrix()
    keep = np.ones(23, bool)
    keep[list(dropped)] = False
    shard = opened(saved(tmp_path / "x.pt", {**others(), "emb": x}))
    out = copied(shard, tmp_path / "y.pt", keep=keep)
    kept = torch.from_numpy(keep)
    expected = {**others(), "emb": x[kept]}
    for name in ("scores", "wide"):
        expected[name] = expected[name][kept]
    for name in ("ids", "pair"):
        expected[name] = type(expected[name])(np.array(expected[name], object)[keep])
    assert same(out, expected)


def test_what_is_of_another_split_loses_nothing(tmp_path):
    """Two splits of as many rows in one file (COCO's val and test have 5,000 each)."""
    x, keep = matrix(), np.arange(23) != 4
    value = {
        "val_features": x,
        "val_ids": list(range(23)),
        "test_features": x + 1,
        "testIds": torch.arange(23),
        "n": [0] * 23,
    }
    shard = TorchShard(saved(tmp_path / "x.pt", value), "x.pt", "val_features")
    assert set(shard.of_rows()[0]) == {"val_ids", "n"} and "testIds" in shard.of_rows()[1]
    out = copied(shard, tmp_path / "y.pt", keep=keep)
    ids = [i for i in range(23) if i != 4]
    kept = {"val_features": x[torch.from_numpy(keep)], "val_ids": ids, "n": [0] * 22}
    assert same(out, {**value, **kept})


LAYOUTS = {
    "transposed": lambda x: x.T.contiguous().T,
    "some columns": lambda x: torch.cat([x, x, x], 1)[:, 5:10],
    "every third column": lambda x: x.repeat_interleave(3, 1)[:, ::3],
    "every other row": lambda x: x.repeat_interleave(2, 0)[::2],
    "the end of a larger one": lambda x: torch.cat([x, x])[23:],
    "with a gradient": lambda x: x.clone().requires_grad_(),
    "a parameter": torch.nn.Parameter,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("new", [True, False])
def test_layouts(tmp_path, rows_in, layout, new):
    x = matrix()
    shard = opened(saved(tmp_path / "x.pt", {"emb": LAYOUTS[layout](x)}, _use_new_zipfile_serialization=new))
    assert np.array_equal(rows_in(shard), x.numpy())
    out = copied(shard, tmp_path / "y.pt")["emb"]
    assert torch.equal(out, x) and out.is_contiguous() and not out.requires_grad


@pytest.mark.parametrize("negated", [lambda x: torch.complex(-x, -x).conj().imag, torch._neg_view])
def test_negated_by_a_bit(tmp_path, rows_in, negated):
    """The file has the other sign; the tensor says that it is to be changed."""
    x = matrix()
    value = {"emb": negated(x), "ids": negated(x[:, 0])}
    assert value["emb"].is_neg()
    shard = opened(saved(tmp_path / "x.pt", value))
    expected = value["emb"].resolve_neg().numpy()
    assert np.array_equal(rows_in(shard), expected)
    assert np.array_equal(shard.of_rows()[0]["ids"], expected[:, 0])
    out = copied(shard, tmp_path / "y.pt")["emb"]
    assert np.array_equal(out.numpy(), expected) and not out.is_neg()


@pytest.mark.parametrize("layout", [lambda x: x[:1].expand(9, 5), lambda x: x[:, :1].expand(23, 7)])
def test_expanded(tmp_path, rows_in, layout):
    x = layout(matrix())
    assert np.array_equal(rows_in(opened(saved(tmp_path / "x.pt", x))), x.numpy())


def test_files_of_before_torch_1_6(tmp_path, rows_in, refused, monkeypatch, dtype):
    x = matrix(dtype=torch_dtype(dtype))
    value = {"emb": x, "ids": list(range(23))}
    path = saved(tmp_path / "x.pt", value, _use_new_zipfile_serialization=False)
    shard = opened(path)
    assert (shard.rows, shard.dim, shard.dtype) == (23, 5, dtype)
    assert rows_in(shard).tobytes() == numbers(x).tobytes()
    shard.close()
    assert shard._whole is None
    assert same(copied(shard, tmp_path / "y.pt"), value)
    monkeypatch.setattr(torch_load, "WHOLE_BYTES", 100)
    refused(lambda: opened(path), path, "torch 1.6", "too large to be loaded whole", "save it again")
    assert opened(tmp_path / "y.pt").rows == 23


def test_which_tensor_is_taken(tmp_path, rows_in, refused):
    a, b = matrix(seed=1), matrix(9, 7, seed=2)
    path = saved(tmp_path / "x.pt", {"rows": a, "ids": torch.arange(23), "n": 5})
    assert np.array_equal(rows_in(opened(path)), a)
    for name in ("embedding", "embeddings", "emb", "embed", "embeds"):
        saved(path, {"other": a, name: b})
        assert np.array_equal(rows_in(opened(path)), b)
    assert np.array_equal(rows_in(opened(path, "other")), a)
    refused(lambda: opened(path, "text"), path, "no tensor 'text'; its tensors are other, embeds")
    saved(path, {"a": a, "b": b})
    refused(lambda: opened(path), path, "several tensors of embeddings, a, b; name the one")


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("new", [True, False])
def test_nothing_in_a_file_is_run(tmp_path, refused, new):
    path = saved(
        tmp_path / "x.pt", {"emb": matrix(), "code": Runs(tmp_path / "ran")}, _use_new_zipfile_serialization=new
    )
    refused(lambda: opened(path), path, "refused to load: it asks for posix.system; keep tensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "other",
    [
        matrix().to(torch.int8),
        matrix().to(torch.complex64),
        matrix()[:, None].repeat(1, 2, 1),
        list(matrix()),
        matrix().tolist(),
        {"clip": matrix()},
    ],
    ids=["int8", "complex", "3-D", "tensors", "lists", "dict"],
)
def test_what_may_be_the_embeddings_and_is_not_taken_is_named(tmp_path, refused, rows_in, other):
    path = saved(tmp_path / "x.pt", {"text_features": other, "boxes": matrix()})
    refused(lambda: opened(path), path, "'text_features'", "'boxes' (float32 (23, 5))", "column='boxes'")
    assert np.array_equal(rows_in(opened(path, "boxes")), matrix().numpy())
    saved(path, {"embeddings": other, "boxes": matrix()})
    refused(lambda: opened(path), path, "'embeddings'", "column='boxes'")


@pytest.mark.parametrize(
    ("value", "pieces"),
    [
        ([matrix()], ["holds a list, expected a matrix or a dict"]),
        ("text", ["holds a str"]),
        ({"a": 1}, ["no tensor of embeddings", "its tensors are none"]),
        ({"emb": matrix()[0]}, ["tensor 'emb': has shape (5,), expected (rows, width)"]),
        (matrix()[None], ["has shape (1, 23, 5)"]),
        (matrix()[:, :0], ["has shape (23, 0)"]),
        (matrix().int(), ["holds int32 values, expected float16"]),
        (matrix().to(torch.float8_e4m3fn), ["holds float8_e4m3fn values"]),
        (matrix().to(torch.complex64), ["holds complex64 values"]),
        (torch.empty(2, 3, device="meta"), ["without values"]),
        (torch.nn.Linear(2, 3), ["refused to load: it asks for torch.nn.modules.linear.Linear"]),
        ({"emb": matrix().numpy()}, ["refused to load: it asks for numpy"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_wrong_contents(tmp_path, refused, value, pieces):
    refused(lambda: opened(saved(tmp_path / "x.pt", value)), tmp_path / "x.pt", *pieces)


def test_a_file_that_cannot_be_mapped(tmp_path, refused, monkeypatch):
    def load(path, **options):
        raise RuntimeError(f"unable to mmap 122880001629 bytes from file <{path}>: Cannot allocate memory (12)")

    path = saved(tmp_path / "x.pt", matrix())
    monkeypatch.setattr(torch, "load", load)
    refused(lambda: opened(path), f"{path}: not enough memory to map it", "split it", error=FastRealignError)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_sparse_tensor(tmp_path, refused):
    refused(lambda: opened(saved(tmp_path / "x.pt", matrix().to_sparse())), "is sparse", "to_dense()")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_torchscript_program(tmp_path, refused):
    torch.jit.script(torch.nn.Linear(2, 3)).save(tmp_path / "x.pt")
    refused(lambda: opened(tmp_path / "x.pt"), tmp_path / "x.pt", "TorchScript program, expected tensors")


def test_archives_that_others_wrote(tmp_path, refused):
    """Compressed, or of the other byte order: torch would map the bytes and take them for numbers, or swap them all."""
    saved(tmp_path / "x.pt", matrix())

    def rewritten(name, change, how=zipfile.ZIP_STORED):
        with zipfile.ZipFile(tmp_path / "x.pt") as old, zipfile.ZipFile(tmp_path / name, "w", how) as new:
            for entry in old.infolist():
                new.writestr(entry.filename, change(entry.filename, old.read(entry)))
        return tmp_path / name

    same = rewritten("same.pt", lambda name, data: data)
    assert opened(same).rows == 23
    path = rewritten("packed.pt", lambda name, data: data, zipfile.ZIP_DEFLATED)
    refused(lambda: opened(path), path, "is compressed", "save it again")
    path = rewritten("big.pt", lambda name, data: b"big" if name.endswith("byteorder") else data)
    refused(lambda: opened(path), path, "of the other byte order")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("new", [True, False])
def test_damaged_files(tmp_path, refused, new):
    path = saved(tmp_path / "x.pt", {"emb": matrix(), "ids": list(range(23))}, _use_new_zipfile_serialization=new)
    data = path.read_bytes()
    for size in (0, 1, 4, 50, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        refused(lambda: opened(path), path)
    rng = np.random.default_rng(4)
    for _ in range(100):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            for _ in opened(path).chunks(5):
                pass
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
    path.write_bytes(b"nonsense")
    refused(lambda: opened(path), path, "is not a readable torch file (Unsupported operand 110)")


def test_without_torch(tmp_path, refused, monkeypatch):
    path = saved(tmp_path / "x.pt", matrix())
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(lambda: opened(path), f"{path}: a .pt file needs torch: pip install 'fastrealign[torch]'")


def test_without_rows(tmp_path, rows_in):
    value = {"emb": torch.zeros(0, 7, dtype=torch.half), "ids": []}
    shard = opened(saved(tmp_path / "x.pt", value))
    assert (shard.rows, shard.dim, rows_in(shard).shape) == (0, 7, (0, 7))
    assert same(copied(shard, tmp_path / "y.pt"), value)


def test_threads_read_and_write_at_random(tmp_path):
    x = matrix(4000, 16)
    for new in (True, False):
        shard = opened(saved(tmp_path / "x.pt", x, _use_new_zipfile_serialization=new))
        rewrite_at_random(shard, tmp_path / "y.pt", np.float64, closing=True)
        assert torch.equal(torch.load(tmp_path / "y.pt", weights_only=True), x.double())


def test_file_cut_after_it_was_opened(tmp_path, refused):
    shard = opened(saved(tmp_path / "x.pt", matrix()))
    os.truncate(tmp_path / "x.pt", 700)
    refused(lambda: list(shard.chunks(23)), "x.pt", "ended at byte 700")


def test_another_file_under_the_same_name(tmp_path, refused, tree):
    shard = opened(saved(tmp_path / "x.pt", {"emb": matrix()}))
    saved(tmp_path / "x.pt", {"emb": matrix(9)})
    refused(lambda: shard.writer(tmp_path / "y.pt", shard.dtype), tmp_path / "x.pt", "changed during the run")
    assert tree(tmp_path) == ["x.pt"]


@pytest.mark.usefixtures("little_to_collect")
@pytest.mark.parametrize("room", [0, 100, 700, 1300])
def test_disk_full(tmp_path, tree, refused, disk_full, room):
    shard = opened(saved(tmp_path / "x.pt", {"emb": matrix(), "ids": list(range(23))}))
    disk_full(room)
    out = tmp_path / "y.pt"
    refused(lambda: copied(shard, out), out, "No space left on device", error=FastRealignError)
    gc.collect()
    assert tree(tmp_path) == ["x.pt"]


def test_missing_rows_are_noticed(tmp_path, tree, refused):
    shard = opened(saved(tmp_path / "x.pt", matrix()))
    writer = shard.writer(tmp_path / "y.pt", shard.dtype)
    writer.write_at(13, matrix()[13:].numpy())
    refused(writer.commit, "y.pt", "10 of 23 rows", error=FastRealignError)
    assert tree(tmp_path) == ["x.pt"]


@given(st.lists(st.binary(max_size=400)))
def test_checksums_of_parts_make_that_of_the_whole(parts):
    assert crc_of_parts((len(part), zlib.crc32(part)) for part in parts) == zlib.crc32(b"".join(parts))


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("key", [None, "embeddings"])
@pytest.mark.parametrize("legacy", [False, True])
def test_one_vector_a_row_in_three_dimensions(tmp_path, rows_in, refused, random, key, legacy):
    x = matrix(400)
    value = x[:, None] if key is None else {key: x[:, None], "ids": list(range(400))}
    torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    shard = opened(tmp_path / "x.pt")
    assert np.array_equal(rows_in(shard), x.numpy())
    keep = np.ones(400, bool) if random else np.arange(400) % 4 != 1
    rewrite_at_random(shard, tmp_path / "y.pt") if random else rewrite(shard, tmp_path / "y.pt", keep=keep)
    out = torch.load(tmp_path / "y.pt")
    assert torch.equal(out if key is None else out[key], x[torch.from_numpy(keep)][:, None])
    refused(lambda: opened(saved(tmp_path / "z.pt", torch.stack([x, x], 1))), "2 vectors a row", "x.reshape(-1, 5)")


def test_a_matrix_whose_key_is_none_keeps_its_dict(tmp_path):
    rows = matrix(5)
    torch.save({None: rows, "ids": [*"abcde"]}, tmp_path / "a.pt")
    (tmp_path / "out").mkdir()
    shard = TorchShard(tmp_path / "a.pt", "a.pt")
    assert shard.column == "None" and shard.of_rows() == ({"ids": [*"abcde"]}, [])
    with shard.writer(tmp_path / "out" / "a.pt", shard.dtype, shard.rows) as writer:
        for part in shard.chunks(2):
            writer.write(part)
        writer.commit()
    written = torch.load(tmp_path / "out" / "a.pt")
    assert list(written) == [None, "ids"] and torch.equal(written[None], rows)


def test_keys_of_one_text_are_told_apart(tmp_path):
    """The tensor among them has the text; of two tensors each has its repr, of other parts its type, too."""
    rows = matrix(5)
    torch.save({0: rows, "0": rows + 1}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="several tensors of embeddings, 0, '0'"):
        TorchShard(tmp_path / "a.pt", "a.pt")
    for column, key in (("0", 0), ("'0'", "0")):
        assert TorchShard(tmp_path / "a.pt", "a.pt", column).key == key
    torch.save({0: "a note", "0": rows, 1: [*"abcde"], "1": [*range(5)]}, tmp_path / "b.pt")
    shard = TorchShard(tmp_path / "b.pt", "b.pt", "0")
    assert shard.key == "0" and shard.of_rows() == ({"int 1": [*"abcde"], "str '1'": [*range(5)]}, ["int 0"])
