"""python -m bench.table RESULTS.json [README.md]: the results as Markdown, put between the README's markers.

The markers are `<!-- results:KIND -->` and `<!-- /results:KIND -->`, KIND as the results say ("cpu"). Nothing is shown
that the file does not hold; without a README the tables are printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.common import BUSY, spread

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
        text = render(results, path.as_posix())
        if len(arguments) == 1:
            print(text)
        else:
            readme = Path(arguments[1])
            readme.write_text(fill(readme.read_text(), results["kind"], text))
    except (OSError, KeyError, ValueError) as error:
        print(f"bench.table: {' '.join(arguments)}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def fill(readme: str, kind: str, text: str) -> str:
    """`readme` with `text` between the markers of `kind`. Raises ValueError unless there is one pair of them."""
    begin, end = f"<!-- results:{kind} -->", f"<!-- /results:{kind} -->"
    if readme.count(begin) != 1 or readme.count(end) != 1 or readme.index(begin) > readme.index(end):
        raise ValueError(f"expected one {begin} and after it one {end}")
    before, _, rest = readme.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{text}\n{end}{after}"


def render(results: Results, name: str) -> str:
    """All tables of one results file; `name` is how the text refers to it."""
    return "\n\n".join(part for part in KINDS[results["kind"]](results, name) if part)


def cpu(results: Results, name: str) -> list[str]:
    m, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{package} {version}" for package, version in m["versions"].items() if version)
    head = (
        f"{m['cpu']}, {settings['threads']} threads, {m['isa'].upper()}, {m['date'][:10]}; {versions}. "
        "Medians, in brackets the tenth and ninetieth percentile; ratios are between runs that followed one another in "
        f"one process ([`{name}`]({name}))."
    )
    if (m["others_cores"] or 0.0) > BUSY:
        head += f" **The machine was busy: others took {m['others_cores']:.2f} processors; not to be kept.**"
    return [
        head,
        against_peers(results.get("cases", [])),
        across_widths(results.get("cases", [])),
        small_batches(results.get("small")),
        to_files(results.get("files", [])),
    ]


def against_peers(cases: Iterable[dict[str, Any]]) -> str:
    """The shown width and type: GB/s, the share of the ceiling, and how many times as fast as each peer."""
    shown = [case for case in cases if all(case[key] == value for key, value in SHOWN.items())]
    if not shown:
        return ""
    peers = list(dict.fromkeys(peer for case in shown for peer in (*case["peers"], *case["left_out"])))
    head = ["", "GB/s", "of the fastest loop", "of a plain loop", *(f"over {peer}" for peer in peers)]
    rows = [
        [
            f"`{case['op']}`, {case['variant']}",
            spread(case["gbs"]).text(1),
            spread(case["of_ceiling"]).text(),
            spread(case["of_plain_loop"]).text(),
            *(_times(case["peers"][peer]["ours_is"]) if peer in case["peers"] else "" for peer in peers),
        ]
        for case in shown
    ]
    title = (
        f"d = {SHOWN['d']}, {SHOWN['dtype']}. Ceilings: a copy past the cache (`apply`), a sum (`reduce`); the fastest "
        "of several such loops, and the plain one."
    )
    return f"{title}\n\n{_table(head, rows)}"


def across_widths(cases: Sequence[dict[str, Any]]) -> str:
    """The share of the ceiling for each width and type, plain apply and moments."""
    kinds = [("apply", "plain"), ("reduce", "moments")]
    found = {(case["op"], case["variant"], case["d"], case["dtype"]): case for case in cases}
    widths = list(dict.fromkeys(case["d"] for case in cases))
    dtypes = list(dict.fromkeys(case["dtype"] for case in cases))
    columns = [(op, variant, dtype) for op, variant in kinds for dtype in dtypes]
    columns = [
        (op, variant, dtype) for op, variant, dtype in columns if any((op, variant, d, dtype) in found for d in widths)
    ]
    if not columns:
        return ""
    rows = [
        [
            str(d),
            *(
                spread(found[op, variant, d, dtype]["of_ceiling"]).text() if (op, variant, d, dtype) in found else ""
                for op, variant, dtype in columns
            ),
        ]
        for d in widths
    ]
    head = ["d", *(f"`{op}` {dtype}" for op, _, dtype in columns)]
    return f"Share of the ceiling, the fastest such loop, at every width and type.\n\n{_table(head, rows)}"


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
        f"Small batches, d = {small['d']}, {small['dtype']}. `import fastrealign` takes {imported:.2f} s, "
        f"`fastrealign --help` {start['help'].median:.2f} s.\n\n{_table(head, rows)}"
    )


def to_files(entries: Sequence[dict[str, Any]]) -> str:
    if not entries:
        return ""
    rows = [
        [
            f"{entry['source_bytes'] / 1e9:.1f} GB, {entry['target']}",
            *(spread(entry["seconds"][who]).text() for who in ("align --no-fsync", "cp")),
            spread(entry["of_cp"]).text(),
            *(spread(entry["seconds"][who]).text() for who in ("align", "cp and sync")),
            spread(entry["of_cp_and_sync"]).text(),
            f"{entry['peak_bytes'] / 1e6:.0f} MB",
        ]
        for entry in entries
    ]
    head = [
        "source",
        "`align --no-fsync`, s",
        "`cp` of the source, s",
        "ratio",
        "`align`, s",
        "`cp` and sync, s",
        "ratio",
        "peak memory",
    ]
    return f"Files to files, .npy in the page cache, on {entries[0]['file_system']}.\n\n{_table(head, rows)}"


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
    head = ["", "d", "type", "GB/s", "of the ceiling", *(f"over {other}" for other in others)]
    rows = [
        [
            f"`{case['op']}`, {case['variant']} ({case['backend']})",
            str(case["d"]),
            case["dtype"] + (f" to {case['dtype_out']}" if case["dtype_out"] not in (None, case["dtype"]) else ""),
            spread(case["gbs"][case["backend"]]).text(0),
            spread(case["of_ceiling"]).text(3),
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
        f"{m['device']}, {m['date'][:10]}; {versions}. Ceilings: a device copy of the same bytes (`apply`), a sum of the "
        f"rows' words (`reduce`), in the same run. Medians, tenth and ninetieth percentile ([`{name}`]({name})).",
        _table(head, rows),
        f"Small batches, d = 768, bf16, microseconds a call.\n\n{_table(['rows', *calls], small)}" if small else "",
    ]


KINDS: dict[str, Callable[[Results, str], list[str]]] = {"cpu": cpu, "gpu": gpu}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
