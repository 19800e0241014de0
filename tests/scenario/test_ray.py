"""fastrealign on Ray: a cluster of one machine, real actors; the bytes of one process."""

from __future__ import annotations

import contextlib
import threading

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core.errors import BadRowsError, InputError

ray = pytest.importorskip("ray")
pa = pytest.importorskip("pyarrow")
pytest.importorskip("pandas")


@pytest.fixture(scope="module", autouse=True)
def types_of_arrow():
    """Importing ray.data registers types for the whole process, and other tests define some of the same names.

    For the same reason no test imports fastrealign.jobs.ray at the top: `fr.ray` imports it when it is used.
    """
    yield
    for kind in ("tensor", "tensor_v2", "variable_shaped_tensor", "pickled_object"):
        with contextlib.suppress(KeyError):
            pa.unregister_extension_type(f"ray.data.arrow_{kind}")


@pytest.fixture(scope="module")
def cluster():
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # it would be sent over a network
    # Not in runtime_env: its actors would be processes of their own beside those that Ray starts with the cluster.
    patch.setenv("PYTHONPATH", str(fr.ray.__file__).removesuffix("/fastrealign/jobs/ray.py"))
    ray.init(
        num_cpus=2,
        _node_ip_address="127.0.0.1",
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()
    patch.undo()


@pytest.fixture
def folders(tmp_path):
    text = corpus.npy_folder(tmp_path / "text", [corpus.rows(100 + 30 * i, i, dim=16) for i in range(6)])
    image = corpus.npy_folder(tmp_path / "image", [corpus.rows(200, 50, dim=16)])
    return text, image


def test_actors_write_what_one_process_writes(cluster, folders, tmp_path):
    text, image = folders
    spoiled = np.load(text / "part_3.npy")
    spoiled[7] = 0
    np.save(text / "part_3.npy", spoiled)
    options = {"bad_rows": "skip", "dtype": "float16"}
    report = fr.ray.align(text, image, tmp_path / "out", actors=2, **options)
    expected = fr.align(text, image, tmp_path / "alone", **options)
    assert corpus.tree(tmp_path / "out") == corpus.tree(tmp_path / "alone")
    assert report.first_bad == expected.first_bad and report.bad_rows == 1
    assert report.rows_now == report.rows_in
    assert fr.ray.align(text, image, tmp_path / "out", resume=True, **options).nothing_to_do


def test_errors_of_actors_are_those_of_one_process(cluster, folders, tmp_path):
    text, image = folders
    alignment = fr.fit(text, image)
    rows = np.load(text / "part_4.npy")
    rows[3] = np.nan
    np.save(text / "part_4.npy", rows)
    with pytest.raises(BadRowsError, match=r"part_4\.npy: row 3 has a NaN or Inf") as caught:
        fr.ray.apply_files(alignment, text, tmp_path / "out", actors=1)
    # Ray 2.30 leaves its executor to whatever holds the dataset, such as the traceback.
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("StreamingExecutor")]
    # What was complete is kept, and one process continues from there.
    np.save(text / "part_4.npy", np.where(np.isfinite(rows), rows, 1.0).astype(np.float32))
    report = fr.apply_files(alignment, text, tmp_path / "out", resume="add resume=True" in str(caught.value))
    fr.apply_files(alignment, text, tmp_path / "alone")
    assert corpus.tree(tmp_path / "out") == corpus.tree(tmp_path / "alone")
    assert report.shards == 6


def test_shards_with_metadata_and_other_columns_by_a_method_that_numbers_rows(cluster, tmp_path):
    """C3: rows have their numbers over all shards, whichever actor writes them."""
    parts = [corpus.rows(50 + 10 * i, i, dim=16) for i in range(3)]
    corpus.npy_folder(tmp_path / "in" / "text_emb", parts, "text_emb")
    (tmp_path / "in" / "metadata").mkdir()
    pa.parquet = pytest.importorskip("pyarrow.parquet")
    for i, part in enumerate(parts):
        pa.parquet.write_table(
            pa.table({"id": np.arange(len(part))}), tmp_path / "in" / "metadata" / f"metadata_{i}.parquet"
        )
    method = fr.fit(np.concatenate(parts), corpus.rows(80, 9, dim=16), method="c3")
    fr.ray.apply_files(method, tmp_path / "in", tmp_path / "out", actors=1, seed=3)
    fr.apply_files(method, tmp_path / "in", tmp_path / "alone", seed=3)
    assert corpus.tree(tmp_path / "out") == corpus.tree(tmp_path / "alone")
    assert sum("metadata_" in name for name in corpus.tree(tmp_path / "out")) == 3


def test_embeddings_in_a_dataset(cluster, folders):
    """`test_a_batch_alone` has the other formats of a batch."""
    text, image = folders
    alignment = fr.fit(text, image)
    rows = corpus.rows(120, 3, dim=16)
    ds = ray.data.from_items([{"id": i, "embedding": row} for i, row in enumerate(rows)], override_num_blocks=3)
    mapped = ds.map_batches(
        fr.ray.AlignBatch, fn_constructor_args=[alignment], concurrency=1, batch_format="pandas", batch_size=50
    )
    out = sorted(mapped.take_all(), key=lambda row: row["id"])
    assert [row["id"] for row in out] == list(range(120))
    np.testing.assert_array_equal(np.stack([row["embedding"] for row in out]), alignment(rows))


def test_a_batch_alone(folders, tmp_path):
    """Without a cluster: what AlignBatch does with the kinds of batches, and what it refuses."""
    import pandas as pd

    text, image = folders
    alignment = fr.fit(text, image)
    alignment.save(tmp_path / "a.safetensors")
    rows = corpus.rows(9, 3, dim=16)
    align = fr.ray.AlignBatch(tmp_path / "a.safetensors", out="aligned", dtype="float16")
    expected = alignment(rows, dtype="float16")
    table = pa.table({"id": range(9), "embedding": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 16)})
    lists = table.set_column(1, "embedding", table["embedding"].cast(pa.list_(pa.float32())))
    for batch in (
        {"id": np.arange(9), "embedding": rows},
        pd.DataFrame({"id": range(9), "embedding": list(rows)}),
        table,
        lists,
    ):
        out = align(batch)
        assert type(out) is type(batch)
        column = out["aligned"]
        column = (
            column.combine_chunks().flatten().to_numpy().reshape(9, 16) if hasattr(column, "combine_chunks") else column
        )
        np.testing.assert_array_equal(np.stack(column), expected)
        np.testing.assert_array_equal(np.asarray(out["id"]), range(9))
    on_cpu = fr.ray.AlignBatch(alignment, device="cpu")({"embedding": rows})["embedding"]
    np.testing.assert_array_equal(on_cpu, alignment(rows))
    spoiled = rows.copy()
    spoiled[4] = 0
    uneven = np.empty(2, object)
    uneven[:] = [rows[0], rows[1, :5]]
    for call, says in (
        (lambda: align({"vector": rows}), "the batch has no column 'embedding', it has vector; pass column="),
        (lambda: align({"embedding": rows[0]}), r"column 'embedding': shape \(16,\), expected one vector a row"),
        (lambda: align({"embedding": uneven}), "vectors of different widths"),
        (lambda: align({"embedding": spoiled}), "column 'embedding' of a batch: row 4 is all zeros"),
        (lambda: align(pa.table({"embedding": [[1.0], None]})), "expected 16 values in every row"),
        (lambda: fr.ray.AlignBatch(alignment, bad_rows="skip"), "a batch keeps its rows"),
        (
            lambda: fr.ray.AlignBatch(fr.fit(text, image, method="c3")),
            "c3 numbers rows, and a batch does not say where",
        ),
        (lambda: fr.ray.align(text, image, tmp_path / "o", method="c3", devices=["cpu"]), "c3 is computed on the CPU"),
        (
            lambda: fr.ray.align(text, image, tmp_path / "o", actors=0),
            "actors=0: expected a whole number of at least 1",
        ),
        (lambda: fr.ray.align(text, image, tmp_path / "o", group="world"), "choose one"),
    ):
        with pytest.raises(InputError, match=says):
            call()
    anchor = fr.fit(text, image, method="anchor")
    np.testing.assert_array_equal(fr.ray.AlignBatch(anchor)({"embedding": rows})["embedding"], anchor(rows))
    kept = fr.ray.AlignBatch(alignment, bad_rows="keep")({"embedding": spoiled})["embedding"]
    np.testing.assert_array_equal(kept[4], spoiled[4])


def test_shards_that_cannot_be_read_are_left_out(cluster, folders, tmp_path, monkeypatch):
    """In one block with those that can: what actors say of either has one schema."""
    text, image = folders
    alignment = fr.fit(text, image)
    monkeypatch.setattr("fastrealign.jobs.ray_writer._BLOCKS", 1)
    files = fr.formats.open_source(text, side="source")
    (text / "part_2.npy").write_bytes(b"gone since it was opened")
    with pytest.raises(InputError, match=r"part_2\.npy: is not a \.npy file"):
        fr.ray.apply_files(alignment, files, tmp_path / "stopped", actors=1)
    report = fr.ray.apply_files(alignment, files, tmp_path / "out", actors=1, bad_shards="skip")
    assert report.shards == 5 and "part_2.npy" in report.left_out[0]


@pytest.mark.slow
def test_noise(cluster, folders, tmp_path):
    """`test_shards_with_metadata_and_other_columns_by_a_method_that_numbers_rows` has the noise of C3."""
    text, image = folders
    method = fr.fit(text, image, method="bca")
    fr.ray.apply_files(method, text, tmp_path / "out", actors=1, noise=1.0, seed=3)
    fr.apply_files(method, text, tmp_path / "alone", noise=1.0, seed=3)
    assert corpus.tree(tmp_path / "out") == corpus.tree(tmp_path / "alone")


def test_a_shard_that_changes_during_the_run(cluster, folders, tmp_path, monkeypatch):
    text, image = folders
    alignment = fr.fit(text, image)
    from fastrealign.jobs import ray_writer

    run = ray_writer.RayWriter.run

    def change_and_run(self, progress):
        rows = np.load(text / "part_2.npy")
        np.save(text / "part_2.npy", rows[::-1])
        run(self, progress)

    monkeypatch.setattr(ray_writer.RayWriter, "run", change_and_run)
    with pytest.raises(InputError, match=r"part_2\.npy: changed while it was read: do not write to the input"):
        fr.ray.apply_files(alignment, text, tmp_path / "out", actors=1)
    assert not (tmp_path / "out" / "part_2.npy").exists()
