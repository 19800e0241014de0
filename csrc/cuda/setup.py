"""Builds the module fastrealign_cuda. Its sources share headers with the CPU core; a source distribution carries copies."""

import re
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
# Where this is part of the project; in a source distribution all of it lies in `headers`.
PROJECT = HERE.parents[1] if (HERE.parent / "row_map.h").exists() else None
VERSION = PROJECT / "fastrealign/core/version.py" if PROJECT else HERE / "headers/version.py"

sys.path.insert(0, str(HERE.parent if PROJECT else HERE / "headers"))
from cmake_build import CMakeBuild, source_folder  # noqa: E402


class SourceDistribution(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        if PROJECT:
            headers = Path(base_dir) / "headers"
            headers.mkdir(exist_ok=True)
            for path in [*(PROJECT / "csrc").glob("*.h"), PROJECT / "csrc/cmake_build.py", VERSION]:
                shutil.copy(path, headers)
            shutil.copy(PROJECT / "LICENSE", base_dir)


with source_folder() as options:
    setup(
        version=re.search(r'__version__ = "(.+)"', VERSION.read_text())[1],
        packages=[],
        py_modules=[],
        ext_modules=[Extension("fastrealign_cuda", sources=[])],
        cmdclass={"build_ext": CMakeBuild, "sdist": SourceDistribution},
        options=options,
    )
