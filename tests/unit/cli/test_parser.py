"""The parser: help, errors of usage, names that were meant, values in any letters."""

from __future__ import annotations

import corpus
import pytest

import fastrealign as fr


@pytest.mark.parametrize(
    "argv", [["--help"], *([name, "--help"] for name in ("align", "fit", "apply", "inspect", "demo"))]
)
def test_help_has_examples_and_goes_to_stdout(run, argv):
    code, out, err = run(*argv)
    assert (code, err) == (0, "")
    assert out.startswith("usage: fastrealign") and max(map(len, out.splitlines())) <= 132
    if argv[0] not in ("inspect", "demo"):
        assert "fastrealign align text_emb/" in out or f"fastrealign {argv[0]} " in out.partition("example")[2]


def test_version(run):
    assert run("--version") == (0, f"fastrealign {fr.__version__}\n", "")


@pytest.mark.parametrize(
    "argv, named",
    [
        (["alin"], "alin"),
        (["align", "x"], "--target"),
        (["align", "x", "--target", "y", "--out", "z", "--centroid", "best"], "best"),
        (["align", "x", "--target", "y", "--out", "z", "--threads", "0"], "'0' is not a whole number of at least 1"),
        (["fit", "x", "--target", "y", "--out", "z", "--threads", "9" * 20], "or far too large"),
        (["fit", "x", "--target", "y", "--out", "z", "--seed", "-1"], "'-1' is not a whole number of at least 0"),
        (["align", "x", "--target", "y", "--out", "z", "--resume", "--overwrite"], "not allowed with"),
        (["report", "x", "--out", "z.html"], "unrecognized arguments: x; see fastrealign report --help"),
        (["report", "a b/", "c/", "--out", "z.html"], "; give them as --source 'a b/' --target c/; see"),
        (["align", "a/", "c/"], "; is c/ the target? Then write --target c/; see fastrealign align --help"),
        (
            ["align", "--out", "z", "--resume", "--dtype=float16", "a/", "c d/"],
            "; is c d/ the target? Then write --target 'c",
        ),
        (
            ["align", "a/", "--out", "z", "--threads", "2"],
            "arguments are required: --target; see fastrealign align --help",
        ),
        (["train", "stage1", "x", "y"], "unrecognized arguments: y; see fastrealign train stage1 --help"),
    ],
)
def test_usage_errors_are_one_line(run, argv, named):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("fastrealign: error: ") and err.count("\n") == 1 and named in err and "--help" in err


def test_a_fit_of_two_paths_without_a_target(run):
    _, _, err = run("fit", "a/", "c/", "--out", "z.safetensors")
    assert err.endswith("bring up to date: --from; is c/ the target? Then write --target c/\n")
    assert "is a/" not in run("fit", "a/", "--out", "z.safetensors")[2]


@pytest.mark.parametrize(
    "argv, meant",
    [
        (["align", "x", "--taget", "y", "--out", "z"], "there is no option --taget, did you mean '--target'?"),
        (["align", "x", "-target", "y", "--out", "z"], "there is no option -target, did you mean '--target'?"),
        (["align", "x", "--target", "y", "--out=z", "--resum"], "there is no option --resum, did you mean '--resume'?"),
        (
            ["align", "x", "--target", "y", "--out", "z", "--zzz"],
            "there is no option --zzz; see fastrealign align --help",
        ),
        (
            ["align", "x", "--target", "y", "--out", "z", "--methods", "c3"],
            "no option --methods, did you mean '--method'?",
        ),
        (["align", "x", "--target", "y", "--out", "z", "--device", "0"], "--device, did you mean '--devices'?"),
        (["embed", "x", "--clip", "a", "--out", "z", "--devices", "0"], "--devices, did you mean '--device'?"),
        (["apply", "a", "x", "--out", "z", "--roles", "text"], "--roles, did you mean '--role'?"),
        (["fit", "--roles", "text=x", "--out", "z"], "--roles, did you mean '--role'?"),
        (["--verison"], "there is no option --verison, did you mean '--version'?"),
        (["train", "stage1", "x.yaml", "--resme"], "did you mean '--resume'?"),
        (["embed", "x", "--clip", "a", "--outt", "z"], "did you mean '--out'?"),
        (["algin", "x"], "error: there is no command 'algin', did you mean 'align'?"),
        (["train", "stage3"], "error: there is no stage 'stage3', did you mean 'stage"),
        (["demo", "searc"], "error: there is no demo 'searc', did you mean 'search'?"),
        (["completion", "bsh"], "error: there is no shell 'bsh', did you mean 'bash'?"),
        (["align", "x", "--target", "y", "--out", "z", "--centroid", "exakt"], "did you mean 'exact'?"),
        (["align", "x", "--target", "y", "--out", "z", "--dtype", "float23"], "did you mean 'float32'?"),
        (["align", "x", "--target", "y", "--out", "z", "--method", "C33"], "did you mean 'c3'?"),
    ],
)
def test_what_was_meant_is_named(run, argv, meant):
    code, out, err = run(*argv)
    assert (code, out) == (2, "") and err.count("\n") == 1 and meant in err


@pytest.mark.parametrize(
    "argv, says",
    [
        (
            ["fit", "x", "--target", "y", "-o", "z", "--resume"],
            "--resume is an option of align, apply and embed, not of fit",
        ),
        (["convert", "x", "--out", "z", "--clip=q"], "--clip is an option of embed, not of convert; leave it out"),
        (
            ["train", "stage1", "x.yaml", "--noise", "1"],
            "there is no option --noise; see fastrealign train stage1 --help",
        ),
        (["align", "--target", "y", "x", "--out", "z"], "SOURCE; --target took x, too: name SOURCE before --target"),
        (["align", "--target", "y", "w", "x", "--out", "z"], "--target took x, too: name SOURCE before --target"),
        (["fit", "--target", "y", "x", "-o", "z"], "--target took x, too: name SOURCE before --target"),
        (["check", "a", "--target", "y", "x"], "SOURCE; --target took x, too: name SOURCE before --target"),
        (
            ["check", "--target", "y", "a", "x"],
            "ALIGNMENT, SOURCE; --target took a and x: name ALIGNMENT and SOURCE before --target",
        ),
        (
            ["convert", "x", "--out", "z", "--target", "y"],
            "--target is an option of align, fit and 2 more, not of convert; leave it out",
        ),
    ],
)
def test_options_of_other_commands_and_paths_that_an_option_took(run, argv, says):
    code, out, err = run(*argv)
    assert (code, out) == (2, "") and err.count("\n") == 1 and says in err


def test_a_path_that_is_missing_alone(run):
    for argv in (
        ["align", "--target", "y", "--out", "z"],
        ["fit", "--target", "y", "-o", "z"],
        ["apply", "a", "--out", "z"],
    ):
        assert " took " not in run(*argv)[2]


@pytest.mark.parametrize("argv, usage", [([], "usage: fastrealign "), (["train"], "usage: fastrealign train ")])
def test_a_bare_command_shows_its_help(run, argv, usage):
    code, out, err = run(*argv)
    assert (code, err) == (0, "") and out.startswith(usage) and "examples:" in out


@pytest.mark.parametrize(
    "name, dtype", [("fp16", "float16"), ("HALF", "float16"), ("Float64", "float64"), ("double", "float64")]
)
def test_names_of_element_types_and_choices_in_any_letters(tmp_path, sides, run, name, dtype):
    out = tmp_path / "out"
    assert run("align", sides[0], "--target", sides[1], "--out", out, "--dtype", name, "--centroid", "Exact")[0] == 0
    assert corpus.loaded(out).dtype == dtype
    assert fr.load(out / "alignment.safetensors").centroid == "exact"
    assert run("convert", sides[0], "--out", tmp_path / "bf16", "--to", "NPY", "--dtype", "bf16")[0] == 0


def test_names_of_methods_in_any_letters(tmp_path, sides, run):
    target = [sides[1], "--out", tmp_path / "a.safetensors"]
    assert run("fit", sides[0], "--target", *target, "--method", "C3")[0] == 0
    assert fr.load(tmp_path / "a.safetensors").name == "c3"
    assert fr.fit(str(sides[0]), str(sides[1]), method="ReAlign-Exact").centroid == "exact"
    assert (
        run("fit", sides[0], "--target", *target, "--method", "REALIGN", "--centroid", "exact", "--overwrite")[0] == 0
    )
