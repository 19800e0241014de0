"""python -m bench.pictures [--into DIR]: pictures of the README, with their text, and of the docs, from committed results.

Measures nothing, needs no network. docs/speed.png: the newest results of bench/results/cpu-*.json of a processor with AVX-512
that hold the peers and were measured while others left the machine alone; the README's table has the newest of each class.
docs/gap.png: held-out pairs of the embeddings that ship. docs/use.png and docs/paper/: bench/results/paper/. The README's text
beside each is between its markers.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrealign as fr
from bench import picture_of_use, scale
from bench.common import BUSY, Spread, spread
from bench.drawing import INK, ROOT, TARGET, canvas, results, save
from bench.paper import figure1
from bench.paper.__main__ import MODULES
from bench.paper.common import Reproduction
from bench.table import SHOWN, fill
from fastrealign.cli.demo import real_world
from fastrealign.cli.demo.measurements import NEIGHBOURS, Measurement, measure_pairs
from fastrealign.cli.demo.real_world import RealWorld
from fastrealign.cli.demo.run import unpaired

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ISA = "avx512"
ISA_NAMES = {"avx512": "AVX-512", "avx512vl": "AVX-512VL", "avx2": "AVX2"}
# Cases of the CPU results, and what they are in words.
OPERATIONS = {
    ("apply", "plain"): "apply: align rows",
    ("reduce", "moments"): "reduce: mean, trace",
    ("reduce", "gap"): "reduce: gap",
}
PEERS = ("scikit-learn", "NumPy", "FAISS", "torch eager", "torch.compile", "fast-math loop")
PEER_NAMES = {"fast-math loop": "C++, -ffast-math"}
# Columns of the table of machines: a case, the type of rows, and what it is compared with.
COMPARED = (
    *((("apply", "plain"), "fp32", peer) for peer in ("NumPy", "torch eager", "torch.compile", "fast-math loop")),
    *((("reduce", "moments"), dtype, "fast-math loop") for dtype in ("fp32", "bf16")),
)


@dataclass(frozen=True)
class Picture:
    """draw: the figure; text: for the README, between the markers of `name`, or None where the picture is not there."""

    name: str
    draw: Callable[[], Figure]
    text: Callable[[], str] | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.pictures", description="The pictures of the README and of the docs."
    )
    parser.add_argument("--into", type=Path, default=ROOT, metavar="DIR", help="where README.md and docs/ are")
    given = parser.parse_args(arguments)
    page = given.into / "README.md"
    text = page.read_text()
    for picture in (*PICTURES, *of_paper()):
        save(picture.draw, given.into / f"docs/{picture.name}.png")
        if picture.text:
            text = fill(text, picture.name, picture.text())
        print(f"wrote docs/{picture.name}.png")
    page.write_text(text)
    return 0


# --- speed ------------------------------------------------------------------------------------------------------------


def newest(folder: Path = ROOT / "bench/results", isa: str = ISA) -> dict[str, Any]:
    """The newest complete results of a CPU of this class on a quiet machine, by the date they were measured."""
    found = [json.loads(path.read_text()) for path in folder.glob("cpu-*.json")]
    usable = [
        one
        for one in found
        if one["machine"]["isa"] == isa
        and (one["machine"]["others_cores"] or 0.0) <= BUSY
        and all(peers.keys() >= set(PEERS) - {"fast-math loop"} for peers in speeds(one).values())
        and len(speeds(one)) == len(OPERATIONS)
    ]
    if not usable:
        raise FileNotFoundError(f"{folder}/cpu-*.json: no complete results of a quiet machine with {isa}")
    return max(usable, key=lambda one: str(one["machine"]["date"]))


def speeds(of: dict[str, Any]) -> dict[str, dict[str, Spread]]:
    """By operation and peer: how many times as fast fastrealign is, at the width and type that are shown."""
    cases = _cases(of)
    return {
        name: {peer: spread(cases[case]["peers"][peer]["ours_is"]) for peer in PEERS if peer in cases[case]["peers"]}
        for case, name in OPERATIONS.items()
        if case in cases
    }


def _cases(of: dict[str, Any], dtype: Any = SHOWN["dtype"]) -> dict[tuple[str, str], dict[str, Any]]:
    """By operation and variant: those of the width that is shown, and of this type."""
    shown = (case for case in of.get("cases", []) if (case["d"], case["dtype"]) == (SHOWN["d"], dtype))
    return {(case["op"], case["variant"]): case for case in shown}


def times(of: Spread) -> str:
    return f"{of.median:.{1 if of.median < 10 else 0}f}"


def draw_speed(of: dict[str, Any] | None = None) -> Figure:
    """A panel an operation, a row a peer: median and tenth to ninetieth percentile of the ratio."""
    of = of or newest()
    figure = canvas(2.75)
    panels = figure.subplots(1, len(OPERATIONS), sharey=True, sharex=True)
    for axes, (operation, found) in zip(panels, speeds(of).items(), strict=True):
        for at, ratio in enumerate(found.values()):
            axes.plot([ratio.p10, ratio.p90], [at, at], color=TARGET, linewidth=5, alpha=0.35, solid_capstyle="butt")
            axes.plot(ratio.median, at, "o", color=TARGET, markersize=5)
            axes.annotate(
                f"{times(ratio)}x", (ratio.p90, at), (5, 0), textcoords="offset points", va="center", fontsize=9
            )
        axes.axvline(1, color=INK, linewidth=1)
        axes.set_title(operation)
        axes.set_yticks(range(len(found)), [PEER_NAMES.get(peer, peer) for peer in found])
        axes.set(xscale="log", xlim=(0.7, 1500))
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.set_xticks((1, 10, 100), ("1", "10", "100"))
        axes.minorticks_off()
    panels[0].invert_yaxis()
    panels[1].set_xlabel("how many times as fast fastrealign is (log scale; bar: 10th to 90th percentile)")
    m, settings = of["machine"], of["settings"]
    figure.suptitle(
        f"d = {SHOWN['d']}, float32, {settings['threads']} threads; {m['cpu']}, {m['date'][:10]}",
        x=0.01,
        ha="left",
        fontsize=9,
    )
    return figure


def text_of_speed(of: dict[str, Any] | None = None) -> str:
    of = of or newest()
    found = list(speeds(of).values())
    listed = "; ".join(
        f"{PEER_NAMES.get(peer, peer)} {', '.join(times(one[peer]) for one in found)}" for peer in found[0]
    )
    apply_, reduce_, _ = (_cases(of)[case] for case in OPERATIONS)
    return (
        f"![How many times as fast as others, to align rows, for means and traces, for the gap: {listed}](docs/speed.png)\n\n"
        f"float32 rows of width {SHOWN['d']}. On the {of['machine']['cpu'].split('(')[0]} of the picture "
        f"`apply` runs at {apply_['gbs']['median']:.1f} GB/s, `reduce` at {reduce_['gbs']['median']:.1f}: "
        f"{apply_['of_ceiling']['median']:.2f} of the fastest copy loop and {reduce_['of_ceiling']['median']:.2f} of the "
        "fastest read loop (medians of paired runs; the ceiling varies). Times as fast as others, by machine:\n\n"
        + "\n".join(table_of_machines())
    )


def _machine(of: dict[str, Any]) -> str:
    """ "Intel Xeon (family 6, model 167), AVX-512, 2 threads"."""
    cpu = of["machine"]["cpu"].replace("(R)", "").replace(" Processor", "")
    return f"{cpu}, {ISA_NAMES[of['machine']['isa']]}, {of['settings']['threads']} threads"


def table_of_machines() -> list[str]:
    """A row a class of processors, a column each of COMPARED."""
    names = (
        f"`{op}`{'' if dtype == SHOWN['dtype'] else f', {dtype}'}: {PEER_NAMES.get(peer, peer)}"
        for (op, _), dtype, peer in COMPARED
    )
    rows = []
    for of in (newest(isa=isa) for isa in ISA_NAMES):
        found = (_cases(of, dtype).get(case, {"peers": {}})["peers"].get(peer) for case, dtype, peer in COMPARED)
        rows.append(f"| {_machine(of)} | {' | '.join(times(spread(one['ours_is'])) if one else '' for one in found)} |")
    return [f"| machine | {' | '.join(names)} |", f"| --- |{' ---: |' * len(COMPARED)}", *rows]


# --- the gap ----------------------------------------------------------------------------------------------------------


@cache
def _held_out() -> tuple[RealWorld, np.ndarray, tuple[Measurement, Measurement]]:
    """The held-out pairs that ship, their aligned titles, and the figures before and after."""
    world = real_world.load()
    test = world.part("test")
    aligned = fr.fit(*unpaired(world.part("fit")), centroid="exact")(test.title)
    return test, aligned, (measure_pairs(test.title, test.image), measure_pairs(aligned, test.image))


def draw_gap() -> Figure:
    from fastrealign.cli.demo.gap_picture import planes

    figure = canvas(3.3)
    planes(figure, *_held_out())
    return figure


def text_of_gap() -> str:
    test, _, (before, after) = _held_out()
    return (
        f"![{len(test.ids)} titles and pictures in a plane, before and after alignment: the gap falls from {before.gap:.3f} to "
        f"{after.gap:.3f}; of the {NEIGHBOURS} nearest neighbours, {before.mixing:.1%} and then {after.mixing:.1%} are of the "
        "other modality](docs/gap.png)"
    )


PICTURES = (
    Picture("speed", draw_speed, text_of_speed),
    Picture("gap", draw_gap, text_of_gap),
    Picture("use", picture_of_use.draw, picture_of_use.text),
    Picture("scale", lambda: scale.draw(results("scale"))),
)
# Reproductions with commands of their own, beside those that `python -m bench.paper` lists.
OTHERS = ("captioning", "held_scale", "noise", "uses", "revision", "real_revision")


def of_paper() -> list[Picture]:
    """Those of docs/paper/."""
    found = [Picture("paper/figure1", lambda: figure1.draw(results("figure1")))]
    for name in (*MODULES, *OTHERS):
        reproduction = importlib.import_module(f"bench.paper.{name}").REPRODUCTION
        found.append(Picture(f"paper/{name}", partial(_draw, reproduction)))
    return found


def _draw(reproduction: Reproduction) -> Figure:
    return reproduction.draw(results(f"paper/{reproduction.name}"))


if __name__ == "__main__":
    sys.exit(main())
