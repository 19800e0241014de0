"""Whole runs over formats that hold more than rows: ids, what is left out, and runs that stop and go on."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time

import corpus
import numpy as np
import pytest
from stops import StopAfter

import fastrealign as fr

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


def test_killed_it_goes_on(tmp_path, case):
    kind, source, _, _ = case
    np.save(tmp_path / "image.npy", corpus.rows(100, 2))
    code = (
        "import sys, os, signal, fastrealign as fr\n"
        "from fastrealign.io.journal import Journal\n"
        "add = Journal.add\n"
        "def killed(self, shard, sums):\n"
        "    add(self, shard, sums); self.flush()\n"
        "    if len(self.noted.shards) >= 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Journal.add = killed\n"
        "fr.align(*sys.argv[1:4], resume=True, threads=2)"
    )
    command = [sys.executable, "-c", code, source, tmp_path / "image.npy", tmp_path / "out"]
    assert subprocess.run(command, check=False).returncode == -9
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
