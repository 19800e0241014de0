"""Files through a map to rows of another width: every format keeps what is beside the rows, in any memory, resumed too."""

from __future__ import annotations

import json

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign import formats
from fastrealign.cli.main import main
from fastrealign.core.progress import Progress

pytestmark = pytest.mark.filterwarnings("ignore::fastrealign.FitWarning")
OLD = 16


def found_map(d_new, d_old=OLD):
    rng = np.random.default_rng(d_new)
    items = rng.standard_normal((200, 30))
    return fr.fit_map(items @ rng.standard_normal((30, d_old)), items @ rng.standard_normal((30, d_new)), held_out=0)


def read(path):
    return np.concatenate([np.array(rows) for rows in formats.open_source(path, side="source")])


def of_middle_axis(path, rows):
    np.save(path, rows[:, None])


def fixed_lists(path, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    pq.write_table(pa.table({"id": [f"i{i}" for i in range(len(rows))], "embedding": values}), path)


def tensors(path, rows):
    """Arrow's extension type for a tensor a row, which notes its shape."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"embedding": pa.FixedShapeTensorArray.from_numpy_ndarray(rows)}), path)


def with_ids(suffix):
    return lambda path, rows: corpus.TENSOR_FILES[suffix](path, rows, np.arange(len(rows)) + 7)


WRITERS = {
    **corpus.FORMATS,
    ".faiss": with_ids(".faiss"),
    ".lance": corpus.lance_folder,
    "-middle.npy": of_middle_axis,
    "-fixed.parquet": fixed_lists,
    "-tensor.parquet": tensors,
    "-ids.safetensors": with_ids(".safetensors"),
    "-ids.pt": with_ids(".pt"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_in_another_width(tmp_path, kind):
    rows = corpus.rows(300, 1, OLD)
    path = tmp_path / f"in/part{kind}"
    path.parent.mkdir()
    WRITERS[kind](path, rows)
    for d_new in (5, 40):
        found, out = found_map(d_new), tmp_path / f"out{d_new}"
        report = fr.apply_files(found, path, out, max_memory=300_000, threads=2, fsync=False)
        assert np.array_equal(read(out / path.name), found(rows))
        assert (report.rows_out, report.to_json()["gap_before"], report.to_json()["gap_left"]) == (300, None, None)
        assert fr.load(out / "alignment.safetensors").fingerprint == found.fingerprint
    last = out / path.name
    if kind in (".faiss", "-ids.safetensors", "-ids.pt"):
        there, ids = corpus.embeddings_and_ids(last)
        assert there.shape == (300, 40)
        assert ids == list(range(7, 307))
    elif kind == "-fixed.parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(last)
        assert table.schema.field("embedding").type.list_size == 40
        assert table.column("id").to_pylist()[-1] == "i299"
    elif kind == "-middle.npy":
        assert np.load(last).shape == (300, 1, 40)


def test_rows_without_a_direction_are_left_out_or_named(tmp_path):
    rows = corpus.rows(200, 1, OLD)
    rows[[3, 150]] = 0.0
    fixed_lists(tmp_path / "old.parquet", rows)
    found = found_map(9)
    with pytest.raises(fr.BadRowsError, match=r"old\.parquet: row 3 is all zeros"):
        fr.apply_files(found, tmp_path / "old.parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(fr.InputError, match="procrustes maps from a width of 16 to 9; choose 'error' or 'skip'"):
        fr.apply_files(found, tmp_path / "old.parquet", tmp_path / "out", bad_rows="keep")
    with pytest.raises(fr.InputError, match="takes none"):
        fr.apply_files(found, tmp_path / "old.parquet", tmp_path / "out", noise=1.0)
    report = fr.apply_files(found, tmp_path / "old.parquet", tmp_path / "out", bad_rows="skip")
    assert (report.rows_out, report.bad_rows) == (198, 2)
    assert np.array_equal(read(tmp_path / "out/old.parquet"), found(np.delete(rows, [3, 150], 0)))


def test_no_devices(tmp_path):
    pytest.importorskip("torch")
    np.save(tmp_path / "old.npy", corpus.rows(20, 1, OLD))
    with pytest.raises(fr.InputError, match="computed on the CPU"):
        fr.apply_files(found_map(9), tmp_path / "old.npy", tmp_path / "out", devices=["cpu"])


def test_a_hugging_face_dataset_says_its_new_width(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = corpus.rows(50, 1, OLD)
    features = datasets.Features({"embedding": datasets.Sequence(datasets.Value("float32"), length=OLD)})
    datasets.Dataset.from_dict({"embedding": rows}, features=features).save_to_disk(str(tmp_path / "set"))
    found = found_map(9)
    fr.apply_files(found, tmp_path / "set", tmp_path / "out")
    again = datasets.load_from_disk(str(tmp_path / "out"))
    assert again.features["embedding"].length == 9
    assert np.array_equal(np.array(again["embedding"], np.float32), found(rows))


def test_an_interrupted_run_is_resumed_to_the_same_bytes(tmp_path):
    old = corpus.npy_folder(tmp_path / "old", np.split(corpus.rows(6000, 1, OLD), 6))
    found = found_map(40)
    fr.apply_files(found, old, tmp_path / "whole", fsync=False)

    class Stopped(Progress):
        rows = 0

        def advance(self, rows, nbytes):
            self.rows += rows
            if self.rows >= 3000:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fr.apply_files(found, old, tmp_path / "out", threads=1, progress=Stopped(), fsync=False)
    assert 0 < len(list((tmp_path / "out").glob("part*.npy"))) < 6
    with pytest.raises(fr.InputError, match="cannot be resumed"):
        fr.apply_files(found_map(39), old, tmp_path / "out", resume=True)
    report = fr.apply_files(found, old, tmp_path / "out", resume=True, fsync=False)
    assert report.shards_before > 0
    assert corpus.tree(tmp_path / "whole") == corpus.tree(tmp_path / "out")
    assert "nothing to do" in str(fr.apply_files(found, old, tmp_path / "out", resume=True))


def test_the_command(tmp_path, capsys):
    rng = np.random.default_rng(0)
    items = rng.standard_normal((900, 12))
    old, new = items @ rng.standard_normal((12, OLD)), items @ rng.standard_normal((12, 10))
    np.save(tmp_path / "old.npy", old)
    np.save(tmp_path / "new.npy", new)
    np.save(tmp_path / "asked.npy", new + 0.1 * rng.standard_normal(new.shape))
    file = str(tmp_path / "map.safetensors")
    words = ["map", str(tmp_path / "old.npy"), str(tmp_path / "new.npy")]
    assert main([*words, "--pairs", "-o", file]) == 0
    said = capsys.readouterr().out
    expected = fr.fit_map(old, new)
    assert str(expected.kept) in said
    assert expected.kept.advice in said
    assert fr.load(file).fingerprint == expected.fingerprint
    assert main([*words, "-o", file]) == 2
    assert "exists; choose another name or replace it with --overwrite" in capsys.readouterr().err
    more = ["--method", "ridge", "--queries", str(tmp_path / "asked.npy"), "--seed", "3", "--overwrite", "--json"]
    assert main([*words, "--out", file, *more]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["kind"], value["dim"], value["dim_out"], value["matched"]) == ("map", OLD, 10, "rows")
    assert value["kept"]["re_embedded"] > 0.9
    assert main(["inspect", file]) == 0
    said = capsys.readouterr().out
    assert "a map from rows 16 wide to 10, ridge" in said
    assert "recall kept" in said
    assert main(["apply", file, words[1], "--out", str(tmp_path / "mapped.npy")]) == 0
    assert "mapped 900 rows" in capsys.readouterr().out
    assert np.array_equal(np.load(tmp_path / "mapped.npy"), fr.load(file)(old))
    assert main(["apply", file, words[2], "--out", str(tmp_path / "other.npy")]) == 2
    said = capsys.readouterr().err
    assert "rows are 10 wide, ridge was fitted on 16; as wide as what it gives: they may be mapped already" in said
    np.save(tmp_path / "third.npy", old[:, :7])
    assert main(["apply", file, str(tmp_path / "third.npy"), "--out", str(tmp_path / "other.npy")]) == 2
    said = capsys.readouterr().err
    assert "give rows 16 wide, or fit for theirs with fastrealign map" in said and said.count("\n") == 1
    assert main(["check", file, words[1]]) == 2
    assert "check needs the statistics of an alignment; give what fastrealign fit saves" in capsys.readouterr().err
    np.save(tmp_path / "few.npy", new[:600])
    assert main([*words[:2], str(tmp_path / "few.npy"), "-o", str(tmp_path / "x.safetensors")]) == 2
    assert "has 900 rows" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
