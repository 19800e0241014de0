"""Several processes on one thing: the same bits as one process, for any number of them, and what happens when one fails.

The sharing out is tested with threads that stand for ranks, the messages with gloo between real processes, and the command with
torchrun.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from processes import ended, run_on_processes, started

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.core.errors import BadRowsError, FastRealignError, InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.progress import Progress
from fastrealign.data import reservoir
from fastrealign.data.options import Compute, OutputOptions, PassOptions, ReadOptions
from fastrealign.data.process_group import ProcessGroup, TorchGroup, ranks_of
from fastrealign.data.rank_share import shared
from fastrealign.data.sources import open_rows
from fastrealign.data.workers import Workers
from fastrealign.formats.manifest import JOURNAL
from fastrealign.jobs.align_jobs import AlignJob
from fastrealign.jobs.shard_job import JobOptions
from fastrealign.methods.fit_options import FitOptions
from fastrealign.methods.fitting import fit_sources

torch = pytest.importorskip("torch")

D = 12
HANGS = 900  # seconds: three Pythons that import torch may take minutes where others compute


@pytest.fixture
def sides(rng, tmp_path):
    """Folders text/ and img/ of uneven shards, one of them empty."""
    for name, count in (("text", 7), ("img", 4)):
        (tmp_path / name).mkdir()
        for i in range(count):
            rows = rng.standard_normal((0 if i == 2 else 50 + 400 * i, D)) + rng.standard_normal(D)
            np.save(tmp_path / name / f"part_{i}.npy", rows.astype(np.float32))
    return tmp_path / "text", tmp_path / "img"


class Thread(TorchGroup):
    """A rank that is a thread: messages go through a list."""

    def __init__(self, rank, board):
        self.rank, self.size = rank, board["barrier"].parties
        self._board = board

    def all_gather(self, value):
        self._board[self.rank] = value
        self._board["barrier"].wait(HANGS)
        values = [self._board[rank] for rank in range(self.size)]
        self._board["barrier"].wait(HANGS)
        return values

    def all_reduce(self, sums):
        all_sums = self.all_gather((sums.low.copy(), sums.high.copy(), sums.count))
        total = ExactSum(sums.d)
        for low, high, count in all_sums:
            one = ExactSum(sums.d)
            one.low, one.high, one.count = low, high, count
            total.add(one)
        sums.low, sums.high, sums.count = total.low, total.high, total.count


def on_ranks(size, work, may_break=False):
    """What work(ranks) returns or raises, on each rank.

    may_break: a rank that fails breaks the barrier, as a process that is gone closes its connections
    """
    board = {"barrier": threading.Barrier(size)}
    results = [None] * size

    def run(rank):
        try:
            results[rank] = work(Thread(rank, board))
        except BaseException as error:
            results[rank] = error
            if may_break:
                board["barrier"].abort()

    crew = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join(HANGS)
    return results


def fitted(ranks, sides, bad_rows="error", **options):
    source, target = (
        shared(open_rows(side, name), ranks) for side, name in zip(sides, ("source", "target"), strict=True)
    )
    return fit_sources(source, target, FitOptions(**options), PassOptions(bad_rows, Workers.of(2)))


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize(
    "options", [{}, {"centroid": "exact"}, {"one_pass": True}, {"one_pass": True, "centroid": "exact"}], ids=str
)
def test_any_number_of_ranks_gives_the_same_bits(sides, size, options, monkeypatch):
    monkeypatch.setattr(reservoir, "ROWS", 500)
    expected = fitted(ProcessGroup(), sides, **options)
    for found in on_ranks(size, lambda ranks: fitted(ranks, sides, **options)):
        assert found.fingerprint == expected.fingerprint
        assert found.mean_source.tobytes() == expected.mean_source.tobytes()
        assert (found.count_source, found.count_target) == (expected.count_source, expected.count_target)
        assert found.sampling == expected.sampling


@pytest.mark.parametrize("size", [1, 2, 3, 8, 50])
def test_every_row_of_files_belongs_to_one_rank(sides, size):
    def pieces(ranks):
        source = shared(open_rows(sides[0], "source"), ranks)
        return [(piece.shard, row) for piece in source.pieces() for row in range(piece.lo, piece.hi)]

    rows = [row for part in on_ranks(size, pieces) for row in part]
    assert len(rows) == len(set(rows)) == open_rows(sides[0], "source").rows


def test_arrays_are_each_ranks_own_rows(rng, monkeypatch):
    monkeypatch.setattr(reservoir, "ROWS", 100)
    monkeypatch.setattr("fastrealign.methods.one_pass.PILOT_ROWS", 60)
    y, x = (rng.standard_normal((900, D)) + rng.standard_normal(D) for _ in range(2))
    expected = fr.fit(y, x)
    for found in on_ranks(3, lambda ranks: fitted(ranks, (np.split(y, 3)[ranks.rank], np.split(x, 3)[ranks.rank]))):
        assert found.fingerprint == expected.fingerprint
    once = on_ranks(
        3, lambda ranks: fitted(ranks, (iter(np.split(y, 9)[3 * ranks.rank :][:3]), np.split(x, 3)[ranks.rank]))
    )
    assert len({found.fingerprint for found in once}) == 1
    assert once[0].sampling.error > 0
    assert np.linalg.norm(once[0].c - expected.c) < 6 * once[0].sampling.error


def test_a_bad_row_of_one_rank_is_an_error_of_all(sides):
    path = sorted(sides[0].iterdir())[-1]
    rows = np.load(path)
    rows[-1] = np.nan
    np.save(path, rows)
    results = on_ranks(3, lambda ranks: fitted(ranks, sides))
    assert all(isinstance(result, BadRowsError) for result in results)
    assert [result.reported_elsewhere for result in results] == [True, True, False]
    assert str(results[2]).startswith(f"{path}: row {len(rows) - 1} has a NaN or Inf")
    assert str(results[0]) == f"rank 2: {results[2]}"
    found = on_ranks(2, lambda ranks: fitted(ranks, sides, bad_rows="skip"))
    assert found[0].fingerprint == fitted(ProcessGroup(), sides, bad_rows="skip").fingerprint


def test_an_error_of_another_kind_keeps_its_message():
    def work(ranks):
        with ranks.fail_together():
            if ranks.rank == 1:
                raise OSError("the disk is gone")

    results = on_ranks(2, work)
    assert type(results[0]) is FastRealignError and str(results[0]) == "rank 1: the disk is gone"
    assert type(results[1]) is OSError


def test_one_process_alone():
    ranks = ProcessGroup()
    assert (ranks.broadcast(5), ranks.all_gather(5), ranks.on_rank_0(lambda: 7)) == (5, [5], 7)
    assert ranks_of(None).size == 1
    with pytest.raises(ValueError), ranks.fail_together():
        raise ValueError


# --- gloo ------------------------------------------------------------------------------------------------------------


def many_sums(seed):
    """Moments whose limbs are as large as they get, of either sign."""
    rng = np.random.default_rng(seed)
    moments = fr.Moments(40)
    moments.update(rng.standard_normal((30 + seed, 40)))
    large = ExactSum(40)
    large.low[:] = rng.integers(0, 2**64, 40, np.uint64)
    large.high[:] = rng.integers(-(2**60), 2**60, 40)
    moments.sums.add(large)
    moments.bad_rows = seed
    return moments


def reduced_with_gloo(rank, size, folder):
    found = many_sums(rank).all_reduce_()
    expected = fr.Moments(40)
    for other in range(size):
        expected += many_sums(other)
    assert found == expected and found.count == expected.count
    try:
        fr.Moments(3 + rank).all_reduce_()
    except InputError as error:
        assert "moments of widths [3, 4, 5] on the ranks cannot be added" in str(error)
    else:
        raise AssertionError("widths that differ were added")


def fitted_with_gloo(rank, size, folder):
    sides = (folder / "text", folder / "img")
    found, expected = fr.fit(*sides, group="world", centroid="exact"), fr.fit(*sides, centroid="exact")
    assert found.fingerprint == expected.fingerprint and found.gap_left == expected.gap_left
    assert fr.fit(*sides, group="world", tol=0.5).fingerprint == fr.fit(*sides, tol=0.5).fingerprint
    some = np.ones((3, D))
    try:
        fr.fit(some, some + 1, group="world", tol=0.5)
    except InputError as error:
        assert "tol with a group: every rank reads the same sample" in str(error)
    else:
        raise AssertionError("a sample of rows that others do not have")


def aligned_with_gloo(rank, size, folder):
    report = fr.align(folder / "text", folder / "img", folder / "out", group="world", dtype="float16")
    assert report.shards == 7 and report.rows_now == report.rows_in == report.rows_out
    again = fr.align(folder / "text", folder / "img", folder / "out", group="world", dtype="float16", resume=True)
    assert again.nothing_to_do


def with_gloo(rank, size, folder):
    for check in (reduced_with_gloo, fitted_with_gloo, aligned_with_gloo):
        check(rank, size, folder)


def same_files(a, b):
    names = sorted(path.name for path in a.iterdir())
    assert names == sorted(path.name for path in b.iterdir())
    for name in names:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


def test_messages_between_processes(sides, tmp_path):
    run_on_processes(with_gloo, 3, tmp_path)
    fr.align(*sides, tmp_path / "alone", dtype="float16")
    same_files(tmp_path / "out", tmp_path / "alone")


def opened_and_closed(rank, folder):
    import torch.distributed as dist

    # On one core, it is likely that a thread of torch's has not yet let go of the message.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for turn in range(40):
        dist.init_process_group("gloo", init_method=f"file://{folder}/{turn}", rank=rank, world_size=2)
        group = TorchGroup()
        assert group.all_gather(rank * 1000 * "x") == ["", 1000 * "x"]
        group.close()


def test_a_group_that_is_closed_after_a_message_waits_for_no_thread(tmp_path):
    """destroy_process_group of torch 2.6 waits for threads that may wait for the GIL, which it holds."""
    assert ended(*(started(opened_and_closed, rank, tmp_path) for rank in (0, 1))) == [0, 0]


# --- torchrun --------------------------------------------------------------------------------------------------------


def torchrun(*words, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*command, "-m", "fastrealign", *map(str, words)]


def run(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=HANGS)


def on_a_rank(words, where, stdout):
    os.environ.update(where)
    with stdout.open("w") as file:
        os.dup2(file.fileno(), 1)
    code = main(words)
    sys.stdout.flush()
    os._exit(code)


def test_the_command_on_the_ranks_of_torchrun(sides, tmp_path):
    """Processes that have what torchrun gives them; the test below has torchrun itself."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True)
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    where |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    words = ["align", str(sides[0]), "--target", str(sides[1]), "--out", str(tmp_path / "out"), "--json"]
    said = [tmp_path / "0.json", tmp_path / "1.json"]
    ranks = [
        started(on_a_rank, words, {**where, "RANK": str(rank), "LOCAL_RANK": str(rank)}, said[rank]) for rank in (0, 1)
    ]
    assert ended(*ranks) == [0, 0]
    assert json.loads(said[0].read_text())["shards"] == 7 and said[1].read_text() == ""  # one process speaks
    assert main(["align", str(sides[0]), "--target", str(sides[1]), "--out", str(tmp_path / "alone"), "--quiet"]) == 0
    same_files(tmp_path / "out", tmp_path / "alone")


@pytest.mark.parametrize(
    "where",
    [
        {"WORLD_SIZE": "2", "RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "x", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
        {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
    ],
)
def test_variables_that_torchrun_did_not_set(sides, tmp_path, monkeypatch, capsys, where):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    assert main(["align", str(sides[0]), "--target", str(sides[1]), "--out", str(tmp_path / "out")]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "WORLD_SIZE=2" in said and said.endswith("start with torchrun, or unset WORLD_SIZE and RANK")


@pytest.mark.parametrize(
    "group, says", [("x", "group='x': expected 'world'"), ("world", "no process group"), (5, "no process group")]
)
def test_a_group_that_is_none(sides, group, says):
    with pytest.raises(fr.InputError, match=says):
        fr.fit(*sides, group=group)
    with pytest.raises(fr.InputError, match="no process group"):
        fr.Moments(3).all_reduce_()


def test_an_error_under_torchrun_is_said_once(sides, tmp_path):
    path = sorted(sides[0].iterdir())[-1]
    rows = np.load(path)
    rows[-1] = 0
    np.save(path, rows)
    done = run(torchrun("fit", sides[0], "--target", sides[1], "--out", tmp_path / "a.safetensors"))
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("fastrealign: error")]
    assert lines == [f"fastrealign: error: {path}: row {len(rows) - 1} is all zeros; " + lines[0].partition("; ")[2]]
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("delay", [4.0, 5.0, 6.0])
def test_killed_under_torchrun_and_resumed_by_one_process(rng, tmp_path, delay):
    (tmp_path / "text").mkdir()
    for i in range(40):
        np.save(tmp_path / "text" / f"part_{i}.npy", rng.standard_normal((20_000, 128), dtype=np.float32) + 1)
    np.save(tmp_path / "img.npy", rng.standard_normal((1000, 128)) - 1)
    words = ["align", str(tmp_path / "text"), "--target", str(tmp_path / "img.npy"), "--out", str(tmp_path / "out")]
    started = subprocess.Popen(torchrun(*words, processes=3), start_new_session=True, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    time.sleep(0.5)  # the workers are in sessions of their own: they end when their launcher is gone
    subprocess.run(["pkill", "-9", "-f", str(tmp_path / "out")], check=False)
    assert main([*words, "--quiet", *(["--resume"] if (tmp_path / "out").exists() else [])]) == 0
    assert not list((tmp_path / "out").glob(f"{JOURNAL.removesuffix('.jsonl')}*"))
    fr.align(tmp_path / "text", tmp_path / "img.npy", tmp_path / "alone")
    same_files(tmp_path / "out", tmp_path / "alone")


# --- journals of other ranks -----------------------------------------------------------------------------------------


def test_what_other_ranks_have_noted_is_resumed(sides, tmp_path):
    """A run of three ranks that was killed: each has shards in place and a journal of its own."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    fr.align(*sides, whole)

    def until_rank_1_fails(ranks):
        options = JobOptions(ReadOptions(), Compute(threads=1), OutputOptions(), Fail(ranks.rank))
        job = AlignJob(*sides, out, FitOptions(), options)
        job.ranks = ranks
        return job.run()

    class Fail(Progress):
        def __init__(self, rank):
            self.rank, self.phase = rank, ""

        def start(self, phase, rows, nbytes):
            self.phase, self.rows = phase, 0

        def advance(self, rows, nbytes):
            self.rows += rows
            if self.phase == "aligning" and self.rank == 1 and self.rows > 1000:
                raise RuntimeError("killed")

    results = on_ranks(3, until_rank_1_fails, may_break=True)
    assert [type(result) for result in results].count(RuntimeError) == 1, results
    left = sorted(path.name for path in out.glob(".fastrealign-run*"))
    assert left == [".fastrealign-run.1.jsonl", ".fastrealign-run.2.jsonl", ".fastrealign-run.jsonl"]
    report = fr.align(*sides, out, resume=True)
    assert 0 < report.shards_before < 7
    same_files(out, whole)


def test_restarting_removes_the_journals_of_other_ranks(sides, tmp_path):
    test_out = tmp_path / "out"
    test_what_other_ranks_have_noted_is_resumed(sides, tmp_path)
    for name in (".fastrealign-run.1.jsonl",):
        (test_out / name).write_bytes(b"")
    fr.align(*sides, test_out, overwrite=True)
    same_files(test_out, tmp_path / "whole")
