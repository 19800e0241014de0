"""Help fits the terminal, of any width; commands that are broken still run as they are printed."""

from __future__ import annotations

import argparse
import re
import shlex

import pytest

from fastrealign.cli.help_text import fitted
from fastrealign.cli.main import COMMANDS
from fastrealign.cli.parser import parser_of


def _parsers(parser):
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _parsers(one)


def _commands(text):
    whole = re.sub(r" \\\n +", " ", text)
    return [shlex.split(line) for line in whole.splitlines() if line.startswith("  fastrealign ")]


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_help_of_every_command_fits_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    broken = 0
    for parser in _parsers(parser_of(COMMANDS)):
        text = parser.format_help().removeprefix(parser.format_usage())
        invocation = parser._get_formatter()._format_action_invocation
        # argparse's own, as is the usage: titles, and options with their values.
        own = {f"{group.title}:" for group in parser._action_groups} | {f"  {invocation(a)}" for a in parser._actions}
        for line in text.splitlines():
            words = line.removesuffix(" \\").split("  ")[-1].split()
            assert len(line) <= columns or len(words) <= 2 or line in own, (parser.prog, line)
        assert _commands(text) == _commands(parser.epilog or ""), parser.prog
        broken += text.count(" \\\n")
    assert broken > (20 if columns == 40 else 0)


def test_options_are_told_of_by_what_their_own_command_has():
    """Commands share texts: each names options that its command has, and GPUs where it computes on them."""
    for parser in _parsers(parser_of(COMMANDS)):
        own = set(parser._option_string_actions)
        for action in parser._actions:
            assert set(re.findall(r"--[a-z][a-z-]+", action.help or "")) <= own, (parser.prog, action.dest)
            assert "GPU" not in (action.help or "") or own & {"--devices", "--device"}, (parser.prog, action.dest)


def test_text_that_fits_is_kept_and_quoted_words_stay_whole():
    text = "One\ntwo.\n\nexamples:\n  fastrealign align 'a folder/*.npy' --out b/"
    assert fitted(text, 80) == text
    narrow = "One\ntwo.\n\nexamples:\n  fastrealign align \\\n      'a folder/*.npy' \\\n      --out b/"
    assert fitted(text, 26) == narrow
    assert fitted("a line of\nseven words, wrapped", 15) == "a line of seven\nwords, wrapped"
