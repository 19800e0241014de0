"""python -m bench.paper [NAME ...] [--all]: list the reproductions, or run some or all of them."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from bench.paper.common import Reproduction, add_options, carry_out

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
    parser.add_argument("--all", action="store_true", help="all of them")
    add_options(parser)
    given = parser.parse_args(arguments)
    known = reproductions()
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
