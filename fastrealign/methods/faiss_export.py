"""An alignment as a chain of FAISS transforms, so that an index takes rows of the source as they come. Needs faiss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.core.errors import InputError

if TYPE_CHECKING:
    from fastrealign.methods.alignment import Alignment


def to_faiss(alignment: Alignment, index: Any = None) -> Any:
    """IndexPreTransform over `index`, or over a new IndexFlatIP; see Alignment.to_faiss.

    pi(pi(s pi(y) + b) + c): since pi does not change when its argument is scaled, s pi(y) + b may be pi(y) + b/s, so five
    transforms that keep no matrix do it: normalise, centre on -b/s, normalise, centre on -c, normalise.
    """
    try:
        import faiss
    except ImportError:
        raise InputError("to_faiss needs faiss: pip install 'fastrealign[faiss]'") from None
    if not alignment.s > 0:
        raise InputError(f"an alignment with s = {alignment.s} has no chain of FAISS transforms, expected s > 0")
    if index is None:
        index = faiss.IndexFlatIP(alignment.dim)
    elif index.d != alignment.dim:
        raise InputError(
            f"the index holds rows of {index.d}, the alignment is of {alignment.dim}; give one of that width"
        )

    def centre(mean: np.ndarray) -> Any:
        transform = faiss.CenteringTransform(alignment.dim)
        faiss.copy_array_to_vector(mean.astype(np.float32), transform.mean)
        transform.is_trained = True
        return transform

    def normalise() -> Any:
        return faiss.NormalizationTransform(alignment.dim, 2.0)

    chain = faiss.IndexPreTransform(index)
    steps = [normalise(), centre(-alignment.b / alignment.s), normalise(), centre(-alignment.c), normalise()]
    for step in reversed(steps):
        chain.prepend_transform(step)
    return chain
