"""Options that several commands share: their types, their texts, and the keywords that they become."""

from __future__ import annotations

import argparse
import re
from typing import Any

from fastrealign.cli.console import progress_of
from fastrealign.core import ops
from fastrealign.core.errors import InputError
from fastrealign.data.options import BAD_ROWS, BAD_SHARDS
from fastrealign.methods.options import CENTROIDS

DTYPES = ("float32", "float16", "bfloat16", "float64")
SOURCE = (
    "text embeddings: a folder of shards, a file, a quoted glob, or several files; paths or URLs (s3://, https://, ...)"
)
TARGET = "image embeddings of the same encoder pair, in the same forms"
COLUMN = "parquet column, pickle key or tensor of the embeddings, where it cannot be told"
_SOURCE_COLUMN = (
    "parquet column, pickle key or tensor of the embeddings in SOURCE, where it cannot be told; in TARGET too, if that lies "
    "elsewhere and has it"
)
_TARGET_COLUMN = (
    "the same in TARGET; in one file text_... is taken for SOURCE, image_..., img_..., visual_... for TARGET"
)
JSON = "print one JSON object instead of text"


def add_out_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", required=True, metavar="OUT", help="an empty or new folder, or for a single SOURCE file a file name"
    )


def add_centroid(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--centroid",
        type=small,
        choices=CENTROIDS,
        help="paper: as published, leaves a gap of some 1e-4; exact: solved for, leaves none (default: paper)",
    )


def add_fit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--method",
        metavar="NAME",
        help="realign (default), realign-exact, or one to compare it with: none, mean-shift, c3 "
        "(--seed: of its noise), bca, anchor, anchor-trace",
    )
    add_centroid(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--one-pass",
        action="store_true",
        help="read SOURCE once to fit, not twice; the centroid correction is then an estimate with a stated error",
    )
    how.add_argument(
        "--tol",
        type=float,
        metavar="GAP",
        help="fit on a random sample, just large enough that the centroid is certain to this, for example 1e-3",
    )
    add_sampling_options(parser)


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--confidence",
        type=float,
        default=0.95,
        metavar="P",
        help="probability that a sampled answer holds (default: 0.95)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="from which samples are drawn (default: 0)")


def add_columns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--column", metavar="NAME", help=_SOURCE_COLUMN)
    parser.add_argument("--target-column", metavar="NAME", help=_TARGET_COLUMN)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bad-rows",
        type=small,
        choices=BAD_ROWS,
        default="error",
        help="rows with NaN, Inf or only zeros: stop and name the first, leave them out, or keep them as they are "
        "(default: error)",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="threads to use (default: all processors)")


def add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--devices", type=names, metavar="0,1,...", help="numbers of the GPUs to compute on (default: the processor)"
    )
    parser.add_argument(
        "--max-memory",
        type=byte_count,
        metavar="SIZE",
        help="most memory of all buffers together, for example 200MB; what a format needs to decode comes on top",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        type=dtype,
        choices=DTYPES,
        help="element type of the output (default: that of each shard; pickles at least float32, as the reference "
        "script writes them)",
    )
    add_reading_options(parser)
    add_device_options(parser)
    parser.add_argument(
        "--bad-shards",
        type=small,
        choices=BAD_SHARDS,
        default="error",
        help="shards that cannot be read: stop, or leave them out, list them and exit 1 (default: error)",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with an unfinished run in OUT")
    again.add_argument(
        "--overwrite", action="store_true", help="replace an earlier run in OUT; other files are left alone"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="note checksums of every byte, and with --resume compare them (default: of head and tail, size, time)",
    )
    add_fsync(parser)
    add_output_options(parser)


def add_fsync(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-fsync", dest="fsync", action="store_false", help="do not wait for the disk: quicker, for scratch output"
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help=JSON)
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")


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
    found = re.fullmatch(r"([0-9.]+) *([kMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    try:
        number = float(found[1])
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 200MB or 2GiB") from None
    return int(number * (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " "))


def small(text: str) -> str:
    """Names of choices, in large letters or small."""
    return text.lower()


def dtype(text: str) -> str:
    """An element type by any name that Python takes: fp16, half, torch.float16, ... What is none is left to the choices."""
    try:
        return ops.as_dtype(text).name
    except InputError:
        return text


def fit_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("one_pass", "tol", "confidence", "seed")
    method = (args.method or "realign").lower()
    if method != "realign" and args.centroid is not None:
        raise InputError(f"--centroid is of --method realign, not of {method}; leave one out")
    return {"method": method, "centroid": args.centroid or "paper", **{name: getattr(args, name) for name in names}}


def reading_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("bad_rows", "column", "threads", *(["target_column"] if hasattr(args, "target_column") else []))
    return {**{name: getattr(args, name) for name in names}, "progress": progress_of(args)}


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("dtype", "bad_shards", "resume", "overwrite", "verify", "fsync", "devices", "max_memory")
    return {**{name: getattr(args, name) for name in names}, **reading_options(args), "group": args.group}


def paths(given: list[str]) -> str | list[str]:
    return given[0] if len(given) == 1 else given
