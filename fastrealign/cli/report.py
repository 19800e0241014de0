"""`fastrealign report`: measure a gap, or search in one index, and what each method does to it, on one HTML page."""

from __future__ import annotations

import argparse
import os

import fastrealign as fr
from fastrealign.cli.arguments import (
    SOURCE,
    TARGET,
    add_columns,
    add_output_options,
    check_new,
    chosen,
    paths,
    positive,
    seed,
    small,
)
from fastrealign.cli.console import show
from fastrealign.cli.lazy import figures, protected_inputs, result
from fastrealign.cli.parser import Command
from fastrealign.cli.progress import progress_of
from fastrealign.cli.report_search import SEARCH_ONLY, add_search_options, refuse, run_search
from fastrealign.core.errors import InputError
from fastrealign.core.text import shown
from fastrealign.gap_report import METHODS, ROWS
from fastrealign.methods.fit_options import METHODS as KNOWN
from fastrealign.methods.fit_options import own_name

_MORE = """\
Takes a minute for 100,000 rows of width 768 on each side, on two cores. Needs
matplotlib: pip install 'fastrealign[report]'; for --labels the extra [sklearn],
for --search the extra [search].

examples:
  fastrealign report --source text_emb/ --target img_emb/ --out report.html
  fastrealign report --source text.npy --target img.npy --pairs --methods none,realign --out report.html --png figures/
  fastrealign report --source text.npy --target img.npy --pairs --labels labels.txt --out report.html
  fastrealign report --source text.parquet --target img.npy --by-length caption --out report.html
  fastrealign report --source a/text a/more --target a/img --domain drawings b/text b/img --out report.html
  fastrealign report --search --queries q_emb/ --text text_emb/ --images img_emb/ --qrels qrels.tsv --out search.html
  fastrealign report --search --queries titles.npy --images img.npy --pairs --roles roles.safetensors --out search.html"""


def add(command: Command) -> None:
    """Add the subcommand."""
    parser = command("report", "measure the gap and the effect of each method on it, as one HTML page", _MORE, run=run)
    parser.add_argument("--source", "--text", nargs="+", metavar="SOURCE", help=SOURCE)
    parser.add_argument("--target", "--images", nargs="+", metavar="TARGET", help=TARGET)
    parser.add_argument("--out", required=True, metavar="FILE.html", help="the page; its figures go to FILE.json")
    text = (
        "row i of SOURCE and row i of TARGET are a pair; or two paths, to paired source and target rows: measures search, and "
        "the distance of pairs"
    )
    parser.add_argument("--pairs", nargs="*", metavar="PATH", help=text)
    text = (
        "a class for each row, to train a classifier on SOURCE and test it on TARGET: one list for both, whose rows match, or "
        "one each; a .npy, .txt, .json, .csv or .parquet file (FILE.csv:COLUMN), or a column of the sides' own tables"
    )
    parser.add_argument("--labels", nargs="+", metavar="LABELS", help=text)
    text = (
        "how long the caption of each SOURCE row is, in words: a .txt file with a caption a line or a text column of SOURCE, "
        "whose words are counted; or a .npy file of numbers, in a unit of your own; compares up to four ranges of lengths"
    )
    parser.add_argument("--by-length", metavar="CAPTIONS", help=text)
    others = (name for name in KNOWN if name != "none")
    text = (
        f"methods to compare with none, which is doing nothing: of {', '.join(others)}, separated by commas, or none alone "
        f"(default: {','.join(METHODS)}); with --search those of fit_roles, centred, balanced and auto too (default: "
        "none,realign,centred)"
    )
    parser.add_argument("--methods", metavar="NAMES", help=text)
    text = "another domain, to measure the gap that the alignment of one domain leaves in the other; may be repeated"
    domain = ("NAME", "SOURCE", "TARGET")
    parser.add_argument("--domain", nargs=3, action="append", default=[], metavar=domain, help=text)
    text = f"sample this many rows of a side that has more (default: {ROWS})"
    parser.add_argument("--rows", type=positive, metavar="N", help=text)
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of samples and noise (default: 0)")
    text = (
        "rows with NaN, Inf or only zeros: error stops and names the first, skip leaves them out, and of sides with as many "
        "rows the row of the same number on the other side (default: error)"
    )
    parser.add_argument("--bad-rows", type=small, choices=("error", "skip"), default="error", help=text)
    add_columns(parser)
    add_search_options(parser)
    parser.add_argument("--png", metavar="FOLDER", help="also write each figure as a PNG")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing report")
    add_output_options(parser)


def run(args: argparse.Namespace) -> None:
    if args.search:
        run_search(args)
        return
    refuse(args, SEARCH_ONLY, "is for a report of search; add --search")
    for name in ("source", "target"):
        if getattr(args, name) is None:
            raise InputError(f"--{name} is missing; name the embeddings of both sides, or measure search with --search")
    out, pairs = result.local(args.out), args.pairs is not None
    labels = args.labels and (args.labels[0] if len(args.labels) == 1 else tuple(args.labels))
    methods = [own_name(name.strip()) for name in (args.methods or ",".join(METHODS)).split(",") if name.strip()]
    result.check_files(out, args.png)
    names = figures.png_names(methods, pairs=pairs, domains=bool(args.domain)) if args.png is not None else []
    domain_sides = [side for _, *sides in args.domain for side in sides]
    captions = [args.by_length] if args.by_length and os.path.exists(args.by_length) else []
    given = protected_inputs.Inputs.named(
        [*args.source, *args.target, *(args.pairs or []), *(args.labels or []), *captions, *domain_sides]
    )
    for path in (out, out.with_suffix(".json"), *(result.local(args.png) / name for name in names)):
        given.check(path)
        check_new(path, args.overwrite)
    if pairs and len(args.pairs) not in (0, 2):
        raise InputError(f"--pairs takes two paths, SOURCE and TARGET, or none, got {len(args.pairs)}")
    if args.labels and len(args.labels) > 2:
        raise InputError(
            f"--labels takes one list for both sides, or two: of SOURCE and of TARGET; got {len(args.labels)}"
        )
    domains = {name: (source, target) for name, source, target in args.domain}
    if len(domains) < len(args.domain):
        raise InputError("two --domain of one name; give each a different name")
    found = fr.report(
        paths(args.source),
        paths(args.target),
        pairs=tuple(args.pairs) if args.pairs else pairs,
        labels=labels,
        by_length=args.by_length,
        methods=methods,
        domains=domains,
        rows=args.rows or ROWS,
        **chosen(args, "seed", "bad_rows", "column", "target_column"),
        progress=progress_of(args),
    )
    files = [str(path) for path in found.save(out, png=args.png)]
    show(args, {**found.to_json(), "files": files}, f"{found}\n\nwritten: {shown(', '.join(files))}")
