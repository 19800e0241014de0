"""A journal, a manifest or an alignment with damage of any kind: the same bytes in the end or a refusal, never other bytes."""

from __future__ import annotations

import shutil
import warnings

import corpus
import pytest
from stops import StopAfter

import fastrealign as fr
from fastrealign.formats.manifest import JOURNAL
from fastrealign.storage.append_log import FileLog

SHARDS, EACH = 6, 40


class Case:
    """A run that was stopped twice, with a line for each shard; and what it makes when nobody disturbs it."""

    def __init__(self, folder, kind):
        self.sides = corpus.two_sides(folder, shards=SHARDS, each=EACH)
        self.kind = kind
        self.alignment = fr.fit(*self.sides)
        self.run(folder / "whole")
        self.whole = corpus.tree(folder / "whole")
        self.unfinished = folder / "unfinished"
        for until in (1, 4):
            with pytest.raises(fr.FastRealignError, match=r"(is|are) complete"):
                self.run(self.unfinished, threads=1, resume=until > 1, progress=StopAfter(until * EACH))
            if until == 1:  # so that there is a line that forgets
                (self.unfinished / "part_0.npy").write_bytes(b"damaged")
        self.journal = (self.unfinished / JOURNAL).read_bytes()

    def run(self, out, **how):
        how = {"fsync": False, **how}
        if self.kind == "align":
            return fr.align(*self.sides, out, **how)
        return fr.apply_files(self.alignment, self.sides[0], out, **how)

    def resumed(self, out, journal):
        """Whether a run with this journal continues to the same bytes; refused, it leaves what is there."""
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.unfinished, out)
        (out / JOURNAL).write_bytes(journal)
        before = corpus.tree(out)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self.run(out, resume=True)
            except fr.InputError as error:
                assert "\n" not in str(error)
                assert corpus.tree(out) == before
                return False, []
        assert corpus.tree(out) == self.whole
        return True, [str(one.message) for one in caught if "damaged" in str(one.message)]


@pytest.fixture(scope="module", params=["align", "apply"])
def case(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileLog, "seconds_a_line", 0.0)
        return Case(tmp_path_factory.mktemp(request.param), request.param)


def lines_of(data):
    return data.splitlines(keepends=True)


def test_the_journal_has_lines_of_every_kind(case):
    lines = lines_of(case.journal)
    assert len(lines) >= 8 and all(line.startswith(b'{"check":"') for line in lines)
    for kind in (b'"order"', b'"alignment"', b'"forget"', b'"shards"'):
        assert any(kind in line for line in lines), kind


def test_every_line_with_one_flipped_bit_is_reported_and_its_shards_are_done_again(case, tmp_path, rng):
    lines = lines_of(case.journal)
    for number, line in enumerate(lines):
        spoiled = bytearray(line)
        spoiled[rng.integers(len(line) - 1)] ^= 1 << rng.integers(8)
        done, warned = case.resumed(tmp_path / "out", b"".join([*lines[:number], spoiled, *lines[number + 1 :]]))
        assert done, number
        if number < next(i for i, line in enumerate(lines) if b'"forget"' in line):
            continue  # what was noted there is forgotten anyway
        assert len(warned) == 1 and JOURNAL in warned[0] and "1 damaged line; " in warned[0], warned
        again = int(b'"shards"' in line)
        assert f"; {again} of the shards that are there " in warned[0], (line, warned)


def test_a_line_that_comes_twice_counts_once(case, tmp_path):
    lines = lines_of(case.journal)
    for number, line in enumerate(lines):
        for at in (number, len(lines)):
            done, warned = case.resumed(tmp_path / "out", b"".join([*lines[:at], line, *lines[at:]]))
            assert done or b'"order"' in line
            assert warned == [] or b'"forget"' not in line


def test_lines_removed_and_swapped(case, tmp_path):
    lines = lines_of(case.journal)
    for one in range(len(lines)):
        assert case.resumed(tmp_path / "out", b"".join(lines[:one] + lines[one + 1 :]))[0]
        for other in range(one):
            swapped = list(lines)
            swapped[one], swapped[other] = lines[other], lines[one]
            assert case.resumed(tmp_path / "out", b"".join(swapped))[0]


def damaged(data, rng):
    """Some data with one of the kinds of damage that disks, kills and people do."""
    data = bytearray(data)
    lo, hi = sorted(rng.integers(0, len(data) + 1, 2))
    kind = rng.integers(9)
    if kind == 0:
        for at in rng.integers(0, len(data), rng.integers(1, 5)):
            data[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        data[lo:hi] = bytes(hi - lo)  # blocks that were never written
    elif kind == 2:
        del data[lo:hi]
    elif kind == 3:
        data[lo:lo] = data[lo:hi]
    elif kind == 4:
        data[lo:hi] = rng.bytes(hi - lo)
    elif kind == 5:
        data = data[:lo]
    elif kind == 6:
        data += bytes(4096)
    elif kind == 7:
        lines = data.splitlines(keepends=True)
        rng.shuffle(lines)
        data = bytearray(b"".join(lines[: rng.integers(1, len(lines) + 1)]))
    else:
        data[lo:hi] = data[lo:hi].replace(b"\n", b"")
    return bytes(data)


def test_a_journal_damaged_at_random(case, tmp_path, rng):
    done = [case.resumed(tmp_path / "out", damaged(case.journal, rng))[0] for _ in range(60)]
    assert sum(done) > 30


@pytest.mark.parametrize("name", ["manifest.json", "alignment.safetensors"])
def test_a_complete_run_whose_small_files_are_damaged(case, tmp_path, rng, name):
    for _ in range(25):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        case.run(out)
        (out / "notes.txt").write_text("mine")
        (out / name).write_bytes(damaged((out / name).read_bytes(), rng))
        before = corpus.tree(out)
        if before[name] == case.whole[name]:
            continue
        for how in ("resume", "overwrite"):
            with pytest.raises(fr.FastRealignError) as error:
                case.run(out, **{how: True})
            assert "\n" not in str(error.value)
            assert corpus.tree(out) == before
