"""One index of pictures and captions: the methods of `fastrealign.fit_roles` on real heads.

    python -m bench.paper.roles                  the head that ships (CLIP-like)
    python -m bench.paper.roles --real DIR       also heads with a small gap, that `python -m bench.paper.real --out DIR` made

Roles are fitted on the part "fit" (query, text, and image: the anchor); balanced and auto get its pairs. Of the held-out part,
half is in the index as pictures and half as captions, in SPLITS random ways; (a) titles search pictures and long captions,
(b) long captions search pictures and titles. Found: the query's own document is among the ten best.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import fastrealign as fr
from fastrealign.cli.demo import real_world
from fastrealign.methods.choosing import AUTO, BALANCED
from fastrealign.methods.role_fits import ROLE_METHODS
from fastrealign.methods.roles import Roles

SPLITS = 5
TOP = 10
COLUMNS = ("R@10", "pictures", "captions", "pictures alone", "captions alone")
METHODS = ("none", *(name for name in ROLE_METHODS if name != "none"), BALANCED, AUTO)
HEADS = ("C0", "B0", "A0")

Rows = dict[str, np.ndarray]


def worlds(real: Path | None) -> dict[str, dict[str, Rows]]:
    """Rows of pictures, titles and long captions of the parts "fit" and "test", of each head."""
    world = real_world.load()
    found = {}
    sides = ("image", "title", "long")
    if real is None:
        found["shipped"] = {part: {side: getattr(world.part(part), side) for side in sides} for part in ("fit", "test")}
        return found
    parts = np.load(real / "split.npy")
    for head in HEADS:
        rows = {side: np.load(real / "heads" / f"{head}_{side}.npy") for side in sides}
        found[head] = {part: {side: x[parts == part] for side, x in rows.items()} for part in ("fit", "test")}
    return found


def roles_of(rows: Rows, query: str, text: str) -> Rows:
    """The rows of each role."""
    return {"query": rows[query], "text": rows[text], "image": rows["image"]}


def split(roles: Roles, rows: Rows, seed: int) -> list[float]:
    """The shares of COLUMNS for one division of the index."""
    query, text, image = (roles[role](rows[role]).astype(np.float64) for role in ("query", "text", "image"))
    n = len(query)
    picture = np.random.default_rng(seed).permutation(n) < n // 2
    scores = query @ np.where(picture[:, None], image, text).T
    found = ranks(scores) < TOP
    alone = [ranks(scores[np.ix_(kind, kind)]) < TOP for kind in (picture, ~picture)]
    return [float(share.mean()) for share in (found, found[picture], found[~picture], *alone)]


def ranks(scores: np.ndarray) -> np.ndarray:
    """How many documents are before each query's own, that of its number; cosines that agree to 2^-40 are a tie."""
    rounded = np.rint(scores * 2.0**40)
    return (rounded > np.diag(rounded)[:, None]).sum(axis=1)


def row(method: str, shares: np.ndarray) -> str:
    """Of the table: shares (splits, columns); of pictures and captions also the part of what they find alone."""
    mean, spread = shares.mean(axis=0), shares.std(axis=0, ddof=1)
    cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True)]
    for kind in (1, 2):
        cells[kind] += f" ({mean[kind] / mean[kind + 2]:.0%})"
    return f"| {method} | {' | '.join(cells)} |"


def table(fit: Rows, test: Rows) -> None:
    """Print it, mean and standard deviation over the splits, and what auto says."""
    print(f"| method | {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * len(COLUMNS)}")
    for method in METHODS:
        paired = method in (BALANCED, AUTO)
        pairs = {("query", role): (fit["query"], fit[role]) for role in ("image", "text")} if paired else None
        roles = fr.fit_roles(fit, anchor="image", method=method, pairs=pairs)
        shares = np.array([split(roles, test, seed) for seed in range(SPLITS)])
        print(row(f"auto: {roles.method}" if method == AUTO else method, shares))
    print(f"\n{roles.reason}\n")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.paper.roles")
    parser.add_argument("--real", type=Path, metavar="DIR", help="the real world: see bench/paper/real/")
    for head, parts in worlds(parser.parse_args().real).items():
        for query, text in (("title", "long"), ("long", "title")):
            fit, test = (roles_of(parts[part], query, text) for part in ("fit", "test"))
            counts = f"{len(fit['query'])} to fit on, {len(test['query'])} held out"
            print(f"{head}, queries: {query}, text documents: {text}; {counts}")
            table(fit, test)


if __name__ == "__main__":
    main()
