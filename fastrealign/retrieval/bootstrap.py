"""Confidence intervals of means over queries, and of their paired differences, by the bootstrap (percentiles)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DRAWS = 2000
CONFIDENCE = 0.95
# The fewest queries whose differences can exclude zero. With fewer than six queries that differ, a sign test cannot reach
# p < 0.05 even if all rise (2 * 2^-5 = 0.06), yet the bootstrap interval may exclude zero.
FEWEST = 6
# Draws made at a time: with 10,000 queries 16 MB of counts.
_STEP = 200


@dataclass(frozen=True)
class Figure:
    """A mean over queries with its 95 % interval, and its paired difference from doing nothing with its own.

    Attributes
    ----------
    value : float
    interval : (float, float)
    change : float
        value less that of "none" on the same queries; 0 for "none".
    change_interval : (float, float)
        Where fewer than FEWEST queries differ it reaches to zero at least.
    differ : int
        Queries on which it differs from "none".
    """

    value: float
    interval: tuple[float, float]
    change: float
    change_interval: tuple[float, float]
    differ: int

    @property
    def better(self) -> bool | None:
        """True or False where the interval of the change excludes zero; None where it does not."""
        low, high = self.change_interval
        return True if low > 0 else False if high < 0 else None


def figures(values: np.ndarray, seed: int) -> list[list[Figure]]:
    """Figures of methods (the first is "none") and metrics. values: (methods, metrics, n), NaN where a query does not count.

    Every draw takes n queries with replacement, the same for all methods and metrics.
    """
    methods, metrics, n = values.shape
    counted = np.isfinite(values[0])
    flat = np.nan_to_num(values).reshape(methods * metrics, n)
    rng = np.random.default_rng(seed)
    means = np.empty((DRAWS, methods, metrics))
    for lo in range(0, DRAWS, _STEP):
        step = min(_STEP, DRAWS - lo)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=step).astype(np.float64)
        # A draw may miss all queries that count for a metric: it then says nothing of it.
        total = weights @ counted.T
        with np.errstate(invalid="ignore"):
            means[lo : lo + step] = (weights @ flat.T).reshape(step, methods, metrics) / total[:, None, :]
    of_all = flat.reshape(methods, metrics, n).sum(axis=2) / counted.sum(axis=1)
    changes = means - means[:, :1]
    ends = np.array([0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    intervals, of_changes = (np.nanquantile(drawn, ends, axis=0) for drawn in (means, changes))
    differ = ((values != values[:1]) & counted).sum(axis=2)
    few = differ < FEWEST
    of_changes[0, few] = np.minimum(of_changes[0, few], 0.0)
    of_changes[1, few] = np.maximum(of_changes[1, few], 0.0)
    return [
        [
            Figure(
                float(of_all[i, j]),
                _ends(intervals[:, i, j]),
                float(of_all[i, j] - of_all[0, j]),
                _ends(of_changes[:, i, j]),
                int(differ[i, j]),
            )
            for j in range(metrics)
        ]
        for i in range(methods)
    ]


def _ends(pair: np.ndarray) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])
