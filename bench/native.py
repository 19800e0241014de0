"""C++ of the bench: compiled with the system's compiler when it is wanted, for the machine that it runs on."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from bench.common import CannotBenchmark, command

INTEGER, POINTER, SIZE = ctypes.c_int, ctypes.c_void_p, ctypes.c_int64
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-pthread")


def compiler() -> str:
    """$CXX, or the first of c++, g++, clang++ that exists. Raises CannotBenchmark if there is none."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            return name
    raise CannotBenchmark("no C++ compiler (c++, g++, clang++): the ceilings are compiled code; install one or set CXX")


@cache
def compiled(name: str, *flags: str) -> ctypes.CDLL:
    """bench/`name` with FLAGS and `flags`."""
    with tempfile.TemporaryDirectory() as folder:
        code, built = str(Path(folder, "code.o")), str(Path(folder, "built.so"))
        command(
            [compiler(), *FLAGS, *flags, "-c", str(Path(__file__).with_name(name)), "-o", code], f"compiling {name}"
        )
        # Linked without `flags`: a library linked with -ffast-math flushes subnormal numbers of the process that loads it.
        command([compiler(), "-shared", "-pthread", code, "-o", built], f"linking {name}")
        return ctypes.CDLL(built)
