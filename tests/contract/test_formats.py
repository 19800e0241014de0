"""Whole runs over safetensors, torch and FAISS files: what is carried along, resumed and killed runs, memory."""

from __future__ import annotations

import re
import time
from pathlib import Path

import corpus
import numpy as np
import processes
import pytest
from stops import StopAfter

import fastrealign as fr
from fastrealign.data.row_source import PIECE_BYTES
from fastrealign.formats.manifest import JOURNAL


@pytest.fixture(params=corpus.TENSOR_FILES)
def suffix(request):
    pytest.importorskip(corpus.NEEDED[request.param])
    return request.param


def shards(folder, suffix, parts):
    for i, part in enumerate(parts):
        corpus.TENSOR_FILES[suffix](folder / f"part_{i}{suffix}", part, 1000 * i + np.arange(len(part)))
    return folder


@pytest.fixture
def sides(tmp_path, suffix):
    """Folders of three text shards and of one image shard; the text's rows."""
    parts = np.split(corpus.rows(180, 1), 3)
    image = shards(tmp_path / "image", suffix, [corpus.rows(150, 2)])
    return shards(tmp_path / "text", suffix, parts), image, parts


def test_shard_for_shard_with_what_belongs_to_the_rows(tmp_path, suffix, sides):
    text, image, parts = sides
    report = fr.align(text, image, tmp_path / "out")
    names = [f"part_{i}{suffix}" for i in range(3)]
    assert sorted(corpus.tree(tmp_path / "out")) == sorted(["alignment.safetensors", "manifest.json", *names])
    for i, (name, part) in enumerate(zip(names, parts, strict=True)):
        rows, ids = corpus.embeddings_and_ids(tmp_path / "out" / name)
        assert np.array_equal(rows, report.alignment(part))
        assert ids == [1000 * i + j for j in range(60)]
    # The alignment that lies beside the shards is none of them.
    assert fr.formats.open_source(tmp_path / "out", side="source").rows == 180
    npy = corpus.npy_folder(tmp_path / "npy", parts)
    assert fr.align(npy, image, tmp_path / "npy_out").alignment.fingerprint == report.alignment.fingerprint


@pytest.mark.parametrize("kind", ["IVF5,Flat", "IDMap2,HNSW8"])
def test_an_index_that_finds_rows_is_aligned_into_a_flat_one(tmp_path, rng, kind):
    faiss = pytest.importorskip("faiss")
    texts, ids = corpus.rows(180, 1), rng.permutation(1800)[:180]
    index = faiss.index_factory(texts.shape[1], kind)
    index.train(texts)
    index.add_with_ids(texts, ids)
    faiss.write_index(index, str(tmp_path / "text.index"))
    np.save(tmp_path / "image.npy", corpus.rows(150, 2))
    report = fr.align(tmp_path / "text.index", tmp_path / "image.npy", tmp_path / "out", threads=3)
    rows, found = corpus.embeddings_and_ids(tmp_path / "out" / "text.index")
    order = np.argsort(ids) if "IVF" in kind else np.arange(180)
    assert found == ids[order].tolist()
    assert np.array_equal(rows, report.alignment(texts[order]))
    assert report.to_json()["notes"] == report.notes and "written as a flat index with ids" in report.notes[0]
    assert report.notes[0] in str(report)
    assert len(str(fr.align(tmp_path / "image.npy", texts, tmp_path / "other")).split("note")) == 1


@pytest.mark.parametrize("threads", [1, 3])
def test_bad_rows(tmp_path, suffix, sides, threads):
    text, image, parts = sides
    parts[1][[0, 7, 59]] = np.nan
    shards(text, suffix, parts)
    good = np.delete(np.arange(60), [0, 7, 59])
    report = fr.align(text, image, tmp_path / "skip", bad_rows="skip", threads=threads)
    rows, ids = corpus.embeddings_and_ids(tmp_path / "skip" / f"part_1{suffix}")
    assert np.array_equal(rows, report.alignment(parts[1][good]))
    assert ids == (1000 + good).tolist()
    assert (report.rows_in, report.rows_out, report.bad_rows) == (180, 177, 3)
    fr.align(text, image, tmp_path / "keep", bad_rows="keep", threads=threads)
    rows, ids = corpus.embeddings_and_ids(tmp_path / "keep" / f"part_1{suffix}")
    assert np.isnan(rows[[0, 7, 59]]).all() and np.array_equal(rows[good], report.alignment(parts[1][good]))
    assert ids == list(range(1000, 1060))


def test_the_same_bytes_for_any_number_of_threads(tmp_path, suffix):
    parts = [corpus.rows(n, 3, dim=257) for n in (2 * PIECE_BYTES // 257 // 4 + 5, 1, 100)]
    text = shards(tmp_path / "text", suffix, parts)
    trees = []
    for threads in (1, 2, 5):
        fr.align(text, corpus.rows(300, 4, dim=257), tmp_path / f"out{threads}", threads=threads)
        trees.append(corpus.tree(tmp_path / f"out{threads}"))
    assert trees[0] == trees[1] == trees[2]


def test_one_file_to_one_file(tmp_path, suffix, sides):
    text, image, parts = sides
    out = tmp_path / f"out{suffix}"
    report = fr.align(text / f"part_0{suffix}", image, out)
    assert np.array_equal(corpus.embeddings_and_ids(out)[0], report.alignment(parts[0]))
    names = [f"out{suffix}", f"out{suffix}.alignment.safetensors", f"out{suffix}.manifest.json"]
    assert sorted(path.name for path in tmp_path.glob("out*")) == names
    assert fr.align(text / f"part_0{suffix}", image, out, resume=True).nothing_to_do


def test_an_unfinished_run_resumes_to_the_same_bytes(tmp_path, sides):
    text, image, _ = sides
    fr.align(text, image, tmp_path / "whole")
    with pytest.raises(fr.FastRealignError, match="1 of 3 shards is complete"):
        fr.align(text, image, tmp_path / "out", threads=1, progress=StopAfter(60))
    assert fr.align(text, image, tmp_path / "out", resume=True).shards_before == 1
    assert corpus.tree(tmp_path / "out") == corpus.tree(tmp_path / "whole")


def _resume(files, image, out):
    fr.align(files, image, out, resume=True, threads=2, fsync=False)


def test_killed_at_any_moment_a_mixed_corpus_resumes_to_the_same_bytes(tmp_path):
    for name in corpus.NEEDED.values():
        pytest.importorskip(name)
    files = []
    for i in range(12):
        rows, ids = corpus.rows(400, i, dim=256), np.arange(400)
        for suffix, save in corpus.TENSOR_FILES.items():
            files.append(save(tmp_path / "text" / f"part_{i}{suffix}", rows, ids))
        files.append(tmp_path / "text" / f"part_{i}.npy")
        np.save(files[-1], rows)
    image = corpus.npy_folder(tmp_path / "image", [corpus.rows(500, 99, dim=256)])
    fr.align(files, image, tmp_path / "whole")
    whole = corpus.tree(tmp_path / "whole")
    out = tmp_path / "out"
    killed = 0
    for rounds in range(3):
        run = processes.started(_resume, files, image, out)
        until = 6 + 12 * rounds
        while run.is_alive() and len(list(out.glob("part_*"))) < until:
            time.sleep(0.0005)
        run.kill()
        run.join()
        killed += run.exitcode != 0
        assert (out / JOURNAL).exists() or (out / "manifest.json").exists()
        for path in out.glob("part_*"):
            assert path.read_bytes() == whole[path.name]
    assert killed, "every run was over before it was killed"
    fr.align(files, image, out, resume=True)
    assert corpus.tree(out) == whole


def _peaks(paths, image, folder):
    for number, path in enumerate(paths):
        for bad_rows in ("keep", "skip"):
            fr.align(path, image, folder / f"out {number} {bad_rows}", fsync=False, bad_rows=bad_rows)
        # Not ru_maxrss, which counts what the parent had when it forked.
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        with (folder / "peaks").open("a") as file:
            file.write(f"{int(peak[1]) >> 10}\n")


def test_memory_does_not_follow_the_size_of_the_file(tmp_path, suffix):
    """Peak memory of one process after 8 MB and after 80 MB of embeddings in one file, with and without dropped rows."""
    rows = corpus.rows(2000, 1, 1024)
    rows[7] = np.nan
    paths = [tmp_path / "1" / f"x{suffix}", tmp_path / "2" / f"x{suffix}"]
    for path, times in zip(paths, (1, 10), strict=True):
        corpus.TENSOR_FILES[suffix](path, np.tile(rows, (times, 1)), np.arange(2000 * times))
    np.save(tmp_path / "image.npy", corpus.rows(2000, 2, 1024))
    assert processes.ended(processes.started(_peaks, paths, tmp_path / "image.npy", tmp_path)) == [0]
    small, large = map(int, (tmp_path / "peaks").read_text().split())
    assert large < small + 40, (small, large)
