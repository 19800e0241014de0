"""Several processes on one output at the same time: one does the work, the others say so in one line, the bytes are right."""

from __future__ import annotations

import os
import signal
import time
import warnings
from functools import partial

import corpus
import pytest

import fastrealign as fr
from fastrealign.core.errors import FastRealignError
from fastrealign.core.progress import Progress

SAID = (
    "another fastrealign is writing there",
    "another fastrealign has just",
    "is not empty, a run is complete there",
    "holds an unfinished run",
    "holds part_",
    "exists; choose another name",
)


class Slowly(Progress):
    """So that the others come while it is at it."""

    def advance(self, rows, nbytes):
        time.sleep(0.002)


def at_once(*works) -> list[str]:
    """Each of `works` in a fork of its own, all let go at one moment; what each said: "" where it succeeded."""
    start, go = os.pipe()
    children = []
    for work in works:
        said, say = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            signal.alarm(60)  # a fork that stands still ends
            try:
                os.close(go)
                os.read(start, 1)  # until all ends are closed
                warnings.simplefilter("ignore")
                try:
                    work()
                except FastRealignError as error:
                    os.write(say, str(error).encode())
                code = 0
            except BaseException as error:
                os.write(say, f"CRASH {error!r}".encode())
            finally:
                os._exit(code)
        os.close(say)
        children.append((child, said))
    os.close(start)
    os.close(go)
    found = []
    for child, said in children:
        with os.fdopen(said, "rb") as file:
            text = file.read().decode()
        os.waitpid(child, 0)
        assert "CRASH" not in text and "\n" not in text, text
        found.append(text)
    return found


@pytest.fixture
def sides(tmp_path):
    return corpus.two_sides(tmp_path, shards=4, each=30)


def ways(sides, out, **how):
    how = {"threads": 1, "fsync": False, "progress": Slowly(), **how}
    return lambda: fr.align(*sides, out, **how)


@pytest.mark.parametrize("delay", [False, True])
def test_the_same_command_twice(tmp_path, sides, delay):
    fr.align(*sides, tmp_path / "whole", fsync=False)
    whole = corpus.tree(tmp_path / "whole")
    for i in range(5):
        out = tmp_path / f"out{i}"
        first = ways(sides, out)

        def second(i=i, first=first):
            time.sleep(0.02 * i if delay else 0)
            first()

        said = at_once(first, second)
        assert said.count("") == 1, said
        assert any(piece in "".join(said) for piece in SAID), said
        assert corpus.tree(out) == whole


def test_different_commands(tmp_path, sides):
    alignment = fr.fit(*sides)
    wholes = []
    for i, run in enumerate(
        [
            lambda out: fr.align(*sides, out, threads=1, fsync=False, progress=Slowly()),
            lambda out: fr.align(*sides, out, threads=1, fsync=False, dtype="float16", progress=Slowly()),
            lambda out: fr.apply_files(alignment, sides[0], out, threads=1, fsync=False, progress=Slowly()),
        ]
    ):
        run(tmp_path / f"whole{i}")
        wholes.append((run, corpus.tree(tmp_path / f"whole{i}")))
    for i in range(4):
        out = tmp_path / f"out{i}"
        said = at_once(*(partial(run, out) for run, _ in wholes))
        assert said.count("") == 1, said
        assert corpus.tree(out) == wholes[said.index("")][1]


@pytest.mark.parametrize("hows", [("resume", "resume"), ("overwrite", "overwrite"), ("resume", "overwrite")], ids=str)
@pytest.mark.parametrize("before", ["nothing", "unfinished", "complete"])
def test_resumed_and_restarted(tmp_path, sides, hows, before):
    from stops import StopAfter

    fr.align(*sides, tmp_path / "whole", fsync=False)
    whole = corpus.tree(tmp_path / "whole")
    for i in range(3):
        out = tmp_path / f"out{i}"
        if before == "unfinished":
            with pytest.raises(FastRealignError):
                fr.align(*sides, out, threads=1, progress=StopAfter(60), fsync=False)
        elif before == "complete":
            fr.align(*sides, out, fsync=False)
        said = at_once(*(ways(sides, out, **{how: True}) for how in hows))
        # One that comes when the other is through finds a complete run: a resume has nothing to do, an overwrite restarts it.
        assert "" in said, said
        assert all(text == "" or any(piece in text for piece in SAID) for text in said), said
        assert corpus.tree(out) == whole


def test_one_file_and_convert(tmp_path, sides):
    pytest.importorskip("pyarrow")
    source = sides[0] / "part_0.npy"
    fr.align(source, sides[1], tmp_path / "whole.npy", fsync=False)
    fr.convert(sides[0], tmp_path / "converted", to="parquet")
    whole, converted = (tmp_path / "whole.npy").read_bytes(), corpus.tree(tmp_path / "converted")
    for i in range(3):
        out = tmp_path / f"out{i}.npy"
        run = partial(fr.align, source, sides[1], out, threads=1, fsync=False, progress=Slowly())
        said = at_once(run, run)
        assert said.count("") == 1 and any(piece in "".join(said) for piece in SAID), said
        assert out.read_bytes() == whole
        folder = tmp_path / f"folder{i}"
        convert = partial(fr.convert, sides[0], folder, to="parquet", progress=Slowly())
        said = at_once(convert, convert)
        assert "" in said, said
        assert corpus.tree(folder) == converted


def test_fits_to_one_name(tmp_path, sides):
    from fastrealign.cli.main import main

    other = corpus.npy_folder(tmp_path / "other", [corpus.rows(90, 5)])
    for i in range(3):
        out = tmp_path / f"a{i}.safetensors"
        commands = [
            ["fit", str(text), "--target", str(sides[1]), "--out", str(out), "--quiet"] for text in (sides[0], other)
        ]
        at_once(*(lambda command=command: main(command) for command in commands))
        assert fr.load(out).fingerprint in {fr.fit(text, sides[1]).fingerprint for text in (sides[0], other)}
        assert not list(tmp_path.glob(".*.tmp"))
