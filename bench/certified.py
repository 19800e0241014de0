"""How often a certified fit's bound holds, and how sharp it is, on six kinds of corpora: `python -m bench.certified`.

Each fit has a seed of its own; the judge is the gap over all rows. A fit that reads everything has nothing to certify: it is
counted, and not among those that held.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import fastrealign as fr
from fastrealign.core.row_map import UNIT
from fastrealign.data.pipeline import reduce_source
from fastrealign.data.row_source import RowSource
from fastrealign.data.sources import open_rows

SHARDS, ROWS, WIDTH = 60, 2000, 32


def _around(rng: np.random.Generator, centres: np.ndarray, spread: float = 0.6) -> np.ndarray:
    """A row around each of these centres (n, WIDTH)."""
    return centres + spread * rng.standard_normal(centres.shape) / np.sqrt(WIDTH)


def _topics(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.eye(WIDTH)[0] + 0.8 * rng.standard_normal((count, WIDTH)) / np.sqrt(WIDTH)


def mixed(rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of all topics everywhere."""
    return np.split(_around(rng, _topics(rng, 300)[rng.integers(300, size=SHARDS * ROWS)]), SHARDS)


def by_topic(rng: np.random.Generator) -> list[np.ndarray]:
    """Sorted by topic, five topics a shard."""
    return np.split(_around(rng, np.repeat(_topics(rng, 5 * SHARDS), ROWS // 5, axis=0)), SHARDS)


def drifting(rng: np.random.Generator) -> list[np.ndarray]:
    """The centre moves slowly and turns back."""
    along = np.linspace(0.0, 1.0, SHARDS * ROWS)[:, None]
    centres = np.eye(WIDTH)[0] + np.sin(5.0 * along) * np.eye(WIDTH)[1] + along * np.eye(WIDTH)[2]
    return np.split(_around(rng, centres), SHARDS)


def heavy_tailed(rng: np.random.Generator) -> list[np.ndarray]:
    """Topics of very unequal length, their distances from the centre without a variance, along one direction."""
    lengths = np.ceil(20 * (1 + rng.pareto(1.1, SHARDS * ROWS // 20))).astype(int)
    away = 0.1 * np.abs(rng.standard_t(1.2, len(lengths)))
    centres = np.eye(WIDTH)[0] + np.repeat(away, lengths)[: SHARDS * ROWS, None] * np.eye(WIDTH)[1]
    return np.split(_around(rng, centres, 0.3), SHARDS)


def few_shards(rng: np.random.Generator) -> list[np.ndarray]:
    """Three shards of unequal length, far apart."""
    parts = np.split(np.concatenate(mixed(rng)), [ROWS * SHARDS // 10, ROWS * SHARDS // 3])
    return [part + 0.8 * np.eye(WIDTH)[i] for i, part in enumerate(parts)]


def odd_shard(rng: np.random.Generator) -> list[np.ndarray]:
    """One shard lies on the other side, and a run of rows inside another one."""
    parts = mixed(rng)
    parts[17] *= -1.0
    parts[40][500:900] *= -1.0
    return parts


KINDS: tuple[Callable[[np.random.Generator], list[np.ndarray]], ...] = (
    mixed,
    by_topic,
    drifting,
    heavy_tailed,
    few_shards,
    odd_shard,
)


def measure(source: RowSource, target: RowSource, tol: float, confidence: float, seeds: int) -> str:
    """A line on this many fits."""
    mean = reduce_source(target, UNIT, "mean")[0].mean
    held, ratios, shares, whole = 0, [], [], 0
    for seed in range(seeds):
        found = fr.fit(source, target, tol=tol, confidence=confidence, seed=seed, threads=1)
        told = found.sampling
        assert told is not None and told.bound is not None
        shares.append(told.rows_source / (told.of_source or 1))
        if told.bound == 0.0:
            whole += 1
            continue
        left = float(np.linalg.norm(reduce_source(source, found.row_map, "gap")[0].mean - mean))
        held += left <= found.gap_left + told.bound
        ratios.append(left / (found.gap_left + told.bound))
    sampled = seeds - whole
    if not sampled:
        return f"read whole {whole} of {seeds}"
    return (
        f"held {held} of {sampled} ({held / sampled:.1%}), gap {np.median(ratios):.2f} of what is certified, "
        f"read {np.median(shares):.1%} (at most {np.max(shares):.1%}), read whole {whole}"
    )


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.certified", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=500, help="fits of each kind")
    parser.add_argument("--tol", type=float, default=0.05)
    parser.add_argument("--confidence", type=float, nargs="+", default=[0.9, 0.99])
    parser.add_argument("--kinds", nargs="+", choices=[kind.__name__ for kind in KINDS], metavar="KIND")
    args = parser.parse_args(words)
    for make in KINDS:
        if args.kinds and make.__name__ not in args.kinds:
            continue
        rng = np.random.default_rng(1)
        target = np.concatenate(mixed(rng))[: ROWS * SHARDS // 2] - 1.2 * np.eye(WIDTH)[0]
        with tempfile.TemporaryDirectory() as folder:
            for i, rows in enumerate(make(rng)):
                np.save(Path(folder) / f"part_{i:02}.npy", rows.astype(np.float32))
            source, images = open_rows(folder, "source"), open_rows(target.astype(np.float32), "target")
            for confidence in args.confidence:
                line = measure(source, images, args.tol, confidence, args.seeds)
                print(f"{make.__name__:<13} at {confidence:.0%}: {line}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
