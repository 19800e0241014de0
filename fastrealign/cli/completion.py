"""`fastrealign completion`: a script that completes commands, options and their choices in a shell, made from the parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

from fastrealign.cli.console import writing_out
from fastrealign.cli.parser import Command

SHELLS = ("bash", "zsh", "fish")
_MORE = """\
examples:
  # in ~/.bashrc, in ~/.zshrc, in ~/.config/fish/config.fish
  source <(fastrealign completion bash)
  source <(fastrealign completion zsh)
  fastrealign completion fish | source"""

# "at" is the command so far, as "/train/stage1". A value after = is a word of its own in bash, where = ends words, and not in
# zsh, which also wants $(( )) in a slice and keeps the name "words" for itself.
_BASH = """\
_fastrealign() {{
    local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" at="" offered="" before="" word
    if [[ "$cur" == "=" ]]; then
        cur=""
    elif [[ "$prev" == "=" ]]; then
        prev="${{COMP_WORDS[COMP_CWORD-2]}}"
    elif [[ "$cur" == --*=* ]]; then
        prev="${{cur%%=*}}" before="${{cur%%=*}}=" cur="${{cur#*=}}"
    fi
    for word in "${{COMP_WORDS[@]:1:$((COMP_CWORD-1))}}"; do
        case "$at/$word" in
            {commands}) at="$at/$word" ;;
        esac
    done
    case "$at $prev" in
{values}
        *) case "$cur" in
            -*) case "$at" in
{options}
            esac ;;
            *) case "$at" in
{below}
            esac ;;
        esac ;;
    esac
    COMPREPLY=()
    [[ -z "$offered" ]] || COMPREPLY=($(compgen -P "$before" -W "$offered" -- "$cur"))
}}
complete -o default -F _fastrealign fastrealign
"""
_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


class _Level(NamedTuple):
    """A command, as "/train/stage1": the commands below it, its options, and those that take a value, with its choices."""

    at: str
    below: list[str]
    options: list[str]
    values: dict[str, list[str]]


def add(command: Command) -> None:
    """Add the subcommand."""
    parser = command(
        "completion", "print a script that completes commands and options in a shell", _MORE, run=partial(run, command)
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads it")


def run(command: Command, args: argparse.Namespace) -> None:
    levels = list(_levels("", command.commands, ["--help", "--version"], {}))
    with writing_out():
        print({"bash": _bash, "zsh": lambda of: _ZSH + _bash(of), "fish": _fish}[args.shell](levels), end="")


def _levels(
    at: str, below: Mapping[str, argparse.ArgumentParser], options: list[str], values: dict[str, list[str]]
) -> Iterator[_Level]:
    yield _Level(at, list(below), options, values)
    for name, parser in below.items():
        further: Mapping[str, argparse.ArgumentParser] = {}
        flags, choices = [], {}
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                further = action.choices
            for flag in (one for one in action.option_strings if one.startswith("--")):
                flags.append(flag)
                if action.nargs != 0:
                    choices[flag] = list(map(str, action.choices or ()))
        yield from _levels(f"{at}/{name}", further, flags, choices)


def _bash(levels: list[_Level]) -> str:
    names = [level.at for level in levels if level.at]
    values = [
        f'        "{level.at} {flag}") offered="{" ".join(choices)}" ;;'
        for level in levels
        for flag, choices in level.values.items()
    ]
    options = [f'                "{level.at}") offered="{" ".join(level.options)}" ;;' for level in levels]
    below = [f'                "{level.at}") offered="{" ".join(level.below)}" ;;' for level in levels if level.below]
    return _BASH.format(
        commands="|".join(names), values="\n".join(values), options="\n".join(options), below="\n".join(below)
    )


def _fish(levels: list[_Level]) -> str:
    lines = []
    for level in levels:
        seen = "; and ".join(f"__fish_seen_subcommand_from {name}" for name in level.at.split("/")[1:])
        no_more = f"not __fish_seen_subcommand_from {' '.join(level.below)}" if level.below else ""
        if level.below:
            here = "; and ".join(filter(None, (seen, no_more)))
            lines.append(f"complete -c fastrealign -f -n '{here}' -a '{' '.join(level.below)}'")
        for flag in level.options:
            where = f" -n '{seen or '__fish_use_subcommand'}'"
            choices = level.values.get(flag)
            value = "" if choices is None else f" -x -a '{' '.join(choices)}'" if choices else " -r"
            lines.append(f"complete -c fastrealign{where} -l {flag[2:]}{value}")
    return "\n".join(lines) + "\n"
