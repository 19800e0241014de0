"""Optional libraries: the one place that imports them, and names the extra to install where one is missing."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from fastrealign.core.errors import InputError

# Packages whose name for pip differs from the one they are imported by.
_PACKAGES = {
    "lance": "pylance",
    "open_clip": "open_clip_torch",
    "qdrant_client": "qdrant-client",
    "PIL": "pillow",
    "pytrec_eval": "pytrec_eval-terrier",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def optional(module: str, extra: str, what: str) -> Any:
    """Import an optional library.

    Parameters
    ----------
    module : str
        Its name, such as "pyarrow.parquet".
    extra : str
        The extra of fastrealign that installs it.
    what : str
        What needs it, as the beginning of the message: "x.parquet: parquet".

    Returns
    -------
    module

    Raises
    ------
    InputError
        It is not installed, or cannot be imported; the message says why and what to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing, why = (error.name or module).partition(".")[0], ""
    except ImportError as error:
        missing, why = module.partition(".")[0], f" ({' '.join(str(error).split())})"
    raise InputError(f"{what} needs {_PACKAGES.get(missing, missing)}{why}: pip install 'fastrealign[{extra}]'")


class Lazy:
    """A stand-in for a module that is imported on first use: `pa = Lazy("pyarrow", "parquet", "Arrow")`.

    An optional library: for code that runs after other code has imported it with `optional`, whose error names the file that
    needs it. A module of this package or of Python, with its name alone: for what most runs do without.
    """

    def __init__(self, module: str, extra: str | None = None, what: str = "") -> None:
        self._given = module, extra, what

    def __getattr__(self, name: str) -> Any:
        # Read once: another thread may be here at the same time.
        known = vars(self)
        if (given := known.get("_given")) is None:  # a name that the module itself looks up, or lacks
            return getattr(sys.modules.get(known["__name__"]), name)
        if name.startswith("__"):  # asked by tools that look at modules
            raise AttributeError(name)
        module, extra, what = given
        imported = import_module(module) if extra is None else optional(module, extra, what)
        # From now on the names of the module are found without this method, which would take longer than some calls.
        self.__dict__ = vars(imported)
        return getattr(imported, name)
