"""A change of encoder: the recall that maps from pairs keep (`fastrealign.fit_map`), on real heads over the same pictures.

    python -m bench.paper.change_encoder --real DIR     tables; DIR: what `python -m bench.paper.real --out DIR` made
    python -m bench.paper.change_encoder --costs        seconds of fitting and of mapping rows

The old and the new encoder are two heads, or two seeds of one. Pairs are documents of the part "fit", which the heads have not
seen; for the most pairs also those of "train". Documents and queries of the part "test" measure; no near-duplicates of a pair
are among them.
Queries are titles by the new head; documents are long captions, or pictures. Kept: R@10 in mapped documents over R@10 in
re-embedded ones. Fewer pairs than `fit_map` takes are solved by its functions, to see where maps break.
"""

from __future__ import annotations

import argparse
import itertools
import time
from functools import cache
from pathlib import Path

import numpy as np

import fastrealign as fr
from bench.paper import roles as one_index
from fastrealign.methods.pair_moments import BLOCK_ROWS, PairMoments
from fastrealign.methods.pair_solutions import Solution, one_thread, procrustes, ridge

HEADS, SEEDS = ("A", "B", "C"), range(3)
COUNTS = (64, 100, 150, 300, 600, 1165, 3567)
METHODS = ("procrustes", "ridge")
DOCUMENTS = {"long": "long captions", "image": "pictures"}
TOP, RESAMPLES = 10, 1000
# Columns and rows of --costs.
WIDTHS, PAIRS, ROWS = ((512, 512), (768, 1024)), 10_000, 100_000


class Heads:
    """Rows of the heads in a folder."""

    def __init__(self, folder: Path) -> None:
        parts = np.load(folder / "split.npy")
        fit, train = (np.flatnonzero(parts == part) for part in ("fit", "train"))
        rng = np.random.default_rng(0)
        self.pairs = np.concatenate([rng.permutation(fit), rng.permutation(train)])
        self.test = np.flatnonzero(parts == "test")
        self._folder = folder / "heads"

    @cache  # noqa: B019 (one of them is made)
    def rows(self, head: str, side: str) -> np.ndarray:
        rows = np.load(self._folder / f"{head}_{side}.npy").astype(np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def solved(method: str, e: np.ndarray, f: np.ndarray) -> Solution:
    """As `fit_map` solves it; of a ridge, the last 15 % of the pairs choose the strength."""
    cut = len(e) if method == "procrustes" else round(0.85 * len(e))
    parts = []
    for part in (slice(cut), slice(cut, None)):
        moments = PairMoments(e.shape[1], f.shape[1], method == "ridge")
        for lo in range(0, len(e[part]), BLOCK_ROWS):
            moments.add(e[part][lo : lo + BLOCK_ROWS], f[part][lo : lo + BLOCK_ROWS])
        parts.append(moments)
    with one_thread():
        return procrustes(parts[0]) if method == "procrustes" else ridge(*parts)


def parts_of_procrustes(e: np.ndarray, f: np.ndarray) -> tuple[Solution, Solution]:
    """The rotation alone, and with a translation but no scale."""
    u, _, vt = np.linalg.svd(e.T @ f, full_matrices=False)
    a, b = e.mean(0), f.mean(0)
    v, _, wt = np.linalg.svd((e - a).T @ (f - b), full_matrices=False)
    turn = (v @ wt).T
    return Solution((u @ vt).T, np.zeros(f.shape[1])), Solution(turn, b - turn @ a)


def mapped(solution: Solution, e: np.ndarray) -> np.ndarray:
    found = e @ solution.matrix.T + solution.shift
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def found(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Whether the document of each query's number is among the ten nearest, float64 (n,)."""
    scores = queries @ documents.T
    return ((scores > np.diag(scores)[:, None]).sum(axis=1) < TOP).astype(float)


def neighbours(new: np.ndarray, there: np.ndarray) -> float:
    """Mean share of the ten nearest new documents that the ten nearest mapped ones hold."""
    tens = []
    for documents in (new, there):
        scores = new @ documents.T
        np.fill_diagonal(scores, -np.inf)
        tens.append(np.argpartition(-scores, TOP, axis=1)[:, :TOP])
    return float((tens[0][:, :, None] == tens[1][:, None, :]).any(2).mean())


def kept(hits: list[tuple[np.ndarray, np.ndarray]]) -> str:
    """Mean over pairs of heads of the recall kept, with its 95 % interval from a bootstrap over queries, all pairs together."""
    here, there = (np.array(side) for side in zip(*hits, strict=True))
    n = here.shape[1]
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    ratios = ((drawn @ here.T) / (drawn @ there.T)).mean(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return f"{(here.mean(1) / there.mean(1)).mean():.3f} ({low:.3f}–{high:.3f})"


def changes() -> dict[str, list[tuple[str, str]]]:
    """Old and new heads, by the kind of change."""
    of: dict[str, list[tuple[str, str]]] = {}
    names = [f"{head}{seed}" for head in HEADS for seed in SEEDS]
    for old, new in itertools.permutations(names, 2):
        name = f"{old[0]} to {new[0]}" + (", another seed" if old[0] == new[0] else "")
        of.setdefault(name, []).append((old, new))
    return of


def tables(heads: Heads) -> None:
    """Print recall kept by number of pairs, and what else was measured with all pairs of the part "fit"."""
    for side, named in DOCUMENTS.items():
        for method in METHODS:
            print(f"\n{method}, documents: {named}\n")
            print(f"| change | {' | '.join(f'{count:,}' for count in COUNTS)} |")
            print("| --- |" + " ---: |" * len(COUNTS))
            for name, pairs in changes().items():
                cells = [kept([measured(heads, side, method, old, new, n) for old, new in pairs]) for n in COUNTS]
                print(f"| {name} | {' | '.join(cells)} |")
    for side, named in DOCUMENTS.items():
        print(f"\n1,165 pairs, documents: {named}\n")
        print("| change | R@10 old | R@10 re-embedded | nearest kept, procrustes | ridge | queries mapped, ridge |")
        print("| --- |" + " ---: |" * 5)
        for name, pairs in changes().items():
            print(f"| {name} | {' | '.join(others(heads, side, pairs))} |")


def measured(heads: Heads, side: str, method: str, old: str, new: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Which queries find their document, in mapped and in re-embedded documents."""
    at, test = heads.pairs[:n], heads.test
    e, f, queries = heads.rows(old, side), heads.rows(new, side), heads.rows(new, "title")[test]
    return found(queries, mapped(solved(method, e[at], f[at]), e[test])), found(queries, f[test])


def others(heads: Heads, side: str, pairs: list[tuple[str, str]]) -> list[str]:
    """R@10 of both encoders, the nearest documents kept, and the recall kept if queries move instead, to old documents."""
    at, test = heads.pairs[: COUNTS[-2]], heads.test
    before, after, hits = [], [], []
    near: dict[str, list[float]] = {method: [] for method in METHODS}
    for old, new in pairs:
        e, f = heads.rows(old, side), heads.rows(new, side)
        asked, asks = heads.rows(old, "title"), heads.rows(new, "title")
        before.append(found(asked[test], e[test]).mean())
        after.append(found(asks[test], f[test]).mean())
        for method in METHODS:
            near[method].append(neighbours(f[test], mapped(solved(method, e[at], f[at]), e[test])))
        back = solved("ridge", asks[at], asked[at])  # a map of queries, from titles by both
        hits.append((found(mapped(back, asks[test]), e[test]), found(asks[test], f[test])))
    means = [np.mean(values) for values in (before, after, *near.values())]
    return [*(f"{mean:.3f}" for mean in means), kept(hits)]


def ablation(heads: Heads) -> None:
    """Print the recall kept without parts of the procrustes map."""
    print("\nprocrustes without its parts, 1,165 pairs, documents: long captions\n")
    print("| change | rotation | and translation | and scale |\n| --- | ---: | ---: | ---: |")
    at, test = heads.pairs[: COUNTS[-2]], heads.test
    for name, pairs in changes().items():
        hits: list[list[tuple[np.ndarray, np.ndarray]]] = [[], [], []]
        for old, new in pairs:
            e, f, queries = heads.rows(old, "long"), heads.rows(new, "long"), heads.rows(new, "title")[test]
            maps = (*parts_of_procrustes(e[at], f[at]), solved("procrustes", e[at], f[at]))
            for into, one in zip(hits, maps, strict=True):
                into.append((found(queries, mapped(one, e[test])), found(queries, f[test])))
        print(f"| {name} | {' | '.join(map(kept, hits))} |")


def after_roles(heads: Heads) -> None:
    """Print R@10 in one index of pictures and captions, with roles of re-embedded rows, and with two kinds for mapped ones."""
    titles = (
        "no roles, re-embedded",
        "roles, re-embedded",
        "no roles, mapped",
        "roles of mapped",
        "roles of re-embedded sample",
    )
    print("\nOne index, half pictures and half captions, ridge, 1,165 pairs a modality, roles: centred\n")
    print(f"| change | {' | '.join(titles)} |\n| --- |" + " ---: |" * len(titles))
    fit, test = heads.pairs[: COUNTS[-2]], heads.test
    for old, new in (("A0", "C0"), ("B0", "C0"), ("C0", "A0"), ("C0", "C1")):
        rows = {
            role: heads.rows(new, side) for role, side in (("query", "title"), ("text", "long"), ("image", "image"))
        }
        moved = dict(rows)
        for role, side in (("text", "long"), ("image", "image")):
            e = heads.rows(old, side)
            moved[role] = mapped(solved("ridge", e[fit], rows[role][fit]), e)
        cells = []
        for fitted, used, method in (
            (rows, rows, "none"),
            (rows, rows, "centred"),
            (moved, moved, "none"),
            (moved, moved, "centred"),
            (rows, moved, "centred"),
        ):
            roles = fr.fit_roles({role: one[fit] for role, one in fitted.items()}, anchor="image", method=method)
            asked = {role: one[test] for role, one in used.items()}
            shares = [one_index.split(roles, asked, seed)[0] for seed in range(one_index.SPLITS)]
            cells.append(f"{np.mean(shares):.3f} ± {np.std(shares, ddof=1):.3f}")
        print(f"| {old} to {new} | {' | '.join(cells)} |")


def costs() -> None:
    """Print seconds on random rows: fitting, and mapping float32 rows in memory."""
    rng = np.random.default_rng(0)
    print(f"| widths | fit, {PAIRS:,} pairs: procrustes | ridge | map rows |\n| --- | ---: | ---: | ---: |")
    for d_old, d_new in WIDTHS:
        items = rng.standard_normal((PAIRS, d_old), np.float32)
        new = items @ rng.standard_normal((d_old, d_new), np.float32)
        times = []
        for method in METHODS:
            start = time.perf_counter()
            fitted = fr.fit_map(items, new, method=method, held_out=0)
            times.append(time.perf_counter() - start)
        rows = rng.standard_normal((ROWS, d_old), np.float32)
        start = time.perf_counter()
        fitted(rows)
        rate = ROWS / (time.perf_counter() - start)
        print(f"| {d_old} to {d_new} | {times[0]:.1f} s | {times[1]:.1f} s | {rate:,.0f} rows/s |")


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.paper.change_encoder")
    parser.add_argument("--real", type=Path, metavar="DIR", help="the real world: see bench/paper/real/")
    parser.add_argument("--costs", action="store_true", help="measure seconds instead")
    args = parser.parse_args()
    if args.costs:
        costs()
    elif args.real is None:
        parser.error("name the folder of the real world with --real, or --costs")
    else:
        heads = Heads(args.real)
        tables(heads)
        ablation(heads)
        after_roles(heads)


if __name__ == "__main__":
    main()
