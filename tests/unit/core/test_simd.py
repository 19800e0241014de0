"""The compiled kernels are the vector code they are meant to be: scalar code gives the same numbers, many times slower."""

from __future__ import annotations

import platform
import shutil
import subprocess

import pytest

from fastrealign import _core


@pytest.fixture(scope="module")
def assembly():
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("there are AVX kernels on x86 alone")
    if shutil.which("objdump") is None:
        pytest.skip("install binutils for objdump")
    command = ["objdump", "-d", "--no-show-raw-insn", _core.__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize(
    ("what", "instruction", "register"),
    [
        ("AVX2, float64", "vfmadd231pd", "%ymm"),
        ("AVX2, float32", "vfmadd231ps", "%ymm"),
        ("AVX-512, float64", "vfmadd231pd", "%zmm"),
        ("half to single precision", "vcvtph2ps", "%ymm"),
        ("past the cache", "vmovntps", "%ymm"),
        ("prefetching", "prefetcht1", ""),
    ],
)
def test_the_kernels_are_vector_code(assembly, what, instruction, register):
    found = sum(instruction in line and register in line for line in assembly)
    assert found >= 8, what
