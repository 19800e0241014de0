"""`fastrealign train`: stage 1 and stage 2 from a YAML file, and the demo. torch is imported when training starts."""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from fastrealign.cli.arguments import add_output_options, check_picture
from fastrealign.cli.console import log_record, show
from fastrealign.cli.garbage_collection import collect_as_usual
from fastrealign.cli.lazy import config_file, revision_paths
from fastrealign.cli.parser import Command
from fastrealign.cli.progress import progress_of
from fastrealign.core.optional import optional
from fastrealign.core.text import shown

if TYPE_CHECKING:
    from transformers import TrainerCallback

_STAGES = {
    "stage1": "train the adapter alone on text, whose embeddings stand in for images",
    "stage2": "train the language model too, on instructions about images",
}
_MORE = """\
CONFIG.yaml holds the settings of a run: model, data, embeddings, out; then
alignment, adapter, tokens, learning_rate, batch_size and a few more
(fastrealign/revision/config.py; examples/stage1.yaml and stage2.yaml).
--resume continues an interrupted run. Needs the extra [revision].
`torchrun --nproc-per-node 8 -m fastrealign train ...` for several GPUs.

`fastrealign train demo` needs no data and downloads nothing: it draws scenes,
embeds them with a small encoder that comes with fastrealign, trains both stages
in front of a small language model that does too, and asks about held-out
pictures before stage 1, after it and after stage 2. Needs the extras
[revision,encoder,parquet].

examples:
  fastrealign train demo --out world/
  fastrealign train stage1 stage1.yaml
  fastrealign train stage2 stage2.yaml --set learning_rate=2e-5 --set out=runs/two
  fastrealign train stage2 stage2.yaml --resume"""


def add(command: Command) -> None:
    """Add the subcommand with its own subcommands: the two stages and the demo."""
    parser = command("train", "train a vision-language model on text, then on images", _MORE, run=run)
    whats = parser.add_subparsers(title="what to train", dest="what", metavar="STAGE")
    parser.set_defaults(help=parser.print_help)
    for name, help in _STAGES.items():
        stage = whats.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        stage.add_argument("config", metavar="CONFIG.yaml", help="what to train, and on what")
        stage.add_argument("--resume", action="store_true", help="resume the run in `out` from its last checkpoint")
        text = "override a key of the file; may be repeated"
        stage.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
        add_output_options(stage)
    help = "render a small world of pictures and captions, train both stages on it, and evaluate the result"
    demo = whats.add_parser("demo", help=help, description=f"{help[0].upper()}{help[1:]}.")
    demo.add_argument(
        "--out", required=True, metavar="FOLDER", help="for the world and the models; complete steps are not repeated"
    )
    demo.add_argument("--method", default="realign", metavar="NAME", help="method that aligns the text, as for align")
    demo.add_argument(
        "--tuning",
        choices=("image", "text"),
        default="image",
        help="what stage 2 is trained on: image, embeddings of the pictures (default), or text, captions in their place",
    )
    demo.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of scenes and first weights of the adapter, 0 to 99 (default: 0)",
    )
    demo.add_argument("--picture", metavar="FILE.png", help="also draw its answers at each stage (needs matplotlib)")
    demo.add_argument("--overwrite", action="store_true", help="replace an existing picture")
    add_output_options(demo)


def run(args: argparse.Namespace) -> None:
    """Train, and show the result. Under torchrun only rank 0 prints."""
    if args.what is None:
        args.help()
        return
    collect_as_usual()
    if int(os.environ.get("RANK", "0")) > 0:
        args.quiet, args.json = True, False
    show(args, *(_demo if args.what == "demo" else _stage)(args))


def _stage(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    config = config_file.read_config(args.config, args.what, args.set)
    if not args.resume:  # a complete run is only shown; `train` checks the paths of an incomplete one
        # Before torch and transformers are imported, which takes seconds.
        revision_paths.check_paths(config, args.config)
    _silence_transformers()
    train = optional("fastrealign.revision.train", "revision", "train").train
    watch = [] if args.quiet else [_watcher(sys.stderr, args.what, args.log_json)]
    try:
        result = train(config, resume=args.resume, callbacks=watch, progress=progress_of(args), name=args.config)
    except KeyboardInterrupt as stop:
        again = "" if args.resume else " --resume"
        raise type(stop)(f"stopped; the same command{again} resumes from the last checkpoint in {config.out}") from None
    return result.to_json(), str(result)


def _demo(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    check_picture(args)
    extras = "revision,encoder,parquet"
    _silence_transformers(extras)
    demo = optional("fastrealign.cli.demo.train", extras, "train demo")
    try:
        result = demo.run_demo(
            args.out,
            demo.Recipe(args.method, args.tuning, args.seed),
            picture=args.picture,
            log=partial(_note, args),
            progress=progress_of(args),
            watch=None if args.quiet else lambda stage: _watcher(sys.stderr, stage, args.log_json),
        )
    except KeyboardInterrupt as stop:
        raise type(stop)(f"stopped; the same command continues after the steps complete in {args.out}") from None
    return result.to_json(), result.summary()


def _silence_transformers(extras: str = "revision") -> None:
    logging = optional("transformers", extras, "train").utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _note(args: argparse.Namespace, text: str) -> None:
    """What the demo does next, on stderr."""
    if args.quiet:
        return
    if args.log_json:
        log_record(sys.stderr, "note", message=text)
    else:
        print(shown(text), file=sys.stderr, flush=True)


def _watcher(stream: TextIO, phase: str, as_json: bool) -> TrainerCallback:
    """A bar on a terminal, elsewhere a line (`as_json`: an object) every ten seconds; all with the loss."""
    from tqdm import tqdm

    class Watcher(optional("transformers", "revision", "train").TrainerCallback):  # type: ignore[misc]  # an optional base
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc=phase,
                unit=" steps",
                file=stream,
                leave=False,
                dynamic_ncols=True,
                disable=as_json or not stream.isatty(),
            )
            self.first, self.began = state.global_step, time.monotonic()
            self.next = self.began + 10
            if as_json:
                self.record("start", state)

        def record(self, event: str, state: Any, **more: float) -> None:
            seconds = time.monotonic() - self.began
            rate = round((state.global_step - self.first) / seconds, 3) if seconds > 0 else None
            counts = {"done": state.global_step, "total": state.max_steps, "unit": "steps"}
            log_record(stream, event, phase=phase, **counts, rate=rate, seconds=round(seconds, 3), **more)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if logs is None or "loss" not in logs:
                return
            self.bar.set_postfix_str(f"loss {logs['loss']:.3f}", refresh=False)
            self.bar.update(state.global_step - self.bar.n)
            if self.bar.disable and time.monotonic() >= self.next:
                self.next = time.monotonic() + 10
                if as_json:
                    self.record("progress", state, loss=logs["loss"])
                    return
                share = 100 * state.global_step // state.max_steps
                print(f"{phase}: {share} %, step {state.global_step}, loss {logs['loss']:.3f}", file=stream, flush=True)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()
            if as_json:
                self.record("end", state)

    return Watcher()
