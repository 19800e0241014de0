"""Builds the compiled core with CMake; everything else is in pyproject.toml. csrc/cuda is a package of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / ext.name
        build.mkdir(parents=True, exist_ok=True)
        # An isolated build has its tools in a temporary folder, which a cache from an earlier build would still refer to.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        configure = [
            "cmake",
            str(ROOT),
            f"-DCMAKE_INSTALL_PREFIX={target.parent.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]
        if shutil.which("ninja"):
            configure += ["-G", "Ninja"]
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        for command in (configure, ["cmake", "--build", ".", "-j", jobs], ["cmake", "--install", "."]):
            subprocess.run(command, cwd=build, check=True)


setup(ext_modules=[Extension("fastrealign._core", sources=[])], cmdclass={"build_ext": CMakeBuild})
