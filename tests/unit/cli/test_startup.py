"""What a command imports and sets when it starts, and leaves undone when it ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fastrealign.cli.main import main

COMMAND_NAMES = ("align", "fit", "apply", "check", "convert", "report", "inspect", "embed", "demo", "train")


@pytest.mark.parametrize("argv", [[], ["--help"], ["--version"], *([name, "--help"] for name in COMMAND_NAMES)])
def test_help_starts_without_numpy(argv):
    code = "import sys; from fastrealign.cli.main import main; main(sys.argv[1:]); sys.exit('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
    assert done.stdout.strip() and not done.stderr


def test_nothing_is_collected_when_the_command_ends():
    code = (
        "import atexit, gc; first = gc.get_freeze_count()  # some in Python 3.12\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > first))\n"
        "from fastrealign.cli.main import main; main(['--version']); print(gc.get_freeze_count() - first)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["0", "True"]


@pytest.mark.parametrize("argv, seldom", [(["--version"], True), (["train", "stage1", "none.yaml"], False)])
def test_cycles_are_looked_for_seldom_unless_a_model_runs(argv, seldom):
    code = (
        "import gc, sys; usual = gc.get_threshold()\n"
        "from fastrealign.cli.main import main; main(sys.argv[1:]); print(gc.get_threshold() != usual)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(seldom)


def test_threads_of_openblas_do_not_spin_in_the_command(monkeypatch, capsys):
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT", raising=False)
    assert main(["--version"]) == 0
    assert int(os.environ["OPENBLAS_THREAD_TIMEOUT"]) < 26  # its own default
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "28")
    assert main(["--version"]) == 0
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "28"  # what the user set stays
    capsys.readouterr()


def test_nothing_heavy_is_imported_for_help_or_align(tmp_path, sides):
    code = (
        "import sys, numpy; numpys = set(sys.modules)  # An older NumPy loads _hashlib itself\n"
        "from fastrealign.cli.main import main\n"
        "main(['align', sys.argv[1], '--target', sys.argv[2], '--out', sys.argv[3], '--quiet', '--no-fsync'])\n"
        "heavy = {'torch', 'pyarrow', 'matplotlib', 'sklearn', 'pandas', 'tqdm', 'socket', 'fastrealign.diagnostics'}\n"
        "heavy |= {f'fastrealign.{name}' for name in ('methods.role_fits', 'methods.pair_sources', 'data.id_index')}\n"
        "heavy |= {'_hashlib', 'concurrent.futures', 'logging', 'zipfile', 'difflib', 'uuid', 'http'}\n"
        "print(sorted(heavy & set(sys.modules) - numpys))"
    )
    command = [sys.executable, "-c", code, *sides, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n", done.stderr
