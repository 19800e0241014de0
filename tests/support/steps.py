"""python steps.py FOLDER CASE: runs that are killed before, or in the middle of, each step that changes the disk.

For n = 1, 2, ... a run gets SIGKILL at its n-th step; a second one, which resumes it or replaces what it left, is killed at its
n-th step as well; a third is left alone. Each is a fork, so that it costs no start of Python. Prints how many steps a run has;
AssertionError where what bears a final name is not complete, or where the end differs from that of an undisturbed run.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import corpus

import fastrealign as fr
from fastrealign.cli.main import main as cli
from fastrealign.formats.manifest import JOURNAL

CHANGES = ("replace", "unlink", "mkdir", "rmdir", "fsync", "ftruncate", "pwrite", "write")


def killed_at(step: int, run: Callable[[], object]) -> bool:
    """Do `run` in a child that is killed at this step (0: at none), a write when half of it is done; says if it was."""
    child = os.fork()
    if child == 0:
        steps, lock = itertools.count(1), threading.Lock()
        for name in CHANGES:
            setattr(os, name, _counted(name, getattr(os, name), step, steps, lock))
        try:
            run()
            os._exit(0)
        except BaseException as error:
            print(f"step {step}: {error!r}", flush=True)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WIFSIGNALED(status), f"step {step}: exit {os.WEXITSTATUS(status)}"
    return os.WIFSIGNALED(status)


def _counted(name: str, do: Callable, step: int, steps: itertools.count, lock: threading.Lock) -> Callable:
    def call(*args, **kwargs):
        with lock:
            if next(steps) == step:
                if name in ("pwrite", "write"):
                    data = memoryview(args[1]).cast("B")
                    do(args[0], data[: len(data) // 2], *args[2:])
                os.kill(os.getpid(), signal.SIGKILL)
        return do(*args, **kwargs)

    return call


def check(step: int, out: Path, whole: dict[str, bytes]) -> None:
    """After a kill: shards are complete or not there; the manifest comes last."""
    there = corpus.tree(out)
    for name in there.keys() & whole.keys() - {"alignment.safetensors"}:  # it gets the gap left at the end
        assert there[name] == whole[name], f"step {step}: {name} is half-written"
    assert "manifest.json" not in there or whole.keys() <= there.keys(), f"step {step}: a manifest without its shards"


def check_replaced(step: int, out: Path, old: dict[str, bytes], whole: dict[str, bytes]) -> None:
    """After a kill of a run that replaces: each file is the old one or the new one; a manifest stands for its whole run, unless
    a journal is there, which says that the run is unfinished."""
    there = corpus.tree(out)
    if "manifest.json" in there and JOURNAL not in there:
        run = next(run for run in (old, whole) if run["manifest.json"] == there["manifest.json"])
        assert {name: there.get(name) for name in run} == run, f"step {step}: a manifest without its shards"
    elif "manifest.json" not in old:  # where no file stands for the others, none of them goes away meanwhile
        assert old.keys() <= there.keys(), f"step {step}: the old output is gone before the new one is there"
    for name in there.keys() & (old.keys() | whole.keys()) - {"alignment.safetensors"}:
        assert there[name] in (old.get(name), whole.get(name)), f"step {step}: {name} is half-written"


def resumed(folder: Path, run: Callable[[Path], object]) -> int:
    """Kills of `run(out)`, which resumes; returns how many steps it has."""
    run(folder / "whole")
    whole = corpus.tree(folder / "whole")
    out = folder / "new" / "out"
    again = partial(run, out)
    for step in itertools.count(1):
        killed = killed_at(step, again)
        check(step, out, whole)
        killed_at(step, again)
        check(step, out, whole)
        assert not killed_at(0, again)
        assert corpus.tree(out) == whole, f"step {step}: the end differs"
        if not killed:
            return step - 1
        shutil.rmtree(out.parent)
    raise AssertionError


def replaced(folder: Path, run: Callable[[int, Path], object]) -> int:
    """Kills of `run(1, out)`, which replaces what `run(0, out)` wrote; returns how many steps it has."""
    for which, name in enumerate(("old", "whole")):
        (folder / name).mkdir()
        run(which, folder / name / "out")
    old, whole = corpus.tree(folder / "old"), corpus.tree(folder / "whole")
    old, whole = ({name.removeprefix("out/"): data for name, data in tree.items()} for tree in (old, whole))
    assert all(old.get(name) != data for name, data in whole.items())
    new = folder / "new"
    out = new / "out" if (folder / "old" / "out").is_dir() else new
    again = partial(run, 1, new / "out")
    for step in itertools.count(1):
        shutil.copytree(folder / "old", new)
        killed = killed_at(step, again)
        check_replaced(step, out, old, whole)
        killed_at(step, again)
        check_replaced(step, out, old, whole)
        assert not killed_at(0, again)
        there = corpus.tree(out)
        if out == new:  # a file alone: what runs that were killed had begun to write stays beside it
            there = {name: data for name, data in there.items() if not name.endswith(".tmp")}
        assert there == whole, f"step {step}: the end differs"
        if not killed:
            return step - 1
        shutil.rmtree(new)
    raise AssertionError


def main(folder: Path, case: str) -> None:
    text, image = corpus.two_sides(folder, shards=2)
    other = corpus.npy_folder(folder / "other", [corpus.rows(60, seed) for seed in (5, 6, 7)])
    sources = (other, text)

    def fitted(which: int, out: Path) -> None:
        assert (
            cli(["fit", str(sources[which]), "--target", str(image), "--out", str(out), "--overwrite", "--quiet"]) == 0
        )

    print(
        {
            "align": lambda: resumed(folder, lambda out: fr.align(text, image, out, resume=True, threads=2)),
            "overwrite": lambda: replaced(
                folder, lambda which, out: fr.align(sources[which], image, out, overwrite=True, threads=2)
            ),
            "convert": lambda: replaced(
                folder, lambda which, out: fr.convert((image, text)[which], out, to="parquet", overwrite=True)
            ),
            "fit": lambda: replaced(folder, fitted),
        }[case]()
    )


if __name__ == "__main__":
    os.fsync = lambda fd: None  # a step like any other; SIGKILL takes nothing that was written, flushed or not
    main(Path(sys.argv[1]), sys.argv[2])
