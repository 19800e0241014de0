"""Builds the compiled core with CMake; everything else is in pyproject.toml. csrc/cuda is a package of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup

sys.path.insert(0, str(Path(__file__).resolve().parent / "csrc"))
from cmake_build import CMakeBuild, source_folder

with source_folder() as options:
    setup(ext_modules=[Extension("fastrealign._core", sources=[])], cmdclass={"build_ext": CMakeBuild}, options=options)
