"""Builds the module fastrealign_cuda. Its sources share headers with the CPU core; a source distribution carries copies."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
# Where this is part of the project; in a source distribution all of it lies in `headers`.
PROJECT = HERE.parents[1] if (HERE.parent / "row_map.h").exists() else None
VERSION = PROJECT / "fastrealign/core/version.py" if PROJECT else HERE / "headers/version.py"


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        # An isolated build has its tools in a temporary folder, which a cache from an earlier build would still refer to.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        configure = [
            "cmake",
            str(HERE),
            f"-DCMAKE_INSTALL_PREFIX={target}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]
        if shutil.which("ninja"):
            configure += ["-G", "Ninja"]
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        for command in (configure, ["cmake", "--build", ".", "-j", jobs], ["cmake", "--install", "."]):
            subprocess.run(command, cwd=build, check=True)


class SourceDistribution(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        if PROJECT:
            headers = Path(base_dir) / "headers"
            headers.mkdir(exist_ok=True)
            for path in [*(PROJECT / "csrc").glob("*.h"), VERSION]:
                shutil.copy(path, headers)
            shutil.copy(PROJECT / "LICENSE", base_dir)


setup(
    version=re.search(r'__version__ = "(.+)"', VERSION.read_text())[1],
    packages=[],
    py_modules=[],
    ext_modules=[Extension("fastrealign_cuda", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "sdist": SourceDistribution},
)
