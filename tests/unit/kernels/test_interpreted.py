"""The tests of interpreted.py, each by its name; they are run together, with TRITON_INTERPRET=1, in a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

triton = pytest.importorskip("triton")
pytest.importorskip("torch")
if not hasattr(triton, "knobs"):
    pytest.skip("this release of Triton does not say that it interprets, such as 3.2", allow_module_level=True)

CASES = Path(__file__).with_name("interpreted.py")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The cases of the run, and what it printed."""
    report = tmp_path_factory.mktemp("interpreted") / "report.xml"
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        "-c",
        CASES.parents[3] / "pyproject.toml",
        f"--junitxml={report}",
    ]
    command = [sys.executable, "-m", "pytest", *options, CASES]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert report.exists(), done.stdout[-6000:] + done.stderr[-2000:]
    return list(ElementTree.parse(report).iter("testcase")), done.stdout[-6000:]


@pytest.mark.parametrize("name", re.findall(r"^def (test_\w+)", CASES.read_text(), re.MULTILINE))
def test_the_kernels_through_the_interpreter(run, name):
    cases, printed = run
    cases = [case for case in cases if case.get("name").partition("[")[0] == name]
    assert cases and not any(
        case.findall("failure") + case.findall("error") + case.findall("skipped") for case in cases
    ), printed
