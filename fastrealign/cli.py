"""The `fastrealign` command: options in, calls to the package, text or JSON out.

Exit codes: 0 done, 1 something failed, 2 bad input or usage, 3 `check` says no, 130 interrupted (Ctrl-C), 143 terminated
(SIGTERM). Errors are one line on stderr; FASTREALIGN_DEBUG=1 adds the traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import re
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
from fastrealign.distributed import world_of
from fastrealign.errors import FastRealignError, InputError
from fastrealign.io.places import check_output, place
from fastrealign.passes import CENTROIDS
from fastrealign.pipeline import BAD_ROWS, Terminated
from fastrealign.progress import SILENT, Progress
from fastrealign.report import METHODS, ROWS
from fastrealign.run import BAD_SHARDS

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

`fastrealign COMMAND --help` tells more. Formats: .npy, .parquet, .arrow, .safetensors, .pt, .lance, flat .faiss indexes, and
pickles of [{"id": ..., "embed": array}, ...]; folders of these, clip-retrieval ones, Hugging Face datasets; paths or URLs."""

_SOURCE = (
    "text embeddings: a folder of shards, a file, a quoted glob, or several files; paths or URLs (s3://, https://, ...)"
)
_TARGET = "image embeddings of the same encoder pair, in the same forms"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (sys.argv by default); returns the exit code."""
    interrupt = _Interrupt()
    try:
        with interrupt.handled(), _warnings_on_stderr():
            args = _parser().parse_args(argv)
            with _ranks(args):
                code = args.command(args) or 0
            sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse, after --help or a usage error
        return int(stop.code or 0)
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not fail once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, Exception) as error:
        code, text = _told(error, interrupt)
        if not getattr(error, "told_by_another", False):
            _say(text)
        if os.environ.get("FASTREALIGN_DEBUG", "") not in ("", "0"):
            traceback.print_exception(error)
        return code


def _told(error: BaseException, interrupt: _Interrupt) -> tuple[int, str]:
    """The exit code for an error, and what to say of it."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + (interrupt.signal or signal.SIGINT), str(error) or "interrupted"
    if isinstance(error, InputError):
        return 2, f"error: {error}"
    if isinstance(error, FastRealignError):
        return 1, f"error: {error}"
    said = str(error).strip().splitlines()
    return 1, f"error: {type(error).__name__}: {said[0] if said else ''} (FASTREALIGN_DEBUG=1 shows where)"


@contextmanager
def _ranks(args: argparse.Namespace) -> Iterator[None]:
    """Under torchrun, the commands that can share the work out do so; the first process alone speaks."""
    from fastrealign import distributed, ops

    world = distributed.from_torchrun() if args.shares else distributed.ALONE
    if world.size == 1:
        yield
        return
    args.group = "world"
    args.threads = args.threads or max(1, ops.default_threads() // distributed.processes_here())
    if world.rank > 0:
        args.quiet, args.json = True, False
    try:
        yield
    finally:
        world.end()


def _align(args: argparse.Namespace) -> int:
    report = fr.align(_paths(args.source), _paths(args.target), args.out, **_fit_options(args), **_run_options(args))
    _show(args, report.to_json(), str(report))
    return 1 if report.left_out else 0


def _apply(args: argparse.Namespace) -> int:
    report = fr.apply_files(args.alignment, _paths(args.source), args.out, **_run_options(args))
    _show(args, report.to_json(), str(report))
    return 1 if report.left_out else 0


def _fit(args: argparse.Namespace) -> None:
    from fastrealign.inspection import describe

    check_output(args.out)
    out = place(args.out)
    if out.is_dir():
        raise InputError(f"{out}: is a folder, expected the name of a file to save the alignment to")
    if out.exists():
        if not args.overwrite:
            raise InputError(f"{out}: exists; choose another name or replace it with --overwrite")
        fr.load(out)  # anything but an alignment is not ours to replace
    reading = _reading_options(args)
    world = world_of(args.group)
    if args.old is not None:
        if world.size > 1:
            raise InputError("--from runs in one process; leave out torchrun")
        if args.centroid is not None or args.one_pass or args.tol is not None:
            raise InputError(
                "--from keeps the way the old alignment was fitted; leave out --centroid, --one-pass and --tol"
            )
        target = args.target and _paths(args.target)
        alignment = fr.update(args.old, _paths(args.source), target, forget=args.forget, **reading)
    elif args.target is None:
        raise InputError("fit needs a --target, or an alignment to bring up to date: --from")
    else:
        alignment = fr.fit(
            _paths(args.source),
            _paths(args.target),
            group=args.group,
            devices=args.devices,
            max_memory=args.max_memory,
            **_fit_options(args),
            **reading,
        )
    world.first(lambda: alignment.save(out))
    _show(args, *describe(alignment, str(out)))


def _check(args: argparse.Namespace) -> int:
    found = fr.check(
        args.alignment,
        _paths(args.source),
        args.target and _paths(args.target),
        tol=args.tol,
        confidence=args.confidence,
        seed=args.seed,
        **_reading_options(args),
    )
    _show(args, found.to_json(), str(found))
    return 0 if found.holds else 3


def _convert(args: argparse.Namespace) -> None:
    options = {name: getattr(args, name) for name in ("to", "dtype", "column", "side", "overwrite", "fsync")}
    done = fr.convert(_paths(args.source), args.out, progress=_progress(args), **options)
    _show(args, done.to_json(), str(done))


def _report(args: argparse.Namespace) -> None:
    from fastrealign.report.result import check_output

    out = Path(args.out)
    check_output(out, args.png)
    for path in (out, out.with_suffix(".json")):
        if path.exists() and not args.overwrite:
            raise InputError(f"{path}: exists; choose another name or replace it with --overwrite")
    if args.pairs is not None and len(args.pairs) not in (0, 2):
        raise InputError(f"--pairs takes two paths, SOURCE and TARGET, or none, got {len(args.pairs)}")
    domains = {name: (source, target) for name, source, target in args.domain}
    if len(domains) < len(args.domain):
        raise InputError("two --domain of one name, expected a name of its own for each")
    found = fr.report(
        _paths(args.source),
        _paths(args.target),
        pairs=tuple(args.pairs) if args.pairs else args.pairs is not None,
        methods=[name.strip() for name in args.methods.split(",") if name.strip()],
        domains=domains,
        rows=args.rows,
        seed=args.seed,
        column=args.column,
        progress=_progress(args),
    )
    files = [str(path) for path in found.save(out, png=args.png)]
    _show(args, {**found.to_json(), "files": files}, f"{found}\n\nwritten: {', '.join(files)}")


def _inspect(args: argparse.Namespace) -> None:
    from fastrealign.inspection import inspect

    _show(args, *inspect(_paths(args.path), args.column))


def _demo(args: argparse.Namespace) -> None:
    from fastrealign.demo.run import run

    result = run(centroid=args.centroid or "paper", picture=args.picture)
    _show(args, result.to_json(), result.summary())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastrealign", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=_Help)
    parser.add_argument("--version", action="version", version=f"fastrealign {fr.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int | None], help: str, more: str = ""
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=more, formatter_class=_Help
        )
        added.set_defaults(command=run, group=None, shares=run in (_align, _apply, _fit))
        return added

    align = command("align", _align, "fit and apply: embeddings in, aligned embeddings out", _ALIGN_MORE)
    align.add_argument("source", nargs="+", metavar="SOURCE", help=_SOURCE)
    align.add_argument("--target", nargs="+", required=True, metavar="TARGET", help=_TARGET)
    _add_out_folder(align)
    _add_fit_options(align)
    _add_run_options(align)

    fit = command("fit", _fit, "find the alignment of two sets of embeddings and save it", _FIT_MORE)
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
    _add_reading_options(fit)
    _add_device_options(fit)
    fit.add_argument("--overwrite", action="store_true", help="replace an alignment that is there")
    _add_output_options(fit)

    apply = command("apply", _apply, "apply a saved alignment to embeddings, shard for shard", _APPLY_MORE)
    apply.add_argument(
        "alignment", metavar="ALIGNMENT", help="what fit saved, or alignment.safetensors in align's output"
    )
    apply.add_argument("source", nargs="+", metavar="SOURCE", help=_SOURCE)
    _add_out_folder(apply)
    _add_run_options(apply)

    check = command(
        "check", _check, "tell from a sample whether an alignment still holds for new embeddings", _CHECK_MORE
    )
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
    _add_reading_options(check)
    _add_output_options(check)
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

    report = command(
        "report", _report, "measure a gap and what each method does to it, on one page to look at", _REPORT_MORE
    )
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
        help="another domain, to see what its alignment leaves here, and that of here there; may be repeated",
    )
    report.add_argument(
        "--rows",
        type=_positive,
        default=ROWS,
        metavar="N",
        help="draw so many of a side that has more (default: %(default)s)",
    )
    report.add_argument("--seed", type=int, default=0, metavar="N", help="of samples and noise (default: 0)")
    report.add_argument("--column", metavar="NAME", help=_COLUMN)
    report.add_argument("--png", metavar="FOLDER", help="also write each figure as a PNG")
    report.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    _add_output_options(report)

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
Pickles may hold a list of {"id": ..., "embed": array}, a dict of such items by id, or a dict of one array of embeddings and
lists of the same length. What is not an embedding becomes columns: of the same file, or of a parquet file beside .npy.

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
        help="paper: as published, leaves a gap of some 1e-4; exact: solved for, leaves none (default: paper)",
    )


def _add_fit_options(parser: argparse.ArgumentParser) -> None:
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
        "--confidence", type=float, default=0.95, metavar="P", help="of a sampled answer (default: 0.95)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="that samples are drawn from (default: 0)")


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


def _add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--devices", type=_names, metavar="0,1,...", help="numbers of the GPUs to compute on (default: the processor)"
    )
    parser.add_argument(
        "--max-memory",
        type=_bytes,
        metavar="SIZE",
        help="that the buffers may take together, for example 200MB; what a format needs to decode comes on top",
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        choices=_DTYPES,
        help="element type of the output (default: that of each shard; pickles at least float32, as the reference "
        "script writes them)",
    )
    _add_reading_options(parser)
    _add_device_options(parser)
    parser.add_argument(
        "--bad-shards",
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


def _fit_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("one_pass", "tol", "confidence", "seed")
    return {"centroid": args.centroid or "paper", **{name: getattr(args, name) for name in names}}


def _reading_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("bad_rows", "column", "threads")
    return {**{name: getattr(args, name) for name in names}, "progress": _progress(args)}


def _run_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("dtype", "bad_shards", "resume", "overwrite", "verify", "fsync", "devices", "max_memory")
    return {**{name: getattr(args, name) for name in names}, **_reading_options(args), "group": args.group}


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
    """The first Ctrl-C becomes a KeyboardInterrupt, the first SIGTERM a Terminated, which lets the shard in hand be finished.

    A second signal ends that too. From then on the process is ending and ignores more.
    """

    def __init__(self) -> None:
        self.signal: int = 0

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
            if not self.signal:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        gently = number == signal.SIGTERM and not self.signal
        self.signal = self.signal or number
        if gently:
            raise Terminated
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
