"""Shell completion: the script that `fastrealign completion` prints, run in bash."""

from __future__ import annotations

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


def test_zsh_and_fish(script):
    """What they read; neither shell runs here."""
    assert (
        script("zsh")
        == f"autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n{script('bash')}"
    )
    lines = script("fish").splitlines()
    at = "__fish_seen_subcommand_from"
    assert f"complete -c fastrealign -n '{at} align' -l dtype -x -a 'float32 float16 bfloat16 float64'" in lines
    assert f"complete -c fastrealign -n '{at} train; and {at} stage1' -l quiet" in lines
    assert (
        f"complete -c fastrealign -f -n '{at} train; and not {at} stage1 stage2 demo' -a 'stage1 stage2 demo'" in lines
    )
    assert all(line.count("'") % 2 == 0 for line in lines)
