"""fastrealign inspect: embeddings, alignments, statistics and outputs, finished or not."""

from __future__ import annotations

import json

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.formats.manifest import JOURNAL


def test_inspect_embeddings(tmp_path, sides, run):
    bad = np.load(sides[0] / "part_0.npy")
    bad[3] = np.nan
    np.save(sides[0] / "part_0.npy", bad)
    for i in range(3, 9):
        np.save(sides[0] / f"part_{i}.npy", corpus.rows(5, i).astype(np.float16))
    code, out, _ = run("inspect", sides[0])
    assert code == 0
    assert out.startswith(
        f"{sides[0]}: 210 rows of 16, float32 (3 shards), float16 (6 shards), 12.5 kB in 9 shards of npy"
    )
    assert "and 4 more" in out and "part_0.npy: row 3 has a NaN or Inf" in out
    value = json.loads(run("inspect", sides[0], "--json")[1])
    norms = np.linalg.norm(np.delete(corpus.loaded(sides[0]), 3, axis=0).astype(np.float64), axis=1)
    assert value["sample"]["rows"] == 210 and value["sample"]["bad_rows"] == 1
    assert value["sample"]["norm_mean"] == pytest.approx(norms.mean())
    assert value["first_shards"][0] == {"name": "part_0.npy", "rows": 60, "dtype": "float32"}


def test_inspect_both_sides_of_a_retrieval_folder(tmp_path, run):
    corpus.npy_folder(tmp_path / "laion" / "text_emb", [corpus.rows(30, 1)], "text_emb")
    corpus.npy_folder(tmp_path / "laion" / "img_emb", [corpus.rows(40, 2)], "img_emb")
    value = json.loads(run("inspect", tmp_path / "laion", "--json")[1])
    assert [side["rows"] for side in value["sides"]] == [30, 40]


def test_inspect_pickles_counts_what_has_no_embedding(tmp_path, run):
    items = [{"id": 0, "embed": row} for row in corpus.rows(9, 1)] + [{"id": 1, "embed": None}]
    corpus.pickle_file(tmp_path / "a.pkl", items)
    assert "1 item without an embedding" in run("inspect", tmp_path / "a.pkl")[1]


def test_inspect_an_alignment_moments_and_other_tensors(tmp_path, sides, run):
    alignment = fr.fit(*sides)
    alignment.save(tmp_path / "a.safetensors")
    _, out, _ = run("inspect", tmp_path / "a.safetensors")
    assert alignment.fingerprint[:16] in out and "180 rows" in out and "gap left" in out
    fr.Moments(16).update(corpus.loaded(sides[0])).save(tmp_path / "m.safetensors")
    _, out, _ = run("inspect", tmp_path / "m.safetensors")
    assert "moments of 180 rows, 16 wide" in out and "trace" in out
    fr.Moments(4).save(tmp_path / "none.safetensors")
    assert "moments of 0 rows" in run("inspect", tmp_path / "none.safetensors")[1]
    from safetensors.numpy import save_file

    save_file({"x": np.ones((3, 5))}, tmp_path / "x.safetensors")
    assert "3 rows of 5, float64" in run("inspect", tmp_path / "x.safetensors")[1]
    save_file({"x": np.ones(3)}, tmp_path / "x.safetensors")
    code, _, err = run("inspect", tmp_path / "x.safetensors")
    assert code == 2 and "no tensor of embeddings" in err


def test_inspect_an_output(tmp_path, sides, run):
    out = tmp_path / "out"
    run("align", sides[0], "--target", sides[1], "--out", out, "--dtype", "float16")
    code, text, _ = run("inspect", out)
    assert code == 0 and "output of fastrealign align" in text and "dtype float16" in text and "changed" not in text
    (out / "part_1.npy").unlink()
    assert "1 shard gone or not as written, such as part_1.npy" in run("inspect", out)[1]
    assert json.loads(run("inspect", out / "manifest.json", "--json")[1])["changed"] == ["part_1.npy"]


def test_inspect_a_conversion_that_was_killed(tmp_path, run):
    """It has no --resume; --overwrite takes its place."""
    np.save(tmp_path / "rows.npy", corpus.rows(20, 1))
    out = tmp_path / "out"
    out.mkdir()
    (out / JOURNAL).touch()
    said = run("inspect", out)[1]
    assert said.strip() == f"{out}: an unfinished run, nothing noted as complete; repeat its command with --overwrite"
    assert run("convert", tmp_path / "rows.npy", "--out", f"{out}/", "--overwrite")[0] == 0
    assert "20 rows" in run("inspect", out)[1]


def test_inspect_an_unfinished_output(tmp_path, sides, run):
    from stops import StopAfter

    with pytest.raises(fr.FastRealignError):
        fr.align(*sides, tmp_path / "out", threads=1, progress=StopAfter(60))
    out = tmp_path / "out"
    assert "an unfinished run, 1 of 3 shards complete; resume it" in run("inspect", out)[1]
    # A kill between a shard's last name and its record leaves both apart.
    for name, said in (
        ("part_1.npy", "part_1.npy is there without a record and will be made again"),
        ("part_2.npy", "part_1.npy and 1 more are there without a record and will be made again"),
    ):
        (out / name).write_bytes(b"")
        assert f"1 of 3 shards complete; {said}; resume it with --resume" in run("inspect", out)[1]
        assert (
            f"(1 shard complete; {said}); continue it" in run("align", sides[0], "--target", sides[1], "--out", out)[2]
        )
    assert run("align", sides[0], "--target", sides[1], "--out", out, "--resume")[0] == 0


def test_inspect_nothing(tmp_path, run):
    code, out, err = run("inspect", tmp_path / "none.npy")
    assert (code, out) == (2, "") and "no such file" in err
