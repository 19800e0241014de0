"""python -m bench [--quick] [--only WHAT]... [--threads N] [--files-in DIR] [--out FILE]

WHAT is small, files, or an operation, variant, element type, width, or several of them: apply, gap, sums, float32,
apply-float32, gap-bf16-4096. Prints a line a figure as it comes; the last line is all of it as JSON. Wants a quiet machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    try:
        from bench import cpu
        from bench.common import CannotBenchmark, publish
        from fastrealign.core.cpu import default_threads
    except ImportError as error:
        print(f"bench: {error}; build it in place first: pip install -e '.[bench]'", file=sys.stderr)
        return 2

    parser = argparse.ArgumentParser(prog="python -m bench", description="Speed against ceilings and peers.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, the two fastest peers only, smaller files")
    parser.add_argument("--only", metavar="WHAT", action="append", default=[], help="may be given more than once")
    parser.add_argument("--threads", type=int, default=default_threads(), help="for us and the peers (default: all)")
    parser.add_argument("--files-in", metavar="DIR", help="where the files are written (default: the temporary folder)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there too")
    given = parser.parse_args(arguments)
    if given.threads < 1:
        parser.error(f"--threads {given.threads}: expected at least 1")
    if given.files_in and not Path(given.files_in).is_dir():
        parser.error(f"--files-in {given.files_in}: not a folder")

    try:
        settings = cpu.settings(given.only, given.quick, given.threads, given.files_in)
    except ValueError as error:
        parser.error(f"--only {error}")
    try:
        results = cpu.run(settings, lambda line: print(line, flush=True))
    except CannotBenchmark as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    publish(results, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
