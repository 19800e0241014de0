"""`fastrealign check`: whether an alignment still holds for new embeddings, from a sample. Exit code 3 if it does not."""

from __future__ import annotations

import argparse
import os
import shlex
from itertools import count
from pathlib import Path

import fastrealign as fr
from fastrealign.cli import arguments
from fastrealign.cli.console import show
from fastrealign.cli.lazy import storage_paths
from fastrealign.cli.parser import Command
from fastrealign.cli.role_options import roles_in
from fastrealign.core.errors import InputError
from fastrealign.data import options

_MORE = """\
Exits 0 if the alignment holds and 3 if it does not; 2 for input that cannot be
used, such as a row without a direction (NaN, Inf, zeros) in what it read, and 1
if something failed. It reads a sample, drawn by --seed, as large as the answer
needs, and says what share of the rows that is: a bad row elsewhere goes unseen.
With --bad-rows skip, bad rows are left out and do not change the exit code.
apply reads every row.

examples:
  fastrealign check text2image.safetensors new_text/
  fastrealign check text2image.safetensors new_text/ --target new_img/ --tol 0.02
  fastrealign check roles.safetensors new_text/ --role text
  fastrealign fit new_text/ --target new_img/ --from text2image.safetensors --out updated.safetensors"""


def add(command: Command) -> None:
    """Add the subcommand."""
    parser = command(
        "check", "estimate from a sample whether an alignment still holds for new embeddings", _MORE, run=run
    )
    parser.add_argument("alignment", metavar="ALIGNMENT", help="what fit saved, or roles with --role")
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="new text embeddings, in the same forms as for align; several paths are one source",
    )
    parser.add_argument(
        "--target", nargs="+", metavar="TARGET", help="new image embeddings, if they may have changed too"
    )
    parser.add_argument("--role", metavar="NAME", help="with a file of roles: check the alignment of this role")
    text = "the largest gap that it may leave (default: a tenth of the gap that it was fitted to close)"
    parser.add_argument("--tol", type=float, metavar="GAP", help=text)
    arguments.add_sampling_options(parser, seed_of="the sample")
    arguments.add_columns(parser)
    arguments.add_reading_options(parser)
    arguments.add_option(parser, "--threads", texts=options.HELP, type=arguments.positive, metavar="N")
    arguments.add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    alignment = args.alignment
    if args.role is not None:
        roles = roles_in(args.alignment)
        alignment = roles[args.role]
        if not isinstance(alignment, fr.Alignment):
            aligned = [name for name, one in roles.maps.items() if isinstance(one, fr.Alignment)]
            there = f"those of {', '.join(aligned)} are" if aligned else "no role has one"
            raise InputError(
                f"{args.alignment}: the map of role {args.role} is {alignment.name}, not an alignment to check; {there}"
            )
    found = fr.check(
        alignment,
        arguments.paths(args.source),
        args.target and arguments.paths(args.target),
        **arguments.given(args, "tol", "confidence", "seed"),
        **arguments.reading_options(args),
    )
    show(args, found.to_json(), "\n".join([found.summary(_next(args)), *arguments.read_as_one(args)]))
    return 0 if found.holds else 3


def _next(args: argparse.Namespace) -> str:
    """The command that updates what does not hold."""
    if args.role is not None:
        if len(args.source) > 1:
            return f"fit the roles again, with these sources in one folder or as a quoted glob: --role {args.role}=PATH"
        return f"fit the roles again, with --role {shlex.quote(f'{args.role}={args.source[0]}')}"
    target = ["--target", *args.target] if args.target else []
    given = arguments.given(args, "column", "target_column", "bad_rows", "threads")
    if args.bad_rows == "error":  # the default
        del given["bad_rows"]
    reading = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    update = ["--from", args.alignment, "--decay", "0.5", "--out", _free_name(args.alignment)]
    return f"{shlex.join(['fastrealign', 'fit', *args.source, *target, *reading, *update])}, or fit again"


def _free_name(alignment: str) -> str:
    """A name for the updated alignment that no file has: beside the old one, or in the current folder if that is a URL."""
    at = storage_paths.place(alignment)
    path = str(at) if isinstance(at, Path) else at.name
    base = f"{path.removesuffix('.safetensors')}-updated"
    names = (f"{base}{'' if n == 1 else f'-{n}'}.safetensors" for n in count(1))
    return next(name for name in names if not os.path.lexists(name))
