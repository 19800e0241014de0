"""Whole runs over formats that hold more than rows: ids, what is left out, and runs that stop and are resumed."""

from __future__ import annotations

import os
import pickle
import signal
import time

import corpus
import numpy as np
import processes
import pytest
from stops import StopAfter

import fastrealign as fr
from fastrealign.jobs.journal import Journal

FORMATS = ["parquet", "arrow", "hf", "lance", "pickle"]
SHARDS, EACH = 5, 40


def write(folder, kind, parts):
    """A source of the kind, with ids that say where each row came from."""
    first = 0
    for i, part in enumerate(parts):
        ids = [f"row {j}" for j in range(first, first + len(part))]
        first += len(part)
        if kind == "pickle":
            items = [{"id": name, "embed": row} for name, row in zip(ids, part, strict=True)]
            corpus.pickle_file(folder / f"part_{i}.pkl", items)
        elif kind == "lance":
            corpus.lance_folder(folder / f"part_{i}.lance", part, id=ids)
        elif kind == "parquet":
            corpus.parquet_file(folder / f"part_{i}.parquet", part, id=ids)
        elif kind == "arrow":
            corpus.arrow_file(folder / f"part_{i}.arrow", part, id=ids)
    if kind == "hf":
        datasets = pytest.importorskip("datasets")
        ids = [f"row {j}" for j in range(sum(map(len, parts)))]
        whole = datasets.Dataset.from_dict({"id": ids, "embedding": np.concatenate(parts)})
        whole = whole.cast_column("embedding", datasets.Sequence(datasets.Value("float32")))
        whole.save_to_disk(folder, num_shards=len(parts))
    return folder


def read(folder, kind):
    """(ids, rows) of an output, by the library that the format belongs to."""
    ids, rows = [], []

    def add(table):
        ids.extend(table["id"].to_pylist())
        rows.extend(table["embedding"].to_pylist())

    for i in range(SHARDS):
        if kind == "pickle":
            items = pickle.loads((folder / f"part_{i}.pkl").read_bytes())
            ids += [item["id"] for item in items]
            rows += [item["embed"] for item in items]
        elif kind == "lance":
            import lance

            add(lance.dataset(folder / f"part_{i}.lance").to_table())
        elif kind == "parquet":
            import pyarrow.parquet as pq

            add(pq.read_table(folder / f"part_{i}.parquet"))
        elif kind == "arrow":
            import pyarrow as pa

            with pa.OSFile(str(folder / f"part_{i}.arrow")) as file:
                add(pa.ipc.open_stream(file).read_all())
    if kind == "hf":
        import datasets

        whole = datasets.load_from_disk(str(folder))
        ids, rows = whole["id"][:], whole["embedding"][:]
    return ids, np.array(rows, dtype=np.float32)


def tree(folder, kind):
    """What a folder holds. Lance gives its files random names: of its datasets, the rows."""
    files = corpus.tree(folder)
    if kind != "lance":
        return files
    import lance

    at = sorted(path for path in folder.rglob("*.lance") if path.is_dir())
    own = {name: data for name, data in files.items() if ".lance/" not in name and name != "manifest.json"}
    return {**own, **{path.name: lance.dataset(path).to_table().to_pylist() for path in at}}


@pytest.fixture(params=FORMATS)
def case(request, tmp_path):
    """(kind, source, rows, target): a source of five shards in each format."""
    if request.param != "pickle":
        pytest.importorskip("pyarrow")
    if request.param == "lance":
        pytest.importorskip("lance")
    text = corpus.rows(SHARDS * EACH, 1)
    source = write(tmp_path / "text", request.param, np.split(text, SHARDS))
    return request.param, source, text, corpus.rows(100, 2)


def test_rows_are_mapped_and_ids_stay_in_order(tmp_path, case):
    kind, source, text, image = case
    report = fr.align(source, image, tmp_path / "out")
    ids, rows = read(tmp_path / "out", kind)
    assert ids == [f"row {i}" for i in range(len(text))]
    assert np.array_equal(rows, report.alignment(text))
    assert fr.align(source, image, tmp_path / "out", resume=True).nothing_to_do


def test_rows_without_a_direction_take_their_ids_along(tmp_path, case):
    kind, _, text, image = case
    text[[3, 77, 78]] = [[0], [np.nan], [np.inf]]
    source = write(tmp_path / "bad", kind, np.split(text, SHARDS))
    report = fr.align(source, image, tmp_path / "out", bad_rows="skip", dtype="float64")
    ids, rows = read(tmp_path / "out", kind)
    good = np.delete(np.arange(len(text)), [3, 77, 78])
    assert ids == [f"row {i}" for i in good]
    assert np.array_equal(rows, report.alignment(text[good], dtype="float64").astype(np.float32))
    assert (report.rows_out, report.bad_rows) == (len(good), 3)


def test_resume_ends_in_the_same(tmp_path, case):
    kind, source, _, image = case
    with pytest.raises(fr.FastRealignError, match="2 of 5 shards are complete"):
        fr.align(source, image, tmp_path / "out", threads=1, progress=StopAfter(2 * EACH))
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.name.endswith(".tmp")]
    assert fr.align(source, image, tmp_path / "out", resume=True).shards_before == 2
    fr.align(source, image, tmp_path / "whole")
    assert tree(tmp_path / "out", kind) == tree(tmp_path / "whole", kind)


def _killed_after_two_shards(source, image, out):
    add = Journal.add

    def killed(self, shard, sums):
        add(self, shard, sums)
        self.flush()
        if len(self.noted.shards) >= 2:
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.add = killed
    fr.align(source, image, out, resume=True, threads=2)


def test_killed_it_resumes(tmp_path, case):
    kind, source, _, _ = case
    np.save(tmp_path / "image.npy", corpus.rows(100, 2))
    run = processes.started(_killed_after_two_shards, source, tmp_path / "image.npy", tmp_path / "out")
    assert processes.ended(run) == [-signal.SIGKILL]
    assert fr.align(source, tmp_path / "image.npy", tmp_path / "out", resume=True).shards_before >= 2
    fr.align(source, tmp_path / "image.npy", tmp_path / "whole")
    assert tree(tmp_path / "out", kind) == tree(tmp_path / "whole", kind)


def test_overwrite_replaces_a_run(tmp_path, case):
    kind, source, text, image = case
    fr.align(source, image, tmp_path / "out")
    report = fr.align(source, image, tmp_path / "out", overwrite=True, centroid="exact")
    assert np.array_equal(read(tmp_path / "out", kind)[1], report.alignment(text))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(fr.InputError, match=r"holds notes\.txt"):
        fr.align(source, image, tmp_path / "out", overwrite=True)


def test_a_changed_input_is_named(tmp_path, case):
    kind, source, _, image = case
    with pytest.raises(fr.FastRealignError, match="2 of 5"):
        fr.align(source, image, tmp_path / "out", threads=1, progress=StopAfter(2 * EACH))
    time.sleep(0.01)
    if kind == "lance":
        import lance

        lance.dataset(source / "part_4.lance").delete("id = 'row 199'")
    else:
        path = max(path for path in source.iterdir() if path.suffix != ".json")
        path.write_bytes(path.read_bytes())
    with pytest.raises(fr.InputError, match=r"the source .* was changed"):
        fr.align(source, image, tmp_path / "out", resume=True)


TABLES = ["parquet", "arrow", "lance"]
LOST = {0: None, 7: None, 8: [None] * corpus.DIM, 9: [1.0, None, *[2.0] * (corpus.DIM - 2)], 77: None, 199: None}


@pytest.fixture(params=TABLES)
def with_nulls(request, tmp_path):
    """(kind, source of five shards, its rows as lists of which some are null, those that are there, target)."""
    pytest.importorskip("lance" if request.param == "lance" else "pyarrow")
    text = corpus.rows(SHARDS * EACH, 1)
    values = [LOST.get(i, row.tolist()) for i, row in enumerate(text)]
    parts = [values[i : i + EACH] for i in range(0, len(values), EACH)]
    good = [i for i in range(len(text)) if i not in LOST]
    return request.param, write(tmp_path / "text", request.param, parts), values, text[good], corpus.rows(100, 2)


def values_of(folder, kind, name="embedding"):
    """(ids, embeddings as lists) of an output."""
    if kind == "lance":
        import lance

        tables = [lance.dataset(folder / f"part_{i}.lance").to_table() for i in range(SHARDS)]
    elif kind == "parquet":
        import pyarrow.parquet as pq

        tables = [pq.read_table(folder / f"part_{i}.parquet") for i in range(SHARDS)]
    else:
        import pyarrow as pa

        tables = [pa.ipc.open_stream((folder / f"part_{i}.arrow").read_bytes()).read_all() for i in range(SHARDS)]
    return tuple([value for one in tables for value in one[column].to_pylist()] for column in ("id", name))


@pytest.mark.parametrize("how", [{}, {"one_pass": True}, {"tol": 1e-3}, {"centroid": "exact"}, {"threads": 1}], ids=str)
def test_null_embeddings_are_left_out_as_rows_of_nan_are(tmp_path, with_nulls, how):
    kind, source, values, good, image = with_nulls
    report = fr.align(source, image, tmp_path / "out", bad_rows="skip", **how)
    ids, rows = read(tmp_path / "out", kind)
    assert ids == [f"row {i}" for i in range(len(values)) if i not in LOST]
    assert np.array_equal(rows, report.alignment(good))
    assert (report.rows_in, report.rows_out, report.bad_rows) == (len(values), len(good), len(LOST))
    assert "row 0 (null) has a NaN or Inf" in report.first_bad[0]
    if not how:
        assert np.array_equal(report.alignment.b, fr.fit(good, image).b)


def test_null_embeddings_are_kept_as_they_came(tmp_path, with_nulls):
    kind, source, values, good, image = with_nulls
    report = fr.align(source, image, tmp_path / "out", bad_rows="keep")
    ids, rows = values_of(tmp_path / "out", kind)
    assert ids == [f"row {i}" for i in range(len(values))]
    assert {i: row for i, row in enumerate(rows) if row is None or None in row} == LOST
    assert np.array_equal([row for i, row in enumerate(rows) if i not in LOST], report.alignment(good))


def test_null_embeddings_stop_other_runs_with_what_to_do(tmp_path, with_nulls):
    kind, source, _, good, image = with_nulls
    for call in (lambda: fr.align(source, image, tmp_path / "out"), lambda: fr.fit(source, image)):
        with pytest.raises(fr.BadRowsError, match=rf"part_0\.{kind}: row 0 \(null\) .*bad_rows='skip'"):
            call()
    alignment = fr.fit(source, image, bad_rows="skip")
    assert alignment.count_source == len(good)
    assert fr.check(alignment, source, bad_rows="skip").holds
    assert fr.update(alignment, source=source, bad_rows="skip").count_source == 2 * len(good)
    assert fr.apply_files(alignment, source, tmp_path / "applied", bad_rows="skip").rows_out == len(good)


def test_null_embeddings_resumed(tmp_path, with_nulls):
    kind, source, _, _, image = with_nulls
    for mode in ("skip", "keep"):
        with pytest.raises(fr.FastRealignError, match="2 of 5 shards are complete"):
            fr.align(source, image, tmp_path / mode, threads=1, progress=StopAfter(2 * EACH), bad_rows=mode)
        fr.align(source, image, tmp_path / mode, resume=True, bad_rows=mode)
        fr.align(source, image, tmp_path / f"whole {mode}", bad_rows=mode)
        assert values_of(tmp_path / mode, kind) == values_of(tmp_path / f"whole {mode}", kind)


@pytest.mark.parametrize("to", ["npy", "parquet", "arrow", "lance"])
def test_converting_leaves_null_embeddings_out(tmp_path, with_nulls, to):
    _, source, values, good, _ = with_nulls
    if to == "lance":
        pytest.importorskip("lance")
    done = fr.convert(source, tmp_path / "out", to=to)
    assert (done.rows, done.skipped) == (len(good), len(LOST))
    ids = [f"row {i}" for i in range(len(values)) if i not in LOST]
    if to == "npy":
        import pyarrow.parquet as pq

        named = [pq.read_table(tmp_path / "out" / f"metadata_{i}.parquet")["id"].to_pylist() for i in range(SHARDS)]
        named = [name for part in named for name in part]
        found = named, np.concatenate([np.load(tmp_path / "out" / f"part_{i}.npy") for i in range(SHARDS)])
    else:
        found = values_of(tmp_path / "out", to)
    assert list(found[0]) == ids and np.array_equal(found[1], good)


def test_looked_up_by_id_a_null_embedding_is_named(with_nulls):
    from fastrealign.data.lookup import open_embeddings

    embeddings = open_embeddings(with_nulls[1])
    assert np.array_equal(embeddings.rows(["row 1", "row 198"]), with_nulls[3][[0, -1]])
    with pytest.raises(fr.InputError, match=r"row 37 \(null\) \(id 'row 77'\)"):
        embeddings.rows(["row 77"])


def blanks():
    import pyarrow as pa

    return {
        "null": pa.nulls(3),
        "lists of null": pa.array([None, [], [None]], pa.list_(pa.null())),
        "numbers": pa.array([None] * 3, pa.float64()),
        "text": pa.array([None] * 3, pa.string()),
        "lists of double": pa.array([None] * 3, pa.list_(pa.float64())),
        "no rows": pa.array([], pa.string()),
        "no rows of double": pa.array([], pa.float64()),
        "no rows, whole numbers": pa.array([], pa.list_(pa.int64())),
    }


@pytest.mark.parametrize("name", ["embedding", "clip"])
@pytest.mark.parametrize("mode", ["skip", "keep"])
def test_shards_that_hold_nothing_stop_no_set_and_go_back_as_they_are(tmp_path, name, mode):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    text, image = corpus.rows(40, 1), corpus.rows(50, 2)
    (tmp_path / "in").mkdir()
    for i, (what, column) in enumerate({**blanks(), "rows": None}.items()):
        column = pa.array(text.tolist(), pa.list_(pa.float32())) if column is None else column
        columns = {
            "id": [what] * len(column),
            name: column,
            "box": pa.array([[1.0, 2.0]] * len(column), pa.list_(pa.float32())),
        }
        if name == "clip" and what == "rows":
            del columns["box"]
        pq.write_table(pa.table(columns), tmp_path / "in" / f"{i}.parquet")
    pq.write_table(pa.table({"other": pa.array([], pa.string())}), tmp_path / "in" / "99.parquet")
    report = fr.align(tmp_path / "in", image, tmp_path / "out", bad_rows=mode)
    assert (report.rows_out, report.bad_rows) == (40 if mode == "skip" else 55, 15)
    assert np.array_equal(report.alignment.b, fr.fit(text, image).b)
    for path in (tmp_path / "in").iterdir():
        before, after = pq.read_table(path), pq.read_table(tmp_path / "out" / path.name)
        assert after.schema.equals(before.schema, check_metadata=True)
        if path.name != "8.parquet":
            assert after.to_pylist() == (before.to_pylist() if mode == "keep" else [])
    assert fr.convert(tmp_path / "in", tmp_path / "converted").rows == 40


def test_embeddings_of_other_names_in_other_shards_are_named(tmp_path):
    pytest.importorskip("pyarrow")
    for name, part in {"clip": "a", "box": "b"}.items():
        corpus.parquet_file(tmp_path / "in" / f"{part}.parquet", corpus.rows(9, 1), name)
    with pytest.raises(
        fr.InputError, match=r"b\.parquet: holds embeddings as 'box', .*a\.parquet as 'clip'; name the one"
    ):
        fr.fit(tmp_path / "in", corpus.rows(9, 2))
    for name, part in {"embedding": "a", "emb": "b"}.items():
        corpus.parquet_file(tmp_path / "in" / f"{part}.parquet", corpus.rows(9, 1), name)
    with pytest.warns(fr.FitWarning, match="target: 9 rows"):
        assert fr.fit(tmp_path / "in", corpus.rows(9, 2)).count_source == 18


def ray_like(pickled):
    """Ray's type of tensors as it is registered, or what it leaves in a file where it is not."""
    import json
    import pickle as standard

    import pyarrow as pa

    class RayLike(pa.ExtensionType):
        def __init__(self, shape, value_type):
            self.shape = tuple(shape)
            super().__init__(pa.list_(value_type), "ray.data.arrow_tensor")

        def __arrow_ext_serialize__(self):
            return standard.dumps(self.shape, 4) if pickled else json.dumps(self.shape).encode()

        @classmethod
        def __arrow_ext_deserialize__(cls, storage, text):
            return cls(standard.loads(text) if pickled else json.loads(text), storage.value_type)

    return RayLike


def tensors(kind, x):
    import pyarrow as pa

    d, flat = x.shape[1], pa.array(x.tolist(), pa.list_(pa.float32()))
    if kind == "fixed-shape":
        return pa.FixedShapeTensorArray.from_numpy_ndarray(x)
    if kind == "fixed-shape (1, d)":
        return pa.FixedShapeTensorArray.from_numpy_ndarray(x[:, None])
    if kind in ("ray", "ray, pickled"):
        return pa.ExtensionArray.from_storage(ray_like(kind != "ray")((d,), pa.float32()), flat)
    if kind == "lists of one list":
        return pa.array(x[:, None].tolist(), pa.list_(pa.list_(pa.float32())))
    if kind == "one list of a fixed size":
        return pa.array(x[:, None].tolist(), pa.list_(pa.list_(pa.float32(), d), 1))
    if kind == "views":
        return pa.array(x.tolist(), pa.list_view(pa.float32()))
    if kind == "large views":
        return pa.array(x.tolist(), pa.large_list_view(pa.float32()))
    features = pytest.importorskip("datasets").features
    storage = pa.array(x[:, None].tolist(), pa.list_(pa.list_(pa.float32())))
    return pa.ExtensionArray.from_storage(features.features.Array2DExtensionType((1, d), "float32"), storage)


KINDS = [
    "fixed-shape",
    "fixed-shape (1, d)",
    "ray",
    "ray, pickled",
    "lists of one list",
    "one list of a fixed size",
    "views",
    "large views",
    "Array2D",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("registered", [True, False], ids=["registered", "not registered"])
def test_tensors_of_one_vector_a_row(tmp_path, kind, suffix, registered):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    text, image = corpus.rows(60, 1), corpus.rows(70, 2)
    text[5] = np.nan
    column = tensors(kind, text)
    lost = np.ones(60, bool)
    lost[[5, 20]] = False
    if "views" in kind:  # Arrow makes no nulls of these
        lost[20] = True
    else:
        storage = getattr(column, "storage", column)
        storage = pa.concat_arrays([storage[:20], pa.nulls(1, storage.type), storage[21:]])
        column = storage if storage.type == column.type else pa.ExtensionArray.from_storage(column.type, storage)
    table = pa.table({"id": range(60), "embedding": column, "box": pa.array([[1.0]] * 60)})
    path, name = tmp_path / f"x.{suffix}", getattr(column.type, "extension_name", "")
    if suffix == "parquet":
        try:
            pq.write_table(table, path, row_group_size=17)
        except pa.ArrowNotImplementedError:
            pytest.skip("this release of pyarrow writes no missing tensors and no views to Parquet, such as 16")
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=17)

    def loaded(path):
        return pq.read_table(path) if suffix == "parquet" else pa.ipc.open_file(path.read_bytes()).read_all()

    try:
        loaded(path)
    except pa.ArrowInvalid:
        assert suffix == "parquet" and kind.startswith("fixed-shape")
        pytest.skip("this release of pyarrow, such as 25, cannot read missing tensors that it wrote")
    registers = registered and name.startswith("ray")  # Arrow's own are, and those of datasets once that is imported
    if registers:
        pa.register_extension_type(column.type)
    try:
        before = loaded(path)
        report = fr.align(path, image, tmp_path / f"y.{suffix}", bad_rows="skip")
        after = loaded(tmp_path / f"y.{suffix}")
        assert after.schema.equals(before.schema, check_metadata=True)
        assert after["id"].to_pylist() == list(np.flatnonzero(lost))
        rows = np.array(after["embedding"].to_pylist(), np.float32).reshape(-1, text.shape[1])
        assert np.array_equal(rows, report.alignment(text[lost]))
        half = fr.align(path, image, tmp_path / f"half.{suffix}", bad_rows="keep", dtype="float16")
        written = loaded(tmp_path / f"half.{suffix}")["embedding"]
        if kind == "Array2D":  # some releases of datasets make NaN of what is missing
            written = written.combine_chunks().storage
        written = written.to_pylist()
        assert [i for i, row in enumerate(written) if row is None] == ([] if lost[20] else [20])
        rows = np.array([written[i] for i in np.flatnonzero(lost)], np.float32).reshape(-1, text.shape[1])
        assert np.array_equal(rows, half.alignment(text[lost], dtype="float16").astype(np.float32))
    finally:
        if registers:
            pa.unregister_extension_type(name)


@pytest.mark.parametrize("shape", [(2, 8), (16, 1)])
def test_tensors_of_several_vectors_a_row_are_refused(tmp_path, shape):
    pa = pytest.importorskip("pyarrow")
    x = corpus.rows(60, 1).reshape(60, *shape)
    flat = pa.array(x.reshape(60, -1).tolist(), pa.list_(pa.float32()))
    boxes = pa.array([[1.0, 2.0]] * 60)
    for column in (
        pa.FixedShapeTensorArray.from_numpy_ndarray(x),
        pa.ExtensionArray.from_storage(ray_like(False)(shape, pa.float32()), flat),
        pa.ExtensionArray.from_storage(ray_like(True)(shape, pa.float32()), flat),
        pa.array(x.tolist()),
    ):
        path = tmp_path / "x.parquet"
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"embedding": column, "box": boxes}), path)
        with pytest.raises(fr.InputError, match=r"expected .*one embedding a row; if 'box' \(.*\) .* column='box'"):
            fr.fit(path, corpus.rows(9, 2))


def test_types_of_hugging_face_are_known_without_datasets(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from fastrealign.formats.arrow_columns import fit
    from fastrealign.formats.arrow_schema import retyped
    from fastrealign.formats.choose_column import Fit

    def field(shape, name="Array2DExtensionType"):
        named = {"ARROW:extension:name": f"datasets.features.features.{name}"}
        kind = pa.list_(pa.list_(pa.float32()))
        return pa.field("x", kind, metadata={**named, "ARROW:extension:metadata": f'[{shape}, "float32"]'})

    assert [fit(field(shape)) for shape in ([1, 16], [2, 8], [16, 1])] == [Fit.TAKEN, Fit.SHAPED, Fit.SHAPED]
    again = retyped(pa.schema([field([1, 16])]), "x", np.dtype(np.float16)).field("x")
    assert again.metadata[b"ARROW:extension:metadata"] == b'[[1, 16], "float16"]'
    assert again.type == pa.list_(pa.list_(pa.float16()))


def test_every_summary_says_which_column_was_taken(tmp_path, capsys):
    import json

    from safetensors.numpy import save_file

    from fastrealign.cli import main as cli

    pytest.importorskip("pyarrow")
    source = corpus.parquet_file(tmp_path / "x.parquet", corpus.rows(40, 1), "clip_text", id=list(range(40)))
    target = tmp_path / "y.safetensors"
    save_file({"clip_image": corpus.rows(50, 2), "ids": np.arange(50)}, target)
    out, saved = tmp_path / "out", tmp_path / "a.safetensors"
    sides = {"source": "clip_text", "target": "clip_image"}

    def shown(*argv):
        """What a command says, as text and as JSON; its output is replaced."""
        again = ["--overwrite"] if argv[0] not in ("inspect", "check") else []
        assert cli.main([str(one) for one in argv]) in (0, 3)
        text = capsys.readouterr().out
        assert cli.main([*(str(one) for one in argv), *again, "--json"]) in (0, 3)
        return text, json.loads(capsys.readouterr().out)

    both = "column     'clip_text' of the source, 'clip_image' of the target"
    text, value = shown("align", source, "--target", target, "--out", out)
    assert both in text and value["columns"] == sides
    assert json.loads((out / "manifest.json").read_text())["columns"] == sides
    assert fr.align(source, target, out, resume=True).columns == sides
    text, value = shown("inspect", out)
    assert "'clip_text' of the source, 'clip_image' of the target" in text and value["columns"] == sides
    text, value = shown("fit", source, "--target", target, "--out", saved)
    assert ("of 'clip_text'" in text, "of 'clip_image'" in text) == (True, True)
    assert (value["column_source"], value["column_target"]) == tuple(sides.values())
    assert fr.load(saved).column_target == "clip_image"
    assert fr.update(saved, source).column_source == "clip_text"
    text, value = shown("apply", saved, source, "--out", tmp_path / "applied")
    assert "'clip_text' of the source" in text and value["columns"] == {"source": "clip_text"}
    text, value = shown("check", saved, source)
    assert "rows read of 'clip_text'" in text and value["source"]["column"] == "clip_text"
    text, value = shown("convert", source, "--to", "npy", "--out", tmp_path / "npy")
    assert "from 'clip_text'" in text and value["column"] == "clip_text"
    text, value = shown("inspect", source)
    assert "column         'clip_text'" in text and value["column"] == "clip_text"
    text, value = shown("inspect", tmp_path / "npy")
    assert "column" not in text and value["column"] is None
