"""`fastrealign inspect`: what a path holds."""

from __future__ import annotations

import argparse

from fastrealign.cli.arguments import COLUMN, JSON, paths
from fastrealign.cli.console import show
from fastrealign.cli.lazy import inspection
from fastrealign.cli.parser import Command


def add(command: Command) -> None:
    """Add the subcommand."""
    parser = command(
        "inspect", "show what a file or folder holds: embeddings, an alignment, moments, an output", run=run
    )
    parser.add_argument("path", nargs="+", metavar="PATH", help="file or folder to describe")
    parser.add_argument("--column", metavar="NAME", help=COLUMN)
    parser.add_argument("--json", action="store_true", help=JSON)


def run(args: argparse.Namespace) -> None:
    show(args, *inspection.inspect(paths(args.path), args.column))
