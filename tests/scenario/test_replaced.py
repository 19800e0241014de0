"""Inputs written to or replaced in the middle of a run: an error that names the file, or what they were, never a mix."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import corpus
import pytest

import fastrealign as fr
from fastrealign.core.progress import Progress

SHARDS, EACH = 3, 50


@pytest.fixture(params=corpus.FORMATS)
def sides(request, tmp_path):
    if request.param in (".parquet", ".arrow"):
        pytest.importorskip("pyarrow")
    for side, seed in (("text", 1), ("image", 20), ("other text", 40), ("other image", 60)):
        (tmp_path / side).mkdir()
        for i in range(SHARDS):
            corpus.FORMATS[request.param](tmp_path / side / f"part_{i}{request.param}", corpus.rows(EACH, seed + i))
    return tmp_path / "text", tmp_path / "image"


def keep_times(path: Path, status: os.stat_result) -> None:
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced(path: Path, other: Path) -> None:
    status = path.stat()
    new = path.with_suffix(".new")
    shutil.copy(other, new)
    keep_times(new, status)
    os.replace(new, path)


def written_over(path: Path, other: Path) -> None:
    status = path.stat()
    with open(path, "r+b") as file:
        file.write(other.read_bytes())
        file.truncate()
    keep_times(path, status)


def cut(path: Path, other: Path) -> None:
    status = path.stat()
    os.truncate(path, path.stat().st_size - 100)
    keep_times(path, status)


def longer(path: Path, other: Path) -> None:
    status = path.stat()
    with open(path, "ab") as file:
        file.write(bytes(64))
    keep_times(path, status)


CHANGES = [replaced, written_over, cut, longer, lambda path, other: path.unlink()]


class ChangeAt(Progress):
    """Changes a file when the phase of this number begins, or once some rows of it were read."""

    def __init__(self, change, path: Path, number: int, rows: int = 0) -> None:
        self.change, self.path, self.number, self.rows, self.phases = change, path, number, rows, []

    def start(self, phase, rows, nbytes):
        self.phases.append(phase)
        self.left = self.rows
        if self.rows == 0:
            self._change()

    def advance(self, rows, nbytes):
        self.left -= rows
        if self.rows and self.left <= 0:
            self._change()

    def _change(self) -> None:
        if len(self.phases) - 1 == self.number:
            self.number = -1
            self.change(self.path, self.path.parent.with_name(f"other {self.path.parent.name}") / self.path.name)


PHASES = ["reading the target", "reading the source", "centring", "aligning"]


@pytest.mark.parametrize("change", CHANGES, ids=["replaced", "written over", "cut", "longer", "removed"])
def test_between_and_within_the_passes_of_a_run(sides, tmp_path, change):
    """A format and a change at every fourth of the moments: each format, and each change, meets all of them."""
    turn = list(corpus.FORMATS).index(next(sides[0].iterdir()).suffix) + CHANGES.index(change)
    fr.align(*sides, tmp_path / "whole", fsync=False)
    whole = corpus.tree(tmp_path / "whole")
    kept = {side: {path: path.read_bytes() for path in side.iterdir()} for side in sides}
    times = {path: path.stat() for side in sides for path in side.iterdir()}
    moments = itertools.product((0, EACH + 1), range(len(PHASES)), sides)
    for rows, number, side in itertools.islice(moments, turn % 4, None, 4):
        path = sorted(side.iterdir())[1]
        out = tmp_path / f"{side.name} {number} {rows}"
        progress = ChangeAt(change, path, number, rows)
        try:
            report = fr.align(*sides, out, progress=progress, threads=1, fsync=False, bad_shards="skip")
        except fr.InputError as error:
            assert not isinstance(error, fr.core.errors.BadShardError)
            assert path.name in str(error) and "\n" not in str(error)
        else:
            # It had been read for the last time.
            assert progress.phases == PHASES and (side is sides[1] or rows) and number >= 2 - (side is sides[1])
            assert corpus.tree(out) == whole and report.left_out == []
        for there, data in kept[side].items():
            there.write_bytes(data)
            keep_times(there, times[there])
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.parametrize(
    "options", [{}, {"centroid": "exact"}, {"method": "c3"}, {"tol": 0.5}, {"one_pass": True}], ids=str
)
def test_during_a_fit(sides, options):
    for number in range(2):
        for side in sides:
            path = sorted(side.iterdir())[1]
            data, times = path.read_bytes(), path.stat()
            progress = ChangeAt(replaced, path, number)
            with pytest.raises(fr.InputError, match=rf"{path.name}: changed|{path.name}: .* again"):
                fr.fit(*sides, progress=progress, **options)
            path.write_bytes(data)
            keep_times(path, times)


@pytest.mark.parametrize("change", CHANGES[:3])
def test_metadata(tmp_path, change):
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = tmp_path / "root"
    for name, seed in (("text_emb", 1), ("img_emb", 9)):
        corpus.npy_folder(root / name, [corpus.rows(EACH, seed + i) for i in range(2)], name)
    for folder in ("metadata", "other metadata"):
        (root / folder).mkdir()
        for i in range(2):
            pq.write_table(
                pa.table({"caption": [f"{folder[0]}{i}.{j}" for j in range(EACH)]}),
                root / folder / f"metadata_{i}.parquet",
            )
    path = root / "metadata" / "metadata_1.parquet"
    for number in range(4):
        shutil.copytree(root, tmp_path / "in")
        path = tmp_path / "in" / "metadata" / "metadata_1.parquet"
        with pytest.raises(fr.InputError, match=r"metadata_1\.parquet: changed"):
            fr.align(
                tmp_path / "in", tmp_path / "in", tmp_path / "out", progress=ChangeAt(change, path, number), fsync=False
            )
        shutil.rmtree(tmp_path / "in")
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_a_resume_after_it_is_refused_or_whole(tmp_path):
    sides = corpus.two_sides(tmp_path)
    other = corpus.npy_folder(tmp_path / "other text", [corpus.rows(60, 77) for _ in range(3)])
    path = sides[0] / "part_1.npy"
    for _ in range(2):
        with pytest.raises(fr.InputError, match=r"part_1\.npy: changed"):
            fr.align(*sides, tmp_path / "out", progress=ChangeAt(replaced, path, 3), threads=1)
        assert other
        if (tmp_path / "out").exists():
            with pytest.raises(fr.InputError, match=r"the source part_1\.npy was changed"):
                fr.align(*sides, tmp_path / "out", resume=True)
            fr.align(*sides, tmp_path / "out", overwrite=True)
            fr.align(*sides, tmp_path / "whole")
            assert corpus.tree(tmp_path / "out") == corpus.tree(tmp_path / "whole")
            return


@pytest.mark.parametrize("suffix", corpus.FORMATS)
def test_convert(tmp_path, suffix):
    pytest.importorskip("pyarrow")
    for folder, seed in (("text", 1), ("other text", 9)):
        (tmp_path / folder).mkdir()
        for i in range(2):
            corpus.FORMATS[suffix](tmp_path / folder / f"part_{i}{suffix}", corpus.rows(EACH, seed + i))
    to = "npy" if suffix == ".parquet" else "parquet"
    path = tmp_path / "text" / f"part_1{suffix}"
    with pytest.raises(fr.InputError, match=rf"part_1\{suffix}: .*changed|part_1\{suffix}: .*again"):
        fr.convert(tmp_path / "text", tmp_path / "out", to=to, progress=ChangeAt(replaced, path, 0))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("**/part_1*"))
