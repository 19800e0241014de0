"""`fastrealign demo`: its options, and its result as text or JSON."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fastrealign.cli.arguments import JSON, add_centroid, check_picture
from fastrealign.cli.console import show
from fastrealign.cli.parser import Command
from fastrealign.core.errors import InputError
from fastrealign.core.optional import Lazy

if TYPE_CHECKING:
    from fastrealign.cli.demo import run as demo
    from fastrealign.cli.demo import search
else:
    demo, search = Lazy("fastrealign.cli.demo.run"), Lazy("fastrealign.cli.demo.search")


_MORE = """\
examples:
  fastrealign demo
  fastrealign demo --picture demo.png
  fastrealign demo search"""


def add(command: Command) -> None:
    """Add the subcommand."""
    text = "align the titles of real pictures that ship with fastrealign: gap, classifier, search, before and after"
    parser = command("demo", text, _MORE, run=run)
    parser.add_argument(
        "demo",
        nargs="?",
        choices=["search"],
        help="search: one index of pictures and captions, the ten best for three titles before and after",
    )
    add_centroid(parser)
    parser.add_argument(
        "--picture",
        metavar="FILE.png",
        help="also draw both sides, and the best pictures of titles that find their own before or after (needs matplotlib)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing picture")
    parser.add_argument("--json", action="store_true", help=JSON)


def run(args: argparse.Namespace) -> None:
    if args.demo == "search":
        if args.picture or args.centroid:
            raise InputError("demo search takes neither --picture nor --centroid: leave them out")
        found = search.run()
        show(args, found.to_json(), found.summary())
        return
    check_picture(args)
    result = demo.run(centroid=args.centroid or "paper", picture=args.picture)
    show(args, result.to_json(), result.summary())
