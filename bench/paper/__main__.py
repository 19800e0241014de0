"""python -m bench.paper [NAME ...] [--all --work DIR]: list the reproductions, or run some or all of them.

--all also makes the encoders, the real world and the trained models that figures need, in DIR, and resumes step by step.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.paper.common import Reproduction, add_options, carry_out
from bench.paper.everything import STEPS, run_all

# In the order of docs/paper.md; those of open questions after them.
MODULES = (
    "gap",
    "spectra",
    "mixing",
    "sample_size",
    "exact_sums",
    "domains",
    "blockwise",
    "long_captions",
    "orderings",
    "moments",
    # docs/open-questions.md and docs/recalibration.md
    "caption_length",
    "head_questions",
    "recalibration",
    "one_stage",
    "membership",
)


def reproductions() -> dict[str, Reproduction]:
    modules = [importlib.import_module(f"bench.paper.{name}") for name in MODULES]
    return {module.REPRODUCTION.name: module.REPRODUCTION for module in modules}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.paper", description="The paper's figures; open questions.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)}")
    parser.add_argument(
        "--all", action="store_true", help="every figure of docs/paper*, or these steps; wants --work DIR and hours"
    )
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="of --all: models, embeddings, and which steps are done"
    )
    parser.add_argument("--skip", nargs="+", default=[], metavar="STEP", help="of --all: leave these steps out")
    add_options(parser)
    given = parser.parse_args(arguments)
    known = reproductions()
    if given.all and not (given.quick or given.redraw):
        steps = [step.name for step in STEPS]
        unknown = [name for name in (*given.names, *given.skip) if name not in steps]
        if unknown:
            parser.error(f"there is no step {unknown[0]!r}: choose of {', '.join(steps)}")
        if given.work is None:
            parser.error("--all: expected --work DIR, a folder for what the figures are made from")
        only = [name for name in given.names or steps if name not in given.skip]
        return run_all(given.work.resolve(), given.into.resolve(), only, lambda line: print(line, flush=True))
    unknown = [name for name in given.names if name not in known]
    if unknown:
        parser.error(f"there is no reproduction {unknown[0]!r}: choose of {', '.join(known)}")
    chosen = list(known.values()) if given.all else [known[name] for name in given.names]
    if not chosen:
        for of in known.values():
            print(f"{of.name:<14} {of.says}")
        return 0
    return carry_out(chosen, given)


if __name__ == "__main__":
    sys.exit(main())
