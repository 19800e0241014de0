"""An alignment as a chain of FAISS transforms, so that an index takes rows of the source unaligned. Needs faiss."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.optional import optional
from fastrealign.core.row_map import RowMap
from fastrealign.core.text import brief


def to_faiss(row_map: RowMap, d: int, index: Any = None) -> Any:
    """IndexPreTransform over `index`, or over a new IndexFlatIP; see Alignment.to_faiss.

    pi(pi(s pi(y) + b) + c): since pi does not change when its argument is scaled, s pi(y) + b may be pi(y) + b/s, so five
    transforms that keep no matrix do it: normalise, centre on -b/s, normalise, centre on -c, normalise.
    """
    faiss = optional("faiss", "faiss", "to_faiss")
    if not row_map.s > 0:
        raise InputError(f"an alignment with s = {row_map.s} has no chain of FAISS transforms, expected s > 0")
    if index is None:
        index = faiss.IndexFlatIP(d)
    elif not isinstance(index, faiss.Index):
        raise InputError(
            f"index={brief(index)}: expected an index of FAISS for float32 rows, such as faiss.IndexFlatIP({d})"
        )
    elif index.d != d:
        raise InputError(f"the index holds rows of {index.d}, the alignment is of {d}; give one of that width")

    def centre(shift: np.ndarray | None, scale: float = 1.0) -> Any:
        transform = faiss.CenteringTransform(d)
        mean = np.zeros(d) if shift is None else -shift / scale
        faiss.copy_array_to_vector(mean.astype(np.float32), transform.mean)
        transform.is_trained = True
        return transform

    def normalise() -> Any:
        return faiss.NormalizationTransform(d, 2.0)

    chain = faiss.IndexPreTransform(index)
    steps = [normalise(), centre(row_map.b, row_map.s), normalise(), centre(row_map.c), normalise()]
    for step in reversed(steps):
        chain.prepend_transform(step)
    return chain
