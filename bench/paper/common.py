"""Shared by the reproductions: where their results go, the embeddings, and the methods.

A reproduction is measured (JSON, `bench/results/paper/NAME.json`), drawn (`docs/paper/NAME.png`) and described (between its
markers in `docs/paper.md`). Picture and text come from the JSON alone, so `--redraw` needs no new measurement.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrealign as fr
from bench.common import machine
from bench.drawing import save
from bench.table import fill
from fastrealign.cli.demo.samples import load
from fastrealign.core.errors import FitWarning, InputError
from fastrealign.methods.baselines import fit_baseline
from fastrealign.methods.method import Method
from fastrealign.storage.atomic import save_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
PAGE = "docs/paper.md"
PICTURE, RESULTS = "docs/paper/{}.png", "bench/results/paper/{}.json"
# Of fastrealign.methods.baselines.METHODS, in the order of the tables.
METHODS = ("none", "mean-shift", "c3", "bca", "anchor", "anchor-trace", "realign", "realign-exact")
NAMES = {
    "none": "none",
    "mean-shift": "mean shift",
    "c3": "C3",
    "bca": "blockwise",
    "anchor": "anchor",
    "anchor-trace": "anchor + trace",
    "realign": "ReAlign",
    "realign-exact": "ReAlign, exact",
}

Say = Callable[[str], None]
Results = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """How to measure.

    quick     few rows and seeds, to test that it runs; nothing is written
    encoders  folder with trained encoders (bench/paper/encoders.py); None: only the shipped embeddings
    real      folder that bench/paper/real/ made; None: only the rendered world
    """

    quick: bool
    encoders: Path | None
    say: Say
    real: Path | None = None


@dataclass(frozen=True)
class Reproduction:
    """name: of its files and markers; says: one line for the list of `python -m bench.paper`; page: that has the markers."""

    name: str
    says: str
    measure: Callable[[Setting], Results]
    tell: Callable[[Results], str]
    draw: Callable[[Results], Figure]
    page: str = PAGE


def main(reproduction: Reproduction, arguments: Sequence[str] | None = None) -> int:
    """`python -m bench.paper.NAME`."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.paper.{reproduction.name}", description=reproduction.says)
    add_options(parser)
    return carry_out([reproduction], parser.parse_args(arguments))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="few rows: whether it runs; nothing is written")
    parser.add_argument("--redraw", action="store_true", help="picture and text from the figures that are there")
    parser.add_argument("--encoders", type=Path, metavar="DIR", help="trained encoders: see bench/paper/encoders.py")
    parser.add_argument("--real", type=Path, metavar="DIR", help="the real world: see bench/paper/real/")
    parser.add_argument("--into", type=Path, default=ROOT, metavar="DIR", help="the folder that docs/ is in")


def carry_out(reproductions: Iterable[Reproduction], given: argparse.Namespace) -> int:
    setting = Setting(given.quick, given.encoders, lambda line: print(line, flush=True), given.real)
    for reproduction in reproductions:
        try:
            _one(reproduction, setting, given)
        except (InputError, FileNotFoundError) as error:
            print(f"bench.paper.{reproduction.name}: {error}", file=sys.stderr)
            return 2
    return 0


def _one(reproduction: Reproduction, setting: Setting, given: argparse.Namespace) -> None:
    kept = given.into / RESULTS.format(reproduction.name)
    if given.redraw:
        results = json.loads(kept.read_text())
    else:
        measured = reproduction.measure(setting)
        measured["machine"] = machine(("numpy", "scipy"), fastrealign=fr.__version__) | measured.get("machine", {})
        results = json.loads(json.dumps({"kind": reproduction.name, **measured}))
    text = reproduction.tell(results)
    if given.quick:
        setting.say(text)
        return
    write(given.into, reproduction, results, text)
    setting.say(f"wrote {kept}, {PICTURE.format(reproduction.name)} and {reproduction.page}")


def write(into: Path, reproduction: Reproduction, results: Results, text: str) -> None:
    """The JSON, the picture, and the text between the markers of the page. The JSON first, since it may have taken hours."""
    name = reproduction.name
    kept, picture, page = (into / where for where in (RESULTS.format(name), PICTURE.format(name), reproduction.page))
    save_bytes(kept, (json.dumps(results, indent=1) + "\n").encode())
    body = (
        f"{text}\n\n<sub>`python -m bench.paper.{name}`, {results['machine']['date'][:10]}: "
        f"[`{RESULTS.format(name)}`](../{RESULTS.format(name)})</sub>"
    )
    try:
        filled = fill(page.read_text(), name, body)
    except ValueError as error:
        raise InputError(f"{page}: {error}: restore them; the results are kept in {kept}") from None
    page.write_text(filled)
    picture.parent.mkdir(parents=True, exist_ok=True)
    save(lambda: reproduction.draw(results), picture)


# --- embeddings and methods ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sides:
    """Embeddings to fit on, text (n, d) and image (m, d), not paired; and held-out pairs of both."""

    text: np.ndarray
    image: np.ndarray
    pairs_text: np.ndarray
    pairs_image: np.ndarray


def shipped(rows: int | None = None) -> Sides:
    """The shipped embeddings, or the first `rows` of each side."""
    return Sides(*(load(name)[:rows] for name in ("text", "image", "pairs_text", "pairs_image")))


def half(sides: Sides, seed: int) -> Sides:
    """A random half of the rows of each side; the pairs stay."""
    rng = np.random.default_rng(seed)
    drawn = (rows[np.sort(rng.permutation(len(rows))[: len(rows) // 2])] for rows in (sides.text, sides.image))
    return Sides(*drawn, sides.pairs_text, sides.pairs_image)


def fitted(name: str, sides: Sides, seed: int = 0, **options: Any) -> Method:
    """The method of this name on both sides; `seed` is that of C3's noise."""
    if name == "c3":
        options = {"seed": seed} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # the rendered encoder leaves some directions nearly empty
        return fit_baseline(name, sides.text, sides.image, **options)


def mapped(method: Method, rows: np.ndarray) -> np.ndarray:
    """float64 (n, d)."""
    return method(rows, dtype=np.float64)


def keep_rows(path: Path, rows: np.ndarray | Mapping[str, np.ndarray]) -> None:
    """Write an array as .npy, or arrays by name as .npz: a file that is there is whole, since it is not made again."""
    data = io.BytesIO()
    if isinstance(rows, np.ndarray):
        np.save(data, rows)
    else:
        np.savez(data, **dict(rows))
    save_bytes(path, data.getvalue())


# --- numbers and tables ----------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> dict[str, float]:
    """mean, standard deviation, least and largest of values over seeds."""
    array = np.asarray(values, dtype=np.float64)
    std = array.std(ddof=1) if len(array) > 1 else 0.0
    return {"mean": float(array.mean()), "std": float(std), "least": float(array.min()), "largest": float(array.max())}


def plus_minus(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """mean ± standard deviation over seeds; only the mean for one value or equal ones."""
    of = spread(values)
    if len(values) == 1 or of["std"] < 1e-12 * abs(of["mean"]):
        return shown(of["mean"])
    scale = 100 if shown is percent else 1
    margin = scale * of["std"]
    return f"{shown(of['mean'])} ± {margin:.1g}" if margin < 9.5 else f"{shown(of['mean'])} ± {margin:.0f}"


def difference(values: Sequence[float] | np.ndarray) -> str:
    """Of shares, seed by seed, in points: mean ± standard error, and how many are positive."""
    points = 100 * np.asarray(values, dtype=np.float64)
    error = points.std(ddof=1) / np.sqrt(len(points)) if len(points) > 1 else 0.0
    return f"{points.mean():+.1f} ± {error:.1f} ({int((points > 0).sum())} of {len(points)})"


def small(value: float) -> str:
    """Three digits; powers of ten where it is tiny."""
    if value == 0.0:
        return "0"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:#.3g}".rstrip(".")


def percent(value: float) -> str:
    return f"{100 * value:.2f} %" if abs(value) < 0.1 else f"{100 * value:.1f} %"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first `left` columns are words, the others numbers."""
    marks = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *rows))
