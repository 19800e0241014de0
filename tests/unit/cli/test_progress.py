"""Progress: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import json
import re

import pytest

from fastrealign.cli import progress
from fastrealign.cli.progress import Bar, Lines, Records


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_the_stream_decides():
    assert isinstance(progress.console(io.StringIO()), Lines)
    assert isinstance(progress.console(Terminal()), Bar)


def test_lines_at_intervals(clock):
    stream = io.StringIO()
    lines = Lines(stream)
    lines.start("centring", 1_000_000, None)
    lines.advance(100_000, 10**9)
    assert stream.getvalue() == ""
    clock.now += 20
    lines.advance(100_000, 10**9)
    lines.advance(100_000, 10**9)
    assert stream.getvalue() == "centring: 20 %, 10 k rows/s, 100 MB/s, 80 s left\n"
    lines.finish()


def test_lines_where_the_number_of_rows_is_not_known(clock):
    stream = io.StringIO()
    lines = Lines(stream)
    lines.start("reading", None, None)
    clock.now += 20
    lines.advance(3_000_000, 10**9)
    assert stream.getvalue() == "reading: 3 M rows, 150 k rows/s, 50 MB/s\n"


@pytest.mark.parametrize("nbytes, shown", [(300, "30 bytes/s"), (64_000, "6.4 kB/s"), (35 * 10**9, "3.5 GB/s")])
def test_few_bytes_have_a_unit_of_their_size(clock, nbytes, shown):
    stream = io.StringIO()
    lines = Lines(stream)
    lines.start("reading", None, None)
    clock.now += 10
    lines.advance(100, nbytes)
    assert stream.getvalue() == f"reading: 100 rows, 10 rows/s, {shown}\n"


@pytest.mark.parametrize("rows", [1000, None])
def test_a_bar_shows_rows_bytes_and_time_left(rows):
    stream = Terminal()
    bar = Bar(stream)
    bar.start("aligning", rows, None)
    for _ in range(4):
        bar.advance(250, 10**8)
        bar._bar.refresh()
    shown = stream.getvalue()
    bar.finish()
    assert "aligning" in shown and "rows/s" in shown and re.search(r"\d [kMGT]B/s", shown)
    assert ("100%" in shown and "left" in shown) == (rows is not None)


def test_log_json_is_an_object_a_line(clock):
    stream = io.StringIO()
    records = Records(stream)
    with records.running("aligning\n", 400, 10**6):
        records.advance(100, 250_000)
        clock.now += 10
        records.advance(100, 250_000)
        clock.now += 10
    first, middle, last = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("phase").startswith("aligning")
    assert first == {"event": "start", "done": 0, "total": 400, "bytes": 0, "rate": None, "seconds": 0.0}
    assert (middle["event"], middle["done"], middle["rate"], middle["seconds"]) == ("progress", 200, 20.0, 10.0)
    assert (last["event"], last["done"], last["rate"], last["seconds"]) == ("end", 200, 10.0, 20.0)
