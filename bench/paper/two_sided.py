"""C3 as its own paper has it (arXiv 2401.08567): both sides less their own means, noise on the text. Two maps, not one."""

from __future__ import annotations

import numpy as np

from bench.paper.common import Sides, mapped
from fastrealign.methods.baselines import fit_baseline

# Standard deviation of an entry, of C3 and of CapDec (arXiv 2211.00575), whatever the width.
SIGMA = float(np.sqrt(0.016))


def two_sided(sides: Sides, sigma: float, seed: int = 0) -> Sides:
    """All rows of both sides under the two maps, float64, not projected: the metrics take them to unit length."""
    of_text = fit_baseline("mean-shift", sides.text, sides.image)
    of_image = fit_baseline("mean-shift", sides.image, sides.text)
    text, pairs_text = (
        of_text(rows, dtype=np.float64, noise=sigma * of_text.dim**0.5, seed=seed)
        for rows in (sides.text, sides.pairs_text)
    )
    return Sides(text, mapped(of_image, sides.image), pairs_text, mapped(of_image, sides.pairs_image))
