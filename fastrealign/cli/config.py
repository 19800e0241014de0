"""`--config run.yaml`: a command's long options from a file. Those of the command line win."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from fastrealign.cli.lazy import yaml_file
from fastrealign.core.errors import InputError
from fastrealign.core.formatting import listed
from fastrealign.core.text import brief, meant

OPTION = "--config"
_HELP = (
    "a YAML file of this command's long options, without the dashes (out: aligned/); options of the command line win. "
    "Flags are true or false, lists are [a, b]"
)
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
# An option of another command is taken for a misspelt one of this command if they are as similar as --methods and --method.
_MISSPELT = 0.85
_NOT_GIVEN = ("", "null", "~")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add `--config`."""
    parser.add_argument(OPTION, metavar="FILE.yaml", help=_HELP)


def with_config(
    args: Sequence[str], parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser]
) -> tuple[list[str], dict[str, str]]:
    """The words of a command line, with the options of its `--config` file that it does not give.

    Returns
    -------
    words : list of str
    from_file : dict of str
        By option that came from the file ("--dtype"), the file and the key, for messages.
    """
    own = list(takewhile("--".__ne__, args))
    path = _path_of(own)
    if path is None or OPTION not in parser._option_string_actions:
        return list(args), {}
    options = _long_options(parser)
    given = {id(parser._option_string_actions.get(word.partition("=")[0])) for word in own}
    for group in parser._mutually_exclusive_groups:  # one of a group on the command line replaces another in the file
        members = {id(action) for action in group._group_actions}
        given |= members if members & given else set()
    words, from_file = [], {}
    for key, value in yaml_file.read_yaml(path, "options", "out: aligned/", words=True).items():
        name = str(key).replace("_", "-")
        where = f"{path}: {key}"
        action = options.get(name)
        if action is None or name in ("config", "help"):
            raise InputError(f"{path}: {_unknown(key, name, options, parser, commands)}")
        if id(action) in given or value in _NOT_GIVEN:
            continue
        option = f"--{name}"
        if option in from_file:
            raise InputError(f"{path}: the option {name} comes twice, with - and with _")
        from_file[option] = where
        words += _words(option, action, value, where)
    return [*own, *words, *args[len(own) :]], from_file


def _path_of(words: Sequence[str]) -> str | None:
    """The last file that --config names."""
    path = None
    for word, following in zip(words, (*words, None)[1:], strict=True):
        if word == OPTION and following is not None:
            path = following
        elif word.startswith(f"{OPTION}="):
            path = word.partition("=")[2]
    return path


def _long_options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    found = parser._option_string_actions.items()
    return {flag[2:]: action for flag, action in found if flag.startswith("--")}


def _unknown(
    key: Any,
    name: str,
    options: Iterable[str],
    parser: argparse.ArgumentParser,
    commands: Mapping[str, argparse.ArgumentParser],
) -> str:
    mine = parser.prog.rpartition(" ")[2]
    if name in ("config", "help"):
        return f"{name} is of the command line, not of a file"
    if any(action.dest == name.replace("-", "_") for action in parser._get_positional_actions()):
        return f"{key} is no option of {mine}; name it on the command line: {parser.prog} {name.upper()}"
    names = [option for option in options if option not in ("config", "help")]
    if message := of_others(str(key), f"--{name}", parser, commands):
        return message
    return f"there is no option {brief(str(key))}{meant(name, names, f'see {parser.prog} --help')}"


def of_others(
    name: str, option: str, parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser]
) -> str | None:
    """The message, with `name`, for an option that other commands have, and that is no misspelt one of this command."""
    others = [command for command, other in commands.items() if option in other._option_string_actions]
    if not others or meant(option, parser._option_string_actions, least=_MISSPELT):
        return None
    named = [*others[:2], f"{len(others) - 2} more"] if len(others) > 3 else others
    return f"{name} is an option of {listed(named)}, not of {parser.prog.rpartition(' ')[2]}; leave it out"


def _words(option: str, action: argparse.Action, value: Any, where: str) -> list[str]:
    """An option of the file as words of a command line."""
    many = action.nargs in ("+", "*")
    if action.nargs == 0:
        if not isinstance(value, str) or value.lower() not in _FLAGS:
            raise InputError(f"{where}: {brief(value)}: expected true or false")
        return [option] if _FLAGS[value.lower()] else []
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str) for one in values):
        raise InputError(f"{where}: {brief(value)}: expected {'one or more words' if many else 'one value'}")
    if len(values) == 1:
        return [f"{option}={values[0]}"]
    if many:
        dashed = next((one for one in values if one.startswith("-")), None)
        if dashed is not None:
            raise InputError(f"{where}: {brief(dashed)}: begins with a dash; write ./{dashed}")
        return [option, *values]
    if action.metavar and "," in str(action.metavar):  # 0,1,... on the command line
        return [f"{option}={','.join(values)}"]
    raise InputError(f"{where}: {brief(value)}: expected one value, not a list")
