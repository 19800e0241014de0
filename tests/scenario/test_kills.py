"""SIGKILL at every step that changes the disk, and at random moments over every format, which bench.kills does at length."""

from __future__ import annotations

import random
import subprocess
import sys

import benchmarks
import pytest
import steps

kills, kills_corpus = benchmarks.module("kills"), benchmarks.module("kills_corpus")


# How many steps there are at least: a folder, a lock, three lines of journal, two shards, alignment twice, manifest; two files
# of tables; one file.
@pytest.mark.parametrize(("case", "least"), [("align", 20), ("overwrite", 20), ("convert", 6), ("fit", 3)])
def test_killed_at_every_step_that_changes_the_disk(tmp_path, case, least):
    if case == "convert":
        pytest.importorskip("pyarrow")
    done = subprocess.run([sys.executable, steps.__file__, tmp_path, case], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) >= least


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Commands over parquet, pickles and a clip-retrieval folder, and what they make when they are left alone."""
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("kills")
    wanted = ("parquet", "pickles", "clip-retrieval")
    found = {case[0]: kills.Case(*case) for case in kills_corpus.corpus(folder / "in", 0, shards=12)}
    return kills.undisturbed([found[name] for name in wanted], folder)


def test_killed_at_random_moments_every_format_ends_in_the_same_bytes(tmp_path, cases):
    said = []
    assert kills.run(cases, tmp_path, 3, random.randrange(2**32), said.append) == [], said
    assert "every run ended in the bytes of one that was not killed" in said[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_difference_is_found(tmp_path, cases):
    case = cases[1]
    name = case.shards[0]
    spoiled = kills.Case(case.name, case.words, whole={**case.whole, name: case.whole[name][:-1] + b"?"}, seconds=0.1)
    wrong = kills.run([spoiled], tmp_path, 1, 0, lambda line: None)
    assert len(wrong) == 1 and name in wrong[0] and "other bytes" in wrong[0]


def test_what_does_not_belong_there_is_found(tmp_path):
    case = kills.Case("made up", [], whole={"a.npy": b"a", "manifest.json": b"{}", "alignment.safetensors": b"1"})
    out = tmp_path / "out"
    out.mkdir()
    (out / ".a.npy.7.tmp").write_bytes(b"half")
    (out / "alignment.safetensors").write_bytes(b"before the gap is known")
    assert kills.half_written(case, out) is None
    assert kills.difference(case.whole, kills.tree(out)) == ".a.npy.7.tmp is left over"
    (out / "manifest.json").write_bytes(b"{}")
    assert "a shard is not" in kills.half_written(case, out)
    (out / "a.npy").write_bytes(b"b")
    assert "a.npy is there with other bytes" in kills.half_written(case, out)
    (out / "a.npy").write_bytes(b"a")
    assert kills.half_written(case, out) is None
    (out / "stray").touch()
    assert "stray" in kills.half_written(case, out)
