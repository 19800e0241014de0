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
pytest.importorskip("torch")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from fastrealign import _core  # noqa: E402
from fastrealign.kernels import apply, launch, reduce, rows, vjp  # noqa: E402

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SIZES = {"fp32": 4, "fp16": 2, "bf16": 2}


def source(name: str, dtype: str, out: str, d: int):
    """The kernel with the arguments that launch.py gives it for packed, aligned rows."""
    tile = launch.reduce_tile(d, SIZES[dtype]) if name == "reduce" else launch.apply_tile(d)
    constants = {"D": d, "ROWS": tile.rows, "BLOCK": tile.block, "TERMS": 2}
    if name == "apply":
        kernel = apply.apply_kernel
        constants |= {"LARGEST_SHIFT": _core.LARGEST_SHIFT_32, "WIDE": False, "SUMS": True, "FLAGS": False}
    elif name == "reduce":
        kernel = reduce.reduce_kernel
        constants |= {"FLAGS": False}
    elif name == "vjp":
        kernel = vjp.vjp_kernel
    else:
        kernel, constants = rows.finish_kernel, {"D": d, "BLOCK": 128}
    kinds = {"x_ptr": f"*{dtype}", "y_ptr": f"*{dtype}", "g_ptr": f"*{dtype}", "out_ptr": f"*{out}", "map_ptr": "*fp64"}
    kinds |= {"partial_ptr": "*i64", "low_ptr": "*i64", "high_ptr": "*i64", "bad_ptr": "*i64", "flags_ptr": "*u8"}
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in kernel.arg_names}
    numbers = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    # What Triton finds out at a launch: pointers and strides are multiples of 16.
    aligned = [
        i for i, name in enumerate(kernel.arg_names) if name.endswith(("_ptr", "_stride")) and name != "flags_ptr"
    ]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    return ASTSource(fn=kernel, signature=signature, constexprs=numbers, attrs=attributes)


def compiled(name: str, dtype: str, out: str, d: int, target: str):
    options = {"num_warps": launch.WARPS, "enable_fp_fusion": False}
    if name == "apply" and TARGETS[target].backend == "cuda":
        options["maxnreg"] = launch.APPLY_REGISTERS
    return triton.compile(source(name, dtype, out, d), target=TARGETS[target], options=options)


def tool(name: str) -> str:
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return str(path) if path.exists() else pytest.skip(f"Triton came without {name}")


CASES = [("apply", "fp32", "fp32"), ("apply", "bf16", "fp16"), ("reduce", "fp32", "fp32"), ("reduce", "bf16", "bf16")]
CASES += [("vjp", "fp32", "fp32"), ("finish", "fp32", "fp32")]


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize(("name", "dtype", "out"), CASES)
def test_no_spills_and_wide_loads(tmp_path, name, dtype, out, target):
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled(name, dtype, out, 768, target).asm["cubin"])
    usage = subprocess.run([tool("cuobjdump"), "-res-usage", str(cubin)], capture_output=True, text=True, check=True)
    report = re.search(r"REG:(\d+) STACK:(\d+).* LOCAL:(\d+)", usage.stdout + usage.stderr)
    assert report is not None, usage.stdout
    registers, stack, local = map(int, report.groups())
    assert stack == local == 0, report.group()
    assert registers <= 255
    if name != "finish":
        sass = subprocess.run(
            [tool("cuobjdump"), "-sass", str(cubin)], capture_output=True, text=True, check=True
        ).stdout
        assert re.search(r"LDG\.E(\.\w+)*\.128", sass), "no load of 16 bytes"


@pytest.mark.parametrize(("name", "dtype", "out"), CASES)
def test_for_amd(name, dtype, out):
    text = compiled(name, dtype, out, 768, "gfx942").asm["amdgcn"]
    spills = [int(count) for count in re.findall(r"\.[sv]gpr_spill_count:\s*(\d+)", text)]
    assert spills and not any(spills)


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 17, 96, 257, 512, 1280, 4096, 16384])
@pytest.mark.parametrize(("name", "dtype", "out"), CASES)
def test_every_width_compiles(name, dtype, out, d):
    assert compiled(name, dtype, out, d, "sm_90").asm["cubin"]
