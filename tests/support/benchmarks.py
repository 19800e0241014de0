"""bench/ for the tests. It is not installed, and the root is not put on the path: its package would hide the installed one."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[2] / "bench"


def module(name: str) -> ModuleType:
    """The module bench.`name`."""
    if "bench" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "bench", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
        )
        sys.modules["bench"] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"bench.{name}")
