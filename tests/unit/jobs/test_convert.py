"""convert.py: embeddings from one format to another, every number and id as it was."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import tracemalloc

import corpus
import ml_dtypes
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.core.progress import Progress
from fastrealign.core.wording import on_command_line
from fastrealign.formats import open_source
from fastrealign.formats.table_copy import STEP_ROWS
from fastrealign.jobs.converted_files import TARGETS

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

X = np.random.default_rng(3).standard_normal((40, 6)).astype(np.float32)
CAPTIONS = [f"caption {i}" for i in range(40)]


def items(without=()):
    made = [
        {"id": i, "caption": text, "embed": row[None]} for i, (text, row) in enumerate(zip(CAPTIONS, X, strict=True))
    ]
    for at in without:
        made[at]["embed"] = None
    return made


@pytest.mark.parametrize("to", ["npy", "parquet"])
def test_rows_without_a_direction(tmp_path, capsys, to):
    """Kept as they are unless asked; left out with their columns, and every one is named."""
    rows = X.copy()
    rows[5:35], rows[2] = np.nan, 0.0
    pq.write_table(pa.table({"emb": list(rows), "id": range(40)}), tmp_path / "in.parquet")
    source, out = tmp_path / "in.parquet", tmp_path / "out"
    assert fr.convert(source, out, to=to).rows == 40
    with pytest.raises(
        fr.BadRowsError, match=r"row 2 is all zeros; fix it, or leave such rows out \(bad_rows='skip'\)"
    ):
        fr.convert(source, out, to=to, bad_rows="error", overwrite=True)
    assert (
        main(["convert", str(source), "--out", str(out), "--to", to, "--overwrite", "--bad-rows", "skip", "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 9 and found["skipped"] == 0
    assert [int(re.search(r"row (\d+) ", one)[1]) for one in found["bad_rows"]] == [2, *range(5, 35)]
    good = [0, 1, 3, 4, *range(35, 40)]
    ids = next(out.glob("*.parquet"))
    assert pq.read_table(ids)["id"].to_pylist() == good
    assert np.array_equal(np.concatenate(list(open_source(out, side="source").shards[0].chunks(40))), rows[good])


def test_what_metrics_advise_for_bad_rows_works(tmp_path, capsys):
    """In Python an expression, on the command line a command."""
    rows = X.copy()
    rows[3], rows[9] = np.inf, 0.0
    with pytest.raises(
        fr.BadRowsError, match="leave such rows out before measuring, of pairs on both sides, with "
    ) as caught:
        fr.diagnostics.gap(rows, X + 1)
    advised = eval(str(caught.value).partition(" both sides, with ")[2], {"rows": rows, "np": np})
    assert len(advised) == 38 and fr.diagnostics.gap(advised, X + 1) > 0
    np.save(tmp_path / "x.npy", rows)
    with on_command_line(), pytest.raises(fr.BadRowsError) as caught:
        fr.diagnostics.gap(tmp_path / "x.npy", X + 1)
    [command] = re.findall("with `fastrealign (convert .*)`$", str(caught.value))
    words = [*command.split(), str(tmp_path / "x.npy"), "--out", str(tmp_path / "y.npy")]
    assert main(words) == 0 and np.array_equal(np.load(tmp_path / "y.npy"), advised)


def test_progress_that_is_none(tmp_path, pickled):
    with pytest.raises(fr.InputError, match=r"^progress=True: expected an object of a subclass"):
        fr.convert(pickled, tmp_path / "out", progress=True)
    assert not (tmp_path / "out").exists()


def test_to_a_store_and_back(tmp_path, rng):
    """A URL as the output was the name of a local folder, such as s3:, with a report that the files were written."""
    fsspec = pytest.importorskip("fsspec")
    memory, home = fsspec.filesystem("memory"), f"memory://{tmp_path.name}"
    for i in (0, 1):
        np.save(tmp_path / f"{i}.npy", X[20 * i : 20 * i + 20])
    before = sorted(os.listdir(tmp_path))
    for kind in ("npy", "parquet", "arrow"):
        report = fr.convert(str(tmp_path / "*.npy"), f"{home}/{kind}", to=kind)
        assert len(memory.find(f"{home}/{kind}")) == 2 and report.bytes > X.nbytes
        fr.convert(f"{home}/{kind}", tmp_path / f"back_{kind}", to="npy")
        back = np.concatenate([np.load(path) for path in sorted((tmp_path / f"back_{kind}").glob("?.npy"))])
        assert np.array_equal(back, X)
        with pytest.raises(fr.InputError, match="exists; choose another name"):
            fr.convert(str(tmp_path / "*.npy"), f"{home}/{kind}", to=kind)
    fr.convert(tmp_path / "0.npy", f"{home}/one.parquet")
    with pytest.raises(fr.InputError, match="is the input itself"):
        fr.convert(f"{home}/one.parquet", f"{home}/one.parquet", overwrite=True)
    with pytest.raises(
        fr.InputError,
        match=r"one\.lance: Lance datasets can only be written to a local folder; write",
    ):
        fr.convert(tmp_path / "0.npy", f"{home}/one.lance")
    bad = X.copy()
    bad[-1, 0] = 1e30
    np.save(tmp_path / "1.npy", bad)
    with pytest.raises(
        fr.InputError, match=r"1\.npy: row 39 has a number that float16 cannot hold; choose a wider dtype$"
    ):
        fr.convert(str(tmp_path / "?.npy"), f"{home}/half", dtype="float16")
    assert memory.find(f"{home}/half") == []  # nothing half-written, no lock
    assert [name for name in sorted(os.listdir(tmp_path)) if not name.startswith("back_")] == before


@pytest.fixture
def pickled(tmp_path):
    return corpus.pickle_file(tmp_path / "in" / "text_3.pkl", items())


def to(name):
    if name == "lance":
        pytest.importorskip("lance")
    return name


def table(path):
    """A file with columns as the library of its format reads it."""
    if path.suffix == ".parquet":
        return pq.read_table(path)
    if path.suffix == ".lance":
        import lance

        return lance.dataset(path).to_table()
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_stream(file).read_all()


def rows_of(found, name="embedding"):
    return np.array(found[name].to_pylist(), np.dtype(f"f{found.schema.field(name).type.value_type.bit_width // 8}"))


@pytest.mark.parametrize("name", ["parquet", "arrow", "lance"])
def test_pickles_become_columns(tmp_path, pickled, name):
    path = tmp_path / f"out{TARGETS[to(name)]}"
    done = fr.convert(pickled, path)
    found = table(path)
    assert found.column_names == ["id", "caption", "embedding"]
    assert found["id"].to_pylist() == list(range(40)) and found["caption"].to_pylist() == CAPTIONS
    assert found.schema.field("embedding").type == pa.list_(pa.field("item", pa.float32()), 6) or name == "parquet"
    assert np.array_equal(rows_of(found), X)
    assert (done.to, done.rows, done.dim, done.skipped) == (name, 40, 6, 0)
    assert (done.columns, done.left_out, done.files) == (["id", "caption"], [], [path.name])
    assert sorted(os.listdir(tmp_path)) == ["in", path.name]


def test_npy_has_its_metadata_beside_it(tmp_path, pickled):
    done = fr.convert(pickled, tmp_path / "emb", to="npy")
    assert done.files == ["text_3.npy", "metadata_3.parquet"]
    assert np.array_equal(np.load(tmp_path / "emb" / "text_3.npy"), X)
    found = table(tmp_path / "emb" / "metadata_3.parquet")
    assert found.to_pydict() == {"id": list(range(40)), "caption": CAPTIONS}
    fr.align(tmp_path / "emb", X + 1, tmp_path / "aligned")
    assert sorted(os.listdir(tmp_path / "aligned"))[-2:] == ["metadata_3.parquet", "text_3.npy"]
    assert fr.convert(pickled, tmp_path / "x.npy").files == ["x.npy", "x.npy.metadata.parquet"]


@pytest.mark.parametrize(("side", "folder"), [("text", "text_emb"), ("image", "img_emb")])
def test_npy_in_a_clip_retrieval_folder(tmp_path, side, folder):
    for i in (2, 10):
        corpus.pickle_file(
            tmp_path / "in" / f"part_{i}.pkl", [{"id": f"{i}.{j}", "embed": row} for j, row in enumerate(X)]
        )
    done = fr.convert(tmp_path / "in", tmp_path / "root", to="npy", side=side)
    assert sorted(done.files) == sorted(
        [*(f"{folder}/{folder}_{i}.npy" for i in range(2)), *(f"metadata/metadata_{i}.parquet" for i in range(2))]
    )
    assert table(tmp_path / "root" / "metadata" / "metadata_1.parquet")["id"][0].as_py() == "10.0"
    source = open_source(tmp_path / "root", side={"text": "source", "image": "target"}[side])
    assert [shard.rows for shard in source.shards] == [40, 40]
    fr.convert(tmp_path / "root", tmp_path / "back", to="parquet", side=side)
    back = table(tmp_path / "back" / folder / f"{folder}_0.parquet")
    assert back["id"][0].as_py() == "2.0" and np.array_equal(rows_of(back), X)


def test_names_without_numbers_get_them_where_metadata_is_found_by_number(tmp_path):
    for name in ("a", "b"):
        corpus.pickle_file(tmp_path / "in" / f"{name}.pkl", items())
    done = fr.convert(tmp_path / "in", tmp_path / "npy", to="npy")
    assert sorted(done.files) == ["a_0.npy", "b_1.npy", "metadata_0.parquet", "metadata_1.parquet"]
    assert sorted(fr.convert(tmp_path / "in", tmp_path / "parquet").files) == ["a.parquet", "b.parquet"]


def test_items_without_an_embedding_are_counted_and_leave_no_gap(tmp_path):
    path = corpus.pickle_file(tmp_path / "x.pkl", items(without=[0, 7, 39]))
    done = fr.convert(path, tmp_path / "out.parquet")
    found = table(tmp_path / "out.parquet")
    kept = [i for i in range(40) if i not in (0, 7, 39)]
    assert found["id"].to_pylist() == kept and np.array_equal(rows_of(found), X[kept])
    assert (done.rows, done.skipped) == (37, 3)
    assert "3 items without an embedding" in str(done)


def test_items_of_many_kinds_of_values(tmp_path):
    made = items()
    for i, item in enumerate(made):
        item["size"] = {"w": i, "h": None}
        item["tags"] = ["a"] * (i % 3)
        item["mask"] = np.arange(3) + i
        item["score"] = np.float64(i) / 2
        if i % 2:
            item["only some"] = f"x{i}"
    fr.convert(corpus.pickle_file(tmp_path / "x.pkl", made), tmp_path / "x.arrow")
    found = table(tmp_path / "x.arrow")
    assert found["size"][3].as_py() == {"w": 3, "h": None} and found["tags"][5].as_py() == ["a", "a"]
    assert found["mask"][2].as_py() == [2, 3, 4] and found["score"][5].as_py() == 2.5
    assert found["only some"].to_pylist()[:4] == [None, "x1", None, "x3"]


def test_an_array_beside_lists(tmp_path):
    value = {"ids": list(range(40)), "captions": CAPTIONS, "embeddings": X, "encoder": "ViT-B/32"}
    done = fr.convert(corpus.pickle_file(tmp_path / "c3.pkl", value), tmp_path / "c3.parquet")
    found = table(tmp_path / "c3.parquet")
    assert found["ids"].to_pylist() == list(range(40)) and found["captions"].to_pylist() == CAPTIONS
    assert np.array_equal(rows_of(found), X)
    assert done.left_out == ["c3.pkl: encoder"] and "encoder" in str(done)


def test_images_and_captions_of_one_pickle(tmp_path):
    value = {
        "images": {100 + i: {"img_path": f"{i}.jpg", "embed": row[None]} for i, row in enumerate(X[:5])},
        "captions": {
            i: {"caption": text, "img_id": 100 + i // 8, "embed": X[i : i + 1]} for i, text in enumerate(CAPTIONS)
        },
    }
    path = corpus.pickle_file(tmp_path / "coco.pkl", value)
    with pytest.raises(fr.InputError, match="several sets of items, 'images', 'captions'"):
        fr.convert(path, tmp_path / "x.parquet")
    fr.convert(path, tmp_path / "text.parquet", column="captions")
    found = table(tmp_path / "text.parquet")
    assert found.column_names == ["id", "caption", "img_id", "embedding"] and np.array_equal(rows_of(found), X)
    fr.convert(path, tmp_path / "image.parquet", column="images")
    assert table(tmp_path / "image.parquet")["id"].to_pylist() == [100, 101, 102, 103, 104]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_format_to_every_other(tmp_path, name, dtype):
    x = X.astype(dtype)
    made = [{"id": f"i{i}", "embed": row} for i, row in enumerate(x)]
    corpus.pickle_file(tmp_path / "pickle" / "x_0.pkl", made)
    fr.convert(tmp_path / "pickle", tmp_path / name, to=to(name))
    for other in TARGETS:
        done = fr.convert(tmp_path / name, tmp_path / "again" / name / other, to=to(other))
        source = open_source(tmp_path / "again" / name / other, side="source")
        assert np.array_equal(np.concatenate([part.copy() for part in source]), x) and source.shards[0].dtype == dtype
        assert done.columns == ["id"]
        ids = tmp_path / "again" / name / other / ("metadata_0.parquet" if other == "npy" else f"x_0{TARGETS[other]}")
        assert table(ids)["id"].to_pylist() == [f"i{i}" for i in range(40)]


def test_tables_keep_their_schema(tmp_path):
    pq.write_table(
        pa.table(
            {"vector": list(X), "id": range(40)},
            schema=pa.schema(
                [pa.field("vector", pa.list_(pa.float32()), metadata={"a": "b"}), pa.field("id", pa.int32())],
                metadata={"made by": "a test"},
            ),
        ),
        tmp_path / "x.parquet",
    )
    fr.convert(tmp_path / "x.parquet", tmp_path / "x.arrow", dtype="float16")
    found = table(tmp_path / "x.arrow")
    assert found.schema.equals(
        pa.schema([pa.field("vector", pa.list_(pa.field("element", pa.float16()))), pa.field("id", pa.int32())])
    )
    assert found.schema.metadata == {b"made by": b"a test"} and found.schema.field("vector").metadata == {b"a": b"b"}
    assert np.array_equal(rows_of(found, "vector"), X.astype(np.float16))


def test_more_rows_than_are_held_at_a_time(tmp_path):
    x = corpus.rows(3 * STEP_ROWS + 5, 1)
    corpus.parquet_file(tmp_path / "x.parquet", x, id=list(range(len(x))))
    for name in TARGETS:
        fr.convert(tmp_path / "x.parquet", tmp_path / name, to=to(name))
        assert np.array_equal(np.concatenate([p.copy() for p in open_source(tmp_path / name, side="source")]), x)


def test_bfloat16(tmp_path):
    np.save(tmp_path / "x.npy", X.astype(ml_dtypes.bfloat16))
    with pytest.raises(fr.InputError, match="parquet has no bfloat16"):
        fr.convert(tmp_path / "x.npy", tmp_path / "x.parquet")
    fr.convert(tmp_path / "x.npy", tmp_path / "x.parquet", dtype="float32")
    assert np.array_equal(rows_of(table(tmp_path / "x.parquet")), X.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "x.parquet"]


def test_bad_rows_pass_as_they_are_and_what_does_not_fit_is_named(tmp_path):
    x = X.copy()
    x[3], x[4, 2], x[5, 0] = 0, np.nan, np.inf
    np.save(tmp_path / "x.npy", x)
    fr.convert(tmp_path / "x.npy", tmp_path / "y.npy", dtype="float16")
    assert np.array_equal(np.load(tmp_path / "y.npy"), x.astype(np.float16), equal_nan=True)
    x[30, 1] = 7e4
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(fr.InputError, match=r"x\.npy: row 30 has a number that float16 cannot hold"):
        fr.convert(tmp_path / "x.npy", tmp_path / "z" / "deep", dtype="float16", to="npy")
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y.npy"]


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_there_is_replaced_only_when_asked(tmp_path, pickled, name):
    fr.convert(pickled, tmp_path / "out", to=to(name), dtype="float16")
    before = corpus.tree(tmp_path / "out")
    with pytest.raises(fr.InputError, match=r"text_3\..*: exists; .*overwrite=True"):
        fr.convert(pickled, tmp_path / "out", to=name)
    assert corpus.tree(tmp_path / "out") == before
    fr.convert(pickled, tmp_path / "out", to=name, overwrite=True)
    assert next(iter(open_source(tmp_path / "out", side="source"))).dtype == np.float32


def test_metadata_that_is_there_is_not_replaced_unasked(tmp_path, pickled):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metadata_3.parquet").write_bytes(b"mine")
    with pytest.raises(fr.InputError, match=r"metadata_3\.parquet: exists"):
        fr.convert(pickled, tmp_path / "out", to="npy")
    assert corpus.tree(tmp_path / "out") == {"metadata_3.parquet": b"mine"}


@pytest.mark.parametrize(
    ("out", "options", "piece"),
    [
        ("x.parquet", {"to": "npy"}, "is the name of a parquet file"),
        ("x.pkl", {}, r"\.pkl is not written"),
        ("out", {"to": "csv"}, "to='csv'"),
        ("out", {"side": "audio"}, "side='audio'"),
        ("in/text_3.pkl/x", {}, "text_3.pkl"),
    ],
)
def test_targets_that_are_none(tmp_path, pickled, out, options, piece):
    before = corpus.tree(tmp_path)
    with pytest.raises(fr.FastRealignError, match=piece):
        fr.convert(pickled, tmp_path / out, **options)
    assert corpus.tree(tmp_path) == before


def test_the_input_is_not_replaced(tmp_path):
    corpus.parquet_file(tmp_path / "in" / "x.parquet", X)
    for out in (tmp_path / "in", tmp_path / "in" / "x.parquet"):
        with pytest.raises(fr.InputError, match="is the input itself"):
            fr.convert(tmp_path / "in", out, overwrite=True)
    corpus.parquet_file(tmp_path / "in" / "y.parquet", X)
    with pytest.raises(fr.InputError, match=r"names one file, but .* has 2"):
        fr.convert(tmp_path / "in", tmp_path / "z.parquet")
    (tmp_path / "folder.parquet").mkdir()
    fr.convert(tmp_path / "in" / "x.parquet", tmp_path / "folder.parquet")
    assert os.listdir(tmp_path / "folder.parquet") == ["x.parquet"]


def test_a_folder_is_not_replaced_by_a_dataset(tmp_path, pickled):
    (tmp_path / "mine.lance").mkdir()
    (tmp_path / "mine.lance" / "notes").write_text("mine")
    with pytest.raises(fr.InputError, match="is a folder, which is not replaced"):
        fr.convert(pickled, tmp_path / "mine.lance", overwrite=True)
    assert corpus.tree(tmp_path / "mine.lance") == {"notes": b"mine"}


def test_two_files_that_would_become_one(tmp_path):
    for suffix in (".pkl", ".pickle"):
        corpus.pickle_file(tmp_path / "in" / f"x{suffix}", items())
    with pytest.raises(fr.InputError, match=r"x\.parquet: two files of the source"):
        fr.convert(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "piece"),
    [
        (lambda made: made[5].update(id="five"), "'id' do not make a column"),
        (lambda made: made[5].update(mask=np.ones((2, 2))), "'mask' do not make a column"),
        (lambda made: made[5].update({3: 1}), "3 is no name of a column"),
        (lambda made: made[5].update(embedding=1), "'embedding' beside the embeddings"),
        (lambda made: made[5].update(id=2**70), "'id' do not make a column"),
        (lambda made: made[5].update(caption="\ud800"), "'caption' do not make a column"),
    ],
)
def test_values_that_make_no_column(tmp_path, change, piece):
    made = items()
    change(made)
    path = corpus.pickle_file(tmp_path / "x.pkl", made)
    with pytest.raises(fr.InputError, match=piece) as caught:
        fr.convert(path, tmp_path / "new" / "x.parquet")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["x.pkl"]


@pytest.mark.parametrize("name", TARGETS)
def test_a_failure_leaves_nothing_new(tmp_path, name):
    for i in range(3):
        corpus.pickle_file(tmp_path / "in" / f"x_{i}.pkl", items())

    class Fails(Progress):
        def start(self, phase, rows, nbytes):
            self.left = rows - 10

        def advance(self, rows, nbytes):
            self.left -= rows
            if self.left < 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fr.convert(tmp_path / "in", tmp_path / "new" / "out", to=to(name), side="text", progress=Fails())
    assert os.listdir(tmp_path) == ["in"]
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fr.convert(tmp_path / "in", tmp_path / "there", to=to(name), progress=Fails())
    assert os.listdir(tmp_path / "there") == []


@pytest.mark.parametrize("name", ["npy", "parquet"])
def test_an_interrupt_right_after_a_file_has_its_name(tmp_path, monkeypatch, name):
    for i in range(3):
        corpus.pickle_file(tmp_path / "in" / f"x_{i}.pkl", items())
    real, renamed = os.replace, []

    def replace(old, new):
        real(old, new)
        renamed.append(new)
        if len(renamed) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        fr.convert(tmp_path / "in", tmp_path / "out", to=name)
    assert len(renamed) == 2
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("name", ["npy", "parquet", "lance"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_killed_conversion_left_is_taken_away_and_nothing_else(tmp_path, pickled, name, overwrite):
    out = tmp_path / "out"
    out.mkdir()
    left = out / f".text_3.{to(name)}.123.tmp"
    if name == "lance":
        (left / "data").mkdir(parents=True)
    else:
        left.write_bytes(b"half")
    (out / ".metadata_3.parquet.123.tmp").write_bytes(b"half")
    (out / ".mine.txt.123.tmp").write_bytes(b"mine")
    (out / ".fastrealign-run.jsonl").touch()
    fr.convert(pickled, out, to=name, overwrite=overwrite)
    hidden = sorted(path.name for path in out.iterdir() if path.name.startswith("."))
    # Beside .npy the metadata is one of the names that are written.
    assert hidden == [".metadata_3.parquet.123.tmp"] * (name != "npy") + [".mine.txt.123.tmp"]


@pytest.mark.parametrize("out", ["out", "out/x.npy"])
def test_two_conversions_into_one_place(tmp_path, pickled, out):
    class Second(Progress):
        def advance(self, rows, nbytes):
            with pytest.raises(fr.InputError, match="out: another fastrealign is writing there") as caught:
                fr.convert(pickled, tmp_path / out, to="npy", overwrite=True)
            refusals.append(str(caught.value))

    refusals: list[str] = []
    fr.convert(pickled, tmp_path / out, to="npy", progress=Second())
    assert refusals
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]


def test_the_journal_of_an_unfinished_run_stays(tmp_path, pickled):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".fastrealign-run.jsonl").write_bytes(b"a line\n")
    fr.convert(pickled, tmp_path / "out", to="npy")
    assert (tmp_path / "out" / ".fastrealign-run.jsonl").read_bytes() == b"a line\n"


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = corpus.pickle_file(tmp_path / "x.pkl", {"embeddings": X, "ids": Runs()})
    with pytest.raises(fr.InputError, match=r"posix\.mkdir"):
        fr.convert(path, tmp_path / "x.parquet")
    assert os.listdir(tmp_path) == ["x.pkl"]


def test_memory_is_bounded(tmp_path):
    rows = 60 * STEP_ROWS
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (rows, 256))
    x[:] = 1
    x.flush()
    for name in ("npy", "arrow"):
        tracemalloc.start()
        fr.convert(tmp_path / "x.npy", tmp_path / f"out.{name}", dtype="float16", fsync=False)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        tracemalloc.stop()


def test_the_command(tmp_path, pickled, capfd):
    argv = ["convert", str(pickled), "--out", str(tmp_path / "x.parquet")]
    assert main([*argv, "--dtype", "float16", "--json"]) == 0
    value = json.loads(capfd.readouterr().out)
    assert value["rows"] == 40 and value["files"] == ["x.parquet"] and value["columns"] == ["id", "caption"]
    assert value["bytes"] == (tmp_path / "x.parquet").stat().st_size
    assert main(argv) == 2
    assert capfd.readouterr().err == (
        f"fastrealign: error: {tmp_path}/x.parquet: exists; choose another name or replace it with --overwrite\n"
    )
    assert main([*argv, "--overwrite"]) == 0
    assert capfd.readouterr().out.startswith(
        f"converted 40 rows of {pickled}, 6 wide, to parquet\n  columns    id, caption"
    )
    assert (
        main(["convert", str(pickled), "--out", str(tmp_path / "root"), "--to", "npy", "--side", "text", "--quiet"])
        == 0
    )
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "root" / "text_emb" / "text_emb_0.npy").exists()


def test_without_pyarrow(tmp_path):
    path = corpus.pickle_file(tmp_path / "x.pkl", items())
    np.save(tmp_path / "x.npy", X)
    code = (
        "import sys; sys.modules['pyarrow'] = None; import fastrealign as fr\n"
        "fr.convert('x.npy', 'y.npy', dtype='float16')\n"
        "try: fr.convert('x.pkl', 'z.npy')\n"
        "except fr.InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=path.parent, capture_output=True, text=True, check=False)
    assert done.stdout == "x.pkl: a table needs pyarrow: pip install 'fastrealign[parquet]'\n", done.stderr
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "x.pkl", "y.npy"]


def test_an_aligned_pickle_converted_is_a_converted_pickle_aligned(tmp_path, pickled):
    image = corpus.rows(40, 2, dim=6)
    fr.align(pickled, image, tmp_path / "a")
    fr.convert(tmp_path / "a" / pickled.name, tmp_path / "a.parquet")
    fr.convert(pickled, tmp_path / "b.parquet")
    fr.align(tmp_path / "b.parquet", image, tmp_path / "b")
    assert table(tmp_path / "a.parquet").equals(table(tmp_path / "b" / "b.parquet"))
    assert pickle.loads((tmp_path / "a" / pickled.name).read_bytes())[7]["id"] == 7


def test_what_tensor_files_and_indexes_hold_for_each_row(tmp_path):
    from safetensors.numpy import save_file

    ids, scores, other = np.arange(40) + 7, np.linspace(0, 1, 40), np.ones((40, 2), np.float32)
    save_file({"embedding": X, "id": ids, "score": scores, "other": other}, tmp_path / "a.safetensors")
    done = fr.convert(tmp_path / "a.safetensors", tmp_path / "a.parquet")
    found = table(tmp_path / "a.parquet")
    assert found["id"].to_pylist() == ids.tolist() and found["score"].to_pylist() == scores.tolist()
    np.testing.assert_array_equal(np.stack(found["embedding"].to_numpy()), X)
    assert done.left_out == ["a.safetensors: other"]
    torch = pytest.importorskip("torch")
    torch.save({"embedding": torch.from_numpy(X), "id": ids.tolist(), "text": CAPTIONS, "epoch": 3}, tmp_path / "b.pt")
    done = fr.convert(tmp_path / "b.pt", tmp_path / "b.parquet")
    found = table(tmp_path / "b.parquet")
    assert found["id"].to_pylist() == ids.tolist() and found["text"].to_pylist() == CAPTIONS
    assert done.left_out == ["b.pt: epoch"]
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(6))
    index.add_with_ids(X, ids)
    faiss.write_index(index, str(tmp_path / "c.faiss"))
    fr.convert(tmp_path / "c.faiss", tmp_path / "c.parquet")
    assert table(tmp_path / "c.parquet")["id"].to_pylist() == ids.tolist()
