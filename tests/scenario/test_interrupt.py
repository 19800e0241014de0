"""Ctrl-C, SIGTERM and SIGKILL in the middle of a run: nothing half-written, and resume ends in the same bytes."""

from __future__ import annotations

import importlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.core import errors
from fastrealign.core.formatting import does
from fastrealign.core.progress import Progress
from fastrealign.data import pipeline
from fastrealign.formats.manifest import JOURNAL
from fastrealign.storage.append_log import FileLog

SHARDS = 120


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """120 shards of a quarter of a megabyte, and the output of a run over them that nobody disturbed."""
    root = tmp_path_factory.mktemp("interrupt")
    text = corpus.npy_folder(root / "text", np.split(corpus.rows(SHARDS * 250, 1, dim=256), SHARDS))
    image = corpus.npy_folder(root / "image", [corpus.rows(500, 2, dim=256)])
    fr.align(text, image, root / "whole")
    return text, image, corpus.tree(root / "whole")


def start(text, image, out) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "fastrealign",
        "align",
        text,
        "--target",
        image,
        "--out",
        out,
        "--resume",
        "--threads",
        "2",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(run: subprocess.Popen, path) -> None:
    while not path.exists() and run.poll() is None:
        time.sleep(0.002)


def temporaries(folder) -> list:
    return [path for path in folder.rglob(".*") if path.name.endswith(".tmp")] if folder.exists() else []


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
def test_stopped_again_and_again_it_ends_in_the_same_bytes(tmp_path, case, how):
    text, image, whole = case
    out, stopped = tmp_path / "out", 0
    moments = random.Random(how)
    for _ in range(2):
        run = start(text, image, out)
        # Once a few more shards are there, so that the signal meets neither the start of Python nor the end of the run.
        wait_for(run, out / f"part_{len(list(out.glob('part_*'))) + moments.randrange(SHARDS // 8)}.npy")
        run.send_signal(getattr(signal, how))
        printed, errors = run.communicate()
        assert temporaries(out) == []
        if run.returncode == 0:
            break
        stopped += 1
        assert run.returncode == 128 + getattr(signal, how), errors
        assert printed == ""
        line = errors.splitlines()[-1]
        done = len(list(out.glob("part_*.npy")))
        if done:
            state = f"{done} of {SHARDS} shards {does(done, 'are')} complete, resume with --resume"
            assert line == f"fastrealign: interrupted; {state}"
            assert (out / JOURNAL).exists() and not (out / "manifest.json").exists()
        else:
            assert "interrupted" in line
            assert not out.exists() or not any(out.iterdir())
    assert stopped, "every run was over before it was stopped"
    fr.align(text, image, out, resume=True)
    assert corpus.tree(out) == whole


def test_killed_at_any_moment_it_resumes(tmp_path, case):
    text, image, whole = case
    moments = random.Random(0)
    out = tmp_path / "out"
    for _ in range(4):
        run = start(text, image, out)
        wait_for(run, out / JOURNAL)
        time.sleep(moments.uniform(0, 0.15))
        run.kill()
        run.communicate()
        for path in out.glob("part_*.npy"):
            assert path.read_bytes() == whole[path.name]
    fr.align(text, image, out, resume=True)
    assert corpus.tree(out) == whole


def test_a_second_signal_does_not_break_the_clean_up(tmp_path, case):
    text, image, whole = case
    out = tmp_path / "out"
    run = start(text, image, out)
    wait_for(run, out / "part_3.npy")
    for _ in range(20):
        run.send_signal(signal.SIGINT)
        time.sleep(0.001)
    run.communicate()
    assert run.returncode in (130, 0)
    assert temporaries(out) == []
    fr.align(text, image, out, resume=True)
    assert corpus.tree(out) == whole


def test_stopped_while_it_takes_the_output_it_leaves_nothing(tmp_path, case, monkeypatch):
    text, image, _ = case
    read, stop = FileLog.text, [KeyboardInterrupt]

    def stopped(self):
        if stop:
            raise stop.pop()
        return read(self)

    monkeypatch.setattr(FileLog, "text", stopped)
    with pytest.raises(KeyboardInterrupt):
        fr.align(text, image, tmp_path / "out" / "deep")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def reactions(monkeypatch):
    """Released each time the main thread has reacted to a signal: stopped the supply of shards, or the pass."""
    reactions = threading.Semaphore(0)

    def noted(call):
        def noted(*args):
            call(*args)
            reactions.release()

        return noted

    for holder, name in ((pipeline._Supply, "begin_no_shard"), (pipeline.Pass, "_abandon")):
        monkeypatch.setattr(holder, name, noted(getattr(holder, name)))
    return reactions


class Signals(Progress):
    """Sends this process signals while a phase is under way: one each time so many more rows are done.

    The thread that works waits after each one until the main thread has reacted.
    """

    def __init__(self, phase, numbers, every, reactions):
        self.wanted, self.numbers, self.every, self.phase = phase, list(numbers), every, ""
        self.reactions = reactions

    def start(self, phase, rows, nbytes):
        self.phase, self.rows = phase, 0

    def advance(self, rows, nbytes):
        self.rows += rows
        if self.phase == self.wanted and self.numbers and self.rows >= self.every:
            self.rows = 0
            os.kill(os.getpid(), self.numbers.pop(0))  # to the main thread, which waits for this one
            assert self.reactions.acquire(timeout=600)


@pytest.fixture
def signalled(tmp_path, monkeypatch, capsys, reactions):
    """Runs `align` and sends it signals; returns the folders, the exit code and stderr."""

    def signalled(phase, numbers):
        text = corpus.npy_folder(tmp_path / "text", [corpus.rows(40_000, i, dim=128) for i in range(2)])
        image = corpus.npy_folder(tmp_path / "image", [corpus.rows(40_000, 2, dim=128)])
        monkeypatch.setattr(
            "fastrealign.cli.arguments.progress_of", lambda args: Signals(phase, numbers, 5000, reactions)
        )
        out = tmp_path / "out"
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            code = main(["align", str(text), "--target", str(image), "--out", str(out), "--threads", "1"])
        finally:
            for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
                signal.signal(number, handler)
        return text, image, out, code, capsys.readouterr().err

    return signalled


@pytest.mark.parametrize(
    ("numbers", "complete"),
    [
        ([signal.SIGTERM], 1),
        ([signal.SIGTERM, signal.SIGTERM], 0),
        ([signal.SIGTERM, signal.SIGINT], 0),
        ([signal.SIGINT], 0),
    ],
)
def test_sigterm_finishes_the_shard_in_hand(signalled, numbers, complete):
    text, image, out, code, said = signalled("aligning", numbers)
    assert code == 128 + numbers[0]
    if complete:
        assert "interrupted; 1 of 2 shards is complete, resume with --resume" in said
        assert [path.name for path in out.glob("part_*")] == ["part_0.npy"]
        assert fr.align(text, image, out, resume=True).shards_before == 1
    else:
        assert "interrupted; nothing was written" in said
        assert not out.exists()


AT_IMPORT = """\
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == os.environ["AT"]:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:  # as the C code of some packages does
                raise ImportError
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("at", ["fastrealign.cli.main", "argparse", "fastrealign.cli.demo.command"])
@pytest.mark.parametrize(("ignored", "code"), [(False, 130), (True, 0)], ids=["", "nohup"])
def test_an_interrupt_while_the_command_imports(tmp_path, at, ignored, code):
    """Of the entry point that is installed."""
    (tmp_path / "sitecustomize.py").write_text(AT_IMPORT)
    project = Path(__file__).parents[2] / "pyproject.toml"
    module, name = re.search(r'^fastrealign = "(\S+):(\S+)"$', project.read_text(), re.MULTILINE).groups()
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; from {module} import {name}; sys.exit({name}())", "--version"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "AT": at},
        # Also where the tests run in the background, with interrupts ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout == (f"fastrealign {fr.__version__}\n" if ignored else "")


def test_the_entry_point_leaves_interrupts_as_they_were(monkeypatch):
    """Also in a thread, which cannot handle signals."""
    entry = importlib.import_module("fastrealign.__main__")
    monkeypatch.setattr(sys, "argv", ["fastrealign", "--version"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        codes = []
        thread = threading.Thread(target=lambda: codes.append(ended(entry.main)))
        thread.start()
        thread.join()
        codes.append(ended(entry.main))
        assert codes == [0, 0]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def ended(main):
    """The exit code of a command line."""
    try:
        return main()
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("phase", ["reading the target", "reading the source"])
def test_stopped_while_fitting_it_leaves_nothing(signalled, phase, number):
    _, _, out, code, said = signalled(phase, [number])
    assert (code, said.splitlines()[-1]) == (128 + number, "fastrealign: interrupted; nothing was written")
    assert not out.exists()


@pytest.mark.parametrize(("error", "complete"), [(errors.Terminated, 1), (KeyboardInterrupt, 0)])
def test_stopped_while_it_starts_threads(tmp_path, monkeypatch, reactions, error, complete):
    """The signal that arrives while the second thread is being started, when the first one works already."""
    text = corpus.npy_folder(tmp_path / "text", [corpus.rows(40_000, i, dim=128) for i in range(2)])
    alignment = fr.fit(text, corpus.rows(500, 2, dim=128))
    start, began = threading.Thread.start, threading.Event()

    class Began(Progress):
        def advance(self, rows, nbytes):
            if not began.is_set():
                began.set()
                assert reactions.acquire(timeout=600)

    def stopped(self):
        start(self)
        if self.name == "fastrealign-0":
            assert began.wait(600)
            raise error

    monkeypatch.setattr(threading.Thread, "start", stopped)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        fr.apply_files(alignment, text, out, threads=2, progress=Began())
    assert len(list(out.glob("part_*"))) == complete and temporaries(out) == []
