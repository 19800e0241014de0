"""The Triton kernels compiled ahead of time for NVIDIA's and AMD's GPUs, and what the compilers report; no GPU is needed.

Registers that do not suffice, and accesses narrower than 16 bytes, cost a memory-bound kernel its speed and change no
result, so no other test would notice.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
torch = pytest.importorskip("torch")

import benchmarks  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402

if not hasattr(triton, "knobs"):
    pytest.skip("this release of Triton compiles by other arguments, such as 3.2", allow_module_level=True)

from fastrealign.kernels import launch, reduce, sums  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_garbage_collection")
gpu_budget, triton_code = map(benchmarks.module, ("gpu_budget", "triton_code"))
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


def compiled(name: str, dtype: str, out: str, d: int, target: str):
    return triton_code.compiled(name, dtype, out, d, TARGETS[target])


def tool(name: str) -> str:
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return str(path) if path.exists() else pytest.skip(f"Triton came without {name}")


CASES = [("apply", "fp32", "fp32"), ("apply", "bf16", "bf16"), ("apply with sums", "fp32", "fp32")]
CASES += [("apply with sums", "bf16", "fp16"), ("reduce moments", "fp32", "fp32")]
CASES += [("reduce moments", "bf16", "bf16"), ("reduce b and c", "fp32", "fp32"), ("reduce b and c", "bf16", "bf16")]
CASES += [("vjp", "fp32", "fp32"), ("finish", "fp32", "fp32")]


def hot_loops(sass: str) -> list[list[str]]:
    """The instructions of each innermost loop that loads 16 bytes and multiplies."""
    found = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;", sass, re.MULTILINE)
    code = [(int(address, 16), text) for address, text in found]
    back = [(int(text.split("0x")[-1], 16), here) for here, text in code if text.startswith("BRA") and "0x" in text]
    loops = [(first, last) for first, last in back if first < last]
    inner = [(a, b) for a, b in loops if not any((a, b) != (c, d) and a <= c and d <= b for c, d in loops)]
    bodies = [[text for here, text in code if first <= here <= last] for first, last in inner]
    return [body for body in bodies if any(re.match(r"LDG.*\.128", text) for text in body) and fused(body) >= 16]


def fused(body: list[str]) -> int:
    return sum(text.startswith(("DFMA", "FFMA")) for text in body)


# The other architectures at night, as test_compile.py has it for the CUDA kernels.
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("sm_80", "sm_100")]


@pytest.mark.parametrize("target", ["sm_90", *OTHERS])
@pytest.mark.parametrize(("name", "dtype", "out"), CASES)
def test_no_spills_and_wide_loads(tmp_path, name, dtype, out, target):
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled(name, dtype, out, 768, target).asm["cubin"])
    usage = subprocess.run([tool("cuobjdump"), "-res-usage", str(cubin)], capture_output=True, text=True, check=True)
    report = re.search(r"STACK:(\d+).* LOCAL:(\d+)", usage.stdout + usage.stderr)
    assert report is not None, usage.stdout
    # Some registers a tile may be spilled, none for each element.
    assert int(report[1]) <= (0 if name == "finish" else 64) and report[2] == "0", report.group()
    if name == "finish":
        return
    loops = hot_loops(
        subprocess.run([tool("cuobjdump"), "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
    )
    assert loops and not any(text.startswith(("LDL", "STL")) for body in loops for text in body)


@pytest.mark.parametrize(
    ("name", "dtype"), [case[:2] for case in CASES if case[0] in gpu_budget.OPS and case[1] == case[2]]
)
def test_no_loop_takes_more_than_before(name, dtype):
    """bench/results/gpu-budget.json has the counts; after a change that is meant, bench.gpu_budget --json writes it."""
    compilers, committed = gpu_budget.load()
    if compilers["triton"] != triton.__version__:
        pytest.skip(f"the counts are of Triton {compilers['triton']}, this is {triton.__version__}")
    counts = gpu_budget.triton_counts(tool("cuobjdump"), name, dtype, 768, "sm_90")
    assert gpu_budget.grown({gpu_budget.key("triton", "sm_90", name, dtype, 768): counts}, committed) == []


# The cases that take most registers; the others are slow.
FOR_AMD = (("apply with sums", "bf16", "fp16"), ("reduce b and c", "fp32", "fp32"), ("vjp", "fp32", "fp32"))


@pytest.mark.parametrize(
    ("name", "dtype", "out"),
    [pytest.param(*case, marks=[] if case in FOR_AMD else [pytest.mark.slow]) for case in CASES],
)
def test_for_amd(name, dtype, out):
    text = compiled(name, dtype, out, 768, "gfx942").asm["amdgcn"]
    # Scalar registers are spilled to vector registers, those to memory.
    spills = [int(count) for count in re.findall(r"\.vgpr_spill_count:\s*(\d+)", text)]
    assert spills and not any(spills)


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 17, 96, 257, 512, 1280, 4096, 16384])
@pytest.mark.parametrize(("name", "dtype", "out"), CASES)
def test_every_width_compiles(name, dtype, out, d):
    assert compiled(name, dtype, out, d, "sm_90").asm["cubin"]


def test_sums_are_fused():
    """One fused multiply-add rounds an entry to steps; the interpreter, whose own rounds twice, takes another way."""
    text = compiled("apply with sums", "bf16", "bf16", 64, "sm_90").asm["ptx"]
    scale = "0d3FF0000000000001"  # 1 + 2^-52
    assert re.search(rf"fma\.rn\.f64[^;]*{scale}", text) and not re.search(rf"mul\.rn\.f64[^;]*{scale}", text)


class Driver:
    """What Triton asks of a GPU in order to compile for it."""

    def get_current_target(self):
        return TARGETS["sm_90"]

    def get_current_device(self):
        return 99  # kernels compiled for it are kept, and no real device must get them

    def get_current_stream(self, device):
        return 0


def test_row_counts_share_one_compiled_kernel():
    """By default Triton compiles again for a number that is 1, and for multiples of 16."""
    from triton.runtime import driver

    before = dict(vars(driver))
    driver.set_active(Driver())
    try:
        tile, f32, i64 = launch.reduce_tile(torch.float32, 64, 0), torch.float32, torch.int64
        constants = launch.constants(64, 0, tile) | {"FLAGS": False, "num_warps": 1}
        rows = [
            reduce.reduce_kernel.warmup(f32, torch.float64, i64, i64, i64, n, 64, first, **constants, grid=(1,))
            for n, first in ((1, 0), (16, 1), (1000, 16), (77, 77))
        ]
        ends = [
            sums.finish_kernel.warmup(i64, torch.float64, i64, i64, n, D=64, TERMS=0, **launch.FINISH, grid=(1,))
            for n in (1, 16, 9)
        ]
    finally:
        vars(driver).update(before)
    assert rows[0] is not ends[0] and set(map(id, rows)) == {id(rows[0])} and set(map(id, ends)) == {id(ends[0])}
