"""What nvcc makes of the CUDA kernels, read from the machine code; no GPU is needed.

Registers that do not suffice and accesses narrower than 16 bytes cost a memory-bound kernel its speed and change no
result, so no other test would notice.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import benchmarks
import pytest
from compiled import kept

gpu_budget = benchmarks.module("gpu_budget")

CSRC = Path(__file__).resolve().parents[3] / "csrc"
# As csrc/cuda/CMakeLists.txt compiles them.
FLAGS = ["-std=c++17", "-O3", "-fmad=false"]
USUAL = ("sm_90a",)
OTHERS = ("sm_80", "sm_86", "sm_89", "sm_100", "sm_120")


def _tool(name: str, *places: Path | str | None) -> str | None:
    found = [shutil.which(name), *(Path(place) / name for place in places if place)]
    return next((str(path) for path in found if path and Path(path).exists()), None)


@pytest.fixture(scope="session")
def nvcc() -> str:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return _tool("nvcc", home and Path(home, "bin"), "/usr/local/cuda/bin") or pytest.skip("install nvcc")


@pytest.fixture(scope="session")
def cuobjdump(nvcc) -> str:
    triton = find_spec("triton")
    places = [Path(nvcc).resolve().parent, "/usr/local/cuda/bin"]
    if triton is not None and triton.origin:
        places.append(Path(triton.origin).parent / "backends/nvidia/bin")
    return _tool("cuobjdump", *places) or pytest.skip(
        "install cuobjdump, which comes with CUDA's toolkit and with triton"
    )


@cache
def listing(cuobjdump: str, architecture: str, target: Path) -> str:
    return gpu_budget.listing(cuobjdump, target, architecture)


def _compile(nvcc: str, architectures: tuple[str, ...], config: pytest.Config) -> list[Path]:
    flags = [*FLAGS, f"-gencode=arch=compute_80,code=[{','.join(architectures)}]"]

    def build(folder: Path) -> None:
        def compiled(source: Path) -> None:
            command = [nvcc, *flags, f"-I{CSRC}", "-c", str(source), "-o", str(folder / f"{source.stem}.o")]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr

        # The ones that take longest first.
        sources = sorted((CSRC / "cuda").glob("*.cu"), key=lambda path: path.stat().st_size, reverse=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compiled, sources))

    return sorted(kept(config, f"cuda-{architectures[0]}", nvcc, flags, (CSRC,), build).glob("*.o"))


def _installed(cuobjdump: str, architecture: str) -> Path | None:
    """The module that was installed, if it has code for the architecture and is not older than its sources."""
    module = find_spec("fastrealign_cuda")
    if module is None or module.origin is None:
        return None
    changed = max(path.stat().st_mtime for path in CSRC.rglob("*") if path.suffix in (".h", ".cu", ".cuh"))
    if Path(module.origin).stat().st_mtime < changed:
        return None
    listed = subprocess.run([cuobjdump, "-lelf", module.origin], capture_output=True, text=True, check=True).stdout
    return Path(module.origin) if f".{architecture}.cubin" in listed else None


class Built:
    """The kernels compiled for some architectures: what they use, and machine code by architecture and kernel."""

    def __init__(self, objects: list[Path], architectures: tuple[str, ...]) -> None:
        self.objects, self.architectures = objects, architectures

    def kernels(self, cuobjdump: str) -> Iterator[tuple[str, str, Counter[str]]]:
        """Architecture, mangled name and how often each instruction occurs, for each kernel."""

        pairs = [(architecture, target) for target in self.objects for architecture in self.architectures]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            texts = pool.map(lambda pair: listing(cuobjdump, *pair), pairs)
            for (architecture, _), text in zip(pairs, texts, strict=True):
                for part in text.split("Function : ")[1:]:
                    name, _, body = part.partition("\n")
                    operations = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", body)
                    yield architecture, name.strip(), Counter(operations)


@pytest.fixture(scope="session")
def usual(nvcc, cuobjdump, request) -> Built:
    installed = _installed(cuobjdump, USUAL[0])
    return Built([installed] if installed else _compile(nvcc, USUAL, request.config), USUAL)


@pytest.fixture(scope="session")
def others(nvcc, request) -> Built:
    return Built(_compile(nvcc, OTHERS, request.config), OTHERS)


def check_memory(built: Built, cuobjdump: str) -> None:
    """No kernel keeps anything in local memory: neither a stack nor registers that did not suffice."""
    for architecture in built.architectures:
        used = {}
        for path in built.objects:
            command = [cuobjdump, "-res-usage", f"--gpu-architecture={architecture}", str(path)]
            listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            used |= {name: rest for name, rest in re.findall(r"Function (\S+):\s+(REG:.*)", listed)}
        assert len(used) >= 60
        spilled = {name: rest for name, rest in used.items() if not re.search(r"STACK:0 .*LOCAL:0 ", rest)}
        assert not spilled, architecture


def check_machine_code(built: Built, cuobjdump: str) -> None:
    seen = Counter()
    for architecture, name, code in built.kernels(cuobjdump):
        kernel = f"{architecture}: {name}"
        assert not [operation for operation in code if operation.startswith(("LDL", "STL"))], kernel
        # (apply|reduce|vjp)_rows<In[, Out], C, V, R, ...>: a thread reads V packs of C elements of each of R rows.
        match = re.search(r"(apply|reduce|vjp)_rowsI(f|NS_4Half|NS_6BFloat)\S*?Li(\d+)ELi(\d+)ELi(\d+)E", name)
        if match is None:
            continue  # the kernels of single elements, and of a map
        seen[architecture] += 1
        chunk, packs, rows = map(int, match.groups()[2:])
        read = chunk * (4 if match[2] == "f" else 2)
        mixed = "Any32Or16" in name
        assert read == 16 or mixed, kernel
        loads = sum(n for op, n in code.items() if op.startswith("LDG") and f".{8 * read}" in op)
        assert loads >= packs * rows * (2 if match[1] == "vjp" else 1), (kernel, code)
        if match[1] != "reduce":
            stores = sum(n for op, n in code.items() if op.startswith("STG") and ".128" in op)
            assert stores >= packs * rows, (kernel, code)
    assert all(seen[architecture] >= 55 for architecture in built.architectures), seen


def test_nothing_is_spilled(usual, cuobjdump):
    check_memory(usual, cuobjdump)


def test_rows_move_in_packs_of_16_bytes(usual, cuobjdump):
    check_machine_code(usual, cuobjdump)


def test_no_main_loop_takes_more_than_before(usual, nvcc, cuobjdump):
    """bench/results/gpu-budget.json has the counts; after a change that is meant, bench.gpu_budget --json writes it."""
    compilers, committed = gpu_budget.load()
    if compilers["nvcc"] != gpu_budget.nvcc_version(nvcc):
        pytest.skip(f"the counts are of nvcc {compilers['nvcc']}, this is {gpu_budget.nvcc_version(nvcc)}")
    counts = {}
    for path in usual.objects:
        registers = gpu_budget.registers_of(cuobjdump, path, USUAL[0])
        counts |= gpu_budget.cuda_counts(listing(cuobjdump, USUAL[0], path), registers, USUAL[0])
    assert counts.keys() == {name for name in committed if name.startswith(f"cuda {USUAL[0]} ")}
    assert gpu_budget.grown(counts, committed) == []


@pytest.mark.slow
def test_nothing_is_spilled_on_other_architectures(others, cuobjdump):
    check_memory(others, cuobjdump)
    check_machine_code(others, cuobjdump)


def test_the_module_loads_without_a_driver():
    cuda = pytest.importorskip("fastrealign_cuda", reason="pip install ./csrc/cuda")
    assert cuda.device_count() >= 0
    assert set(cuda.built_for) <= {80, 86, 89, 90, 100, 120}
    none, launch = (0, 0, 0, 0), (0, 0, 0, 0)
    with pytest.raises(ValueError, match="element type"):
        cuda.apply((64, 4, 2, 3, 12), (64, 0, 2, 3, 12), (0, 2), none, launch)
    with pytest.raises(ValueError, match="aligned to their element size"):
        cuda.apply((65, 0, 2, 3, 12), (64, 0, 2, 3, 12), (0, 2), none, launch)
    with pytest.raises(ValueError, match="differ in shape"):
        cuda.apply((64, 0, 2, 3, 12), (64, 0, 2, 4, 16), (0, 2), none, launch)
    with pytest.raises(ValueError, match="columns"):
        cuda.apply((64, 0, 2, 0, 12), (64, 0, 2, 0, 12), (0, 2), none, launch)
    with pytest.raises(ValueError, match="sums"):
        cuda.reduce((64, 0, 2, 3, 12), (0, 2), none, launch)
    with pytest.raises(ValueError, match="terms"):
        cuda.vjp((64, 0, 2, 3, 12), (64, 0, 2, 3, 12), (64, 0, 2, 3, 12), (0, 3), launch)
    if cuda.device_count() == 0:
        with pytest.raises(RuntimeError, match="CUDA: "):
            cuda.apply((64, 0, 2, 3, 12), (64, 0, 2, 3, 12), (0, 2), none, launch)
