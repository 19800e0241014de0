"""The Triton kernels compiled ahead of time, with the arguments that kernels/launch.py gives them for packed, aligned rows."""

from __future__ import annotations

from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import fastrealign._core as _core
from fastrealign.kernels import apply, launch, reduce, sums, vjp

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
POINTERS = {"map_ptr": "*fp64", "partial_ptr": "*i64", "low_ptr": "*i64", "high_ptr": "*i64", "bad_ptr": "*i64"}
TERMS = {"reduce moments": _core.TERMS_NONE, "reduce b": _core.TERMS_B}


def source(name: str, dtype: str, out: str, d: int) -> tuple[Any, launch.Tile | None]:
    """The kernel and its tile; name: an operation of gpu_budget.py, vjp, or finish."""
    x, y, terms = DTYPES[dtype], DTYPES[out], TERMS.get(name, _core.TERMS_BC)
    kernel: Any
    tile: launch.Tile | None
    constants: dict[str, Any]
    if name.startswith("apply"):
        kernel, tile = apply.apply_kernel, launch.apply_tile(x, y, d, name != "apply")
        constants = launch.constants(d, terms, tile) | launch.arithmetic(x, y)
        constants |= {"SUMS": name != "apply", "FLAGS": False}
    elif name.startswith("reduce"):
        kernel, tile = reduce.reduce_kernel, launch.reduce_tile(x, d, terms)
        constants = launch.constants(d, terms, tile) | {"FLAGS": False}
    elif name == "vjp":
        kernel, tile = vjp.vjp_kernel, launch.vjp_tile(y, d)
        constants = launch.constants(d, terms, tile)
        del constants["LONG"]
    else:
        kernel, tile, constants = sums.finish_kernel, None, {"D": d, "TERMS": terms, **launch.FINISH}
    kinds = {"x_ptr": f"*{dtype}", "y_ptr": f"*{dtype}", "g_ptr": f"*{dtype}", "out_ptr": f"*{out}", "flags_ptr": "*u8"}
    kinds |= POINTERS
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in kernel.arg_names}
    numbers = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    # What Triton finds out at a launch: pointers and strides are multiples of 16.
    aligned = [
        i for i, name in enumerate(kernel.arg_names) if name.endswith(("_ptr", "_stride")) and name != "flags_ptr"
    ]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    return ASTSource(fn=kernel, signature=signature, constexprs=numbers, attrs=attributes), tile


def compiled(name: str, dtype: str, out: str, d: int, target: GPUTarget) -> Any:
    kernel, tile = source(name, dtype, out, d)
    options = {"num_warps": 1 if tile else 4, "enable_fp_fusion": False}
    if tile and target.backend == "cuda":
        options["maxnreg"] = tile.registers
    return triton.compile(kernel, target=target, options=options)
