"""`fastrealign report --search`: search in one index of text and images, before and after alignment, on one HTML page."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from fastrealign.cli.arguments import check_new, chosen, paths, positive
from fastrealign.cli.console import show
from fastrealign.cli.lazy import documents, evaluation, protected_inputs, result, storage_paths
from fastrealign.cli.progress import progress_of
from fastrealign.core.errors import InputError
from fastrealign.core.text import meant, shown
from fastrealign.data.usual_names import ID_NAMES

# Options of one kind of report, by the name of their values, and what they are without being given.
SEARCH_ONLY: Mapping[str, object] = {"queries": None, "qrels": None, "roles": None, "ids": [], "sample": None}
GAP_ONLY: Mapping[str, object] = {
    "labels": None,
    "by_length": None,
    "domain": [],
    "png": None,
    "rows": None,
    "bad_rows": "error",
}


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a report of search, in a group of their own."""
    group = parser.add_argument_group(
        "search", "R@k, NDCG@10 and MRR among text, images and both, instead of the gap; needs pytrec_eval-terrier"
    )
    text = "measure search: QUERIES among --text and --images, one of which may be left out"
    group.add_argument("--search", action="store_true", help=text)
    group.add_argument("--queries", nargs="+", metavar="QUERIES", help="embeddings of the queries, in the same forms")
    text = (
        "which documents answer which query, by id: TREC qrels, a BEIR or MTEB folder, or a .csv or .tsv with a header such as "
        "query-id,corpus-id,score. With --pairs instead, row i of QUERIES belongs to row i of the text and of the images"
    )
    group.add_argument("--qrels", metavar="PATH", help=text)
    text = (
        "roles to compare, as Roles.save writes them, several under the names given or those of the files; may be repeated; "
        "compared with none, and with what --methods names"
    )
    group.add_argument("--roles", nargs="+", action="extend", metavar="[NAME=]FILE", help=text)
    text = (
        "ids of the rows of a role (query, text or image): .txt, one a line, .json, .npy, or the column of a .csv or .parquet "
        f"file: FILE:COLUMN, or the first of {', '.join(ID_NAMES)}, or the only one; "
        "by default those in the files, or else the numbers of the rows; may be repeated"
    )
    group.add_argument("--ids", nargs="+", action="extend", default=[], metavar="ROLE=FILE", help=text)
    text = "measure at most this many judged queries (default: 2000)"
    group.add_argument("--sample", type=positive, metavar="N", help=text)


def run_search(args: argparse.Namespace) -> None:
    """Measure and write a report of search."""
    out = result.local(args.out)
    _check(args)
    result.check_files(out)
    ids = _ids(args.ids)
    compared = _roles(args.roles or [])
    files = [*compared.values(), *ids.values(), *filter(None, [args.qrels])]
    given = protected_inputs.Inputs.named([*args.queries, *(args.source or []), *(args.target or []), *files])
    for path in (out, out.with_suffix(".json")):
        given.check(path)
        check_new(path, args.overwrite)
    names = None if args.methods is None else [one.strip().lower() for one in args.methods.split(",") if one.strip()]
    found = evaluation.evaluate(
        paths(args.queries),
        text=args.source and paths(args.source),
        images=args.target and paths(args.target),
        pairs=args.pairs is not None,
        methods=names,
        ids=ids,
        image_column=args.target_column,
        sample=args.sample or evaluation.SAMPLE,
        roles=compared.get("") or compared or None,
        **chosen(args, "qrels", "column", "seed"),
        progress=progress_of(args),
    )
    files = [str(path) for path in found.save(out)]
    show(args, {**found.to_json(), "files": files}, f"{found}\n\nwritten: {shown(', '.join(files))}")


def refuse(args: argparse.Namespace, options: Mapping[str, object], why: str) -> None:
    """InputError for the first of these options that is given."""
    for name, default in options.items():
        if getattr(args, name) != default:
            raise InputError(f"--{name.replace('_', '-')} {why}")


def _check(args: argparse.Namespace) -> None:
    refuse(args, GAP_ONLY, "is for a report of the gap; leave it out with --search")
    if args.queries is None:
        raise InputError("--search needs --queries, the embeddings of the queries")
    if args.source is None and args.target is None:
        raise InputError("--search needs documents: --text, --images or both")
    if args.pairs:
        raise InputError("--pairs takes no paths with --search: row i of QUERIES belongs to row i of text and images")
    if args.pairs is not None and args.qrels is not None:
        raise InputError("--pairs and --qrels both say which documents answer which query: leave one out")
    if args.pairs is None and args.qrels is None:
        raise InputError("--search needs either --qrels PATH or --pairs: which documents answer which query")


def _ids(given: list[str]) -> dict[str, str]:
    ids: dict[str, str] = {}
    for one in given:
        role, equals, file = one.partition("=")
        if not equals or not file:
            raise InputError(f"--ids {one}: expected ROLE=FILE, such as query=ids.txt")
        if role not in documents.ROLES:
            hint = meant(role, documents.ROLES, f"the roles are {', '.join(documents.ROLES)}")
            raise InputError(f"--ids {one}: there is no role {role!r}{hint}")
        if role in ids:
            raise InputError(f"--ids {one}: {role} has ids already; give one file")
        ids[role] = file
    return ids


def _roles(given: list[str]) -> dict[str, str]:
    """Files of roles by the name that they are compared under; "" for a single one without a name."""
    found: dict[str, str] = {}
    for one in given:
        name, equals, file = one.partition("=")
        if storage_paths.place(one).exists() or not equals:
            name, file = "" if len(given) == 1 else Path(one).stem, one
        elif not name or not file:
            raise InputError(f"--roles {one}: expected FILE or NAME=FILE")
        if name in found:
            raise InputError(f"--roles {one}: {name!r} is {found[name]} already; give another name, NAME=FILE")
        found[name] = file
    return found
