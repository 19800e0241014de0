"""The `fastrealign` command: options in, calls to the package, text or JSON out.

Exit codes: 0 done, 1 something failed, 2 bad input or usage, 3 `check` says no, 130 interrupted (Ctrl-C), 143 terminated
(SIGTERM). Errors are one line on stderr; FASTREALIGN_DEBUG=1 adds the traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fastrealign as fr
from fastrealign.cli.console import silence, writing_out
from fastrealign.cli.parser import parser_of
from fastrealign.core.errors import FastRealignError, InputError, shortage
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.text import note_secrets, shown, shown_traceback, shown_values
from fastrealign.data.distributed import world_of
from fastrealign.data.pipeline import Terminated
from fastrealign.formats.saved_tensors import check_saved_name
from fastrealign.jobs.inputs import Inputs
from fastrealign.storage.paths import check_output, place


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (sys.argv by default); returns the exit code."""
    _open_closed_streams()
    interrupt = _Interrupt()
    for arg in sys.argv[1:] if argv is None else argv:
        note_secrets(arg)
    try:
        with interrupt.handled(), _warnings_on_stderr():
            try:
                args = parser_of(_COMMANDS).parse_args(argv)
                with _ranks(args):
                    code = args.command(args) or 0
            except SystemExit as stop:  # argparse, after --help or a usage error
                code = int(stop.code or 0)
            with writing_out():
                sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read our output has seen enough
        silence(sys.stdout)
        return 1
    except (KeyboardInterrupt, Exception) as error:
        code, text = _told(error, interrupt)
        if not getattr(error, "told_by_another", False):
            _say(text)
        if os.environ.get("FASTREALIGN_DEBUG", "") not in ("", "0"):
            print(shown_traceback(error), end="", file=sys.stderr)
        return code


def _open_closed_streams() -> None:
    """A stream that the shell closed (>&-) goes nowhere: its number must not be given to the next file that is opened."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 (stays open)


def _told(error: BaseException, interrupt: _Interrupt) -> tuple[int, str]:
    """The exit code for an error, and what to say of it."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + (interrupt.signal or signal.SIGINT), str(error) or "interrupted"
    if isinstance(error, InputError):
        return 2, f"error: {error}"
    if isinstance(error, FastRealignError):
        return 1, f"error: {error}"
    short = shortage(error)
    if short is not None:
        return 1, f"error: {short}"
    said = str(error).strip().splitlines()
    return 1, f"error: {type(error).__name__}: {said[0] if said else ''} (FASTREALIGN_DEBUG=1 shows where)"


@contextmanager
def _ranks(args: argparse.Namespace) -> Iterator[None]:
    """Under torchrun, the commands that can share the work out do so; the first process alone speaks."""
    from fastrealign.core import ops
    from fastrealign.data import distributed

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
    from fastrealign.jobs.inspection import describe

    check_output(args.out)
    out = place(args.out)
    check_saved_name(args.out, "alignment")
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
        if args.method is not None or args.centroid is not None or args.one_pass or args.tol is not None:
            raise InputError(
                "--from keeps the way the old alignment was fitted; leave out --method, --centroid, --one-pass and --tol"
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
    from fastrealign.gap_report.figures import png_names
    from fastrealign.gap_report.result import check_output

    out, pairs = Path(args.out), args.pairs is not None
    methods = [name.strip().lower() for name in args.methods.split(",") if name.strip()]
    check_output(out, args.png)
    names = png_names(methods, pairs=pairs, domains=bool(args.domain)) if args.png is not None else []
    domain_sides = [side for _, *sides in args.domain for side in sides]
    inputs = Inputs.named([*args.source, *args.target, *(args.pairs or []), *domain_sides])
    for path in (out, out.with_suffix(".json"), *(Path(args.png) / name for name in names)):
        inputs.check(path)
        if path.exists() and not args.overwrite:
            raise InputError(f"{path}: exists; choose another name or replace it with --overwrite")
    if pairs and len(args.pairs) not in (0, 2):
        raise InputError(f"--pairs takes two paths, SOURCE and TARGET, or none, got {len(args.pairs)}")
    domains = {name: (source, target) for name, source, target in args.domain}
    if len(domains) < len(args.domain):
        raise InputError("two --domain of one name, expected a name of its own for each")
    found = fr.report(
        _paths(args.source),
        _paths(args.target),
        pairs=tuple(args.pairs) if args.pairs else pairs,
        methods=methods,
        domains=domains,
        rows=args.rows,
        seed=args.seed,
        column=args.column,
        target_column=args.target_column,
        progress=_progress(args),
    )
    files = [str(path) for path in found.save(out, png=args.png)]
    _show(args, {**found.to_json(), "files": files}, f"{found}\n\nwritten: {shown(', '.join(files))}")


def _inspect(args: argparse.Namespace) -> None:
    from fastrealign.jobs.inspection import inspect

    _show(args, *inspect(_paths(args.path), args.column))


def _embed(args: argparse.Namespace) -> int:
    from fastrealign.cli import embed

    return embed.run(args)


def _demo(args: argparse.Namespace) -> None:
    from fastrealign.cli.demo.run import run

    result = run(centroid=args.centroid or "paper", picture=args.picture)
    _show(args, result.to_json(), result.summary())


def _train(args: argparse.Namespace) -> None:
    if args.what is None:
        args.help()
        return
    from fastrealign.cli.train import run

    _show(args, *run(args))


_COMMANDS = {
    "align": _align,
    "fit": _fit,
    "apply": _apply,
    "check": _check,
    "convert": _convert,
    "report": _report,
    "inspect": _inspect,
    "embed": _embed,
    "demo": _demo,
    "train": _train,
}


def _fit_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("one_pass", "tol", "confidence", "seed")
    method = (args.method or "realign").lower()
    if method != "realign" and args.centroid is not None:
        raise InputError(f"--centroid is of --method realign, not of {method}; leave one out")
    return {"method": method, "centroid": args.centroid or "paper", **{name: getattr(args, name) for name in names}}


def _reading_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("bad_rows", "column", "threads", *(["target_column"] if hasattr(args, "target_column") else []))
    return {**{name: getattr(args, name) for name in names}, "progress": _progress(args)}


def _run_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("dtype", "bad_shards", "resume", "overwrite", "verify", "fsync", "devices", "max_memory")
    return {**{name: getattr(args, name) for name in names}, **_reading_options(args), "group": args.group}


def _progress(args: argparse.Namespace) -> Progress:
    if args.quiet:
        return SILENT
    from fastrealign.cli.console import console

    return console()


def _show(args: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    with writing_out():
        if args.json:
            print(json.dumps(shown_values(value)).replace("\x7f", "\\u007f"))
        elif not getattr(args, "quiet", False):
            print(shown(text, keep="\n"))


def _paths(given: list[str]) -> str | list[str]:
    return given[0] if len(given) == 1 else given


def _say(text: str) -> None:
    try:
        print(f"fastrealign: {shown(text)}", file=sys.stderr, flush=True)
    except OSError:  # a full disk, for example: the exit code says it
        silence(sys.stderr)


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
