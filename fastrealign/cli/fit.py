"""`fastrealign fit`: find an alignment and save it, bring a saved one up to date (`--from`), or fit roles (`--role`)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import fastrealign as fr
from fastrealign.cli import arguments, role_options
from fastrealign.cli.console import show
from fastrealign.cli.lazy import inspection, process_group
from fastrealign.cli.parser import Command, may_be_target
from fastrealign.core.errors import InputError

if TYPE_CHECKING:
    from fastrealign.methods.method import Method

_MORE = """\
examples:
  fastrealign fit text_emb/ --target img_emb/ --out text2image.safetensors
  fastrealign fit new_text/ --target new_img/ --from text2image.safetensors --decay 0.5 --out updated.safetensors
  fastrealign fit --role text=text_emb/ --role image=img_emb/ --anchor image --method centred --out roles.safetensors
  fastrealign fit --role query=q.npy --role text=text_emb/ --role image=img_emb/ --anchor image --method auto \\
      --pairs query:image=q1.npy,i1.npy --pairs query:text=q2.npy,t2.npy --out roles.safetensors"""


def add(command: Command) -> None:
    """Add the subcommand."""
    parser = command("fit", "find the alignment of two sets of embeddings and save it", _MORE, run=run, shares=True)
    parser.add_argument("source", nargs="*", metavar="SOURCE", help=arguments.SOURCE)
    parser.add_argument(
        "--target", nargs="+", metavar="TARGET", help=f"{arguments.TARGET}; needed unless --from is given"
    )
    parser.add_argument(
        "-o", "--out", required=True, metavar="FILE", help="where to save it, for example text2image.safetensors"
    )
    arguments.add_fit_options(parser, seed_of="the sample of --tol, and of the noise of c3")
    parser.add_argument(
        "--from", dest="old", metavar="ALIGNMENT", help="update this alignment with SOURCE (and TARGET) instead"
    )
    text = "with --from: factor of the weight of all old rows, above 0 to 1 (default: 1, every row counts alike)"
    parser.add_argument("--decay", type=float, metavar="FACTOR", help=text)
    role_options.add_roles(parser)
    arguments.add_columns(parser)
    arguments.add_reading_options(parser)
    arguments.add_device_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing alignment")
    arguments.add_output_options(parser)


def run(args: argparse.Namespace) -> None:
    if role_options.wants_roles(args):
        if process_group.ranks_of(args.group).size > 1:
            raise InputError("roles are fitted in one process; leave out torchrun")
        to = arguments.saved_out(args, "roles")
        roles = role_options.fit(args)
        roles.save(to)
        show(args, *inspection.describe_roles(roles, str(to)))
        return
    if not args.source:
        raise InputError(f"fit needs a SOURCE and its --target, or roles: --role NAME=PATH{args.swallowed(['SOURCE'])}")
    out = arguments.saved_out(args, "alignment")
    reading = arguments.reading_options(args)
    ranks = process_group.ranks_of(args.group)
    if args.old is not None:
        if ranks.size > 1:
            raise InputError("--from runs in one process; leave out torchrun")
        how = [f"--{name}" for name in arguments.given(args, "method", "centroid", "tol", "confidence", "seed")]
        if how := [*how, *(["--one-pass"] if args.one_pass else [])]:
            raise InputError(f"--from keeps the way the old alignment was fitted; leave out {', '.join(how)}")
        target = args.target and arguments.paths(args.target)
        decay = 1.0 if args.decay is None else args.decay
        method: Method = fr.update(args.old, arguments.paths(args.source), target, decay=decay, **reading)
    elif args.decay is not None:
        raise InputError(
            "--decay weighs the old rows of an update; name the alignment to update with --from, or leave it out"
        )
    elif args.target is None:
        raise InputError(
            f"fit needs a --target, or an alignment to bring up to date: --from{may_be_target(args.source)}"
        )
    else:
        shared = arguments.chosen(args, "group", "devices", "max_memory")
        source, target = arguments.paths(args.source), arguments.paths(args.target)
        method = fr.fit(source, target, **shared, **arguments.fit_options(args), **reading)
    ranks.on_rank_0(lambda: method.save(out))
    value, text = inspection.describe(method, str(out))
    show(args, value, "\n".join([text, *arguments.read_as_one(args)]))
