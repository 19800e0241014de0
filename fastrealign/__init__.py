"""fastrealign closes the modality gap of contrastive embeddings, at memory speed.

import fastrealign as fr
a = fr.fit(text, images)              # arrays, tensors, files or folders
aligned = a(text)                     # unit rows that lie where the images lie
fr.align("text_emb/", target="img_emb/", out="aligned/")     # files to files
"""

from fastrealign.alignment import Alignment
from fastrealign.errors import BadRowsError, FastRealignError, InputError
from fastrealign.fit import FitWarning, fit
from fastrealign.moments import Moments
from fastrealign.run import align, apply_files
from fastrealign.version import __version__

load = Alignment.load


def __getattr__(name: str):
    """ReAlign, the scikit-learn estimator, on first use: importing scikit-learn takes a second, and it is optional."""
    if name == "ReAlign":
        from fastrealign.estimator import ReAlign

        return ReAlign
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Alignment",
    "BadRowsError",
    "FastRealignError",
    "FitWarning",
    "InputError",
    "Moments",
    "__version__",
    "align",
    "apply_files",
    "fit",
    "load",
]
