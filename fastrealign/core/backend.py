"""Chooses the backend: the one given by name, else that of FASTREALIGN_BACKEND, else the fastest that can run.

    cuda        csrc/cuda; rows on an NVIDIA GPU
    triton      kernels/; rows on a GPU, NVIDIA's or AMD's (with TRITON_INTERPRET=1: on the CPU, for tests)
    cpu         csrc/cpu; rows in memory
    reference   reference.py; rows in memory, float64 NumPy, for comparison

Rows are never moved between devices. A backend given by name that cannot run is an error; no other one takes its place.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec

import fastrealign._core as _core
from fastrealign.core.errors import InputError

VARIABLE = "FASTREALIGN_BACKEND"
OLDEST_TRITON = (3, 4)
# Types of devices that some backend computes on; torch calls AMD's GPUs cuda, too.
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Choice:
    """A backend and the reason why it was chosen."""

    name: str
    why: str


def choose(device: str = "cpu", index: int = 0, asked: str | None = None) -> Choice:
    """The backend for rows on a device.

    Parameters
    ----------
    device, index : str, int
        Type of the device ("cpu", "cuda", ...) and its index.
    asked : str, optional
        Name of the backend to use.

    Returns
    -------
    Choice

    Raises
    ------
    InputError
        There is no such backend, or it cannot run on that device; the message says why.

    Examples
    --------
    >>> choose("cpu", asked="reference").name
    'reference'
    """
    # Every call asks. Devices and libraries stay as they are while a process runs; the environment may change.
    return _chosen(device, index, asked, _core.environment(VARIABLE), _core.environment("TRITON_INTERPRET"))


@lru_cache
def _chosen(device: str, index: int, asked: str | None, variable: str, interpreted: str) -> Choice:
    """`choose`, for these values of the environment; errors are not kept."""
    by = f"backend={asked!r}" if asked else f"{VARIABLE}={variable}"
    name = asked or variable
    if name:
        if name not in _OBSTACLES:
            raise InputError(f"{by}: expected one of {', '.join(_OBSTACLES)}")
        obstacle = _OBSTACLES[name](device, index)
        if obstacle:
            raise InputError(f"{by} cannot run: {obstacle}")
        return Choice(name, f"asked for by {by}")
    obstacles: list[str] = []
    for name, obstacle_of in _OBSTACLES.items():
        obstacle = obstacle_of(device, index)
        if obstacle is None:
            return Choice(name, "; ".join(["the best that can run", *obstacles]))
        obstacles.append(f"not {name}: {obstacle}")
    if device not in DEVICES:
        raise InputError(f"rows on {device}:{index}, expected the CPU or a GPU of NVIDIA or AMD; move them with .cpu()")
    raise InputError(f"rows on {device}:{index}: no backend can run; {'; '.join(obstacles)}")


def _no_cuda(device: str, index: int) -> str | None:
    if device != "cuda":
        return f"the rows are on the {device.upper()}, not on a GPU"
    import torch

    if torch.version.hip:
        return "the GPU is AMD's"
    try:
        cuda = import_module("fastrealign_cuda")
    except ImportError:
        return "the CUDA kernels are not installed (pip install 'fastrealign[cuda]', or ./csrc/cuda of the source)"
    if any(getattr(_core, name, None) != value for name, value in cuda.CONSTANTS.items()):
        return "the CUDA kernels and the core were built from different sources; install both again"
    if not cuda.can_run(index):
        built = ", ".join(f"sm_{code}" for code in cuda.built_for)
        major, minor = torch.cuda.get_device_capability(index)
        return (
            f"the device is sm_{major}{minor}, the kernels were built for {built}; set FASTREALIGN_CUDA_ARCHITECTURES"
        )
    return None


def _no_triton(device: str, index: int) -> str | None:
    # Checked first: importing Triton is slow, and every call with rows in memory gets here.
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
