"""--log-json: every line on stderr is a JSON object, errors of usage too; the result stays on stdout."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fastrealign.cli.main import main


@pytest.fixture
def sides(tmp_path):
    rng = np.random.default_rng(0)
    for name, shift in (("text", 1.0), ("image", -1.0)):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((200, 8)).astype("float32") + shift)
    return tmp_path / "text.npy", tmp_path / "image.npy"


@pytest.fixture
def run(capfd):
    def run(*argv):
        code = main([*map(str, argv), "--log-json"])
        printed = capfd.readouterr()
        return code, printed.out, [json.loads(line) for line in printed.err.splitlines()]

    return run


def test_passes_and_warnings_are_records(run, sides, tmp_path):
    text, image = sides
    code, out, records = run("align", text, "--target", image, "--out", tmp_path / "out.npy")
    assert code == 0 and out.startswith("aligned 200 rows")
    assert {record["event"] for record in records} == {"start", "end"}
    for record in records:
        assert {"phase", "done", "total", "bytes", "rate", "seconds"} < set(record)
    last = records[-1]
    assert (last["done"], last["total"]) == (200, 200)
    np.save(text, np.load(text)[:7])
    code, _, records = run("align", text, "--target", image, "--out", tmp_path / "few.npy")
    (warning,) = (record for record in records if record["event"] == "warning")
    assert code == 0 and "7 rows for a width of 8" in warning["message"]


def test_fit_has_them_and_quiet_has_none(run, sides, tmp_path):
    words = ["fit", sides[0], "--target", sides[1], "--out", tmp_path / "a.safetensors"]
    assert run(*words)[2]
    assert run(*words, "--overwrite", "--quiet") == (0, "", [])


def test_errors_are_records(run, tmp_path):
    code, out, (record,) = run("align", tmp_path / "none.npy", "--target", "x.npy", "--out", tmp_path / "out")
    assert (code, out, record["event"]) == (2, "", "error") and "none.npy" in record["message"]
    code, out, (record,) = run("align", "--tagret", "x.npy")
    assert (code, out, record["event"]) == (2, "", "error")
    assert "there is no option --tagret" in record["message"] and "--target" in record["message"]
