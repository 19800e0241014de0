"""Which implementation does the work: one asked for by name, else the environment's FASTREALIGN_BACKEND, else the best.

    cuda        csrc/cuda; rows on an NVIDIA GPU
    triton      kernels/; rows on a GPU, NVIDIA's or AMD's (with TRITON_INTERPRET=1: on the CPU, for tests)
    cpu         csrc/cpu; rows in memory
    reference   reference.py; rows in memory, float64 NumPy, to compare with

Rows are not moved between devices. A backend that was asked for by name and cannot run is an error, never replaced.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec

from fastrealign.core.errors import InputError

VARIABLE = "FASTREALIGN_BACKEND"
OLDEST_TRITON = (3, 4)


@dataclass(frozen=True)
class Choice:
    """A backend and the reason why it was chosen."""

    name: str
    why: str


def choose(device: str = "cpu", index: int = 0, asked: str | None = None) -> Choice:
    """The backend for rows on `device` ("cpu", "cuda", …; `index` of it). Raises InputError if there is none."""
    by = f"backend={asked!r}" if asked else f"{VARIABLE}={os.environ.get(VARIABLE)}"
    name = asked or os.environ.get(VARIABLE) or None
    if name is not None:
        if name not in _OBSTACLES:
            raise InputError(f"{by}: expected one of {', '.join(_OBSTACLES)}")
        obstacle = _OBSTACLES[name](device, index)
        if obstacle:
            raise InputError(f"{by} cannot run: {obstacle}")
        return Choice(name, f"asked for by {by}")
    obstacles = []
    for name, obstacle_of in _OBSTACLES.items():
        obstacle = obstacle_of(device, index)
        if obstacle is None:
            return Choice(name, "; ".join(["the best that can run", *obstacles]))
        obstacles.append(f"not {name}: {obstacle}")
    raise InputError(f"rows on {device}:{index}: no backend can run; {'; '.join(obstacles)}")


def _no_cuda(device: str, index: int) -> str | None:
    if device != "cuda":
        return f"the rows are on the {device.upper()}, not on a GPU"
    import torch

    if torch.version.hip:
        return "the GPU is AMD's"
    try:
        from fastrealign import _cuda
    except ImportError:
        return (
            "fastrealign was built without CUDA; build it again where nvcc is (FASTREALIGN_CUDA=1 says what is missing)"
        )
    if not _cuda.can_run(index):
        built = ", ".join(f"sm_{code}" for code in _cuda.built_for)
        major, minor = torch.cuda.get_device_capability(index)
        return (
            f"the device is sm_{major}{minor}, the kernels were built for {built}; set FASTREALIGN_CUDA_ARCHITECTURES"
        )
    return None


def _no_triton(device: str, index: int) -> str | None:
    # First, since it costs nothing: importing Triton takes long, and rows in memory come this way at every call.
    if device != "cuda" and os.environ.get("TRITON_INTERPRET", "0") in ("", "0"):
        return f"the rows are on the {device.upper()}, not on a GPU"
    if find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    import triton

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version < OLDEST_TRITON:
        return f"Triton {triton.__version__} is older than {'.'.join(map(str, OLDEST_TRITON))}"
    return None


def _no_cpu(device: str, index: int) -> str | None:
    if device != "cpu":
        return f"the rows are on {device}:{index}; move them with .cpu()"
    return None


_OBSTACLES = {"cuda": _no_cuda, "triton": _no_triton, "cpu": _no_cpu, "reference": _no_cpu}
