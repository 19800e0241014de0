"""--max-memory and URLs change where bytes lie for a while, never which bytes come out."""

from __future__ import annotations

import io
import json

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.main import main

LIMITS = (300_000, 64 << 20)
WAYS = {
    "paper": {},
    "exact": {"centroid": "exact"},
    "one pass": {"one_pass": True},
    "certified": {"tol": 0.3, "seed": 3},
    "c3": {"method": "c3", "seed": 5},
    "skip": {"bad_rows": "skip"},
}


@pytest.fixture(scope="module", params=corpus.FORMATS)
def sides(request, tmp_path_factory):
    if request.param in (".parquet", ".arrow"):
        pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp(request.param[1:])
    for side, seed in (("text", 1), ("image", 2)):
        (folder / side).mkdir()
        for i, rows in enumerate((3000, 1, 700)):
            corpus.FORMATS[request.param](
                folder / side / f"part_{i}{request.param}", corpus.rows(rows, 10 * seed + i, 64)
            )
    return folder / "text", folder / "image"


def same_runs(one, other, but=()):
    one, other = corpus.tree(one), corpus.tree(other)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name] and name not in but] == []


# A format that is read anywhere and one that is read in order in every way, the others in one.
READ = [(name, way) for name in corpus.FORMATS for way in WAYS if way == "paper" or name in (".npy", ".parquet")]


@pytest.mark.parametrize(("sides", "way"), READ, indirect=["sides"])
def test_the_same_bytes_in_any_memory(sides, tmp_path, way):
    threads = 2
    report = fr.align(*sides, tmp_path / "whole", threads=threads, fsync=False, **WAYS[way])
    for limit in LIMITS:
        there = fr.align(*sides, tmp_path / str(limit), threads=threads, max_memory=limit, fsync=False, **WAYS[way])
        same_runs(tmp_path / "whole", tmp_path / str(limit))
        assert there.gap_left == report.gap_left
        if way in ("paper", "c3"):
            out = tmp_path / f"apply{limit}"
            fr.apply_files(report.alignment, sides[0], out, max_memory=limit, threads=threads, fsync=False)
            for path in sides[0].iterdir():
                assert (out / path.name).read_bytes() == (tmp_path / "whole" / path.name).read_bytes()


# `align` above has fitted in the other ways and formats, and its bytes are those of its alignment.
@pytest.mark.parametrize(
    ("sides", "way"), [one for one in READ if one[1] in ("exact", "certified")], indirect=["sides"]
)
def test_the_same_fit_in_any_memory(sides, way):
    options = WAYS[way]
    whole = fr.fit(*sides, **options)
    for limit in LIMITS:
        assert fr.fit(*sides, max_memory=limit, threads=2, **options).fingerprint == whole.fingerprint


@pytest.mark.parametrize("given", ["1000", "0", "-5", "100K", "x", "1e3000", ""])
def test_too_little_memory_is_one_line(tmp_path, capsys, given):
    text, image = corpus.two_sides(tmp_path)
    words = ["align", str(text), "--target", str(image), "--out", str(tmp_path / "out"), f"--max-memory={given}"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "max-memory" in said or "max_memory" in said
    assert said.count("\n") == 1, said
    assert not (tmp_path / "out").exists()


@pytest.fixture
def server():
    pytest.importorskip("aiohttp")
    pytest.importorskip("fsspec")
    from faulty_server import FaultyServer

    server = FaultyServer()
    yield server
    server.close()


def without_marks(tree):
    """The manifest's notes of when and where its inputs were changed are a server's own."""
    tree = dict(tree)
    for name in [name for name in tree if name.endswith("manifest.json")]:
        value = json.loads(tree[name])
        del value["check"]
        for side in ("source", "target"):
            for mark in value["asked"][side].values():
                del mark["modified"]
        tree[name] = value
    return tree


# Not .pt, which is mapped into memory.
@pytest.mark.parametrize(
    "suffix",
    [
        pytest.param(suffix, marks=pytest.mark.slow) if suffix in (".arrow", ".pkl") else suffix
        for suffix in corpus.FORMATS
        if suffix != ".pt"
    ],
)
def test_sources_at_urls_give_the_bytes_of_local_ones(tmp_path, server, suffix):
    if suffix in (".parquet", ".arrow"):
        pytest.importorskip("pyarrow")
    for side, seed in (("text", 1), ("image", 2)):
        (tmp_path / side).mkdir()
        for i in range(3):
            rows = corpus.rows(200, 10 * seed + i)
            rows[7] = 0 if side == "text" else rows[7]
            corpus.FORMATS[suffix](tmp_path / side / f"part_{i}{suffix}", rows)
    server.files = {f"d/{name}": data for name, data in corpus.tree(tmp_path).items()}
    text, image = tmp_path / "text", tmp_path / "image"
    for how in ({"bad_rows": "skip"}, {"bad_rows": "keep", "centroid": "exact"}, {"bad_rows": "skip", "tol": 0.5}):
        out, there = tmp_path / f"local {len(how)} {how['bad_rows']}", tmp_path / f"remote {len(how)} {how['bad_rows']}"
        report = fr.align(text, image, out, fsync=False, **how)
        remote = fr.align(f"{server.url}/d/text/", f"{server.url}/d/image/", there, fsync=False, **how)
        assert without_marks(corpus.tree(there)) == without_marks(corpus.tree(out))
        assert remote.gap_left == report.gap_left and remote.bad_rows == report.bad_rows == 3
        again = fr.align(f"{server.url}/d/text/", f"{server.url}/d/image/", there, resume=True, fsync=False, **how)
        assert again.nothing_to_do
        assert fr.fit(f"{server.url}/d/text/", image, **how).fingerprint == report.alignment.fingerprint


def test_a_root_of_clip_retrieval_at_a_url(tmp_path, server):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    root = tmp_path / "root"
    for name, seed in (("text_emb", 1), ("img_emb", 9)):
        corpus.npy_folder(root / name, [corpus.rows(80, seed + i) for i in range(3)], name)
    (root / "metadata").mkdir()
    for i in range(3):
        pq.write_table(
            pa.table({"caption": [f"{i}.{j}" for j in range(80)]}), root / "metadata" / f"metadata_{i}.parquet"
        )
    server.files = {f"root/{name}": data for name, data in corpus.tree(root).items()}
    fr.align(root, root, tmp_path / "local", fsync=False)
    fr.align(f"{server.url}/root/", f"{server.url}/root/", tmp_path / "remote", fsync=False)
    local = corpus.tree(tmp_path / "local")
    assert without_marks(corpus.tree(tmp_path / "remote")) == without_marks(local)
    assert "metadata/metadata_2.parquet" in local
    fr.convert(root, tmp_path / "one", to="parquet")
    fr.convert(f"{server.url}/root/", tmp_path / "other", to="parquet")
    assert corpus.tree(tmp_path / "one") == corpus.tree(tmp_path / "other")


def test_an_alignment_at_a_url(tmp_path, server):
    text, image = corpus.two_sides(tmp_path)
    fr.fit(text, image).save(tmp_path / "a.safetensors")
    server.files = {"a.safetensors": (tmp_path / "a.safetensors").read_bytes()}
    fr.apply_files(tmp_path / "a.safetensors", text, tmp_path / "local", fsync=False)
    fr.apply_files(f"{server.url}/a.safetensors", text, tmp_path / "remote", fsync=False)
    same_runs(tmp_path / "local", tmp_path / "remote")
    buffer = io.BytesIO()
    np.save(buffer, np.load(text / "part_0.npy"))
    server.files["one.npy"] = buffer.getvalue()
    fr.apply_files(tmp_path / "a.safetensors", f"{server.url}/one.npy", tmp_path / "one.npy", fsync=False)
    assert np.array_equal(np.load(tmp_path / "one.npy"), np.load(tmp_path / "local" / "part_0.npy"))
