"""Builds an extension with CMake: setup.py of the package, and that of the CUDA kernels in csrc/cuda."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from setuptools import Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# Where CMakeLists.txt is: the folder of the setup.py that is run.
SOURCE = Path.cwd()


class CMakeBuild(build_ext):
    """Objects stay in build/cmake, so that a later install compiles only what has changed since."""

    def run(self) -> None:
        if self.inplace and not os.access(SOURCE, os.W_OK):  # an editable install, too
            raise CompileError(
                f"an editable install puts compiled code into the source, and {SOURCE} cannot be written: install without -e"
            )
        super().run()

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        prefix = target.parents[ext.name.count(".")]
        # Not build_temp, which is temporary in an editable install.
        base = self.get_finalized_command("build").build_base
        build = SOURCE / base / "cmake" / f"{ext.name}{sysconfig.get_config_var('EXT_SUFFIX')}"
        build.mkdir(parents=True, exist_ok=True)
        # An isolated build has its tools in a temporary folder, which a cache from an earlier build would still refer to.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        configure = [
            "cmake",
            str(SOURCE),
            f"-DCMAKE_INSTALL_PREFIX={prefix}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]
        if shutil.which("ninja"):
            configure += ["-G", "Ninja"]
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        with Progress(f"compiling {ext.name}"):
            for command in (configure, ["cmake", "--build", ".", "-j", jobs], ["cmake", "--install", ".", "--strip"]):
                try:
                    subprocess.run(command, cwd=build, check=True)
                except (FileNotFoundError, subprocess.CalledProcessError) as error:
                    # setuptools prints errors of this type in one line, without a traceback.
                    raise CompileError(missing(ext.name) or f"{error}; the lines above say why") from None


def missing(extension: str) -> str | None:
    """The program without which nothing compiles, and how to get it."""
    if not shutil.which("cmake"):
        return "CMake is not installed: pip install cmake"
    for variable, names, advice in COMPILERS:
        if variable == "CUDACXX" and "cuda" not in extension:
            continue
        named = os.environ.get(variable, "").strip()
        if named and not shutil.which(named.split()[0]):
            return f"{variable}={named} names no program: unset {variable}, or let it name a compiler"
        if not named and not any(shutil.which(name) for name in names):
            return advice
    return None


COMPILERS = (
    (
        "CXX",
        ("c++", "g++", "clang++"),
        "no C++ compiler found: install GCC or Clang (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; "
        "macOS: xcode-select --install), or name one in CXX",
    ),
    (
        "CUDACXX",
        ("nvcc",),
        "no nvcc found: install the CUDA toolkit, 12.0 or newer, and put its bin folder on PATH; Triton needs no build",
    ),
)


@contextmanager
def source_folder() -> Iterator[dict[str, dict[str, str]]]:
    """Options of setuptools for the folder it builds in, which is held: what one build writes there another would remove.

    From a folder that cannot be written, everything is built in a temporary one.
    """
    lock = _lock_file()
    if lock is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield {"egg_info": {"egg_base": temporary}, "build": {"build_base": temporary}}
        return
    with lock:
        # Windows has no fcntl, and some network file systems have no locks.
        with Progress("waiting for another build in this folder"), suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield {}


def _lock_file() -> IO[str] | None:
    """None where the folder of the source, or of builds in it, cannot be written."""
    if not os.access(SOURCE, os.W_OK):
        return None
    try:
        (SOURCE / "build").mkdir(exist_ok=True)
        return open(SOURCE / "build/lock", "w")
    except OSError:
        return None


class Progress:
    """Prints how long something has taken, every few seconds: pip's spinner turns once for each line that a build prints."""

    def __init__(self, what: str, every: float = 2.0) -> None:
        self._what, self._every, self._started, self._done = what, every, time.monotonic(), threading.Event()

    def __enter__(self) -> None:
        self._printing = threading.Thread(target=self._print, daemon=True)
        self._printing.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._printing.join()

    def _print(self) -> None:
        while not self._done.wait(self._every):
            print(f"{self._what}: {time.monotonic() - self._started:.0f} s", flush=True)
