"""The journal and the manifest by themselves: what they tell, after whatever happened to them."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.formats.manifest import JobSpec, Manifest, ShardRecord
from fastrealign.jobs.journal import Journal, Noted
from fastrealign.storage.fingerprint import FileFingerprint
from fastrealign.storage.records import sealed

SPEC = JobSpec(
    "align",
    {"dtype": None, "bad_rows": "error"},
    {"a": FileFingerprint(3, "x", 7)},
    {"b": FileFingerprint(4, "y", 8)},
    ["m"],
)


def record(name: str) -> ShardRecord:
    return ShardRecord(name, 10, 9, 2, 1, [[4, "is all zeros"]], 640, "cafe", "metadata/m.parquet")


def sums(seed: int) -> ExactSum:
    rng = np.random.default_rng(seed)
    exact = ExactSum(5)
    exact.low = rng.integers(0, 2**64, 5, dtype=np.uint64)
    exact.high = rng.integers(-(2**40), 2**40, 5)
    exact.count = int(rng.integers(1, 1000))
    return exact


def test_a_mark_sees_size_head_and_tail(tmp_path):
    data = bytearray(os.urandom(100_000))
    path = tmp_path / "f"
    path.write_bytes(data)
    mark = FileFingerprint.of(path)
    assert mark.bytes == 100_000 and mark.modified is None
    for at in (0, 99_999):
        data[at] ^= 1
        path.write_bytes(data)
        assert FileFingerprint.of(path) != mark
        data[at] ^= 1
    path.write_bytes(data)
    assert FileFingerprint.of(path) == mark
    path.write_bytes(bytes(data) + b"x")
    assert FileFingerprint.of(path) != mark


def test_a_mark_of_an_input_sees_when_it_was_modified(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"short")
    before = FileFingerprint.of(path, modified=True)
    os.utime(path, ns=(5, 5))
    after = FileFingerprint.of(path, modified=True)
    assert after.modified == 5 and replace(after, modified=before.modified) == before


@pytest.mark.parametrize("size", [0, 1, 16 << 10, (16 << 10) + 1])
def test_marks_of_small_files(tmp_path, size):
    path = tmp_path / "f"
    path.write_bytes(b"a" * size)
    assert FileFingerprint.of(path).bytes == size


def test_a_missing_file_has_no_mark(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        FileFingerprint.of(tmp_path / "none")


def test_marks_of_folders(tmp_path):
    for name, data in (("a/b", b"1" * 99_999), ("a/c", b"2"), ("d", b"")):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(data)
    mark = FileFingerprint.of(tmp_path / "x")
    assert mark.bytes == 100_000 and mark.modified is None
    shutil.copytree(tmp_path / "x", tmp_path / "copy")
    assert FileFingerprint.of(tmp_path / "copy") == mark
    os.utime(tmp_path / "copy" / "d", ns=(1, 2**62))
    assert FileFingerprint.of(tmp_path / "copy", modified=True).modified == 2**62
    changes = [
        lambda folder: (folder / "a" / "c").write_bytes(b"3"),
        lambda folder: (folder / "d").rename(folder / "e"),
        lambda folder: (folder / "f").write_bytes(b""),
        lambda folder: (folder / "d").unlink(),
    ]
    for i, change in enumerate(changes):
        shutil.copytree(tmp_path / "x", tmp_path / f"changed {i}")
        change(tmp_path / f"changed {i}")
        assert FileFingerprint.of(tmp_path / f"changed {i}") != mark


def test_a_journal_tells_what_was_noted(tmp_path):
    path = tmp_path / "j"
    first = Journal(path)
    first.begin(SPEC)
    first.note_alignment("abc")
    for i in range(3):
        first.add(record(f"s{i}"), sums(i))
        first.flush()
    first.add(record("s3"), sums(3))
    total = first.total(5)
    first.close()

    noted = Journal.peek(path)
    assert noted.spec == SPEC and noted.alignment == "abc"
    assert noted.shards == [record(f"s{i}") for i in range(4)]
    again = Journal(path)
    assert again.total(5) == total and again.shards == noted.shards
    again.remove()
    assert not path.exists()


def test_shards_of_one_second_share_a_line(tmp_path):
    journal = Journal(tmp_path / "j")
    journal.begin(SPEC)
    for i in range(50):
        journal.add(record(f"s{i}"), sums(i))
    journal.close()
    # Fewer than one a shard, however slow the machine; the test itself takes far less than 20 s.
    assert len((tmp_path / "j").read_bytes().splitlines()) < 22


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_line_that_was_cut_off_is_dropped_and_overwritten(tmp_path, cut):
    path = tmp_path / "j"
    journal = Journal(path)
    journal.begin(SPEC)
    for i in range(2):
        journal.add(record(f"s{i}"), sums(i))
        journal.flush()
    journal.close()
    os.truncate(path, path.stat().st_size - cut)
    again = Journal(path)
    assert [shard.name for shard in again.shards] == ["s0"]
    again.add(record("s1"), sums(1))
    again.close()
    assert [shard.name for shard in Journal.peek(path).shards] == ["s0", "s1"]


def whole_journal(path, *shards: tuple[str, int]) -> bytes:
    """An order and a line for each of `shards`, a name and the seed of its sums."""
    journal = Journal(path)
    journal.begin(SPEC)
    for name, seed in shards:
        journal.add(record(name), sums(seed))
        journal.flush()
    journal.close()
    data = path.read_bytes()
    path.unlink()
    return data


@pytest.mark.parametrize(
    "line",
    [b"[]", b"", b"{}", b"null", b'{"shards": 3}', b"\0" * 512, b"[" * 100_000, b'{"check":' * 50_000, b"1" * 10_000],
    ids=lambda line: line[:12].decode(),
)
def test_what_is_not_a_line_of_a_journal_counts_for_nothing(tmp_path, line):
    noted, (order, *shards) = Noted(), whole_journal(tmp_path / "j", ("a", 0), ("b", 1)).splitlines(keepends=True)
    text = b"".join([order, shards[0], line, b"\n", sealed(line) + b"\n", shards[1], line])
    assert noted.read(text, tmp_path) == len(text) - len(line)
    assert [shard.name for shard in noted.shards] == ["a", "b"] and noted.spec == SPEC
    assert noted.damaged == 2 + (line != b"")


@pytest.mark.parametrize(
    "change",
    [
        {"rows_in": "10"},
        {"rows_out": -1},
        {"skipped": True},
        {"bytes": 1.5},
        {"name": "../mine.npy"},
        {"name": "/mine.npy"},
        {"metadata": ["m"]},
        {"first_bad": [[0]]},
        {"dropped": [[3, 2]]},
        {"dropped": [3]},
        {"ends": None},
        {"bytes": 10**400},
    ],
    ids=str,
)
def test_a_record_of_another_type_is_none(tmp_path, change):
    value = {**record("a").to_json(), **change}
    with pytest.raises(ValueError, match="expected"):
        ShardRecord.from_json(value)
    line = {"shards": [value], "count": 1, "low": "", "high": ""}
    noted = Noted()
    noted.read(sealed(json.dumps(line).encode()) + b"\n", tmp_path)
    assert (noted.shards, noted.damaged) == ([], 1)


def test_a_shard_counts_once_as_the_last_line_says(tmp_path):
    a, b = sums(0), sums(1)
    again = whole_journal(tmp_path / "j", ("a", 0), ("b", 1), ("a", 2))
    order, *lines = again.splitlines(keepends=True)
    for text, shards, total, damaged in (
        (again, ["b", "a"], [sums(2), b], 1),
        (b"".join([order, lines[0], lines[0], lines[1], lines[0]]), ["b", "a"], [a, b], 0),
    ):
        (tmp_path / "j").write_bytes(text)
        journal = Journal(tmp_path / "j")
        assert [shard.name for shard in journal.shards] == shards and journal.noted.damaged == damaged
        expected = ExactSum(5)
        for part in total:
            expected.add(part)
        assert journal.total(5) == expected
        journal.close()


def test_a_shard_twice_in_one_line_and_a_group_of_others_with_it(tmp_path):
    journal = Journal(tmp_path / "j")
    journal.begin(SPEC)
    for name in ("a", "a"):
        journal.add(record(name), sums(0))
    journal.close()
    noted = Journal.peek(tmp_path / "j")
    assert (noted.shards, noted.damaged) == ([], 1)

    journal = Journal(tmp_path / "k")
    journal.begin(SPEC)
    for names in ("ab", "cd", "b"):
        for name in names:
            journal.add(record(name), sums(ord(name)))
        journal.flush()
    taken = Journal(tmp_path / "l")
    taken.take_in([*journal.noted.groups, *journal.noted.groups])
    assert [shard.name for shard in taken.shards] == ["a", "b", "c", "d"]
    journal.close()
    noted = Journal.peek(tmp_path / "k")
    assert [shard.name for shard in noted.shards] == ["c", "d", "b"] and noted.damaged == 1


def test_a_journal_of_before_there_were_checksums_is_read(tmp_path):
    lines = [json.loads(line) for line in whole_journal(tmp_path / "j", ("a", 0), ("b", 1)).splitlines()]
    for line in lines:
        del line["check"]
    lines[0]["format"] = 1
    old = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    noted = Noted()
    noted.read(old, tmp_path)
    assert noted.spec == SPEC and [shard.name for shard in noted.shards] == ["a", "b"] and noted.damaged == 0
    noted = Noted()
    noted.read(b"?" + old, tmp_path)
    assert (noted.spec, noted.shards, noted.damaged) == (None, [], 3)


def test_groups_that_are_forgotten_stay_forgotten(tmp_path):
    path = tmp_path / "j"
    journal = Journal(path)
    journal.begin(SPEC)
    for i in range(3):
        journal.add(record(f"s{i}"), sums(i))
        journal.flush()
    journal.keep([group for group in journal.noted.groups if group.shards[0].name != "s1"])
    journal.close()
    again = Journal(path)
    assert [shard.name for shard in again.shards] == ["s0", "s2"]
    expected = sums(0)
    expected.add(sums(2))
    assert again.total(5) == expected


def test_a_later_order_takes_the_place_of_an_earlier_one(tmp_path):
    path = tmp_path / "j"
    journal = Journal(path)
    journal.begin(SPEC)
    journal.add(record("s"), sums(0))
    journal.flush()
    journal.begin(replace(SPEC, kind="apply"))
    journal.close()
    noted = Journal.peek(path)
    assert noted.spec.kind == "apply" and len(noted.shards) == 1


def test_a_journal_is_one_run_s(tmp_path):
    journal = Journal(tmp_path / "j")
    with pytest.raises(InputError, match="another fastrealign is writing there"):
        Journal(tmp_path / "j")
    journal.close()
    Journal(tmp_path / "j").close()


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "j"
    journal = Journal(path)
    journal.begin(SPEC)
    before = path.read_bytes()
    real, calls = os.write, []

    def write(fd, data):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[:10])

    monkeypatch.setattr(os, "write", write)
    journal.add(record("s"), sums(0))
    with pytest.raises(FastRealignError, match="No space left on device"):
        journal.flush()
    assert path.read_bytes() == before
    monkeypatch.undo()
    journal.close()
    assert [shard.name for shard in Journal.peek(path).shards] == ["s"]


def test_a_newer_journal_or_manifest_is_not_guessed_at(tmp_path):
    path = tmp_path / "j"
    path.write_text('{"fastrealign": "9.0", "format": 99, "order": {}}\n')
    with pytest.raises(InputError, match="newer"):
        Journal(path)
    assert path.read_text().startswith('{"fastrealign"')
    path.write_text('{"fastrealign": "9.0", "format": 99}')
    with pytest.raises(InputError, match="newer"):
        Manifest.load(path)


def test_a_manifest_with_any_bit_flipped_is_damaged_and_one_of_before_is_read(tmp_path, rng):
    manifest, path = Manifest(SPEC, "abc", 0.5, 0.25, [record("s0"), record("s1")]), tmp_path / "m.json"
    manifest.save(path)
    data = path.read_bytes()
    for at in range(len(data)):
        spoiled = bytearray(data)
        spoiled[at] ^= 1 << rng.integers(8)
        path.write_bytes(spoiled)
        with pytest.raises(InputError, match="is damaged, or not a manifest"):
            Manifest.load(path)
    old = json.loads(data)
    del old["check"]
    path.write_text(json.dumps({**old, "format": 1}))
    assert Manifest.load(path) == manifest
    path.write_text(json.dumps(old))
    with pytest.raises(InputError, match="its checksum is not readable"):
        Manifest.load(path)


@pytest.mark.parametrize("gap", [0.25, None])
def test_a_manifest_comes_back(tmp_path, gap):
    manifest = Manifest(SPEC, "abc", 0.5, gap, [record("s0"), record("s1")])
    manifest.save(tmp_path / "m.json")
    assert Manifest.load(tmp_path / "m.json") == manifest
    first = (tmp_path / "m.json").read_bytes()
    manifest.save(tmp_path / "m.json", fsync=False)
    assert (tmp_path / "m.json").read_bytes() == first
    value = json.loads(first)
    assert (value["rows_in"], value["rows_out"], value["skipped"], value["bad_rows"]) == (20, 18, 4, 2)
    assert (
        sum(line.startswith(b'{"name": "s') for line in first.splitlines()) == 2
    )  # a shard a line, to be read while it runs


@pytest.mark.parametrize(
    "change, named",
    [
        ({"kind": "apply"}, "made by align, not by apply"),
        ({"options": {"dtype": "float16", "bad_rows": "error"}}, "dtype was the default, now it is float16"),
        ({"options": {"dtype": None, "bad_rows": "keep"}}, None),
        ({"alignment": "z"}, "the alignment is another one"),
        ({"source": {}}, "the source a is gone"),
        ({"source": {"a": FileFingerprint(3, "x", 9)}}, "the source a was changed"),
        ({"target": {"b": FileFingerprint(4, "z", 8)}}, "the target b was changed"),
        ({"target": {**SPEC.target, "c": FileFingerprint(1, "", 1)}}, "the target c was not there"),
        ({}, None),
    ],
)
def test_changes_are_named(change, named):
    assert (replace(SPEC, **change).change(SPEC) or "").endswith(named or "")
    assert (replace(SPEC, **change).change(SPEC) is None) == (named is None)


def test_bad_rows_cannot_become_an_error_afterwards():
    kept = replace(SPEC, options={"dtype": None, "bad_rows": "keep"})
    assert SPEC.change(kept) == "bad_rows was keep, now it is error"
