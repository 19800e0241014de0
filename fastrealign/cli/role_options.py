"""The form of `fastrealign fit` that fits the roles of an index: --role NAME=PATH, --anchor, --pairs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import fastrealign as fr
from fastrealign.cli import arguments
from fastrealign.cli.lazy import storage_paths
from fastrealign.core.errors import InputError

if TYPE_CHECKING:
    from fastrealign.methods.roles import Roles

# What files that hold one map say they hold.
_ONE_MAP = ("alignment", "baseline", "map from pairs")
# Options of a fit of two sides that roles do not take, by their attributes.
_OF_SIDES = {
    "target": "--target",
    "centroid": "--centroid",
    "one_pass": "--one-pass",
    "tol": "--tol",
    "confidence": "--confidence",
    "seed": "--seed",
    "old": "--from",
    "decay": "--decay",
    "column": "--column",
    "target_column": "--target-column",
}


def add_roles(parser: argparse.ArgumentParser) -> None:
    """Add the options of this form."""
    group = parser.add_argument_group("roles of one index, instead of SOURCE and --target")
    group.add_argument(
        "--role",
        action="append",
        metavar="NAME=PATH[:COLUMN]",
        help="the embeddings of one role, such as text=text_emb/ or image=all.parquet:image_emb; once for each role. "
        "--method is then realign (the default), realign-exact, anchor, anchor-trace, bca, centred, z-score, none, or, with "
        "--pairs, balanced or auto",
    )
    group.add_argument(
        "--anchor",
        metavar="NAME",
        help="the role that the others are moved to; centred, balanced and z-score move it too",
    )
    group.add_argument(
        "--pairs",
        action="append",
        metavar="NAME:NAME=PATH,PATH",
        help="for --method auto and balanced: rows of a role to search with, and of the role that is to be found, row i of one "
        "belonging to row i of the other; once for each kind of documents",
    )


def wants_roles(args: argparse.Namespace) -> bool:
    """Whether this form was given; InputError for a mixture of both, and where a part of it is missing."""
    if not args.role:
        alone = next((f"--{name}" for name in ("anchor", "pairs") if getattr(args, name)), None)
        if alone:
            raise InputError(
                f"{alone} is of the roles of one index; name them with --role NAME=PATH, or leave {alone} out"
            )
        return False
    if args.source:
        raise InputError(
            f"{args.source[0]}: fit takes either SOURCE and --target or roles; name its role with --role NAME=PATH"
        )
    mixed = [option for name, option in _OF_SIDES.items() if getattr(args, name) not in (None, False)]
    if mixed:
        raise InputError(f"{', '.join(mixed)} goes with SOURCE, not with --role; leave out one of the two forms")
    if args.anchor is None:
        raise InputError("roles need an anchor, the one that the others are moved to: --anchor NAME")
    return True


def fit(args: argparse.Namespace) -> Roles:
    """`fastrealign.fit_roles` with these options."""
    rows: dict[str, str] = {}
    columns: dict[str, str] = {}
    for given in args.role:
        name, path = _named("--role", given, "NAME=PATH")
        if name in rows:
            raise InputError(
                f"--role {given}: {name} was given already; name several files as a folder or a quoted glob"
            )
        rows[name], column = _with_column(path)
        if column is not None:
            columns[name] = column
    pairs: dict[tuple[str, str], tuple[Any, Any]] = {}
    for given in args.pairs or ():
        names, paths = _named("--pairs", given, "NAME:NAME=PATH,PATH")
        kind, sides = names.split(":"), paths.split(",")
        if len(kind) != 2 or len(sides) != 2 or not all(kind + sides):
            raise InputError(
                f"--pairs {given}: expected NAME:NAME=PATH,PATH, such as query:image=queries.npy,images.npy"
            )
        if (kind[0], kind[1]) in pairs:
            raise InputError(f"--pairs {given}: {names} was given already")
        pairs[kind[0], kind[1]] = sides[0], sides[1]
    reading = arguments.reading_options(args)
    del reading["column"], reading["target_column"]
    return fr.fit_roles(
        rows,
        anchor=args.anchor,
        method=args.method or "realign",
        pairs=pairs or None,
        column=columns or None,
        **arguments.chosen(args, "devices", "max_memory"),
        **reading,
    )


def roles_in(path: str) -> Roles:
    """The roles in a file that --role chooses one of."""
    try:
        return fr.Roles.load(path)
    except InputError as error:
        if getattr(error, "kind", None) not in _ONE_MAP:
            raise
        raise InputError(f"{path}: holds one map for all rows, not a file of roles; leave --role out") from None


def _named(option: str, given: str, form: str) -> tuple[str, str]:
    name, equals, path = given.partition("=")
    if not equals or not name or not path:
        raise InputError(f"{option} {given}: expected {form}")
    return name, path


def _with_column(path: str) -> tuple[str, str | None]:
    """A path, and the column after it, unless a file has the whole name."""
    head, colon, column = path.rpartition(":")
    if not colon or not head or not column or "/" in column or storage_paths.place(path).exists():
        return path, None
    return head, column
