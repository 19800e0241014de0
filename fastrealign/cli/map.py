"""`fastrealign map`: find the map from the rows of an old encoder to those of a new one, from pairs, and save it."""

from __future__ import annotations

import argparse

import fastrealign as fr
from fastrealign.cli import arguments
from fastrealign.cli.console import show
from fastrealign.cli.lazy import map_text
from fastrealign.cli.parser import Command
from fastrealign.cli.progress import progress_of
from fastrealign.methods.fit_options import PAIRED_METHODS

_MORE = """\
examples:
  # a sample of the items, embedded by both encoders; then the rest
  fastrealign map old_sample/ new_sample/ -o map.safetensors
  fastrealign apply map.safetensors old_emb/ --out new_emb/
  # items found by their ids; the recall that captions have, by the new encoder
  fastrealign map old.parquet sample.parquet --pairs ids --queries captions.npy -o map.safetensors"""


def add(command: Command) -> None:
    """Add the subcommand."""
    text = "change the encoder without embedding everything again: fit a map on items that both embedded"
    parser = command("map", text, _MORE, run=run)
    forms = "a file, a folder, a quoted glob or a URL"
    parser.add_argument("old", metavar="OLD", help=f"embeddings by the old encoder: {forms}")
    parser.add_argument("new", metavar="NEW", help="embeddings of the same items by the new encoder, of any width")
    parser.add_argument(
        "--out", "-o", required=True, metavar="FILE", help="where to save the map, for example map.safetensors"
    )
    parser.add_argument(
        "--pairs",
        nargs="?",
        const="auto",
        default="auto",
        type=arguments.small,
        choices=("auto", "rows", "ids"),
        help="rows: row i of OLD and row i of NEW are of one item; ids: rows with the same id are, and those that one side "
        "lacks are left out; auto: ids where both sides hold them (default: auto)",
    )
    parser.add_argument(
        "--method",
        type=arguments.small,
        choices=PAIRED_METHODS,
        default="procrustes",
        help="procrustes: a rotation with scale and translation; ridge: an affine map, often better with many pairs a column "
        "(default: procrustes)",
    )
    parser.add_argument(
        "--queries",
        metavar="PATH",
        help="queries by the new encoder, row i for row i of NEW: the recall kept is then theirs; by default it is the share "
        "of the nearest documents that are kept",
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="share of the pairs, at most 5,000, that measures the recall kept; 0 measures nothing (default: 0.2)",
    )
    parser.add_argument(
        "--seed", type=arguments.seed, default=0, metavar="N", help="decides which pairs are held out (default: 0)"
    )
    parser.add_argument(
        "--bad-rows",
        type=arguments.small,
        choices=("error", "skip"),
        default="error",
        help="a row with NaN, Inf or only zeros: error stops and names the first, skip leaves its pair out (default: error)",
    )
    parser.add_argument("--column", metavar="NAME", help=f"of OLD: {arguments.COLUMN}")
    parser.add_argument("--target-column", metavar="NAME", help="the same of NEW")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing map")
    arguments.add_output_options(parser)


def run(args: argparse.Namespace) -> None:
    out = arguments.saved_out(args, "map")
    options = arguments.chosen(
        args, "method", "pairs", "queries", "held_out", "seed", "bad_rows", "column", "target_column"
    )
    found = fr.fit_map(args.old, args.new, **options, progress=progress_of(args))
    found.save(out)
    show(args, *map_text.describe_map(found, str(out)))
