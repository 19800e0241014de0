"""`fastrealign convert`: embeddings from one format to another."""

from __future__ import annotations

import argparse

import fastrealign as fr
from fastrealign.cli.arguments import COLUMN, DTYPES, add_fsync, add_output_options, chosen, dtype, paths, small
from fastrealign.cli.console import show
from fastrealign.cli.parser import Command
from fastrealign.cli.progress import progress_of
from fastrealign.core.choices import SIDES, TARGETS
from fastrealign.data.options import BAD_ROWS

_MORE = """\
Pickles may hold one array or a list of arrays, a list of {"id": ..., "embed":
array}, a dict of such items by id, or a dict of one array of embeddings and
lists of the same length. What is not an embedding becomes columns: of the same
file, or of a parquet file beside .npy.

examples:
  fastrealign convert text.pkl --out text.parquet
  fastrealign convert pickles/ --out emb/ --to npy --side text"""


def add(command: Command) -> None:
    """Add the subcommand."""
    parser = command(
        "convert", "convert embeddings from one format to another, without changing a number", _MORE, run=run
    )
    parser.add_argument("source", nargs="+", metavar="SOURCE", help="a folder of shards, a file, a quoted glob, ...")
    parser.add_argument("--out", required=True, metavar="OUT", help="a folder, or for a single file a file name")
    text = "format to write (default: that of OUT's suffix, else parquet)"
    parser.add_argument("--to", type=small, choices=sorted(TARGETS), help=text)
    parser.add_argument("--dtype", type=dtype, choices=DTYPES, help="element type (default: that of each file)")
    parser.add_argument("--column", metavar="NAME", help=COLUMN)
    text = (
        "side of a clip-retrieval folder to read; with npy, write such a folder: text_emb/ or img_emb/, and metadata/"
    )
    parser.add_argument("--side", type=small, choices=sorted(SIDES), help=text)
    text = (
        "rows with NaN, Inf or only zeros: keep writes them as they are, skip leaves them out with their columns and lists "
        "them, error stops and names the first (default: keep)"
    )
    parser.add_argument("--bad-rows", type=small, choices=BAD_ROWS, default="keep", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    add_fsync(parser)
    add_output_options(parser)


def run(args: argparse.Namespace) -> None:
    options = chosen(args, "to", "dtype", "column", "side", "bad_rows", "overwrite", "fsync")
    done = fr.convert(paths(args.source), args.out, progress=progress_of(args), **options)
    show(args, done.to_json(), str(done))
