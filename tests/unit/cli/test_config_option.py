"""--config: the long options of align, apply and embed from a YAML file."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fastrealign.cli.main import main

pytest.importorskip("yaml")


@pytest.fixture
def run(capfd, tmp_path, monkeypatch):
    """run(text of the file, words): the exit code, stdout and stderr, in a folder that has text.npy and image.npy."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.txt").write_text("a dog\n")
    rng = np.random.default_rng(0)
    for name, shift in (("text", 1.0), ("image", -1.0), ("more", -1.0)):
        np.save(f"{name}.npy", rng.standard_normal((100, 8)).astype("float32") + shift)

    def run(text, *words):
        (tmp_path / "run.yaml").write_text(text)
        code = main([*words, "--config", "run.yaml"])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return run


def test_options_of_the_file_are_those_of_the_command_line(run, tmp_path):
    text = (
        "target: image.npy\nout: a.npy\ndtype: fp16\nno_fsync: true\nverify: false\nquiet: yes\nthreads: 1\ncolumn:\n"
    )
    assert run(text, "align", "text.npy") == (0, "", "")
    assert np.load("a.npy").dtype == np.float16
    assert main(["align", "text.npy", "--target", "image.npy", "--out", "b.npy", "--dtype", "fp16", "--quiet"]) == 0
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_the_command_line_wins(run, tmp_path):
    text = "target: [none.npy, nowhere.npy]\nout: a.npy\nresume: true\nquiet: true\ndtype: float16\n"
    words = ["align", "text.npy", "--target", "image.npy", "--dtype=float32", "--overwrite"]
    assert run(text, *words) == (0, "", "")
    assert np.load("a.npy").dtype == np.float32


def test_lists_and_apply(run):
    text = "target: [image.npy, more.npy]\nout: out\nlog-json: true\n"
    code, _, err = run(text, "align", "text.npy")
    assert code == 0 and all(line.startswith("{") for line in err.splitlines()) and "warning" not in err
    assert run(text + "overwrite: true\n", "align", "none.npy")[2].startswith('{"event": "error"')
    text = "out: b.npy\nnoise: 1e-1\nseed: 3\nquiet: true\n"
    assert run(text, "apply", "out/alignment.safetensors", "text.npy") == (0, "", "")
    words = ["--out", "c.npy", "--noise", "0.1", "--seed", "3", "--quiet"]
    assert main(["apply", "out/alignment.safetensors", "text.npy", *words]) == 0
    assert np.array_equal(np.load("b.npy"), np.load("c.npy"))


def test_embed_takes_a_required_option_and_its_rival(run):
    (code, _, err), rival = (
        run("model: ./none\nout: o\ntext: true\n", "embed", "captions.txt"),
        run("model: ./none\nout: o\n", "embed", "captions.txt", "--clip", "./other"),
    )
    assert code == 2 and "--model ./none" in err
    assert rival[0] == 2 and "--clip ./other" in rival[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("targt: x\n", r"run.yaml: there is no option 'targt', did you mean 'target'\? See fastrealign align --help"),
        (
            "methods: c3\n",
            r"run.yaml: there is no option 'methods', did you mean 'method'\? See fastrealign align --help",
        ),
        ("clip: ViT\n", r"run.yaml: clip is an option of embed, not of align; leave it out"),
        ("source: text.npy\n", r"run.yaml: source is no option of align; name it on the command line"),
        ("config: other.yaml\n", r"run.yaml: config is of the command line"),
        ("out: {a: 1}\n", r"run.yaml: out: .*expected one value"),
        ("out: [a, b]\n", r"run.yaml: out: .*not a list"),
        ("verify: 2\n", r"run.yaml: verify: '2': expected true or false"),
        ("target: [-x, y]\n", r"run.yaml: target: '-x': begins with a dash"),
        ("bad-rows: skip\nbad_rows: skip\n", r"run.yaml: the option bad-rows comes twice"),
        ("out: a\nout: b\n", r"run.yaml: line 2: the key out comes twice"),
        ("- a\n", r"run.yaml: holds list, expected keys and values: out: aligned/"),
        ("", r"run.yaml: is empty"),
        ("target: image.npy\nout: a.npy\nthreads: many\n", r"run.yaml: threads: 'many' is not a whole number"),
        ("target: image.npy\nout: a.npy\nbad-rows: drop\n", r"run.yaml: bad-rows: there is no 'drop'; choose from"),
        ("target: image.npy\n", r"required: --out"),
    ],
)
def test_what_is_refused(run, text, message):
    code, out, err = run(text, "align", "text.npy")
    assert (code, out, err.count("\n")) == (2, "", 1) and re.search(message, err), err


def test_configurations_that_cannot_be_read(run, tmp_path, capfd):
    assert main(["align", "text.npy", "--config=none.yaml"]) == 2
    for config, says in (
        ("", "the configuration is '', expected a path"),
        (str(tmp_path), f"{tmp_path}: is a folder, expected"),
    ):
        assert main(["align", "text.npy", "--config", config]) == 2
        assert says in capfd.readouterr().err
