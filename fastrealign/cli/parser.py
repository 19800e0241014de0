"""The parser of the command line: subcommands, one module each, and usage errors in one line."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NoReturn, cast

from fastrealign.cli.config import of_others, with_config
from fastrealign.cli.console import writing_out
from fastrealign.cli.help_text import HelpFormatter
from fastrealign.core.errors import InputError
from fastrealign.core.formatting import listed
from fastrealign.core.text import meant
from fastrealign.core.version import __version__

_DESCRIPTION = """\
Closes the modality gap of contrastive embeddings (CLIP and the like): text
embeddings are moved to where the image embeddings of the same encoder pair lie,
so that text can stand in for images."""

_EXAMPLES = """\
examples:
  # see what it does, on embeddings that ship with it
  fastrealign demo
  # look at your own: rows, width, norms
  fastrealign inspect text_emb/
  # align them, shard for shard
  fastrealign align text_emb/ --target img_emb/ --out aligned/
  # or in two steps
  fastrealign fit text_emb/ --target img_emb/ --out text2image.safetensors
  fastrealign apply text2image.safetensors more_text/ --out more_aligned/

`fastrealign COMMAND --help` has the details. Formats: .npy, .parquet, .arrow,
.safetensors, .pt, .pth, .lance, FAISS indexes that hold their rows, and pickles
of [{"id": ..., "embed": array}, ...]; folders of these, clip-retrieval ones,
Hugging Face datasets; paths or URLs."""


class Command:
    """Adds a subcommand and returns its parser. shares: under torchrun, its processes share the work."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
        # All of them, by name, when all are added.
        self.commands: Mapping[str, argparse.ArgumentParser] = self._subparsers.choices

    def __call__(
        self,
        name: str,
        help: str,
        more: str = "",
        *,
        run: Callable[[argparse.Namespace], int | None],
        shares: bool = False,
    ) -> argparse.ArgumentParser:
        description = textwrap.fill(f"{help[0].upper()}{help[1:]}.", 80)
        added = self._subparsers.add_parser(
            name, help=help, description=description, epilog=more, formatter_class=HelpFormatter
        )
        parser = cast("_Parser", added)
        parser.commands = self.commands
        # swallowed: for a command that finds by itself that a path is missing.
        parser.set_defaults(command=run, group=None, shares=shares, swallowed=parser.swallowed)
        return added


def parser_of(commands: Iterable[Callable[[Command], None]]) -> argparse.ArgumentParser:
    """The parser of the whole command; `commands` add a subcommand each."""
    parser = _Parser(prog="fastrealign", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=HelpFormatter)
    parser.add_argument("--version", action="version", version=f"fastrealign {__version__}")
    parser.set_defaults(command=lambda args: parser.print_help(), shares=False)
    command = Command(parser)
    for add in commands:
        add(command)
    return parser


class _Parser(argparse.ArgumentParser):
    """Usage errors in one line, with the option or command that was probably meant. Abbreviated options are refused: an
    abbreviation that is unique today becomes ambiguous when an option is added.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        # Of a subcommand: all of them, by name.
        self.commands: Mapping[str, argparse.ArgumentParser] = {}
        # Options that a --config file gave, and where.
        self._from_file: dict[str, str] = {}
        self._words: Sequence[str] = ()

    def parse_known_args(  # type: ignore[override]  # without the overload for a namespace of another type
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        # First, since argparse would take the value of an unknown option for a path, or miss a required one that is misspelt.
        args = sys.argv[1:] if args is None else list(args)
        for arg in args:
            if arg == "--" or (self._subparsers is not None and not arg.startswith("-")):
                break  # what follows are no options, or those of a subcommand
            name = arg.partition("=")[0]
            if re.fullmatch(r"--?[A-Za-z][\w-]+", name) and name not in self._option_string_actions:
                self.error(self._unknown(name))
        self._words = args
        args, self._from_file = with_config(args, self, self.commands)
        known, rest = super().parse_known_args(args, namespace)
        if rest and self._subparsers is None:  # here, since the parser of all commands would refer to its own help
            self.error(f"unrecognized arguments: {' '.join(rest)}{self._sides(rest)}")
        return known, rest

    def _unknown(self, name: str) -> str:
        if message := of_others(name, "--" + name.lstrip("-"), self, self.commands):
            return message
        return f"there is no option {name}{meant('-' + name.lstrip('-'), self._option_string_actions)}"

    def _sides(self, rest: Sequence[str]) -> str:
        """For a message that says that these words are too many: that both sides are given by options; "" if not so."""
        sides = ("--source", "--target")
        if (
            len(rest) != 2
            or any(word.startswith("-") for word in rest)
            or not self._option_string_actions.keys() >= {*sides}
        ):
            return ""
        return f"; give them as {shlex.join([sides[0], rest[0], sides[1], rest[1]])}"

    def _target_among_sources(self) -> str:
        """For a message that says that --target is missing: which path may be meant by it; "" if there is none."""
        sources: list[str] = []
        words = iter(self._words)
        for word in words:
            action = self._option_string_actions.get(word)
            if action is None and not word.startswith("-"):
                sources.append(word)
            elif action is None or action.nargs == 0 or "=" in word:
                continue
            elif action.nargs is None:
                next(words, None)
            else:
                break  # what follows may be values of the option
        return may_be_target(sources)

    def swallowed(self, missing: Sequence[str]) -> str:
        """For a message that says that these paths are missing: which option of several took them; "" if none did."""
        for at, word in enumerate(self._words if missing else ()):
            action = self._option_string_actions.get(word)
            taken = list(takewhile(lambda one: not one.startswith("-"), self._words[at + 1 :]))
            if action is not None and action.nargs == "+" and len(taken) > 1:
                paths = listed(taken[1:][-len(missing) :])
                too = ", too" if len(missing) == 1 else ""
                return f"; {word} took {paths}{too}: name {listed(missing)} before {word}"
        return ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            listed = ", ".join(map(str, action.choices))
            hint = meant(str(value), action.choices, f"choose from {listed}")
            if action.option_strings:
                raise argparse.ArgumentError(action, f"there is no {str(value)!r}{hint}")
            # Of a word by its place, argparse would name the variable.
            kind = str(action.metavar or action.dest).lower()
            raise argparse.ArgumentError(None, f"there is no {kind} {str(value)!r}{hint}")

    def _print_message(self, message: str, file: Any = None) -> None:
        """argparse's own method ignores failed writes."""
        with writing_out():
            (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        if message.startswith("the following arguments are required: "):
            paths = [str(one.metavar) for one in self._get_positional_actions()]
            message += self.swallowed([one for one in paths if one in message])
            if paths == ["SOURCE"] and "--target" in message:
                message += self._target_among_sources()
        for option, where in self._from_file.items():
            message = message.replace(f"argument {option}: ", f"{where}: ")
        raise InputError(f"{message}{' See' if message.endswith('?') else '; see'} {self.prog} --help")


def may_be_target(sources: Sequence[str]) -> str:
    """For a message that says that --target is missing, where several paths were given as SOURCE."""
    return (
        "" if len(sources) < 2 else f"; is {sources[-1]} the target? Then write {shlex.join(['--target', sources[-1]])}"
    )
