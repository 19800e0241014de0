"""The methods that ReAlign is compared with, called, saved and loaded as an Alignment is.

    name           map of a row y                                                       source
    none           pi(y)
    mean-shift     pi(y) - mu_y, not projected                                          Unicorn, arXiv 2503.22655
    c3             pi(pi(y) - mu_y + mu_x + noise), noise from N(0, sigma^2 I)          C3 as arXiv 2602.07026 compares it
    bca            pi(pi(M e + shift) + c), e = pi(pi(y) - mu_y + mu_x): blockwise      arXiv 2602.07026, appendix F
                   covariance alignment, M whitens and colours in U and in V
    anchor         pi(pi(y) - mu_y + mu_x)                                              arXiv 2602.07026, table 5
    anchor-trace   pi(s (pi(y) - mu_y) + mu_x)                                          arXiv 2602.07026, table 5
    realign        ReAlign as published: an Alignment                                   arXiv 2602.07026
    realign-exact  the same with the centroid that leaves no gap

All but the last two are one `Baseline` (baseline.py): f(y) = pi(pi(M pi(s pi(y) + b) + shift + noise) + c), with steps left
out. They need the mean and trace of both sides, bca their covariances too.

C3 of arXiv 2401.08567 itself maps both sides: pi(y) - mu_y + noise and pi(x) - mu_x, with sigma = sqrt(0.016) an entry, as
CapDec (arXiv 2211.00575); here that is mean-shift of each side (fit_baseline("mean-shift", images, texts) gives that of the
images) and the noise of a call. Neither paper states the sigma of the one-sided form. The default is a length of 0.5 for the
whole vector, 0.5/sqrt(d) an entry; sqrt(0.016) has a length of 0.13 sqrt(d): 1.4 at d = 128, 2.9 at 512, 4.5 at 1280.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fastrealign.core.float_state import computes
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.chunk_source import ChunkSource
from fastrealign.data.options import Compute, PassOptions, ReadOptions, documented
from fastrealign.data.process_group import GroupLike
from fastrealign.data.row_source import RowsLike
from fastrealign.data.sources import open_rows
from fastrealign.diagnostics.unit_rows import chunks
from fastrealign.methods.fit_options import METHODS, FitOptions, check_method
from fastrealign.methods.fitting import fit_given
from fastrealign.methods.method import Method

__all__ = ["METHODS", "Mapped", "fit_baseline"]


class Mapped(ChunkSource):
    """The rows of a source as a method maps them, chunk by chunk, as often as asked: what the metrics take."""

    def __init__(self, method: Method, source: RowsLike) -> None:
        self._method, self._source = method, open_rows(source, "source")
        super().__init__(self, f"{self._source.name} mapped")
        self.rows = self._source.rows

    def __iter__(self) -> Iterator[np.ndarray]:
        for piece, lo, rows in chunks(self._source):
            yield self._method(rows, first=piece.first - piece.lo + lo)


@computes
@documented(ReadOptions, Compute)
def fit_baseline(
    name: str,
    source: RowsLike,
    target: RowsLike,
    *,
    bad_rows: str = "error",
    threads: int | None = None,
    devices: Sequence[int | str] | None = None,
    max_memory: int | None = None,
    progress: Progress = SILENT,
    column: str | None = None,
    target_column: str | None = None,
    group: GroupLike = None,
    **options: Any,
) -> Method:
    """Fit the method `name` of METHODS, which moves `source` (text) to `target` (images).

    Parameters
    ----------
    name : str
        One of METHODS.
    source, target
        As for `fastrealign.fit`.
    {ReadOptions}
    {Compute}
    progress : Progress
        Called as the passes advance; by default nothing is shown.
    group : torch.distributed.ProcessGroup or "world", optional
        As for `fastrealign.fit`; bca is fitted by one process.
    **options
        c3: sigma (standard deviation of an entry; by default 0.5/sqrt(d), noise half as long as a row), seed (0).
        bca: energy (share of the trace in U, 0.95), floor (1e-6, of the largest eigenvalue of a block), centred (True, the
        kinder form; False: the row is whitened with its mean, eq. 18 of arXiv 2602.07026 to the letter).
        realign, realign-exact: those of `fastrealign.fit` but for the centroid.

    Returns
    -------
    Alignment or Baseline

    Raises
    ------
    InputError
        For another name or option, for a group with bca, and as `fastrealign.fit` does.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> texts, images = (rng.standard_normal((300, 8)) + shift for shift in (1.0, -1.0))
    >>> noisy = fit_baseline("c3", texts, images, sigma=0.1)
    >>> noisy.numbered, noisy(texts).shape
    (True, (300, 8))
    """
    name = check_method(name)
    read = ReadOptions(column, target_column, bad_rows)
    passes = PassOptions(bad_rows, Compute(threads, devices, max_memory).workers, progress)
    if not name.startswith("realign"):
        return fit_given(source, target, FitOptions(name, more=options), read, passes, group)
    encoders = options.pop("encoder_source", None), options.pop("encoder_target", None)
    return fit_given(source, target, FitOptions(name, **options), read, passes, group, encoders)
