"""fastrealign closes the modality gap of contrastive embeddings, at memory speed.

import fastrealign as fr
a = fr.fit(text, images)              # arrays, tensors, files or folders
aligned = a(text)                     # unit rows that lie where the images lie
fr.align("text_emb/", target="img_emb/", out="aligned/")     # files to files
fr.report(text, images).save("report.html")     # what the gap is made of, and what each method does to it
"""

import sys
from importlib import import_module
from importlib.util import find_spec

if find_spec("fastrealign._core") is None:
    raise ImportError(
        f"{__path__[0]} has no compiled core: if that is the source folder, run Python somewhere else, or build it there with "
        "pip install -e ."
    )

from fastrealign.core.errors import BadRowsError, FastRealignError, FitWarning, InputError
from fastrealign.core.version import __version__
from fastrealign.gap_report import report
from fastrealign.jobs.align_files import align, apply_files
from fastrealign.jobs.conversion import convert
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.baseline import load
from fastrealign.methods.fitting import fit
from fastrealign.methods.moments import Moments
from fastrealign.methods.recalibration import check, update

if sys.modules.get("torch") is not None:
    import_module(
        "fastrealign.core.torch_ops"
    )  # registers torch.ops.fastrealign; where torch comes later, fastrealign.nn does


def __getattr__(name: str):
    """On first use, for each takes a second to import and is optional: ReAlign (scikit-learn), nn (torch)."""
    if name == "ReAlign":
        from fastrealign.methods.estimator import ReAlign

        return ReAlign
    if name == "nn":
        return import_module("fastrealign.nn")
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
    "check",
    "convert",
    "fit",
    "load",
    "report",
    "update",
]
