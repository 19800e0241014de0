"""Files to files: what is written, in every format, for every way of treating bad rows."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import warnings

import corpus
import ml_dtypes
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.core import reference
from fastrealign.data.row_source import PIECE_BYTES
from fastrealign.data.workers import Host
from fastrealign.methods.publishing import card


def test_aligns_shard_for_shard_as_the_reference_does(tmp_path):
    text, image = corpus.two_sides(tmp_path)
    report = fr.align(text, image, tmp_path / "out")
    alignment = fr.load(tmp_path / "out" / "alignment.safetensors")
    assert alignment.fingerprint == fr.fit(text, image).fingerprint == report.alignment.fingerprint
    for path in text.iterdir():
        expected = reference.row_map(np.load(path), alignment.s, alignment.b, alignment.c)
        written = np.load(tmp_path / "out" / path.name)
        assert written.dtype == np.float32
        assert np.abs(written - expected).max() <= 3e-7
    assert sorted(corpus.tree(tmp_path / "out")) == [
        "alignment.safetensors",
        "manifest.json",
        "part_0.npy",
        "part_1.npy",
        "part_2.npy",
    ]


def test_the_gap_left_is_that_of_the_rows_written(tmp_path):
    text, image = corpus.two_sides(tmp_path)
    report = fr.align(text, image, tmp_path / "out")
    target = corpus.unit(corpus.loaded(image)).mean(0)
    left = np.linalg.norm(corpus.loaded(tmp_path / "out").astype(np.float64).mean(0) - target)
    before = np.linalg.norm(corpus.unit(corpus.loaded(text)).mean(0) - target)
    assert report.gap_left == pytest.approx(left, abs=1e-9)
    assert report.gap_before == pytest.approx(before, abs=1e-9)
    assert report.alignment.gap_left == report.gap_left == fr.load(tmp_path / "out" / "alignment.safetensors").gap_left
    assert report.gap_left < 0.1 * report.gap_before


def test_a_sample_of_all_rows_is_said_to_be_exact(tmp_path):
    text, image = tmp_path / "text.npy", tmp_path / "image.npy"
    np.save(text, corpus.rows(30_000, 1) + 1.0)
    np.save(image, corpus.rows(20_000, 2) - 1.0)
    reports = [fr.align(text, image, tmp_path / f"{tol}", tol=tol) for tol in (1e-9, 0.5)]
    of_rows = "exact: every row was read, 30,000 of the source and 20,000 of the target"
    for whole, part in (map(str, reports), (card(report.alignment, "org/a") for report in reports)):
        assert of_rows in whole and "certain" not in whole and "error" not in whole
        assert "the gap left is certain to " in part and "exact:" not in part


def test_the_exact_centroid_leaves_no_gap(tmp_path):
    text, image = corpus.two_sides(tmp_path)
    assert fr.align(text, image, tmp_path / "paper").gap_left > 1e-6
    assert fr.align(text, image, tmp_path / "exact", centroid="exact").gap_left < 1e-7


def test_the_same_bytes_for_any_number_of_threads(tmp_path):
    # Several pieces a shard, the last one shorter, beside shards of one piece.
    parts = [corpus.rows(n, 3, dim=257) for n in (2 * PIECE_BYTES // 257 // 4 + 5, 1, 100)]
    text = corpus.npy_folder(tmp_path / "text", parts)
    image = corpus.npy_folder(tmp_path / "image", [corpus.rows(300, 4, dim=257)])
    trees = []
    for threads in (1, 2, 5):
        fr.align(text, image, tmp_path / f"out{threads}", threads=threads)
        trees.append(corpus.tree(tmp_path / f"out{threads}"))
    assert trees[0] == trees[1] == trees[2]
    assert len(np.load(tmp_path / "out2" / "part_0.npy")) == len(parts[0])


def test_each_shard_keeps_its_type_and_dtype_changes_all(tmp_path):
    types = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
    text = corpus.npy_folder(tmp_path / "text", [corpus.rows(50, i).astype(t) for i, t in enumerate(types)])
    image = corpus.npy_folder(tmp_path / "image", [corpus.rows(90, 9)])
    alignment = fr.align(text, image, tmp_path / "out").alignment
    for source, given in zip(fr.formats.open_source(tmp_path / "out", side="source").shards, types, strict=True):
        assert source.dtype == given
    fr.apply_files(alignment, text, tmp_path / "half", dtype="float16")
    for i in range(4):
        half, kept = np.load(tmp_path / "half" / f"part_{i}.npy"), np.load(text / f"part_{i}.npy")
        assert half.dtype == np.float16
        expected = alignment(kept.view(types[i]), dtype="float16")
        assert np.array_equal(half, expected)


def test_a_wide_output_of_narrow_rows_stays_within_its_buffer(tmp_path):
    text = corpus.npy_folder(tmp_path / "text", [corpus.rows(PIECE_BYTES // 2 // 16 + 9, 1).astype(np.float16)])
    image = corpus.npy_folder(tmp_path / "image", [corpus.rows(90, 9)])
    alignment = fr.align(text, image, tmp_path / "out", dtype="float64").alignment
    assert np.array_equal(corpus.loaded(tmp_path / "out"), alignment(corpus.loaded(text), dtype="float64"))


@pytest.mark.parametrize(("dtype", "buffers"), [(None, 1), ("float64", 2)])
def test_rows_are_mapped_in_their_read_buffer_unless_the_type_changes(tmp_path, monkeypatch, dtype, buffers):
    text, image = corpus.two_sides(tmp_path)
    alignment, expected = fr.fit(text, image), corpus.loaded(text)
    made, memory = [], Host.memory
    monkeypatch.setattr(Host, "memory", lambda self, nbytes: made.append(nbytes) or memory(self, nbytes))
    fr.apply_files(alignment, text, tmp_path / "out", dtype=dtype, threads=1)
    assert np.array_equal(corpus.loaded(tmp_path / "out"), alignment(expected, dtype=dtype))
    assert np.array_equal(corpus.loaded(text), expected)
    assert len(made) == buffers


def test_parquet_keeps_its_other_columns(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    text, image = corpus.rows(70, 1), corpus.rows(70, 2)
    corpus.parquet_file(tmp_path / "text" / "a.parquet", text, id=list(range(70)), caption=[f"c{i}" for i in range(70)])
    corpus.parquet_file(tmp_path / "image" / "a.parquet", image)
    report = fr.align(tmp_path / "text", tmp_path / "image", tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "a.parquet")
    assert table.column_names == ["id", "caption", "embedding"]
    assert table["caption"].to_pylist() == [f"c{i}" for i in range(70)]
    assert np.array_equal(np.array(table["embedding"].to_pylist(), dtype=np.float32), report.alignment(text))


def test_pickles_keep_their_items_and_skip_those_without_an_embedding(tmp_path):
    text = corpus.rows(40, 1)
    items = [{"id": i, "caption": f"c{i}", "embed": row} for i, row in enumerate(text)]
    items.insert(7, {"id": 99, "caption": "none", "embed": None})
    corpus.pickle_file(tmp_path / "text" / "t.pkl", items)
    corpus.pickle_file(tmp_path / "image" / "i.pkl", [{"id": 0, "embed": row} for row in corpus.rows(40, 2)])
    report = fr.align(tmp_path / "text", tmp_path / "image", tmp_path / "out")
    out = pickle.loads((tmp_path / "out" / "t.pkl").read_bytes())
    assert [item["id"] for item in out] == list(range(40))
    assert np.array_equal(np.stack([item["embed"] for item in out]), report.alignment(text))
    assert (report.rows_in, report.rows_out, report.skipped) == (40, 40, 1)
    assert "1 item without an embedding" in str(report)


@pytest.fixture
def with_bad_rows(tmp_path):
    """Three text shards with metadata, the second with a NaN in row 5, zeros in row 11 and an Inf in row 59."""
    text, image = corpus.two_sides(tmp_path)
    second = np.load(text / "part_1.npy")
    second[5, 3], second[11], second[59, 0] = np.nan, 0, np.inf
    np.save(text / "part_1.npy", second)
    return text, image


def test_bad_rows_stop_the_run_and_leave_nothing(tmp_path, with_bad_rows):
    with pytest.raises(fr.BadRowsError, match=r"part_1\.npy: row 5 has a NaN or Inf; .*bad_rows='skip'"):
        fr.align(*with_bad_rows, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("threads", [1, 2])
def test_bad_rows_left_out(tmp_path, with_bad_rows, threads):
    text, image = with_bad_rows
    report = fr.align(text, image, tmp_path / "out", bad_rows="skip", threads=threads)
    good = np.delete(np.load(text / "part_1.npy"), [5, 11, 59], axis=0)
    assert np.array_equal(np.load(tmp_path / "out" / "part_1.npy"), report.alignment(good))
    assert (report.rows_in, report.rows_out, report.bad_rows) == (180, 177, 3)
    assert [line.rpartition("part_1.npy: ")[2] for line in report.first_bad] == [
        "row 5 has a NaN or Inf",
        "row 11 is all zeros",
        "row 59 has a NaN or Inf",
    ]
    assert "3 left out" in str(report)


@pytest.mark.parametrize("threads", [1, 2])
def test_bad_rows_kept_as_they_came(tmp_path, with_bad_rows, threads):
    text, image = with_bad_rows
    report = fr.align(text, image, tmp_path / "out", bad_rows="keep", threads=threads)
    given, written = np.load(text / "part_1.npy"), np.load(tmp_path / "out" / "part_1.npy")
    assert np.array_equal(written[[5, 11, 59]], given[[5, 11, 59]], equal_nan=True)
    good = np.delete(np.arange(60), [5, 11, 59])
    assert np.array_equal(written[good], report.alignment(given[good]))
    assert (report.rows_out, report.bad_rows) == (180, 3)
    assert np.isfinite(report.gap_left)


def test_left_out_rows_take_their_ids_and_columns_along(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    text = corpus.rows(30, 1)
    text[[0, 17]] = 0
    corpus.parquet_file(tmp_path / "p" / "a.parquet", text, id=list(range(30)))
    corpus.pickle_file(tmp_path / "q" / "a.pkl", [{"id": i, "embed": row} for i, row in enumerate(text)])
    alignment = fr.fit(text, corpus.rows(30, 2), bad_rows="skip")
    fr.apply_files(alignment, tmp_path / "p", tmp_path / "p_out", bad_rows="skip")
    fr.apply_files(alignment, tmp_path / "q", tmp_path / "q_out", bad_rows="skip")
    expected = [i for i in range(30) if i not in (0, 17)]
    assert pq.read_table(tmp_path / "p_out" / "a.parquet")["id"].to_pylist() == expected
    assert [item["id"] for item in pickle.loads((tmp_path / "q_out" / "a.pkl").read_bytes())] == expected


def test_only_so_many_bad_rows_are_listed_and_all_are_counted(tmp_path):
    text = corpus.rows(PIECE_BYTES // 64 + 500, 1)
    text[-400:] = 0
    text[3] = np.nan
    np.save(tmp_path / "t.npy", text)
    alignment = fr.fit(text, corpus.rows(30, 2), bad_rows="skip")
    report = fr.apply_files(alignment, tmp_path / "t.npy", tmp_path / "out", bad_rows="keep", threads=2)
    assert report.bad_rows == 401 and len(report.first_bad) == 20
    assert "row 3 has" in report.first_bad[0] and f"row {len(text) - 382} is" in report.first_bad[-1]


def test_all_rows_left_out_can_be_found_again(tmp_path, monkeypatch, capsys):
    """By the manifest, over chunks and shards, after a resume too; the headline counts what was written."""
    monkeypatch.setattr("fastrealign.data.workers.PIECE_BYTES", 64 * 100)
    text = corpus.rows(1000, 1)
    bad = [0, 3, *range(60, 350), 499, 500, 999]
    text[bad] = np.nan
    source = corpus.npy_folder(tmp_path / "text", [text[:500], text[500:]])
    fr.fit(corpus.rows(900, 3), corpus.rows(900, 2)).save(tmp_path / "a.safetensors")
    words = [
        "apply",
        str(tmp_path / "a.safetensors"),
        str(source),
        "--out",
        str(tmp_path / "out"),
        "--bad-rows",
        "skip",
    ]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"aligned 705 rows of {source}, 16 wide; 295 bad rows left out\n")
    assert f"their numbers: 'dropped' of each shard in {tmp_path / 'out' / 'manifest.json'}" in said
    shards = json.loads((tmp_path / "out" / "manifest.json").read_text())["shards"]
    assert shards[0]["dropped"] == [[0, 0], [3, 3], [60, 349], [499, 499]] and shards[1]["dropped"] == [
        [0, 0],
        [499, 499],
    ]
    numbers, first = [], 0
    for shard in shards:
        keep = np.ones(shard["rows_in"], bool)
        for start, end in shard["dropped"]:
            keep[start : end + 1] = False
        assert shard["rows_out"] == keep.sum() == len(np.load(tmp_path / "out" / shard["name"]))
        numbers, first = [*numbers, *first + np.flatnonzero(keep)], first + shard["rows_in"]
    assert np.array_equal(numbers, np.setdiff1d(np.arange(1000), bad))
    part = corpus.npy_folder(tmp_path / "part", [corpus.rows(500, 4), text[500:]])
    words = ["apply", str(tmp_path / "a.safetensors"), str(part), "--out", str(tmp_path / "resumed")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "(--bad-rows keep); then add --resume, since 1 of 2 shards is complete" in error, (
        "--resume alone changes nothing"
    )
    assert main([*words, "--bad-rows", "skip", "--resume"]) == 0
    assert capsys.readouterr().out.startswith(
        f"aligned 498 rows of {part}, 16 wide; 2 bad rows left out; 1 of 2 shards"
    )
    resumed = json.loads((tmp_path / "resumed" / "manifest.json").read_text())["shards"]
    assert [shard.get("dropped", []) for shard in resumed] == [[], [[0, 0], [499, 499]]]
    again = fr.apply_files(tmp_path / "a.safetensors", part, tmp_path / "resumed", bad_rows="skip", resume=True)
    assert again.nothing_to_do and again.dropped == {resumed[1]["name"]: [[0, 0], [499, 499]]}
    report = fr.align(source, corpus.rows(900, 2), tmp_path / "aligned", bad_rows="skip")
    assert report.dropped == {shard["name"]: shard["dropped"] for shard in shards} and "dropped" not in report.to_json()
    kept = fr.apply_files(tmp_path / "a.safetensors", source, tmp_path / "kept", bad_rows="keep")
    assert "aligned 705 rows" in str(kept) and "295 bad rows kept unmapped" in str(kept) and "dropped" not in str(kept)
    assert kept.dropped == {}


def _retrieval_folder(root, text, image):
    pytest.importorskip("pyarrow")
    corpus.npy_folder(root / "text_emb", text, "text_emb")
    corpus.npy_folder(root / "img_emb", image, "img_emb")
    for i, part in enumerate(text):
        import pyarrow as pa
        import pyarrow.parquet as pq

        (root / "metadata").mkdir(exist_ok=True)
        table = pa.table({"caption": [f"{i}.{j}" for j in range(len(part))]})
        pq.write_table(table, root / "metadata" / f"metadata_{i}.parquet")
    return root


def test_clip_retrieval_folders_with_metadata(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    text = [corpus.rows(40, 1), corpus.rows(30, 3)]
    text[1][4] = np.nan
    root = _retrieval_folder(tmp_path / "laion", text, [corpus.rows(50, 2)])
    report = fr.align(root, root, tmp_path / "out", bad_rows="skip")
    assert sorted(corpus.tree(tmp_path / "out")) == [
        "alignment.safetensors",
        "manifest.json",
        "metadata/metadata_0.parquet",
        "metadata/metadata_1.parquet",
        "text_emb/text_emb_0.npy",
        "text_emb/text_emb_1.npy",
    ]
    kept = pq.read_table(tmp_path / "out" / "metadata" / "metadata_1.parquet")["caption"].to_pylist()
    assert kept == [f"1.{j}" for j in range(30) if j != 4]
    assert report.rows_out == 69
    fr.align(root, root, tmp_path / "plain", bad_rows="skip")
    fr.align(root / "text_emb" / "text_emb_0.npy", root, tmp_path / "plain", overwrite=True)
    assert not (tmp_path / "plain" / "text_emb").exists()
    again = tmp_path / "out" / "metadata" / "metadata_0.parquet"
    assert again.read_bytes() == (root / "metadata" / "metadata_0.parquet").read_bytes()


def test_one_file_to_one_file(tmp_path):
    root = _retrieval_folder(tmp_path / "laion", [corpus.rows(40, 1)], [corpus.rows(50, 2)])
    source, target = root / "text_emb" / "text_emb_0.npy", root / "img_emb" / "img_emb_0.npy"
    before = corpus.tree(root)
    report = fr.align(source, target, source.parent / "aligned.npy")
    after = corpus.tree(root)
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == [
        "text_emb/aligned.npy",
        "text_emb/aligned.npy.alignment.safetensors",
        "text_emb/aligned.npy.manifest.json",
        "text_emb/aligned.npy.metadata.parquet",
    ]
    assert np.array_equal(np.load(source.parent / "aligned.npy"), report.alignment(np.load(source)))
    assert fr.align(source, target, source.parent / "aligned.npy", resume=True).nothing_to_do
    fr.align(source, target, source.parent / "aligned.npy", overwrite=True, centroid="exact")
    assert sorted(corpus.tree(root)) == sorted(after)


def test_one_file_to_a_folder_keeps_its_name(tmp_path):
    np.save(tmp_path / "t.npy", corpus.rows(40, 1))
    fr.align(tmp_path / "t.npy", corpus.rows(40, 2), tmp_path / "new" / "deep")
    assert sorted(corpus.tree(tmp_path / "new")) == ["deep/alignment.safetensors", "deep/manifest.json", "deep/t.npy"]


def test_shards_without_rows_are_written_too(tmp_path):
    text, image = corpus.two_sides(tmp_path)
    np.save(text / "part_1.npy", np.zeros((0, corpus.DIM), np.float32))
    for bad_rows in ("error", "skip"):
        fr.align(text, image, tmp_path / bad_rows, bad_rows=bad_rows)
        assert np.load(tmp_path / bad_rows / "part_1.npy").shape == (0, corpus.DIM)


def test_the_target_may_be_in_memory(tmp_path):
    text, image = corpus.two_sides(tmp_path)
    fr.align(text, image, tmp_path / "files")
    fr.align(text, corpus.loaded(image), tmp_path / "memory")
    same = (tmp_path / "files" / "part_0.npy").read_bytes()
    assert (tmp_path / "memory" / "part_0.npy").read_bytes() == same
    assert fr.align(text, corpus.loaded(image), tmp_path / "memory", resume=True).nothing_to_do


def test_a_source_in_memory_is_refused_by_name(tmp_path):
    with pytest.raises(fr.InputError, match="source: expected files"):
        fr.align(corpus.rows(40, 1), corpus.rows(40, 2), tmp_path / "out")


def test_apply_writes_what_align_wrote(tmp_path):
    text, image = corpus.two_sides(tmp_path)
    first = fr.align(text, image, tmp_path / "out")
    second = fr.apply_files(tmp_path / "out" / "alignment.safetensors", text, tmp_path / "again")
    for path in text.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert second.gap_left == first.gap_left
    assert "gap at the fit" in str(second) and "gap before" in str(first)


def test_rows_that_are_aligned_already(tmp_path):
    """A second map is warned of, whichever command is used; not one after a map from pairs, which leaves the gap."""
    text, image = corpus.two_sides(tmp_path)
    fr.align(text, image, tmp_path / "out")
    alignment = tmp_path / "out" / "alignment.safetensors"
    said = "`fastrealign align` wrote these rows, and a second map moves them again; .* name the embeddings"
    with pytest.warns(fr.FitWarning, match=said):
        fr.fit(tmp_path / "out", image)
    with pytest.warns(fr.FitWarning, match=said):
        fr.align(tmp_path / "out", image, tmp_path / "twice")
    with pytest.warns(fr.FitWarning, match=said) as warned:
        fr.apply_files(alignment, tmp_path / "out", tmp_path / "thrice")
    assert len(warned) == 1
    with pytest.warns(fr.FitWarning, match="role text: .*" + said):
        fr.fit_roles({"text": tmp_path / "out", "image": image}, anchor="image")
    with pytest.warns(fr.FitWarning, match="`fastrealign apply` wrote these rows"):
        fr.fit(tmp_path / "thrice", image)
    rows = corpus.loaded(text)
    fr.apply_files(fr.fit_map(rows, rows[:, ::-1].copy()), text, tmp_path / "new")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fr.align(tmp_path / "new", image, tmp_path / "first")
        fr.fit(image, tmp_path / "out")


def test_apply_measures_the_gap_of_the_rows_it_is_given(tmp_path):
    text, image = corpus.two_sides(tmp_path)
    alignment = fr.fit(text, image)
    other = corpus.npy_folder(tmp_path / "other", [corpus.rows(80, 7)])
    with pytest.warns(fr.FitWarning, match="leaves a gap of"):
        report = fr.apply_files(alignment, other, tmp_path / "out")
    left = np.linalg.norm(corpus.loaded(tmp_path / "out").astype(np.float64).mean(0) - alignment.mean_target)
    assert report.gap_left == pytest.approx(left, abs=1e-9)
    assert report.gap_left > 10 * alignment.gap_left


def test_apply_refuses_another_width(tmp_path):
    text, image = corpus.two_sides(tmp_path)
    other = corpus.npy_folder(tmp_path / "other", [corpus.rows(80, 7, dim=8)])
    with pytest.raises(fr.InputError, match="rows are 8 wide, the alignment was fitted on 16"):
        fr.apply_files(fr.fit(text, image), other, tmp_path / "out")


def test_the_manifest_says_what_was_written(tmp_path, with_bad_rows):
    fr.align(*with_bad_rows, tmp_path / "out", bad_rows="skip", dtype="float16")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["kind"] == "align"
    assert manifest["fastrealign"] == fr.__version__
    assert (manifest["rows_in"], manifest["rows_out"], manifest["bad_rows"]) == (180, 177, 3)
    assert [shard["name"] for shard in manifest["shards"]] == ["part_0.npy", "part_1.npy", "part_2.npy"]
    assert manifest["shards"][1]["first_bad"][1] == [11, "is all zeros"]
    for shard in manifest["shards"]:
        assert (tmp_path / "out" / shard["name"]).stat().st_size == shard["bytes"]
    asked = {name: value for name, value in manifest["asked"]["options"].items() if value is not None}
    assert asked == {"bad_rows": "skip", "centroid": "paper", "dtype": "float16"}
    assert manifest["alignment"] == fr.load(tmp_path / "out" / "alignment.safetensors").fingerprint


def test_the_report_in_json(tmp_path):
    text, image = corpus.two_sides(tmp_path)
    report = fr.align(text, image, tmp_path / "out")
    value = json.loads(json.dumps(report.to_json()))
    assert value["rows_now"] == 180 and value["bytes_now"] == 180 * 16 * 4
    assert value["rows_per_second"] == pytest.approx(180 / value["seconds"])
    assert value["alignment"]["fingerprint"] == report.alignment.fingerprint


def test_a_thousand_shards_need_few_open_files(tmp_path):
    parts = list(corpus.rows(600, 1).reshape(300, 2, corpus.DIM))
    text = corpus.npy_folder(tmp_path / "text", parts)
    np.save(tmp_path / "image.npy", corpus.rows(100, 2))
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))\n"
        "import sys, fastrealign as fr\n"
        "print(fr.align(sys.argv[1], sys.argv[2], sys.argv[3], fsync=False, threads=2).shards)"
    )
    command = [sys.executable, "-c", code, text, tmp_path / "image.npy", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "300\n", done.stderr


def test_memory_does_not_follow_the_size_of_the_files(tmp_path):
    """Ratio of peak memory for 8 MB and 200 MB of embeddings in one file."""
    code = (
        "import resource, sys, fastrealign as fr\n"
        "fr.align(*sys.argv[1:4], fsync=False, bad_rows=sys.argv[4])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    small, dim = 2000, 1024
    np.save(tmp_path / "small.npy", corpus.rows(small, 1, dim))
    large = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.float32, (25 * small, dim))
    for i in range(25):
        large[i * small : (i + 1) * small] = np.load(tmp_path / "small.npy")
    large.flush()
    np.save(tmp_path / "image.npy", corpus.rows(small, 2, dim))
    for bad_rows in ("error", "skip"):
        peak = {}
        for name in ("small", "large"):
            command = [
                sys.executable,
                "-c",
                code,
                tmp_path / f"{name}.npy",
                tmp_path / "image.npy",
                tmp_path / f"{name}{bad_rows}",
            ]
            peak[name] = int(subprocess.run([*command, bad_rows], capture_output=True, check=True).stdout)
        assert peak["large"] < 1.15 * peak["small"], peak


@pytest.mark.parametrize("fsync", [False, True])
def test_without_fsync_nothing_waits_for_the_disk(tmp_path, monkeypatch, fsync):
    text, images = corpus.npy_folder(tmp_path / "text", [corpus.rows(100, 1)]), tmp_path / "image.npy"
    np.save(images, corpus.rows(100, 2))
    flushed, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(fd) or real(fd))
    report = fr.align(text, images, tmp_path / "aligned", fsync=fsync)
    fr.apply_files(report.alignment, text, tmp_path / "applied", fsync=fsync)
    fr.convert(text, tmp_path / "converted", to="parquet", fsync=fsync)
    assert bool(flushed) == fsync
