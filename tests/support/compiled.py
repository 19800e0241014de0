"""What tests compile, kept in pytest's cache: compiled again only where a source, the compiler or a flag has changed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import pytest


def kept(
    config: pytest.Config, name: str, compiler: str, flags: Iterable, folders: Iterable[Path], build: Callable
) -> Path:
    """The folder in which `build(folder)` has compiled what is in `folders`."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256(repr((version, *flags)).encode())
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        if path.suffix in (".h", ".cuh", ".cu", ".cpp"):
            digest.update(f"{path.name} ".encode() + path.read_bytes())
    # Without pytest's cache (-p no:cacheprovider) nothing is kept.
    cache = config.cache.mkdir(f"compiled-{name}") if hasattr(config, "cache") else Path(tempfile.mkdtemp())
    folder = cache / digest.hexdigest()
    if not folder.exists():
        made = Path(tempfile.mkdtemp(dir=cache))
        build(made)
        for old in cache.glob("?" * len(folder.name)):
            shutil.rmtree(old, ignore_errors=True)
        with suppress(OSError):  # another process was first
            made.rename(folder)
    return folder
