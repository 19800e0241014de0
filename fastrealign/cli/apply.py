"""`fastrealign apply`: apply a saved method to embeddings, shard for shard."""

from __future__ import annotations

import argparse

import fastrealign as fr
from fastrealign.cli.arguments import (
    COLUMN,
    FORMS,
    add_noise,
    add_option,
    add_out_folder,
    add_run_options,
    check_noise,
    given,
    paths,
    run_options,
    seed,
)
from fastrealign.cli.config import add_config
from fastrealign.cli.console import show
from fastrealign.cli.lazy import loading
from fastrealign.cli.parser import Command
from fastrealign.cli.role_options import roles_in
from fastrealign.core.errors import InputError
from fastrealign.data import options

_MORE = """\
examples:
  fastrealign apply text2image.safetensors more_text/ --out more_aligned/
  fastrealign apply text2image.safetensors text_emb/ --out to_train_on/ --noise 1
  fastrealign apply roles.safetensors img_emb/ --role image --out to_index/"""


def add(command: Command) -> None:
    """Add the subcommand."""
    text = "apply a saved alignment (or another saved method) to embeddings, shard for shard"
    parser = command("apply", text, _MORE, run=run, shares=True)
    parser.add_argument(
        "alignment",
        metavar="ALIGNMENT",
        help="what fit or map saved, alignment.safetensors in align's output, or hf://ORG/NAME",
    )
    text = f"embeddings of the side or role that ALIGNMENT maps: {FORMS}"
    parser.add_argument("source", nargs="+", metavar="SOURCE", help=text)
    add_out_folder(parser)
    parser.add_argument(
        "--role", metavar="NAME", help="with a file of roles (fastrealign.fit_roles): the role of SOURCE"
    )
    parser.add_argument("--column", metavar="NAME", help=COLUMN)
    add_noise(parser)
    add_option(parser, "--seed", texts=options.HELP, type=seed, usual=0, metavar="N")
    add_run_options(parser)
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    if args.seed is not None and not args.noise:
        raise InputError("--seed is of the noise that --noise adds; add --noise, or leave --seed out")
    method = args.alignment if args.role is None else roles_in(args.alignment)[args.role]
    if args.noise == 0.0:
        with loading.explained_if_swapped(method, paths(args.source)):
            check_noise(args, loading.as_method(method).name)
    report = fr.apply_files(method, paths(args.source), args.out, **given(args, "noise", "seed"), **run_options(args))
    show(args, report.to_json(), str(report))
    return 1 if report.left_out else 0
