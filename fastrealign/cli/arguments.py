"""Options that several commands share: their types, their texts, and the keywords that they become."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastrealign.cli.lazy import dtypes, loading, roles, saved_tensors, storage_paths
from fastrealign.cli.parser import may_be_target
from fastrealign.cli.progress import progress_of
from fastrealign.core.errors import InputError
from fastrealign.core.formatting import listing
from fastrealign.core.optional import optional
from fastrealign.data import options
from fastrealign.data.options import BAD_ROWS, BAD_SHARDS
from fastrealign.methods.fit_options import CENTROIDS, own_name
from fastrealign.methods.fit_options import HELP as FIT_HELP

if TYPE_CHECKING:
    from fastrealign.storage.paths import Place

DTYPES = ("float32", "float16", "bfloat16", "float64")
FORMS = "a folder of shards, a file, a quoted glob, or several files; paths or URLs (s3://, https://, ...)"
SOURCE = f"text embeddings: {FORMS}"
TARGET = "image embeddings of the same encoder pair, in the same forms"
COLUMN = "parquet column, pickle key or tensor that holds the embeddings, where that is ambiguous"
JSON = "print one JSON object instead of text"
LOG_JSON = "progress, warnings and errors on stderr as one JSON object a line"
_BAD_ROWS = "rows with NaN, Inf or only zeros: error stops and names the first, "
_BAD_ROWS_READ = f"{_BAD_ROWS}skip and keep leave them out"
# Where the text of the Python keyword would not do: it is of several functions, names keywords, or values of other types.
_HELP = (
    options.HELP
    | FIT_HELP
    | {
        "bad_rows": f"{_BAD_ROWS}skip leaves them out, keep writes them unmapped; statistics never include them",
        "threads": "CPU threads; by default one per core, with --devices four for each",
        "max_memory": "what all buffers together may take, such as 200MB or 2GiB; decoding a format needs more",
        "tol": "fit on a random sample of files, just large enough that the true gap over all rows is at most the gap left "
        "that is reported plus GAP, for example 1e-3",
    }
)


def add_option(
    parser: argparse._ActionsContainer, flag: str, *, texts: Mapping[str, str] = _HELP, usual: object = None, **how: Any
) -> None:
    """Add an option with the help text of the Python keyword of the same name; usual: what it is where it is not given."""
    text = texts[flag.lstrip("-").replace("-", "_")]
    usual = how.get("default") if usual is None else usual
    parser.add_argument(flag, help=text if usual is None else f"{text} (default: {usual})", **how)


def add_out_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", required=True, metavar="OUT", help="an empty or new folder, or for a single SOURCE file a file name"
    )


def add_centroid(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--centroid", type=small, choices=CENTROIDS)


def add_fit_options(parser: argparse.ArgumentParser, seed_of: str) -> None:
    add_option(parser, "--method", metavar="NAME")
    add_centroid(parser)
    how = parser.add_mutually_exclusive_group()
    add_option(how, "--one-pass", action="store_true")
    add_option(how, "--tol", type=float, metavar="GAP")
    add_sampling_options(parser, seed_of)


def add_noise(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--noise", type=float, usual=0.0, metavar="LENGTH")


def check_noise(args: argparse.Namespace, method: str) -> None:
    """InputError for --noise 0 with C3, which is noise of its own on the method anchor."""
    if args.noise == 0.0 and own_name(method) == "c3":
        raise InputError(
            "--noise 0 would leave c3 its own noise; give --noise above 0, or leave it out; without noise c3 is the method "
            "anchor, which fastrealign fit --method anchor fits"
        )


def add_sampling_options(parser: argparse.ArgumentParser, seed_of: str) -> None:
    """seed_of: what the command draws at random."""
    add_option(parser, "--confidence", type=float, usual=0.95, metavar="P")
    add_option(parser, "--seed", texts={"seed": f"seed of {seed_of}"}, type=seed, usual=0, metavar="N")


def add_columns(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--column", metavar="NAME")
    add_option(parser, "--target-column", metavar="NAME")


def add_reading_options(parser: argparse.ArgumentParser, *, writes: bool = False) -> None:
    """writes: the command writes the rows that it reads."""
    texts = _HELP if writes else {"bad_rows": _BAD_ROWS_READ}
    add_option(parser, "--bad-rows", texts=texts, type=small, choices=BAD_ROWS, default="error")


def add_device_options(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--threads", type=positive, metavar="N")
    add_option(parser, "--devices", type=names, metavar="0,1,...")
    add_option(parser, "--max-memory", type=byte_count, metavar="SIZE")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "--dtype", type=dtype, choices=DTYPES)
    add_reading_options(parser, writes=True)
    add_device_options(parser)
    add_option(parser, "--bad-shards", type=small, choices=BAD_SHARDS, default="error")
    again = parser.add_mutually_exclusive_group()
    add_option(again, "--resume", action="store_true")
    add_option(again, "--overwrite", action="store_true")
    add_option(parser, "--verify", action="store_true")
    add_fsync(parser)
    add_output_options(parser)


def add_fsync(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-fsync", dest="fsync", action="store_false", help="do not wait for the disk: faster, for scratch output"
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help=JSON)
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")
    parser.add_argument("--log-json", action="store_true", help=LOG_JSON)


def positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1, or far too large")
    return int(text)


def seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def byte_count(text: str) -> int:
    """ "200MB", "2 GiB", "1000000"."""
    found = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+) *([kMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 200MB or 2GiB")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " "))


def small(text: str) -> str:
    """A choice, accepted in upper or lower case."""
    return text.lower()


def dtype(text: str) -> str:
    """An element type by any name that Python takes: fp16, half, torch.float16, ... argparse refuses the rest."""
    try:
        return dtypes.as_dtype(text).name
    except InputError:
        return text


def chosen(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The values of these options, as keywords."""
    return {name: getattr(args, name) for name in names}


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of these options that the user gave."""
    return {name: value for name, value in chosen(args, *names).items() if value is not None}


def fit_options(args: argparse.Namespace, noise: float | None = None) -> dict[str, Any]:
    """The options of a fit, after which rows get noise of this length."""
    method = (args.method or "realign").lower()
    if method != "realign" and args.centroid is not None:
        raise InputError(f"--centroid applies to --method realign, not to {method}; leave one out")
    if args.tol is None and args.confidence is not None:
        raise InputError("--confidence is of a fit on a sample; add --tol, or leave --confidence out")
    if args.tol is None and method != "c3" and not noise and args.seed is not None:
        raise InputError(f"nothing is random in a fit of {method} on all rows, without noise; leave --seed out")
    options = {**chosen(args, "one_pass", "tol"), **given(args, "confidence", "seed")}
    return {"method": method, "centroid": args.centroid or "paper", **options}


def reading_options(args: argparse.Namespace) -> dict[str, Any]:
    target = ["target_column"] if hasattr(args, "target_column") else []
    return {**chosen(args, "bad_rows", "column", "threads", *target), "progress": progress_of(args)}


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("dtype", "bad_shards", "resume", "overwrite", "verify", "fsync", "devices", "max_memory", "group")
    return {**chosen(args, *names), **reading_options(args)}


def saved_out(args: argparse.Namespace, kind: str) -> Place:
    """Where to save a fitted `kind`: InputError for a name that another file has, or that `--overwrite` must not replace."""
    saved_tensors.check_saved_name(args.out, kind)
    storage_paths.check_output(args.out)
    out = storage_paths.place(args.out)
    if out.is_dir():
        raise InputError(f"{out}: is a folder, expected the name of a file to save the {kind} to")
    check_new(out, args.overwrite)
    if out.exists():
        # Raises for any other file, which must not be replaced.
        if kind == "roles":
            roles.Roles.load(out)
        else:
            loading.load(out)
    return out


def check_new(out: Place, overwrite: bool) -> None:
    """InputError for a name that is taken, and not to be replaced."""
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists; choose another name or replace it with --overwrite")


def check_picture(args: argparse.Namespace) -> None:
    """InputError where no picture can be drawn to what --picture names, before long work."""
    if args.picture is None:
        return
    optional("matplotlib", "demo", "a picture")
    path = Path(args.picture)
    if path.suffix.lower() != ".png":
        raise InputError(f"{args.picture}: a picture is a PNG, expected a name that ends in .png, such as picture.png")
    if path.is_dir():
        raise InputError(f"{args.picture}: is a folder, expected the name of a file such as picture.png")
    check_new(path, args.overwrite)


def read_as_one(args: argparse.Namespace) -> list[str]:
    """The lines of a result where a target may be left out, and one of several paths may be meant as it."""
    if len(args.source) < 2 or args.target:
        return []
    first, *_, last = args.source
    # Not of the shards of one folder, as a shell lists them.
    apart = len(args.source) == 2 or os.path.dirname(first.rstrip("/")) != os.path.dirname(last.rstrip("/"))
    asked = may_be_target(args.source) if apart else ""
    return listing(("read", f"{len(args.source)} paths as one source{asked}"), width=15)


def paths(given: list[str]) -> str | list[str]:
    """One path, or several; InputError where a shell took the words of one name with spaces for several."""
    whole = " ".join(given)
    if len(given) > 1 and os.path.exists(whole) and not os.path.exists(given[0]):
        import shlex

        raise InputError(f"{given[0]}: no such file or folder; if you mean {whole}, quote it: {shlex.quote(whole)}")
    return given[0] if len(given) == 1 else given
