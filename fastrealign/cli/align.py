"""`fastrealign align`: fit and apply, files to files."""

from __future__ import annotations

import argparse

import fastrealign as fr
from fastrealign.cli import arguments
from fastrealign.cli.config import add_config
from fastrealign.cli.console import show
from fastrealign.cli.parser import Command

_MORE = """\
The output has a shard for every shard of SOURCE, of the same name and format,
with ids and other columns kept; then alignment.safetensors, for `fastrealign
apply`; and manifest.json, written last. Where OUT is a file, they are OUT,
OUT.alignment.safetensors and OUT.manifest.json. --resume continues an
interrupted run.

examples:
  fastrealign align text_emb/ --target img_emb/ --out aligned/
  fastrealign align 'text/*.parquet' --target img.npy --out aligned/ --column embedding --dtype float16
  fastrealign align pairs.parquet --target pairs.parquet --column text_emb --target-column image_emb --out aligned/
  fastrealign align captions.npy --target images.npy --out captions_aligned.npy --centroid exact"""


def add(command: Command) -> None:
    """Add the subcommand."""
    parser = command("align", "fit and apply: embeddings in, aligned embeddings out", _MORE, run=run, shares=True)
    parser.add_argument("source", nargs="+", metavar="SOURCE", help=arguments.SOURCE)
    parser.add_argument("--target", nargs="+", required=True, metavar="TARGET", help=arguments.TARGET)
    arguments.add_out_folder(parser)
    arguments.add_columns(parser)
    arguments.add_fit_options(parser, seed_of="the sample of --tol, and of the noise of --noise and of c3")
    arguments.add_noise(parser)
    arguments.add_run_options(parser)
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    how = {**arguments.fit_options(args, args.noise), **arguments.given(args, "noise"), **arguments.run_options(args)}
    arguments.check_noise(args, how["method"])
    report = fr.align(arguments.paths(args.source), arguments.paths(args.target), args.out, **how)
    show(args, report.to_json(), str(report))
    return 1 if report.left_out else 0
