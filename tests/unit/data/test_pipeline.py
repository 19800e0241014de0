"""Passes: which thread takes which pieces, and which bad row is the first."""

from __future__ import annotations

import itertools
import threading

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.data.pipeline import _Supply
from fastrealign.data.row_source import Piece


def runs(*sizes):
    return (iter([Piece(shard, lo, lo + 1, lo) for lo in range(size)]) for shard, size in enumerate(sizes))


def test_each_thread_takes_a_run_of_its_own_and_then_helps():
    supply = _Supply(runs(2, 4, 1), lambda piece: False)
    one, two = iter(supply), iter(supply)
    taken = [(next(one).shard, next(two).shard) for _ in range(2)]
    assert taken == [(0, 1), (0, 1)]
    assert [(piece.shard, piece.lo) for piece in one] == [
        (2, 0),
        (1, 2),
        (1, 3),
    ]  # the last run, then what `two` has left
    assert list(two) == []


def test_every_piece_is_taken_once_by_many_threads():
    supply, taken = _Supply(runs(*range(60)), lambda piece: False), []

    def work():
        for piece in supply:
            taken.append((piece.shard, piece.lo))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [(shard, lo) for shard in range(60) for lo in range(shard)]


def test_runs_that_were_begun_are_finished_and_no_other():
    supply = _Supply(runs(3, 3, 3), lambda piece: False)
    one, two = iter(supply), iter(supply)
    next(one), next(two)
    supply.begin_no_shard()
    left = sorted((piece.shard, piece.lo) for piece in itertools.chain(one, two))
    assert left == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_pieces_behind_a_bad_row_are_left_out_and_those_before_it_are_not():
    bad = []
    supply = _Supply(runs(3, 3, 3), lambda piece: bool(bad) and (piece.shard, piece.lo) > bad[0])
    one, two = iter(supply), iter(supply)
    next(one), next(two)
    bad.append((1, 0))
    assert [(piece.shard, piece.lo) for piece in two] == [(0, 1), (0, 2)]
    assert list(one) == []


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_the_first_bad_row_is_named_whichever_is_found_first(tmp_path, threads):
    shards = [corpus.rows(6000, i, dim=128) for i in range(4)]
    alignment = fr.fit(np.concatenate(shards), corpus.rows(500, 9, dim=128))
    shards[0][5990] = np.nan
    for rows in shards[1:]:
        rows[0] = 0
    text = corpus.npy_folder(tmp_path / "text", shards)
    with pytest.raises(fr.BadRowsError, match=r"part_0\.npy: row 5990 "):
        fr.apply_files(alignment, text, tmp_path / "out", threads=threads, max_memory=threads * (1 << 19))
    assert not (tmp_path / "out").exists()
