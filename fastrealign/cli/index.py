"""`fastrealign index`: add an aligned vector to every row of a store of vectors."""

from __future__ import annotations

import argparse

from fastrealign.cli.arguments import add_option, add_output_options, chosen, positive
from fastrealign.cli.console import show
from fastrealign.cli.lazy import index_job
from fastrealign.cli.parser import Command
from fastrealign.cli.progress import progress_of
from fastrealign.data import options

_MORE = """\
STORE is a FAISS index file, a LanceDB folder or table (x.lance), a Qdrant folder
or URL, or a postgresql:// URL. The old vectors stay unless --drop-old is given.
Run the same command again after an interrupt, a kill, or when rows were added
or changed: it writes only those. A FAISS index is written whole, to a file of
its own.

examples:
  fastrealign index wiki.faiss --roles roles.safetensors --role image
  fastrealign index data/lancedb --table docs --roles roles.safetensors --role-column modality
  fastrealign index http://localhost:6333 --table docs --roles roles.safetensors --role-column modality
  fastrealign index postgresql://me@localhost/wiki --table docs --column embedding \\
    --roles roles.safetensors --role-column modality

The key of a Qdrant server is read from QDRANT_API_KEY, the password of PostgreSQL
from the URL, PGPASSWORD or ~/.pgpass."""


def add(command: Command) -> None:
    """Add the subcommand."""
    parser = command("index", "add an aligned vector to every row of a store of vectors", _MORE, run=run)
    parser.add_argument("store", metavar="STORE", help="where the vectors are; see below")
    parser.add_argument(
        "--roles",
        required=True,
        metavar="FILE",
        help="what fastrealign.fit_roles saved; or one saved method, for all rows",
    )
    parser.add_argument("--role", metavar="NAME", help="the role of all rows")
    parser.add_argument(
        "--role-column",
        metavar="NAME",
        help="the column whose value is the role of each row; of FAISS, a .npy file with a role a row, or a .json file of "
        "roles and ranges of ids",
    )
    parser.add_argument("--table", metavar="NAME", help="the table or collection, where there are several")
    parser.add_argument("--column", metavar="NAME", help="the vectors to read, where rows have several")
    parser.add_argument(
        "--to",
        metavar="NAME",
        help="the name of the aligned vectors (default: that of the vectors and _aligned); of FAISS, the new file",
    )
    parser.add_argument("--id-column", metavar="NAME", help="the column that names rows")
    parser.add_argument(
        "--bad-rows",
        choices=("error", "skip"),
        default="error",
        help="rows with NaN, Inf or only zeros: error stops and names the first, skip leaves their aligned vector empty "
        "(default: %(default)s)",
    )
    parser.add_argument("--restart", action="store_true", help="replace aligned vectors that other roles made")
    parser.add_argument(
        "--drop-old", action="store_true", help="remove the vectors that were read, when all rows are written"
    )
    add_option(parser, "--threads", texts=options.HELP, type=positive, metavar="N")
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    names = ("role", "role_column", "table", "column", "to", "id_column", "bad_rows", "restart", "drop_old", "threads")
    report = index_job.index(args.store, args.roles, **chosen(args, *names), progress=progress_of(args))
    show(args, report.to_json(), str(report))
    return 0
