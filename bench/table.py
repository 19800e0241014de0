"""python -m bench.table RESULTS.json [PAGE.md]: render the results as Markdown, between the markers of the page.

The markers are `<!-- results:KIND -->` and `<!-- /results:KIND -->`, where KIND is that of the results: gpu, or for a CPU its
instruction set too (cpu-avx512), since a page shows machines of both. The tables show only what the file holds; without a page
they are printed. The CPU results are in docs/performance.md.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.common import BUSY, WIDTHS, spread

Results = dict[str, Any]

# The width and type that is shown against every peer.
SHOWN = {"d": 768, "dtype": "fp32"}


def main(arguments: Sequence[str]) -> int:
    if len(arguments) not in (1, 2):
        print(__doc__.splitlines()[0], file=sys.stderr)
        return 2
    try:
        path = Path(arguments[0])
        results = json.loads(path.read_text())
        if len(arguments) == 1:
            print(render(results, path.as_posix()))
        else:
            page = Path(arguments[1])
            text = render(results, Path(os.path.relpath(path, page.parent)).as_posix())
            page.write_text(fill(page.read_text(), marker(results), text))
    except (OSError, KeyError, ValueError) as error:
        print(f"bench.table: {' '.join(arguments)}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def marker(results: Results) -> str:
    """KIND, see above."""
    return "-".join(filter(None, (results["kind"], results["machine"].get("isa"))))


def fill(page: str, kind: str, text: str) -> str:
    """`page` with `text` between the markers of `kind`. Raises ValueError unless there is exactly one pair of them."""
    begin, end = f"<!-- results:{kind} -->", f"<!-- /results:{kind} -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"expected one {begin} and after it one {end}")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{text}\n{end}{after}"


def render(results: Results, name: str) -> str:
    """All tables of one results file; `name` is the path by which the text links to it."""
    return "\n\n".join(part for part in KINDS[results["kind"]](results, name) if part)


def cpu(results: Results, name: str) -> list[str]:
    m, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{package} {version}" for package, version in m["versions"].items() if version)
    clock = f" at {m['clock_ghz']} GHz" if "clock_ghz" in m else ""
    head = (
        f"{m['cpu']}, {m['isa'].upper()}, {settings['threads']} threads{clock}, {m['date'][:10]}; {versions}. "
        "Cells are medians, with the 10th and 90th percentile in brackets. Ratios compare consecutive runs in "
        f"one process ([`{Path(name).name}`]({name}))."
    )
    if "ceilings" in results:
        found = results["ceilings"]
        copy, read = (f"{found['tried_gbs'][kind][found['chosen'][kind]]:.1f}" for kind in ("copy", "read"))
        head += f" Memory ceilings: copy {copy} GB/s, read {read} GB/s."
    if (m["others_cores"] or 0.0) > BUSY:
        head += (
            f" **The machine was busy: other processes took {m['others_cores']:.2f} cores. Do not keep these results.**"
        )
    cases = results.get("cases", [])
    return [
        head,
        against_ceilings(cases),
        against_peers(cases),
        small_batches(results.get("small")),
        *to_files(results.get("files", []), results.get("files_run")),
    ]


def against_ceilings(cases: Sequence[dict[str, Any]]) -> str:
    """Every case: GB/s, the share of its ceiling, cycles a line, and how many times as fast as the strongest peers."""
    if not cases:
        return ""
    rivals = ("fast-math loop", "torch.compile")
    rows = [
        [
            _name(case),
            case["dtype"],
            str(case["d"]),
            spread(case["gbs"]).text(1),
            spread(case["of_ceiling"]).text(),
            spread(case["cycles_a_line"]).text(1) if "cycles_a_line" in case else "",
            *(_times(case["peers"][peer]["ours_is"]) if peer in case["peers"] else "" for peer in rivals),
        ]
        for case in cases
        if case["d"] in WIDTHS
    ]
    title = (
        "**Memory bandwidth.** The ceiling of `apply` is a copy that writes past the cache, that of `reduce` a sum over the "
        "same bytes: the fastest of several loops of up to eight streams, with as many threads. Cycles are of one core for "
        "each 64-byte line of rows that are in its second-level cache, so they compare between machines."
    )
    head = ["", "type", "d", "GB/s", "of the ceiling", "cycles a line", *(f"over {peer}" for peer in rivals)]
    return f"{title}\n\n{_table(head, rows)}"


def against_peers(cases: Iterable[dict[str, Any]]) -> str:
    """The shown width and type: how many times as fast as each peer, a row a peer."""
    shown = [case for case in cases if all(case[key] == value for key, value in SHOWN.items())]
    compared = [case for case in shown if len(case["peers"]) + len(case["left_out"]) > 1]
    if not compared:
        return ""
    peers = dict.fromkeys(peer for case in compared for peer in (*case["peers"], *case["left_out"]))
    rows = [
        [peer, *(_times(case["peers"][peer]["ours_is"]) if peer in case["peers"] else "" for case in compared)]
        for peer in peers
    ]
    title = (
        f"**Speed-up over other implementations**, d = {SHOWN['d']}, {SHOWN['dtype']}. All compute the same map on the same "
        "rows, into memory that was touched before; *blocked* ones work on blocks that fit the cache."
    )
    return f"{title}\n\n{_table(['', *map(_name, compared)], rows)}"


def small_batches(small: dict[str, Any] | None) -> str:
    if not small:
        return ""
    rows = [
        [
            f"{batch['rows']:,}",
            spread(batch["us"]["ours"]).text(1),
            spread(batch["us"]["torch eager"]).text(1) if "torch eager" in batch["us"] else "",
            _times(batch["ours_is"]) if "ours_is" in batch else "",
        ]
        for batch in small["batches"]
    ]
    head = ["rows", "`alignment(x)`, µs", "torch eager, µs", "over torch eager"]
    start = {name: spread(value) for name, value in small["startup"].items()}
    imported = start["import"].median - start["nothing"].median
    return (
        f"**Small batches**, d = {small['d']}, {small['dtype']}. `import fastrealign` takes {imported:.2f} s, "
        f"`fastrealign --help` {start['help'].median:.2f} s.\n\n{_table(head, rows)}"
    )


def to_files(entries: Sequence[dict[str, Any]], run: dict[str, str] | None = None) -> list[str]:
    """Files to files without waiting for the disk, and with: a table each. `run`: where they are of a run of their own."""
    if not entries:
        return []

    def compared(ours: str, copy: str, ratio: str) -> str:
        rows = [
            [
                f"{entry['source_bytes'] / 1e9:.1f} GB, {entry['target']}",
                *(spread(entry["seconds"][who]).text() for who in (ours, copy)),
                spread(entry[ratio]).text(),
            ]
            for entry in entries
        ]
        return _table(["source", f"`{ours}`, s", f"`{copy}`, s", "ratio"], rows)

    peak = max(entry["peak_bytes"] for entry in entries) / 1e6
    one_peak = max(entry.get("one_pass_peak_bytes", 0) for entry in entries) / 1e6
    title = (
        f"**Files to files**, .npy in the page cache, on {entries[0]['file_system']}, compared with a copy of the source. "
        f"Peak memory is {peak:.0f} MB{f', {one_peak:.0f} MB with `--one-pass`' if one_peak else ''}."
    )
    if run:
        title += f" Measured later than the rest, with `{run['command']}`, before {run['before'][:16].replace('T', ' ')} UTC."
    one_pass = [
        [f"{entry['source_bytes'] / 1e9:.1f} GB, {entry['target']}", *(spread(of).text() for of in found.values())]
        for entry in entries
        if (found := entry.get("one_pass_of_two"))
    ]
    more = (
        [_table(["time with `--one-pass`, over that without", "page cache", "200 MB/s"], one_pass)] if one_pass else []
    )
    yardsticks = [
        [
            f"{entry['source_bytes'] / 1e9:.1f} GB, {entry['target']}",
            *(spread(entry[of]).text() for of in ("of_its_moves", "one_pass_of_cp_and_read")),
        ]
        for entry in entries
        if "of_its_moves" in entry
    ]
    against = ["source", "`align` over its reads and writes alone", "`--one-pass` over `cp` and a read"]
    return [
        title,
        compared("align --no-fsync", "cp", "of_cp"),
        *([_table(against, yardsticks)] if yardsticks else []),
        compared("align", "cp and sync", "of_cp_and_sync"),
        *more,
    ]


def _name(case: dict[str, Any]) -> str:
    return f"`{case['op']}`, {case['variant']}"


def _times(value: dict[str, Any]) -> str:
    found = spread(value)
    digits = 1 if found.median < 10 else 0
    return f"{found.median:.{digits}f}x ({found.p10:.{digits}f}-{found.p90:.{digits}f})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def gpu(results: Results, name: str) -> list[str]:
    """Every case: GB/s, the share of the ceiling, and how many times as fast as each other contestant."""
    m = results["machine"]
    versions = ", ".join(f"{package} {version}" for package, version in m["versions"].items() if version)
    cases = [case for case in results["cases"] if "gbs" in case]
    others = list(dict.fromkeys(other for case in cases for other in case["over"]))
    head = ["", "d", "type", "GB/s", "of the ceiling", "predicted", *(f"over {other}" for other in others)]
    rows = [
        [
            f"`{case['op']}`, {case['variant']} ({case['backend']})",
            str(case["d"]),
            case["dtype"] + (f" to {case['dtype_out']}" if case["dtype_out"] not in (None, case["dtype"]) else ""),
            spread(case["gbs"][case["backend"]]).text(0),
            spread(case["of_ceiling"]).text(3),
            (case["predicted"] or "").removeprefix("predicted "),
            *(_times(case["over"][other]) if other in case["over"] else "" for other in others),
        ]
        for case in cases
    ]
    calls = list(dict.fromkeys(call for batch in results["small"] for call in batch["us"]))
    small = [
        [f"{batch['rows']:,}", *(spread(batch["us"][call]).text(1) if call in batch["us"] else "" for call in calls)]
        for batch in results["small"]
    ]
    return [
        f"{m['device']}, {m['date'][:10]}; {versions}. Ceilings: a device copy of the same bytes (`apply`), the faster of "
        "two kernels that only read them (`reduce`), in the same run. Predicted: from machine code (bench.gpu_budget). "
        f"Medians, tenth and ninetieth percentile ([`{name}`]({name})).",
        _table(head, rows),
        f"Small batches, d = 768, bf16, microseconds a call.\n\n{_table(['rows', *calls], small)}" if small else "",
    ]


KINDS: dict[str, Callable[[Results, str], list[str]]] = {"cpu": cpu, "gpu": gpu}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
