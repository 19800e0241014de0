"""Builds an extension with CMake: setup.py of the package, and that of the CUDA kernels in csrc/cuda."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

# Where CMakeLists.txt is: the folder of the setup.py that is run.
SOURCE = Path.cwd()


class CMakeBuild(build_ext):
    """Objects stay in build/cmake, so that a later install compiles only what has changed since."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        prefix = target.parents[ext.name.count(".")]
        # Not build_temp, which is temporary in an editable install.
        build = SOURCE / "build" / "cmake" / f"{ext.name}{sysconfig.get_config_var('EXT_SUFFIX')}"
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
                subprocess.run(command, cwd=build, check=True)


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
