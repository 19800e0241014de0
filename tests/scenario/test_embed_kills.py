"""`embed` killed or terminated at any moment, and started twice at once: it ends in the bytes of an undisturbed run."""

from __future__ import annotations

import os
import shutil
import signal
import time

import corpus
import pytest
import steps
from embed_output import Fake

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.embed import embed_files

ROWS, SHARD = 120, 8
pytestmark = pytest.mark.usefixtures("one_thread_and_no_network")


class Slow(Fake):
    """Takes a while over each batch, so that a moment of the run is within one, and not always at its start."""

    def load(self, side):
        made = super().load(side)
        quick = made.encode
        object.__setattr__(made, "encode", lambda items: (time.sleep(0.004), quick(items))[1])
        return made


@pytest.fixture
def source(tmp_path, rng):
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(f'{{"id": "c{i}", "caption": "{rng.integers(1 << 60)}"}}\n' for i in range(ROWS)))
    return path


def embed(source, out):
    embed_files(source, out, Slow(), batch_size=4, shard_rows=SHARD, threads=2, resume=True, fsync=False)


def started(work, *arguments):
    """The process in which `work` was begun; its exit status is 0, or 3 for an InputError."""
    child = os.fork()
    if child:
        return child
    try:
        work(*arguments)
        os._exit(0)
    except fr.InputError as error:
        os._exit(3 if "another fastrealign" in str(error) else 4)
    except BaseException:
        os._exit(1)
    finally:
        os._exit(5)


def ended(child):
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path, source, rng, kills):
    whole = tmp_path / "whole"
    begun = time.monotonic()
    embed(source, whole)
    took, wanted = time.monotonic() - begun, corpus.tree(whole)
    done = 0
    while done < kills:
        out = tmp_path / "new" / "out"
        for _ in range(3):  # one after the other in the same output, as far as it comes
            child = started(embed, source, out)
            time.sleep(float(rng.uniform(0, 0.8 * took)))
            os.kill(child, signal.SIGKILL)
            done += os.WIFSIGNALED(ended(child))
            steps.check(done, out, wanted)
        embed(source, out)
        assert corpus.tree(out) == wanted
        shutil.rmtree(out.parent)


def test_two_at_once_on_one_output(tmp_path, source):
    """One of them does it; the other one says that it is being done, or that it is done."""
    embed(source, tmp_path / "whole")
    statuses = [ended(child) for child in [started(embed, source, tmp_path / "out") for _ in range(2)]]
    assert 0 in statuses and set(statuses) <= {0, 3 << 8}
    assert corpus.tree(tmp_path / "out") == corpus.tree(tmp_path / "whole")


def test_terminated_it_keeps_what_is_complete(tmp_path, source, llama_folder):
    """By SIGTERM, as schedulers do; the command ends with 143, and --resume continues the run."""
    words = ["embed", str(source), "--model", str(llama_folder), "--device", "cpu", "--batch-size", "1"]
    words += ["--shard-rows", "8", "--quiet", "--threads", "1", "--resume"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0

    def command():
        os._exit(main([*words, "--out", str(tmp_path / "out")]))

    child = started(command)
    for _ in range(3000):
        if (tmp_path / "out" / "embeddings_00001.parquet").exists():
            break
        time.sleep(0.005)
    os.kill(child, signal.SIGTERM)
    status = ended(child)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) in (0, 143)
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert corpus.tree(tmp_path / "out") == corpus.tree(tmp_path / "whole")
