"""python steps.py FOLDER: runs that are killed before, or in the middle of, each step that changes the disk.

For n = 1, 2, ... a run is begun in a new output and gets SIGKILL at its n-th step; a second one goes on, and is killed at its
n-th step as well; a third goes on undisturbed. Each is a fork, so that it costs no start of Python. Prints how many steps a run
has; AssertionError where what bears a final name is not complete, or where the end differs from that of an undisturbed run.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import corpus

import fastrealign as fr

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


def main(folder: Path) -> None:
    text, image = corpus.two_sides(folder, shards=2)

    def align(out: Path) -> None:
        fr.align(text, image, out, resume=True, threads=2)

    align(folder / "whole")
    whole = corpus.tree(folder / "whole")
    for step in itertools.count(1):
        out = folder / "new" / "out"
        killed = killed_at(step, lambda out=out: align(out))
        check(step, out, whole)
        killed_at(step, lambda out=out: align(out))
        check(step, out, whole)
        assert not killed_at(0, lambda out=out: align(out))
        assert corpus.tree(out) == whole, f"step {step}: the end differs"
        if not killed:
            break
        shutil.rmtree(out.parent)
    print(step - 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
