"""Two sides in files, and a command line that is run: what most tests of the commands need."""

from __future__ import annotations

import corpus
import pytest

from fastrealign.cli.main import main


@pytest.fixture
def sides(tmp_path):
    return corpus.two_sides(tmp_path)


@pytest.fixture
def run(capfd):
    """Runs a command line; returns the exit code, stdout and stderr."""

    def run(*argv):
        code = main([str(word) for word in argv])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return run
