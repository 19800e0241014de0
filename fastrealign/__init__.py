"""fastrealign closes the modality gap of contrastive embeddings, at memory speed.

import fastrealign as fr
a = fr.fit(text, images)              # arrays, tensors, files or folders
aligned = a(text)                     # unit rows that lie where the images lie
fr.align("text_emb/", target="img_emb/", out="aligned/")     # files to files
fr.report(text, images).save("report.html")     # what the gap is made of, and what each method does to it
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # The import "as" says to a type checker that the name is public.
    from fastrealign import diagnostics as diagnostics
    from fastrealign import embed as embed
    from fastrealign import nn as nn
    from fastrealign import retrieval as retrieval
    from fastrealign import revision as revision
    from fastrealign.core.errors import BadRowsError, FastRealignError, FitWarning, InputError
    from fastrealign.core.version import __version__
    from fastrealign.gap_report import report
    from fastrealign.jobs import ray as ray
    from fastrealign.jobs.align_files import align, apply_files
    from fastrealign.jobs.conversion import convert
    from fastrealign.methods import baselines as baselines
    from fastrealign.methods.alignment import Alignment
    from fastrealign.methods.checking import check
    from fastrealign.methods.estimator import ReAlign as ReAlign
    from fastrealign.methods.fitting import fit
    from fastrealign.methods.loading import load
    from fastrealign.methods.moments import Moments
    from fastrealign.methods.pair_fits import fit_map
    from fastrealign.methods.paired_map import PairedMap
    from fastrealign.methods.roles import Roles, fit_roles
    from fastrealign.methods.updating import update

if find_spec("fastrealign._core") is None:
    raise ImportError(
        f"{__path__[0]} has no compiled core: if that is the source folder, run Python somewhere else, or build it there with "
        "pip install -e ."
    )

__all__ = [
    "Alignment", "BadRowsError", "FastRealignError", "FitWarning", "InputError", "Moments", "PairedMap", "Roles",
    "__version__", "align", "apply_files", "check", "convert", "fit", "fit_map", "fit_roles", "load", "report", "update",
]  # fmt: skip

# Where the public names live; a name is imported when it is first used.
_NAMES = {
    "core.errors": ("BadRowsError", "FastRealignError", "FitWarning", "InputError"),
    "core.version": ("__version__",),
    "gap_report": ("report",),
    "jobs.align_files": ("align", "apply_files"),
    "jobs.conversion": ("convert",),
    "methods.alignment": ("Alignment",),
    "methods.checking": ("check",),
    "methods.estimator": ("ReAlign",),
    "methods.fitting": ("fit",),
    "methods.loading": ("load",),
    "methods.moments": ("Moments",),
    "methods.pair_fits": ("fit_map",),
    "methods.paired_map": ("PairedMap",),
    "methods.roles": ("Roles", "fit_roles"),
    "methods.updating": ("update",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}
_MODULES = {
    "baselines": "methods.baselines",
    "diagnostics": "diagnostics",
    "embed": "embed",
    "nn": "nn",
    "ray": "jobs.ray",
    "retrieval": "retrieval",
    "revision": "revision",
}


if not TYPE_CHECKING:  # else a checker takes any other name for one of type Any

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            value = getattr(import_module(f"fastrealign.{_HOMES[name]}"), name)
        elif name in _MODULES:
            value = import_module(f"fastrealign.{_MODULES[name]}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*_HOMES, *_MODULES])


if sys.modules.get("torch") is not None:
    # Registers torch.ops.fastrealign; where torch is imported later, fastrealign.nn does.
    import_module("fastrealign.core.torch_ops")
