"""One index of pictures and captions: the methods of `fastrealign.fit_roles` on real heads.

    python -m bench.paper.roles                  the head that ships (CLIP-like)
    python -m bench.paper.roles --real DIR       also heads that `python -m bench.paper.real --out DIR` made

`--out bench/results/paper/roles.json` keeps the shares: docs/use.png and the table of docs/uses.md are made from them. What the
file has of other heads stays.

Roles are fitted on the part "fit" (query, text, and image: the anchor); balanced and auto get its pairs. Of the held-out part,
half is in the index as pictures and half as captions, in SPLITS random ways; (a) titles search pictures and long captions,
(b) long captions search pictures and titles. Found: the query's own document is among the ten best. With --real
also (c): as (a), with the near-duplicates left in, which share titles and captions; MOST things drawn for each split. Documents
that tie are in a random order: the expected share counts.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastrealign as fr
from bench.common import machine
from fastrealign.cli.demo import real_world
from fastrealign.methods.choosing import AUTO
from fastrealign.methods.fit_options import BALANCED
from fastrealign.methods.role_fits import ROLE_METHODS
from fastrealign.methods.roles import Roles
from fastrealign.storage.atomic import save_bytes

SPLITS = 5
MOST = 1500
TOP = 10
COLUMNS = ("R@10", "pictures", "captions", "pictures alone", "captions alone")
METHODS = ("none", *(name for name in ROLE_METHODS if name != "none"), BALANCED, AUTO)
SHIPPED = "shipped"
HEADS = (SHIPPED, "C0", *(f"{kind}{seed}" for seed in range(5) for kind in "BA"))

Rows = dict[str, np.ndarray]


def worlds(real: Path | None, heads: Sequence[str] = HEADS) -> dict[str, dict[str, Rows]]:
    """Rows of pictures, titles and long captions of the parts "fit" and "test" of each head; "near": with near-duplicates."""
    sides = ("image", "title", "long")
    found = {}
    if SHIPPED in heads:
        world = {part: real_world.load().part(part) for part in ("fit", "test")}
        found[SHIPPED] = {part: {side: getattr(rows, side) for side in sides} for part, rows in world.items()}
    if real is None:
        return found
    parts, groups = (np.load(real / f"{name}.npy") for name in ("split", "groups"))
    near = (parts == "test") | ((parts == "duplicate") & np.isin(groups, groups[parts == "test"]))
    taken = {"fit": parts == "fit", "test": parts == "test", "near": near}
    for head in heads:
        if head == SHIPPED:
            continue
        rows = {side: np.load(real / "heads" / f"{head}_{side}.npy") for side in sides}
        found[head] = {part: {side: x[at] for side, x in rows.items()} for part, at in taken.items()}
    return found


def roles_of(rows: Rows, query: str, text: str) -> Rows:
    """The rows of each role."""
    return {"query": rows[query], "text": rows[text], "image": rows["image"]}


def by_query(roles: Roles, rows: Rows, seed: int) -> np.ndarray:
    """float64 (4, n), of COLUMNS but the first: whether a query finds its own document in one division of the index.

    NaN where that document is of the other kind, or is not drawn.
    """
    rng = np.random.default_rng(seed)
    n = len(rows["query"])
    drawn = rng.permutation(n)[:MOST] if n > MOST else np.arange(n)
    query, text, image = (roles[role](rows[role][drawn]).astype(np.float64) for role in ("query", "text", "image"))
    picture = rng.permutation(len(drawn)) < len(drawn) // 2
    scores = query @ np.where(picture[:, None], image, text).T
    share = found(scores)
    by = np.full((4, n), np.nan)
    for at, kind in enumerate((picture, ~picture)):
        by[at, drawn[kind]], by[at + 2, drawn[kind]] = share[kind], found(scores[np.ix_(kind, kind)])
    return by


def shares(by: np.ndarray) -> list[float]:
    """The shares of COLUMNS for one division of the index."""
    return [float(np.nanmean(by[:2])), *(float(one) for one in np.nanmean(by, axis=1))]


def split(roles: Roles, rows: Rows, seed: int) -> list[float]:
    return shares(by_query(roles, rows, seed))


def lost(before: np.ndarray, after: np.ndarray) -> list[list[float]]:
    """By how much each share of COLUMNS but the first falls over all divisions, the standard error over queries of this
    difference, and that of the share before.

    before, after: float64 (divisions, 4, n)
    """
    fell = []
    for one, other in zip(before.swapaxes(0, 1), after.swapaxes(0, 1), strict=True):
        fell.append([*_mean(one - other), _mean(one)[1]])
    return fell


def _mean(values: np.ndarray) -> tuple[float, float]:
    """The mean of values (divisions, n) that are there, and its standard error over the n queries."""
    count, sums = (~np.isnan(values)).sum(axis=0), np.nansum(values, axis=0)
    mean, n = sums.sum() / count.sum(), int((count > 0).sum())
    return float(mean), float(np.sqrt(((sums - count * mean) ** 2).sum() * n / (n - 1)) / count.sum())


def found(scores: np.ndarray) -> np.ndarray:
    """The probability that each query's own document, that of its number, is among the ten best; ties to 2^-30 at random."""
    rounded = np.rint(scores * 2.0**30)
    own = np.diag(rounded)[:, None]
    before, ties = (rounded > own).sum(axis=1), (rounded == own).sum(axis=1)
    return np.clip((TOP - before) / ties, 0.0, 1.0)


def row(method: str, shares: np.ndarray) -> str:
    """Of the table: shares (splits, columns); of pictures and captions also the part of what they find alone."""
    mean, spread = shares.mean(axis=0), shares.std(axis=0, ddof=1)
    cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True)]
    for kind in (1, 2):
        cells[kind] += f" ({mean[kind] / mean[kind + 2]:.0%})"
    return f"| {method} | {' | '.join(cells)} |"


def table(fit: Rows, test: Rows) -> dict[str, dict[str, Any]]:
    """Print it, mean and standard deviation over the splits, and what auto says. By method: what it took, its splits.

    Of auto also what is `lost`, compared with no map.
    """
    print(f"| method | {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * len(COLUMNS)}")
    found: dict[str, dict[str, Any]] = {}
    by: dict[str, np.ndarray] = {}
    for method in METHODS:
        paired = method in (BALANCED, AUTO)
        pairs = {("query", role): (fit["query"], fit[role]) for role in ("image", "text")} if paired else None
        roles = fr.fit_roles(fit, anchor="image", method=method, pairs=pairs)
        by[method] = np.array([by_query(roles, test, seed) for seed in range(SPLITS)])
        splits = np.array([shares(one) for one in by[method]])
        print(row(f"auto: {roles.method}" if method == AUTO else method, splits))
        found[method] = {"taken": roles.method, "splits": splits.tolist()}
    found[AUTO]["lost"] = lost(by["none"], by[AUTO])
    falls = (
        f"{name} {fall:+.4f} ± {error:.4f} (the share ± {own:.4f})"
        for name, (fall, error, own) in zip(COLUMNS[1:], found[AUTO]["lost"], strict=True)
    )
    print(f"\n{roles.reason}\nLost on held-out things, ± standard error: {', '.join(falls)}\n")
    return found


def fallen(searches: Sequence[dict[str, Any]]) -> str:
    """How many shares fell where auto took a map on heads with a small gap, and how many would by chance, without an effect."""
    small = [one for one in searches if one["head"][0] in "AB" and one["part"] == "test"]
    lost = [one["methods"][AUTO]["lost"] for one in small if one["methods"][AUTO]["taken"] != "none"]
    shares = [share for one in lost for share in one]
    falls = [(fall, error) for fall, error, _ in shares], [(fall, own) for fall, _, own in shares]
    counts = [sum(fall > 0 and fall >= error for fall, error in one) for one in falls]
    varying = [(error, own) for _, error, own in shares if error > 0]
    chance = [0.5 * math.erfc(ratio / math.sqrt(2)) for ratio in (1.0, *(own / error for error, own in varying))]
    most = max((fall for fall, *_ in shares), default=0.0)
    return (
        f"auto took a map in {len(lost)} of {len(small)} searches of heads with a small gap; of their {len(shares)} shares "
        f"{counts[0]} fell by a standard error of the difference or more (by chance {chance[0] * len(varying):.1f}), "
        f"{counts[1]} by one of the share (by chance {sum(chance[1:]):.1f}); at most by {most:.4f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and keep their shares."""
    parser = argparse.ArgumentParser(prog="python -m bench.paper.roles")
    parser.add_argument("--real", type=Path, metavar="DIR", help="the real world: see bench/paper/real/")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json",
        help="keep the shares of every split there, beside those of other heads",
    )
    parser.add_argument(
        "--heads",
        nargs="+",
        choices=HEADS,
        default=HEADS,
        metavar="HEAD",
        help="shipped, or of DIR: kind and seed, such as B1",
    )
    given = parser.parse_args(arguments)
    kept = {"searches": []}
    if given.out and given.out.exists():
        kept = json.loads(given.out.read_text())
    for head, parts in worlds(given.real, given.heads).items():
        done = []
        searches = [("title", "long", "test"), ("long", "title", "test"), ("title", "long", "near")]
        for query, text, part in searches[: 2 if "near" not in parts else 3]:
            fit, test = (roles_of(parts[one], query, text) for one in ("fit", part))
            near = ", near-duplicates left in" if part == "near" else ""
            print(f"{head}, queries: {query}, text documents: {text}{near}; {len(test['query'])} held out", flush=True)
            methods = table(fit, test)
            done.append({"head": head, "query": query, "text": text, "part": part, "methods": methods})
        if given.out:
            others = [one for one in kept["searches"] if one["head"] != head]
            about = {"kind": "roles", "machine": machine(("numpy",), fastrealign=fr.__version__), "columns": COLUMNS}
            kept = about | {"searches": sorted(others + done, key=lambda one: (*HEADS, one["head"]).index(one["head"]))}
            save_bytes(given.out, (json.dumps(kept, indent=1) + "\n").encode())
    if given.out:
        print(fallen(kept["searches"]))


if __name__ == "__main__":
    main()
