"""How often a certified fit's bound holds, and how sharp it is, on six kinds of corpora: `python -m bench.certified`.

Each fit has a seed of its own; the judge is the gap over all rows. A fit that reads everything has nothing to certify: it is
counted, and not among those that held.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fastrealign as fr
from fastrealign.core.row_map import UNIT
from fastrealign.data.reduction import reduce_source
from fastrealign.data.row_source import RowSource
from fastrealign.data.sources import open_rows

SHARDS = 60
TOPICS = 5 * SHARDS


@dataclass(frozen=True)
class Corpora:
    """Made corpora, each a list of shards (n, width) of float32: as a rule SHARDS shards of `rows` rows."""

    rng: np.random.Generator
    rows: int
    width: int

    def _axis(self, i: int) -> np.ndarray:
        return np.eye(self.width, dtype=np.float32)[i]

    def _shards(self, centres: np.ndarray, spread: float = 0.6) -> list[np.ndarray]:
        """A row around each of these centres (n, width)."""
        noise = self.rng.standard_normal(centres.shape, dtype=np.float32)
        noise *= spread / np.sqrt(self.width)
        noise += centres
        return np.split(noise, SHARDS)

    def _topics(self) -> np.ndarray:
        return self._axis(0) + self.rng.normal(scale=0.8 / np.sqrt(self.width), size=(TOPICS, self.width)).astype("f4")

    def mixed(self) -> list[np.ndarray]:
        """Rows of all topics everywhere."""
        return self._shards(self._topics()[self.rng.integers(TOPICS, size=SHARDS * self.rows)])

    def by_topic(self) -> list[np.ndarray]:
        """Sorted by topic, five topics a shard."""
        return self._shards(np.repeat(self._topics(), SHARDS * self.rows // TOPICS, axis=0))

    def drifting(self) -> list[np.ndarray]:
        """The centre moves slowly and turns back."""
        along = np.linspace(0.0, 1.0, SHARDS * self.rows, dtype=np.float32)[:, None]
        return self._shards(self._axis(0) + np.sin(5.0 * along) * self._axis(1) + along * self._axis(2))

    def heavy_tailed(self) -> list[np.ndarray]:
        """Topics of very unequal length, their distances from the centre without a variance, along one direction."""
        lengths = np.ceil(20 * (1 + self.rng.pareto(1.1, SHARDS * self.rows // 20))).astype(int)
        away = 0.1 * np.abs(self.rng.standard_t(1.2, len(lengths))).astype(np.float32)
        along = np.repeat(away, lengths)[: SHARDS * self.rows, None]
        return self._shards(self._axis(0) + along * self._axis(1), 0.3)

    def few_shards(self) -> list[np.ndarray]:
        """Three shards of unequal length, far apart."""
        parts = np.split(np.concatenate(self.mixed()), [self.rows * SHARDS // 10, self.rows * SHARDS // 3])
        return [part + np.float32(0.8) * self._axis(i) for i, part in enumerate(parts)]

    def odd_shard(self) -> list[np.ndarray]:
        """One shard lies on the other side, and so does a run of rows inside another one."""
        parts = self.mixed()
        parts[17] *= -1.0
        parts[40][self.rows // 4 : self.rows // 2] *= -1.0
        return parts

    def images(self) -> np.ndarray:
        """A target: rows of all topics everywhere, half as many."""
        return np.concatenate(self.mixed()[: SHARDS // 2]) - np.float32(1.2) * self._axis(0)


KINDS = ("mixed", "by_topic", "drifting", "heavy_tailed", "few_shards", "odd_shard")


def measure(source: RowSource, target: RowSource, tol: float, confidence: float, seeds: int) -> str:
    """A line on this many fits."""
    mean = reduce_source(target, UNIT, "mean")[0].mean
    held, ratios, shares, whole = 0, [], [], 0
    start = time.perf_counter()
    fr.fit(source, target, threads=1)
    of_all, seconds = time.perf_counter() - start, []
    for seed in range(seeds):
        start = time.perf_counter()
        found = fr.fit(source, target, tol=tol, confidence=confidence, seed=seed, threads=1)
        seconds.append(time.perf_counter() - start)
        sampling = found.sampling
        assert sampling is not None and sampling.bound is not None
        shares.append(sampling.rows_source / (sampling.of_source or 1))
        if sampling.bound == 0.0:
            whole += 1
            continue
        left = float(np.linalg.norm(reduce_source(source, found.row_map, "gap")[0].mean - mean))
        held += left <= found.gap_left + sampling.bound
        ratios.append(left / (found.gap_left + sampling.bound))
    sampled = seeds - whole
    if not sampled:
        return f"read whole {whole} of {seeds}"
    return (
        f"held {held} of {sampled} ({held / sampled:.1%}), gap {np.median(ratios):.2f} of what is certified, "
        f"read {np.median(shares):.2%} (at most {np.max(shares):.2%}), read whole {whole}; "
        f"{np.median(seconds):.3f} s, all rows {of_all:.3f} s"
    )


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.certified", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=500, help="fits of each kind")
    parser.add_argument("--tol", type=float, default=0.05)
    parser.add_argument("--confidence", type=float, nargs="+", default=[0.9, 0.99])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--rows", type=int, default=2000, help=f"of each of {SHARDS} shards")
    parser.add_argument("--width", type=int, default=32)
    args = parser.parse_args(words)
    for kind in args.kinds:
        made = Corpora(np.random.default_rng(1), args.rows, args.width)
        with tempfile.TemporaryDirectory() as folder:
            for i, rows in enumerate(getattr(made, kind)()):
                np.save(Path(folder) / f"part_{i:02}.npy", rows)
            source, images = open_rows(folder, "source"), open_rows(made.images(), "target")
            for confidence in args.confidence:
                line = measure(source, images, args.tol, confidence, args.seeds)
                print(f"{kind:<13} at {confidence:.0%}: {line}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
