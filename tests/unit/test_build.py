"""How the compiled modules are built."""

from __future__ import annotations

import importlib.util
import re
import shutil
import tarfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "csrc/cmake_build.py").exists(), reason="not in a source tree")


@pytest.fixture
def cmake_build():
    pytest.importorskip("setuptools")
    spec = importlib.util.spec_from_file_location("cmake_build", ROOT / "csrc/cmake_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_long_step_is_never_silent(cmake_build, capfd):
    with cmake_build.Progress("compiling x", every=0.05):
        time.sleep(0.4)
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) >= 2 and all(line.startswith("compiling x: ") for line in lines)
    time.sleep(0.2)
    assert capfd.readouterr().out == ""


def test_a_second_build_compiles_nothing(cmake_build, tmp_path, monkeypatch, capfd):
    """Also where setuptools builds in a temporary folder, as in an editable install."""
    pytest.importorskip("pybind11")
    from setuptools import Extension
    from setuptools.dist import Distribution

    monkeypatch.setattr(cmake_build, "SOURCE", tmp_path)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(small LANGUAGES CXX)\nadd_library(small MODULE small.cpp)\n"
        "install(TARGETS small LIBRARY DESTINATION .)\n"
    )
    (tmp_path / "small.cpp").write_text("int one() { return 1; }\n")
    printed = []
    for temporary in ("first", "second"):
        command = cmake_build.CMakeBuild(Distribution({"ext_modules": [Extension("small", [])]}))
        command.build_lib, command.build_temp = str(tmp_path / temporary), str(tmp_path / f"temp-{temporary}")
        command.ensure_finalized()
        command.run()
        assert list((tmp_path / temporary).glob("*small*"))
        printed.append(capfd.readouterr().out)
    assert "Building CXX" in printed[0] and "Building CXX" not in printed[1]


def test_the_source_distribution_of_the_cuda_package_can_be_built(tmp_path, monkeypatch):
    """It carries what it shares with the package."""
    meta = pytest.importorskip("setuptools.build_meta")
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    (tmp_path / "fastrealign/core").mkdir(parents=True)
    for name in ("fastrealign/core/version.py", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path / "csrc/cuda")
    with tarfile.open(tmp_path / meta.build_sdist(str(tmp_path))) as archive:
        names = {Path(name).name for name in archive.getnames()}
        assert {"cmake_build.py", "row_map.h", "version.py", "setup.py", "CMakeLists.txt"} <= names


# Of the standard library, what the sources use and more headers than the one named here may or may not bring.
DECLARED_IN = {
    "algorithm": "all_of any_of clamp copy fill fill_n max min sort",
    "atomic": "atomic",
    "cmath": "fma isfinite isinf isnan ldexp sqrt",
    "cstdlib": "getenv",
    "cstring": "memcpy memset",
    "memory": "make_unique shared_ptr unique_ptr",
    "mutex": "lock_guard mutex",
    "optional": "nullopt optional",
    "stdexcept": "invalid_argument out_of_range runtime_error",
    "string": "string to_string",
    "system_error": "system_error",
    "thread": "thread",
    "tuple": "tie tuple",
    "type_traits": "conditional_t enable_if_t is_same_v",
    "utility": "exchange move pair swap",
    "vector": "vector",
}


def _included(path: Path, seen: set[Path]) -> set[str]:
    """The standard headers that a source names, itself or in the project's own headers."""
    seen.add(path)
    text = path.read_text()
    names = set(re.findall(r"#include <(\w+)>", text))
    for own in re.findall(r'#include "([\w./]+)"', text):
        for base in (path.parent, ROOT / "csrc"):
            if (base / own).exists() and base / own not in seen:
                names |= _included(base / own, seen)
    return names


def test_sources_include_what_they_use():
    """A compiler whose headers include fewer others (GCC 16) refuses a source that relies on one that another includes."""
    missing = []
    for path in sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cpp", ".cu")):
        if "build" in path.relative_to(ROOT).parts:  # what a compiler wrote
            continue
        code, headers = re.sub(r"//.*", "", path.read_text()), _included(path, set())
        for header, names in DECLARED_IN.items():
            used = [name for name in names.split() if re.search(rf"std::{name}\b", code)]
            if used and header not in headers:
                missing.append(f"{path.relative_to(ROOT)}: std::{used[0]} without <{header}>")
    assert missing == []
