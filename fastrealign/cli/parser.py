"""What the `fastrealign` command takes: its subcommands, their options and their help."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import fastrealign as fr
from fastrealign.cli import train
from fastrealign.cli.console import writing_out
from fastrealign.core import ops
from fastrealign.core.errors import InputError
from fastrealign.core.text import shown
from fastrealign.data.pipeline import BAD_ROWS
from fastrealign.formats.choose_column import SIDES
from fastrealign.gap_report import METHODS, ROWS
from fastrealign.jobs.align_files import BAD_SHARDS
from fastrealign.jobs.conversion import TARGETS
from fastrealign.methods.full_pass import CENTROIDS

_DESCRIPTION = """\
Closes the modality gap of contrastive embeddings (CLIP and the like): text
embeddings are moved to where the image embeddings of the same encoder pair lie,
so that text can stand in for images."""

_EXAMPLES = """\
examples:
  # see what it does, on embeddings that come along
  fastrealign demo
  # look at your own: rows, width, norms
  fastrealign inspect text_emb/
  # align them, shard for shard
  fastrealign align text_emb/ --target img_emb/ --out aligned/
  # or in two steps
  fastrealign fit text_emb/ --target img_emb/ --out text2image.safetensors
  fastrealign apply text2image.safetensors more_text/ --out more_aligned/

`fastrealign COMMAND --help` tells more. Formats: .npy, .parquet, .arrow,
.safetensors, .pt, .pth, .lance, FAISS indexes that hold their rows, and pickles
of [{"id": ..., "embed": array}, ...]; folders of these, clip-retrieval ones,
Hugging Face datasets; paths or URLs."""

_SOURCE = (
    "text embeddings: a folder of shards, a file, a quoted glob, or several files; paths or URLs (s3://, https://, ...)"
)
_TARGET = "image embeddings of the same encoder pair, in the same forms"


def parser_of(run: Mapping[str, Callable[[argparse.Namespace], int | None]]) -> argparse.ArgumentParser:
    """The parser of the whole command; `run` has the function of each subcommand, by name."""
    from fastrealign.cli import embed  # which takes from here the options that others have, too

    parser = _Parser(prog="fastrealign", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=_Help)
    parser.add_argument("--version", action="version", version=f"fastrealign {fr.__version__}")
    parser.set_defaults(command=lambda args: parser.print_help(), shares=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, help: str, more: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=more, formatter_class=_Help
        )
        added.set_defaults(command=run[name], group=None, shares=name in ("align", "apply", "fit"))
        return added

    align = command("align", "fit and apply: embeddings in, aligned embeddings out", _ALIGN_MORE)
    align.add_argument("source", nargs="+", metavar="SOURCE", help=_SOURCE)
    align.add_argument("--target", nargs="+", required=True, metavar="TARGET", help=_TARGET)
    _add_out_folder(align)
    _add_columns(align)
    _add_fit_options(align)
    _add_run_options(align)

    fit = command("fit", "find the alignment of two sets of embeddings and save it", _FIT_MORE)
    fit.add_argument("source", nargs="+", metavar="SOURCE", help=_SOURCE)
    fit.add_argument("--target", nargs="+", metavar="TARGET", help=f"{_TARGET}; needed unless --from is given")
    fit.add_argument(
        "--out", required=True, metavar="FILE", help="where to save it, for example text2image.safetensors"
    )
    _add_fit_options(fit)
    fit.add_argument(
        "--from",
        dest="old",
        metavar="ALIGNMENT",
        help="bring this alignment up to date with SOURCE (and TARGET) instead",
    )
    fit.add_argument(
        "--forget",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="with --from: how much of the weight of the old rows to drop, 0 (merge all) to 1 (default: 0)",
    )
    _add_columns(fit)
    _add_reading_options(fit)
    _add_device_options(fit)
    fit.add_argument("--overwrite", action="store_true", help="replace an alignment that is there")
    _add_output_options(fit)

    apply = command("apply", "apply a saved alignment (or another method) to embeddings, shard for shard", _APPLY_MORE)
    apply.add_argument(
        "alignment", metavar="ALIGNMENT", help="what fit saved, or alignment.safetensors in align's output"
    )
    apply.add_argument("source", nargs="+", metavar="SOURCE", help=_SOURCE)
    _add_out_folder(apply)
    apply.add_argument("--column", metavar="NAME", help=_COLUMN)
    _add_run_options(apply)

    check = command("check", "tell from a sample whether an alignment still holds for new embeddings", _CHECK_MORE)
    check.add_argument("alignment", metavar="ALIGNMENT", help="what fit saved")
    check.add_argument(
        "source", nargs="+", metavar="SOURCE", help="new text embeddings, in the same forms as for align"
    )
    check.add_argument(
        "--target", nargs="+", metavar="TARGET", help="new image embeddings, if they may have changed too"
    )
    check.add_argument(
        "--tol",
        type=float,
        metavar="GAP",
        help="the gap it may leave (default: a tenth of the one it was fitted to close)",
    )
    _add_sampling_options(check)
    _add_columns(check)
    _add_reading_options(check)
    _add_output_options(check)
    convert = command("convert", "embeddings from one format to another, the numbers as they are", _CONVERT_MORE)
    convert.add_argument("source", nargs="+", metavar="SOURCE", help="a folder of shards, a file, a quoted glob, ...")
    convert.add_argument("--out", required=True, metavar="OUT", help="a folder, or for a single file a file name")
    convert.add_argument(
        "--to",
        type=_small,
        choices=sorted(TARGETS),
        help="format to write (default: what OUT's suffix says, else parquet)",
    )
    convert.add_argument("--dtype", type=_dtype, choices=_DTYPES, help="element type (default: that of each file)")
    convert.add_argument("--column", metavar="NAME", help=_COLUMN)
    convert.add_argument(
        "--side",
        type=_small,
        choices=sorted(SIDES),
        help="of a clip-retrieval folder, which side to read; of npy, write such a folder: text_emb/ or img_emb/, metadata/",
    )
    convert.add_argument("--overwrite", action="store_true", help="replace files that are there")
    _add_fsync(convert)
    _add_output_options(convert)

    report = command("report", "measure a gap and what each method does to it, on one page to look at", _REPORT_MORE)
    report.add_argument("--source", nargs="+", required=True, metavar="SOURCE", help=_SOURCE)
    report.add_argument("--target", nargs="+", required=True, metavar="TARGET", help=_TARGET)
    report.add_argument("--out", required=True, metavar="FILE.html", help="the page; its figures go to FILE.json")
    report.add_argument(
        "--pairs",
        nargs="*",
        metavar="PATH",
        help="row i of SOURCE and of TARGET belong together; or two paths, source and target rows of their own that do",
    )
    report.add_argument(
        "--methods",
        default=",".join(METHODS),
        metavar="NAMES",
        help="separated by commas (default: %(default)s); a name that is not known lists them all",
    )
    report.add_argument(
        "--domain",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "SOURCE", "TARGET"),
        help="another domain: see what gap its alignment leaves here, and that of here leaves there; may be repeated",
    )
    report.add_argument(
        "--rows",
        type=_positive,
        default=ROWS,
        metavar="N",
        help="sample this many rows of a side that has more (default: %(default)s)",
    )
    report.add_argument("--seed", type=_seed, default=0, metavar="N", help="of samples and noise (default: 0)")
    _add_columns(report)
    report.add_argument("--png", metavar="FOLDER", help="also write each figure as a PNG")
    report.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    _add_output_options(report)

    inspect = command("inspect", "show what a file or folder holds: embeddings, an alignment, moments, an output")
    inspect.add_argument("path", nargs="+", metavar="PATH", help="what to look at")
    inspect.add_argument("--column", metavar="NAME", help=_COLUMN)
    inspect.add_argument("--json", action="store_true", help=_JSON)

    embed.add(command)

    demo = command("demo", "align the embeddings that come along, and show the gap and the retrieval before and after")
    _add_centroid(demo)
    demo.add_argument("--picture", metavar="FILE.png", help="also draw both sides before and after (needs matplotlib)")
    demo.add_argument("--json", action="store_true", help=_JSON)

    train.add_arguments(command("train", "train a vision-language model on text, then on images", train.MORE))
    return parser


_ALIGN_MORE = """\
The output has a shard for every shard of SOURCE, of the same name and format,
with ids and other columns kept; then alignment.safetensors, for `fastrealign
apply`; and manifest.json, written last. Where OUT is a file, they are OUT,
OUT.alignment.safetensors and OUT.manifest.json. A run that was stopped goes on
with --resume.

examples:
  fastrealign align text_emb/ --target img_emb/ --out aligned/
  fastrealign align 'text/*.parquet' --target img.npy --out aligned/ --column embedding --dtype float16
  fastrealign align pairs.parquet --target pairs.parquet --column text_emb --target-column image_emb --out aligned/
  fastrealign align captions.npy --target images.npy --out captions_aligned.npy --centroid exact"""

_FIT_MORE = """\
example:
  fastrealign fit text_emb/ --target img_emb/ --out text2image.safetensors"""

_CHECK_MORE = """\
Exits 0 if the alignment holds, 3 if it does not.

examples:
  fastrealign check text2image.safetensors new_text/
  fastrealign check text2image.safetensors new_text/ --target new_img/ --tol 0.02
  fastrealign fit new_text/ --target new_img/ --from text2image.safetensors --out updated.safetensors"""

_APPLY_MORE = """\
example:
  fastrealign apply text2image.safetensors more_text/ --out more_aligned/"""

_CONVERT_MORE = """\
Pickles may hold one array or a list of arrays, a list of {"id": ..., "embed":
array}, a dict of such items by id, or a dict of one array of embeddings and
lists of the same length. What is not an embedding becomes columns: of the same
file, or of a parquet file beside .npy.

examples:
  fastrealign convert text.pkl --out text.parquet
  fastrealign convert pickles/ --out emb/ --to npy --side text"""

_DTYPES = ("float32", "float16", "bfloat16", "float64")
_REPORT_MORE = """\
A minute for 100,000 rows of 768 a side on two cores. Needs matplotlib.

examples:
  fastrealign report --source text_emb/ --target img_emb/ --out report.html
  fastrealign report --source text.npy --target img.npy --pairs --methods none,realign --out report.html --png figures/
  fastrealign report --source a/text a/more --target a/img --domain drawings b/text b/img --out report.html"""

_COLUMN = "parquet column, pickle key or tensor of the embeddings, where it cannot be told"
_SOURCE_COLUMN = (
    "parquet column, pickle key or tensor of the embeddings in SOURCE, where it cannot be told; in TARGET too, if that lies "
    "elsewhere and has it"
)
_TARGET_COLUMN = (
    "the same in TARGET; in one file text_... is taken for SOURCE, image_..., img_..., visual_... for TARGET"
)
_JSON = "print one JSON object instead of text"


def _add_out_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", required=True, metavar="OUT", help="an empty or new folder, or for a single SOURCE file a file name"
    )


def _add_centroid(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--centroid",
        type=_small,
        choices=CENTROIDS,
        help="paper: as published, leaves a gap of some 1e-4; exact: solved for, leaves none (default: paper)",
    )


def _add_fit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--method",
        metavar="NAME",
        help="realign (default), realign-exact, or one to compare it with: none, mean-shift, c3 "
        "(--seed: of its noise), bca, anchor, anchor-trace",
    )
    _add_centroid(parser)
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
    _add_sampling_options(parser)


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--confidence",
        type=float,
        default=0.95,
        metavar="P",
        help="probability that a sampled answer holds (default: 0.95)",
    )
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="from which samples are drawn (default: 0)")


def _add_columns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--column", metavar="NAME", help=_SOURCE_COLUMN)
    parser.add_argument("--target-column", metavar="NAME", help=_TARGET_COLUMN)


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bad-rows",
        type=_small,
        choices=BAD_ROWS,
        default="error",
        help="rows with NaN, Inf or only zeros: stop and name the first, leave them out, or keep them as they are "
        "(default: error)",
    )
    parser.add_argument("--threads", type=_positive, metavar="N", help="threads to use (default: all processors)")


def _add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--devices", type=_names, metavar="0,1,...", help="numbers of the GPUs to compute on (default: the processor)"
    )
    parser.add_argument(
        "--max-memory",
        type=_bytes,
        metavar="SIZE",
        help="most memory of all buffers together, for example 200MB; what a format needs to decode comes on top",
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        type=_dtype,
        choices=_DTYPES,
        help="element type of the output (default: that of each shard; pickles at least float32, as the reference "
        "script writes them)",
    )
    _add_reading_options(parser)
    _add_device_options(parser)
    parser.add_argument(
        "--bad-shards",
        type=_small,
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
    _add_fsync(parser)
    _add_output_options(parser)


def _add_fsync(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-fsync", dest="fsync", action="store_false", help="do not wait for the disk: quicker, for scratch output"
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help=_JSON)
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1, or far too large")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _bytes(text: str) -> int:
    """ "200MB", "2 GiB", "1000000"."""
    found = re.fullmatch(r"([0-9.]+) *([kMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    try:
        number = float(found[1])
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 200MB or 2GiB") from None
    return int(number * (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " "))


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of examples."""


class _Parser(argparse.ArgumentParser):
    """Usage errors in one line, too, with the option or command that was probably meant. Options are not abbreviated: what is
    short for one today would be so for two once another is added.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        # Before argparse takes the value of an unknown option for a path, or misses one that was spelled wrongly.
        args = sys.argv[1:] if args is None else list(args)
        for arg in args:
            if arg == "--" or (self._subparsers is not None and not arg.startswith("-")):
                break  # what follows are no options, or those of a subcommand
            name = arg.partition("=")[0]
            if re.fullmatch(r"--?[A-Za-z][\w-]+", name) and name not in self._option_string_actions:
                self.error(f"there is no option {name}{_nearest('-' + name.lstrip('-'), self._option_string_actions)}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            listed = ", ".join(map(str, action.choices))
            hint = _nearest(str(value), action.choices)
            raise argparse.ArgumentError(action, f"there is no {str(value)!r}{hint}; choose from {listed}")

    def _print_message(self, message: str, file: Any = None) -> None:
        """argparse's own is silent about what could not be written."""
        with writing_out():
            (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        print(f"fastrealign: error: {shown(message)}; see {self.prog} --help", file=sys.stderr, flush=True)
        raise SystemExit(2)


def _nearest(given: str, names: Iterable[str]) -> str:
    """A hint at the name that was probably meant."""
    near = difflib.get_close_matches(given, map(str, names), 1, 0.6)
    return f", did you mean {near[0]}?" if near else ""


def _small(text: str) -> str:
    """Names of choices, in large letters or small."""
    return text.lower()


def _dtype(text: str) -> str:
    """An element type by any name that Python takes: fp16, half, torch.float16, ... What is none is left to the choices."""
    try:
        return ops.as_dtype(text).name
    except InputError:
        return text
