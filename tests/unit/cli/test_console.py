"""Messages on stderr: colour on a terminal only."""

from __future__ import annotations

import io

import pytest

from fastrealign.cli import console


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "coloured"),
    [
        (Terminal, {}, True),
        (Terminal, {"NO_COLOR": "1"}, False),
        (Terminal, {"TERM": "dumb"}, False),
        (io.StringIO, {}, False),
    ],
)
def test_colour_only_on_a_terminal_that_wants_it(monkeypatch, stream, environment, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", stream())
    console.say("error", "x.npy: no such file")
    console.say("interrupted", "stopped")
    written = console.sys.stderr.getvalue()
    head = "\x1b[1;31merror:\x1b[0m" if coloured else "error:"
    assert written == f"fastrealign: {head} x.npy: no such file\nfastrealign: stopped\n"
