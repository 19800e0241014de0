"""How the compiled modules are built."""

from __future__ import annotations

import errno
import importlib.util
import json
import re
import shutil
import subprocess
import tarfile
import threading
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


@pytest.fixture
def build(cmake_build, tmp_path, monkeypatch):
    """Builds a module of one function into a folder."""
    pytest.importorskip("pybind11")
    from setuptools import Extension
    from setuptools.dist import Distribution

    monkeypatch.setattr(cmake_build, "SOURCE", tmp_path)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(small LANGUAGES CXX)\nadd_library(small MODULE small.cpp)\n"
        "install(TARGETS small LIBRARY DESTINATION .)\n"
    )
    (tmp_path / "small.cpp").write_text("int one() { return 1; }\n")

    def build(folder, inplace=False):
        command = cmake_build.CMakeBuild(Distribution({"ext_modules": [Extension("small", [])]}))
        command.build_lib, command.build_temp = str(tmp_path / folder), str(tmp_path / f"temp-{folder}")
        command.inplace = inplace
        command.ensure_finalized()
        command.run()
        assert list((tmp_path / folder).glob("*small*"))

    return build


def test_a_second_build_compiles_nothing(build, capfd):
    """Also where setuptools builds in a temporary folder, as in an editable install."""
    printed = []
    for folder in ("first", "second"):
        build(folder)
        printed.append(capfd.readouterr().out)
    assert "Building CXX" in printed[0] and "Building CXX" not in printed[1]


@pytest.mark.slow
@pytest.mark.parametrize("folder", [".", "csrc/cuda"])
def test_kernels_do_not_depend_on_where_pip_put_pybind11(folder, tmp_path):
    """pip builds in a new temporary folder each time; an object whose command names it would be compiled again."""
    pybind11 = pytest.importorskip("pybind11")
    if folder != "." and not shutil.which("nvcc"):
        pytest.skip("no nvcc")
    found = f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"
    command = ["cmake", str(ROOT / folder), found, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    dependent = set()
    for one in commands:
        options = re.findall(r"--options-file (\S+)", one["command"])  # Makefiles give nvcc its folders in a file
        text = one["command"] + "".join((tmp_path / file).read_text() for file in options)
        dependent |= {Path(one["file"]).name} if "pybind11" in text else set()
    assert len(commands) > 5 and dependent <= {"bindings.cpp", "dispatch.cpp"}


def test_an_editable_install_into_a_folder_that_cannot_be_written_says_so_at_once(build, cmake_build, monkeypatch):
    monkeypatch.setattr(cmake_build.os, "access", lambda path, mode: False)
    with pytest.raises(cmake_build.CompileError, match="cannot be written: install without -e"):
        build("out", inplace=True)


def test_what_is_missing_is_named_with_the_way_to_get_it(build, cmake_build, tmp_path, monkeypatch):
    """In an error that setuptools prints as one line: no traceback."""
    from setuptools.errors import CompileError

    (tmp_path / "bin").mkdir()
    for tool in ("cmake", "ninja"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or pytest.skip(f"no {tool}"))
    monkeypatch.delenv("CXX", raising=False)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "bin"))
        with pytest.raises(CompileError, match=r"no C\+\+ compiler found: install .* apt install g\+\+"):
            build("no_compiler")
        assert cmake_build.missing("fastrealign_cuda").startswith("no C++ compiler found")
        (tmp_path / "bin/c++").symlink_to("/bin/false")
        assert cmake_build.missing("fastrealign_cuda").startswith("no nvcc found: install the CUDA toolkit")
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(CompileError, match="pip install cmake"):
            build("no_cmake")
    with monkeypatch.context() as patch:
        patch.setenv("CXX", "nonsense -O2")
        with pytest.raises(CompileError, match="CXX=nonsense -O2 names no program: unset CXX"):
            build("no_such_compiler")
        patch.setenv("CXX", " ")
        patch.setenv("CUDACXX", "nonsense")
        assert cmake_build.missing("fastrealign._core") is None
        assert cmake_build.missing("fastrealign_cuda").startswith("CUDACXX=nonsense names no program")
    (tmp_path / "small.cpp").write_text("int one( {\n")
    with pytest.raises(CompileError, match="the lines above say why"):
        build("faulty")


def test_builds_of_one_folder_wait_for_each_other(cmake_build, tmp_path, monkeypatch):
    """pip builds in the source folder, and setuptools removes parts of `build/` as it ends."""
    pytest.importorskip("fcntl")
    monkeypatch.setattr(cmake_build, "SOURCE", tmp_path)
    events = []

    def second():
        with cmake_build.source_folder():
            events.append("second")

    other = threading.Thread(target=second)
    with cmake_build.source_folder() as options:
        assert options == {}
        other.start()
        time.sleep(0.3)
        events.append("first")
    other.join(30)
    assert events == ["first", "second"]


def test_a_build_on_a_file_system_without_locks(cmake_build, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refused(file, how):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(cmake_build, "SOURCE", tmp_path)
    monkeypatch.setattr(fcntl, "flock", refused)
    with cmake_build.source_folder() as options:
        assert options == {}


@pytest.mark.parametrize("what", ["the source", "its folder of builds"])
def test_a_folder_that_cannot_be_written_is_built_elsewhere(cmake_build, tmp_path, monkeypatch, what):
    monkeypatch.setattr(cmake_build, "SOURCE", tmp_path)
    if what == "the source":
        monkeypatch.setattr(cmake_build.os, "access", lambda path, mode: path != tmp_path)
    else:
        (tmp_path / "build/lock").mkdir(parents=True)  # as a file that cannot be opened
    before = sorted(tmp_path.rglob("*"))
    with cmake_build.source_folder() as options:
        elsewhere = {Path(folder) for group in options.values() for folder in group.values()}
        assert len(elsewhere) == 1 and elsewhere.pop().is_dir()
        assert options.keys() == {"egg_info", "build"}
    assert sorted(tmp_path.rglob("*")) == before


def test_the_source_distribution_of_the_cuda_package_can_be_built(tmp_path, monkeypatch):
    """It carries what it shares with the package."""
    pytest.importorskip("setuptools", minversion="77")  # as the package asks for
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
