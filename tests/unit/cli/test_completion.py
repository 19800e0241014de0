"""Shell completion: the script that `fastrealign completion` prints, run in bash."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from fastrealign.cli.main import main


@pytest.fixture
def script(capfd):
    def script(shell):
        assert main(["completion", shell]) == 0
        return capfd.readouterr().out

    return script


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes(script, tmp_path):
    lines = {
        "al": "align",
        "co": "convert completion",
        "align --tar": "--target --target-column",
        "align text.npy --dtype f": "float32 float16 float64",
        "align --dtype = b": "bfloat16",
        "align --bad-rows =": "error skip keep",
        "align --dtype=b": "--dtype=bfloat16",
        "align --out ": "",
        "align ": "",
        "train st": "stage1 stage2",
        "train stage1 --qu": "--quiet",
        "embed align --clip x --poo": "--pooling",
        "--ver": "--version",
        "completion ": "",
    }
    calls = []
    for line in lines:
        words = ["fastrealign", *line.split(" ")]
        quoted = " ".join(f"'{word}'" for word in words)
        calls.append(f'COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _fastrealign; echo "${{COMPREPLY[*]}}"')
    (tmp_path / "script.bash").write_text(script("bash"))
    run = "\n".join(["set -u", f"source {tmp_path / 'script.bash'}", *calls])
    done = subprocess.run(["bash", "--norc", "-c", run], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert dict(zip(lines, done.stdout.splitlines(), strict=True)) == lines


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes(script, tmp_path):
    """Typed at a terminal: what a tab makes of a line."""
    lines = {
        "al": "align ",
        "con": "convert ",
        "align --target-": "align --target-column ",
        "align text.npy --dtype f": "align text.npy --dtype float",
        "align --dtype=b": "align --dtype=bfloat16 ",
        "align --bad-rows=": "align --bad-rows=",
        "align --target im": "align --target images.npy ",
        "train st": "train stage",
        "train stage1 --qu": "train stage1 --quiet ",
        "--ver": "--version ",
    }
    (tmp_path / "images.npy").touch()
    (tmp_path / "script.zsh").write_text(script("zsh"))
    (tmp_path / ".zshrc").write_text(
        "source ./script.zsh\nkeep() { print -r -- $BUFFER >> kept; BUFFER= }\nzle -N keep\nbindkey '^T' keep\n"
    )
    terminal, inside = os.openpty()
    environ = {**os.environ, "ZDOTDIR": str(tmp_path), "TERM": "dumb"}
    with subprocess.Popen(
        ["zsh", "-d", "-i"],
        stdin=inside,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environ,
        start_new_session=True,
    ) as shell:
        try:
            os.write(terminal, "".join(f"fastrealign {line}\t\x14" for line in lines).encode() + b"exit\n")
            complaint = shell.communicate(timeout=120)[1].decode()
        finally:
            shell.kill()
    os.close(inside)
    os.close(terminal)
    assert "fastrealign" not in complaint
    kept = (tmp_path / "kept").read_text().splitlines()
    assert dict(zip(lines, kept, strict=True)) == {line: f"fastrealign {after}" for line, after in lines.items()}


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(script, tmp_path):
    lines = {
        "al": "align",
        "co": "completion convert",
        "align --tar": "--target --target-column",
        "align text.npy --dtype f": "float16 float32 float64",
        "align --bad-rows=": "--bad-rows=error --bad-rows=keep --bad-rows=skip",
        "align --target im": "images.npy",
        "train st": "stage1 stage2",
        "train stage1 --qu": "--quiet",
        "--ver": "--version",
    }
    (tmp_path / "images.npy").touch()
    (tmp_path / "script.fish").write_text(script("fish"))
    asked = [
        f"echo (string join -- ' ' (complete -C 'fastrealign {line}' | string replace -r '\t.*' ''))" for line in lines
    ]
    command = ["fish", "--no-config", "-c", "\n".join(["source script.fish", *asked])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == ""
    assert dict(zip(lines, done.stdout.splitlines(), strict=True)) == lines


def test_fish_quotes_and_conditions(script):
    lines = script("fish").splitlines()
    at = "__fish_seen_subcommand_from"
    assert (
        f"complete -c fastrealign -f -n '{at} train; and not {at} stage1 stage2 demo' -a 'stage1 stage2 demo'" in lines
    )
    assert all(line.count("'") % 2 == 0 for line in lines)
