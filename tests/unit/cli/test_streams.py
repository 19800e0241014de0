"""Standard streams that are full, closed, left by their reader, a terminal, or ASCII."""

from __future__ import annotations

import io
import os
import select
import struct
import subprocess
import sys

import pytest

from fastrealign.cli.main import main


@pytest.mark.parametrize(
    "argv",
    [[], ["train"], ["--version"], ["--help"], ["align", "--help"], ["inspect", "IN"], ["inspect", "IN", "--json"]],
)
def test_a_full_stdout_is_one_line(sides, argv):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    command = [sys.executable, "-m", "fastrealign", *(sides[0] if word == "IN" else word for word in argv)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("fastrealign: error: standard output: cannot be written to: No space left")
    assert done.stderr.count("\n") == 1


def test_a_full_stderr_changes_no_exit_code(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastrealign", "inspect", tmp_path / "no"], stderr=full, check=False
        )
    assert done.returncode == 2


def test_a_reader_who_leaves_is_no_error(sides):
    command = f"{sys.executable} -m fastrealign align --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_streams_that_the_shell_closed(sides, tmp_path):
    """Nothing is said, all is done: the numbers of the streams are not given to files that are written."""
    text, images = sides
    command = f"{sys.executable} -m fastrealign align {text} --target {images} --out {tmp_path / 'out'} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 0
    assert subprocess.run(["bash", "-c", f"{sys.executable} -m fastrealign inspect {tmp_path / 'out'}"]).returncode == 0


@pytest.mark.parametrize("argv", [["align", "--help"], ["--version"]])
def test_a_reader_who_leaves_before_the_last_line(tmp_path, monkeypatch, argv):
    """What is still in the buffer is not left to the end of the process, where it could no longer be handled."""

    class Left(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    with (tmp_path / "stdout").open("wb") as file:
        stdout = Left()
        stdout.fileno = file.fileno
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(argv) == 1 and stdout.getvalue()


def test_python_m_and_progress_on_a_terminal(tmp_path, sides):
    """On a pseudo-terminal there is a bar, and it is gone at the end."""
    pty, termios, fcntl = (pytest.importorskip(name) for name in ("pty", "termios", "fcntl"))
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    command = [sys.executable, "-m", "fastrealign", "align", sides[0], "--target", sides[1], "--out", tmp_path / "out"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=follower, check=False)
    assert select.select([leader], [], [], 1)[0], "nothing was shown"
    shown = os.read(leader, 1 << 16).decode()
    os.close(leader)
    os.close(follower)
    assert done.returncode == 0 and b"gap left" in done.stdout
    assert "aligning:   0%" in shown and shown.endswith(" \r") and "\n" not in shown


def test_output_in_ascii_lacks_signs_and_nothing_else(tmp_path):
    """LANG=C without Python's UTF-8 mode, as in some containers and cron jobs."""
    environ = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environ.pop("PYTHONIOENCODING", None)
    command = [sys.executable, "-m", "fastrealign", "demo"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"?" in done.stdout and done.stdout.isascii()
