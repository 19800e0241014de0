"""The `fastrealign` command: options in, calls to the package, text or JSON out.

Exit codes: 0 done, 1 something failed, 2 bad input or usage, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM).
Errors are one line on stderr; FASTREALIGN_DEBUG=1 adds the traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import fastrealign as fr
from fastrealign.convert import SIDES, TARGETS
from fastrealign.errors import FastRealignError, InputError
from fastrealign.fit import CENTROIDS
from fastrealign.pipeline import BAD_ROWS
from fastrealign.progress import SILENT, Progress

_DESCRIPTION = """\
Closes the modality gap of contrastive embeddings (CLIP and the like): text embeddings are moved to where the image
embeddings of the same encoder pair lie, so that text can stand in for images."""

_EXAMPLES = """\
examples:
  fastrealign demo                                               see what it does, on embeddings that come along
  fastrealign inspect text_emb/                                  look at your own: rows, width, norms
  fastrealign align text_emb/ --target img_emb/ --out aligned/   align them, shard for shard

  fastrealign fit text_emb/ --target img_emb/ --out text2image.safetensors
  fastrealign apply text2image.safetensors more_text/ --out more_aligned/

`fastrealign COMMAND --help` tells more. Formats: .npy, .parquet, and pickles of [{"id": ..., "embed": array}, ...]."""

_SOURCE = "text embeddings: a folder of shards, a file, a quoted glob, or several files"
_TARGET = "image embeddings of the same encoder pair, in the same forms"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (sys.argv by default); returns the exit code."""
    interrupt = _Interrupt()
    try:
        with interrupt.handled(), _warnings_on_stderr():
            args = _parser().parse_args(argv)
            args.command(args)
            sys.stdout.flush()
        return 0
    except SystemExit as stop:  # argparse, after --help or a usage error
        return int(stop.code or 0)
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not fail once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, Exception) as error:
        code, text = _told(error, interrupt)
        _say(text)
        if os.environ.get("FASTREALIGN_DEBUG", "") not in ("", "0"):
            traceback.print_exception(error)
        return code


def _told(error: BaseException, interrupt: _Interrupt) -> tuple[int, str]:
    """The exit code for an error, and what to say of it."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + interrupt.signal, str(error) or "interrupted"
    if isinstance(error, InputError):
        return 2, f"error: {error}"
    if isinstance(error, FastRealignError):
        return 1, f"error: {error}"
    said = str(error).strip().splitlines()
    return 1, f"error: {type(error).__name__}: {said[0] if said else ''} (FASTREALIGN_DEBUG=1 shows where)"


def _align(args: argparse.Namespace) -> None:
    report = fr.align(_paths(args.source), _paths(args.target), args.out, centroid=args.centroid, **_run_options(args))
    _show(args, report.to_json(), str(report))


def _apply(args: argparse.Namespace) -> None:
    report = fr.apply_files(args.alignment, _paths(args.source), args.out, **_run_options(args))
    _show(args, report.to_json(), str(report))


def _fit(args: argparse.Namespace) -> None:
    from fastrealign.inspection import describe

    out = Path(args.out)
    if out.is_dir():
        raise InputError(f"{out}: is a folder, expected the name of a file to save the alignment to")
    if out.exists():
        if not args.overwrite:
            raise InputError(f"{out}: exists; choose another name or replace it with --overwrite")
        fr.load(out)  # anything but an alignment is not ours to replace
    alignment = fr.fit(
        _paths(args.source),
        _paths(args.target),
        centroid=args.centroid,
        bad_rows=args.bad_rows,
        threads=args.threads,
        progress=_progress(args),
        column=args.column,
    )
    alignment.save(out)
    _show(args, *describe(alignment, str(out)))


def _convert(args: argparse.Namespace) -> None:
    options = {name: getattr(args, name) for name in ("to", "dtype", "column", "side", "overwrite", "fsync")}
    done = fr.convert(_paths(args.source), args.out, progress=_progress(args), **options)
    _show(args, done.to_json(), str(done))


def _inspect(args: argparse.Namespace) -> None:
    from fastrealign.inspection import inspect

    _show(args, *inspect(_paths(args.path), args.column))


def _demo(args: argparse.Namespace) -> None:
    from fastrealign.demo.run import run

    result = run(centroid=args.centroid, picture=args.picture)
    _show(args, result.to_json(), result.summary())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastrealign", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=_Help)
    parser.add_argument("--version", action="version", version=f"fastrealign {fr.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], None], help: str, more: str = ""
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=more, formatter_class=_Help
        )
        added.set_defaults(command=run)
        return added

    align = command("align", _align, "fit and apply: embeddings in, aligned embeddings out", _ALIGN_MORE)
    align.add_argument("source", nargs="+", metavar="SOURCE", help=_SOURCE)
    align.add_argument("--target", nargs="+", required=True, metavar="TARGET", help=_TARGET)
    _add_out_folder(align)
    _add_centroid(align)
    _add_run_options(align)

    fit = command("fit", _fit, "find the alignment of two sets of embeddings and save it", _FIT_MORE)
    fit.add_argument("source", nargs="+", metavar="SOURCE", help=_SOURCE)
    fit.add_argument("--target", nargs="+", required=True, metavar="TARGET", help=_TARGET)
    fit.add_argument(
        "--out", required=True, metavar="FILE", help="where to save it, for example text2image.safetensors"
    )
    _add_centroid(fit)
    _add_reading_options(fit)
    fit.add_argument("--overwrite", action="store_true", help="replace an alignment that is there")
    _add_output_options(fit)

    apply = command("apply", _apply, "apply a saved alignment to embeddings, shard for shard", _APPLY_MORE)
    apply.add_argument(
        "alignment", metavar="ALIGNMENT", help="what fit saved, or alignment.safetensors in align's output"
    )
    apply.add_argument("source", nargs="+", metavar="SOURCE", help=_SOURCE)
    _add_out_folder(apply)
    _add_run_options(apply)

    convert = command(
        "convert", _convert, "embeddings from one format to another, the numbers as they are", _CONVERT_MORE
    )
    convert.add_argument("source", nargs="+", metavar="SOURCE", help="a folder of shards, a file, a quoted glob, ...")
    convert.add_argument("--out", required=True, metavar="OUT", help="a folder, or for a single file a file name")
    convert.add_argument("--to", choices=sorted(TARGETS), help="default: what OUT's suffix says, else parquet")
    convert.add_argument("--dtype", choices=_DTYPES, help="element type (default: that of each file)")
    convert.add_argument("--column", metavar="NAME", help=_COLUMN)
    convert.add_argument(
        "--side",
        choices=sorted(SIDES),
        help="of a clip-retrieval folder, which side to read; of npy, write such a folder: text_emb/ or img_emb/, metadata/",
    )
    convert.add_argument("--overwrite", action="store_true", help="replace files that are there")
    _add_fsync(convert)
    _add_output_options(convert)

    inspect = command(
        "inspect", _inspect, "show what a file or folder holds: embeddings, an alignment, moments, an output"
    )
    inspect.add_argument("path", nargs="+", metavar="PATH", help="what to look at")
    inspect.add_argument("--column", metavar="NAME", help=_COLUMN)
    inspect.add_argument("--json", action="store_true", help=_JSON)

    demo = command(
        "demo", _demo, "align the embeddings that come along, and show the gap and the retrieval before and after"
    )
    _add_centroid(demo)
    demo.add_argument("--picture", metavar="FILE.png", help="also draw both sides before and after (needs matplotlib)")
    demo.add_argument("--json", action="store_true", help=_JSON)
    return parser


_ALIGN_MORE = """\
The output has a shard for every shard of SOURCE, of the same name and format, with ids and other columns kept; then
alignment.safetensors, for `fastrealign apply`; and manifest.json, written last. A run that was stopped goes on with
--resume.

examples:
  fastrealign align text_emb/ --target img_emb/ --out aligned/
  fastrealign align 'text/*.parquet' --target img.npy --out aligned/ --column embedding --dtype float16
  fastrealign align captions.npy --target images.npy --out captions_aligned.npy --centroid exact"""

_FIT_MORE = """\
example:
  fastrealign fit text_emb/ --target img_emb/ --out text2image.safetensors"""

_APPLY_MORE = """\
example:
  fastrealign apply text2image.safetensors more_text/ --out more_aligned/"""

_CONVERT_MORE = """\
Pickles may hold a list of {"id": ..., "embed": array}, a dict of such items by id, or a dict of one array of embeddings and
lists of the same length. What is not an embedding becomes columns: of the same file, or of a parquet file beside .npy.

examples:
  fastrealign convert text.pkl --out text.parquet
  fastrealign convert pickles/ --out emb/ --to npy --side text"""

_DTYPES = ("float32", "float16", "bfloat16", "float64")
_COLUMN = "parquet column or pickle key of the embeddings, where it cannot be told"
_JSON = "print one JSON object instead of text"


def _add_out_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", required=True, metavar="OUT", help="an empty or new folder, or for a single SOURCE file a file name"
    )


def _add_centroid(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--centroid",
        choices=CENTROIDS,
        default="paper",
        help="paper: as published, leaves a gap of some 1e-4; exact: solved for, leaves none (default: paper)",
    )


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bad-rows",
        choices=BAD_ROWS,
        default="error",
        help="rows with NaN, Inf or only zeros: stop and name the first, leave them out, or keep them as they are "
        "(default: error)",
    )
    parser.add_argument("--column", metavar="NAME", help=_COLUMN)
    parser.add_argument("--threads", type=_positive, metavar="N", help="default: all processors")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        choices=_DTYPES,
        help="element type of the output (default: that of each shard; pickles at least float32, as the reference "
        "script writes them)",
    )
    _add_reading_options(parser)
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with an unfinished run in OUT")
    again.add_argument(
        "--overwrite", action="store_true", help="replace an earlier run in OUT; other files are left alone"
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


def _run_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("dtype", "bad_rows", "column", "threads", "resume", "overwrite", "fsync")
    return {**{name: getattr(args, name) for name in names}, "progress": _progress(args)}


def _progress(args: argparse.Namespace) -> Progress:
    if args.quiet:
        return SILENT
    from fastrealign.console import console

    return console()


def _show(args: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    if args.json:
        print(json.dumps(value))
    elif not getattr(args, "quiet", False):
        print(text)


def _paths(given: list[str]) -> str | list[str]:
    return given[0] if len(given) == 1 else given


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _say(text: str) -> None:
    print(f"fastrealign: {text}", file=sys.stderr, flush=True)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of examples."""


class _Parser(argparse.ArgumentParser):
    """Usage errors in one line, too."""

    def error(self, message: str) -> NoReturn:
        _say(f"error: {message}; see {self.prog} --help")
        raise SystemExit(2)


class _Interrupt:
    """The first Ctrl-C or SIGTERM becomes a KeyboardInterrupt; from then on the process is ending and ignores more."""

    def __init__(self) -> None:
        self.came = False
        self.signal = int(signal.SIGINT)

    @contextmanager
    def handled(self) -> Iterator[None]:
        try:
            before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread, which alone gets signals
            yield
            return
        try:
            yield
        finally:
            if not self.came:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        self.came, self.signal = True, number
        for ignored in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ignored, signal.SIG_IGN)
        raise KeyboardInterrupt


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """FitWarning and the like as one line each."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        _say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        warnings.simplefilter("always", fr.FitWarning)
        yield
