"""python -m bench.gpu_budget [--json FILE] [--counts FILE] [--objects FILE ...]: what the GPU kernels' machine code allows.

No GPU is needed: the CUDA kernels are compiled by nvcc (--objects: taken from a build) and the Triton kernels ahead of
time; the instructions of each main loop are counted, and the share of memory speed that the tightest limit leaves is
predicted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench import sass
from bench.common import CannotBenchmark

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "bench" / "results" / "gpu-budget.json"
OPS = ("apply", "apply with sums", "reduce moments", "reduce b", "reduce b and c")
ITEMSIZE = {"fp32": 4, "bf16": 2, "fp16": 2}
# Multiplications that an element needs.
FUSED = dict(zip(OPS, (6, 7, 2, 3, 4), strict=True))
WIDTHS = (512, 768, 1024, 1280)
CUDA = ("sm_90a", "sm_100")
TRITON = ("sm_90", "sm_100")
# As csrc/cuda/CMakeLists.txt compiles them.
NVCC_FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-Xptxas=-v"]

ASSUMED = """\
Predicted from machine code; nothing was timed. Assumed:
- Ceilings, read and written bytes a second, clock, multiprocessors: H100 3.0 TB/s, 1.70 GHz, 132; H200 4.3 TB/s, 1.75 GHz, 132;
  B200 7.0 TB/s, 1.85 GHz, 148. Reads reach the same.
- A multiprocessor and clock: 4 warp instructions issued; 64 FP64 operations; 16 conversions or square-root seeds; 128 FP32, 64
  integer or logic, 64 integer-multiply or half-precision operations; 128 bytes of shared memory or shuffles.
- In one warp instructions start in order; a result takes 8 cycles (FP64), 4 (FP32), 5 (integer), 14 (conversion), 22 (root), 24
  (shuffle), 30 (shared memory), 250 (a cache) or 700 (rows from memory). With W warps, A cycles for a turn of one of them alone
  and M for the most that a turn takes of a unit or of memory, the speed lies between W / (A + (W - 1) M) and the smaller of
  1 / M and W / A (bounds of closed queueing networks). A multiprocessor has 65,536 registers and 227 KiB of shared memory.
- Rows are good, in range and packed; a loop counts once around its longest way. The bandwidth of caches is not counted.
The share is that of the copy for apply, of the read for reduce; beside it what limits it. Counts are of warp instructions for
32 elements (an element of each thread)."""


class Machine(NamedTuple):
    name: str
    bytes_per_second: float
    hertz: float
    multiprocessors: int
    architectures: tuple[str, ...]

    @property
    def bytes_per_cycle(self) -> float:
        """Of a multiprocessor."""
        return self.bytes_per_second / self.hertz / self.multiprocessors


MACHINES = (
    Machine("H100", 3.0e12, 1.70e9, 132, ("sm_90a", "sm_90")),
    Machine("H200", 4.3e12, 1.75e9, 132, ("sm_90a", "sm_90")),
    Machine("B200", 7.0e12, 1.85e9, 148, ("sm_100",)),
)
# Warp instructions a multiprocessor starts in a cycle; of shared memory, bytes of a thread.
RATES = {"issue": 4.0, "fp64": 2.0, "conversions": 0.5, "fp32": 4.0, "alu": 2.0, "multiply": 2.0, "shared": 4.0}
MEMORY_WAIT, CACHE_WAIT = 700, 250
# Cycles until a result is there.
RESULT = {"fp64": 8, "fp32": 4, "alu": 5, "multiply": 5, "conversions": 14, "shared": 30, "": 8}
RESULT_OF = {"SHFL": 24, "MUFU": 22}
REGISTERS, SHARED_MEMORY, MAX_BLOCKS, MAX_WARPS = 1 << 16, 227 << 10, 32, 64
_PIPES = {
    "fp64": ("DFMA", "DADD", "DMUL", "DSETP", "DMNMX"),
    "conversions": ("F2F", "F2I", "I2F", "MUFU", "FRND"),
    "fp32": ("FFMA", "FMUL", "FADD", "FFMA2", "FHFMA"),
    "multiply": ("IMAD", "HADD2", "HFMA2", "HMUL2"),
    "shared": ("LDS", "STS", "SHFL", "LDSM", "STSM"),
    # Issued, and no more.
    "": (
        "BRA",
        "BSSY",
        "BSYNC",
        "NOP",
        "WARPSYNC",
        "LDG",
        "STG",
        "LDC",
        "LDCU",
        "CS2R",
        "S2R",
        "R2UR",
        "BREAK",
        "EXIT",
    ),
}
_PIPE_OF = {operation: pipe for pipe, operations in _PIPES.items() for operation in operations}


@dataclass(frozen=True)
class Counts:
    """Of one turn of a kernel's main loop, in a warp: `rows` rows. Instructions by pipe; bytes of shared memory a thread."""

    rows: int
    instructions: int
    fp64: int
    conversions: int
    fp32: int
    alu: int
    multiply: int
    shared: int
    spills: int
    registers: int
    warps: int  # resident in a multiprocessor
    waits: int  # for rows from memory, one after the other
    alone: int  # cycles of a turn of one warp by itself


def pipe_of(instruction: sass.Instruction) -> str:
    operation = instruction.operation
    return _PIPE_OF.get(operation, "" if operation.startswith("U") else "alu")


def bytes_of(instruction: sass.Instruction) -> int:
    """Bytes of a thread that an access to memory or a shuffle moves."""
    modifiers = instruction.name.split(".")[1:]
    if instruction.operation in ("LDSM", "STSM"):
        return 4 * int(modifiers[-1]) if modifiers[-1].isdigit() else 4
    return {"128": 16, "64": 8, "U16": 2, "U8": 1}.get(
        next((m for m in modifiers if m in ("128", "64", "U16", "U8")), ""), 4
    )


def counted(
    way: list[tuple[sass.Instruction, int]], of_rows: Callable[[sass.Instruction], bool], **more: int
) -> Counts:
    """of_rows: whether a load is of rows, from memory."""
    pipes: Counter[str] = Counter()
    for instruction, n in way:
        pipe = pipe_of(instruction)
        pipes["instructions"] += n
        pipes["spills"] += n * (instruction.operation in ("LDL", "STL"))
        pipes[pipe] += n * (bytes_of(instruction) if pipe == "shared" else 1)
    names = ("instructions", "fp64", "conversions", "fp32", "alu", "multiply", "shared", "spills")
    return Counts(**{name: pipes[name] for name in names}, alone=alone(sass.repeated(way), of_rows), **more)


def alone(way: Iterable[sass.Instruction], of_rows: Callable[[sass.Instruction], bool]) -> int:
    """Cycles of one warp by itself: each instruction starts when its operands and its unit are there, in order."""
    now, free, ready = 0.0, Counter[str](), {}
    for instruction in way:
        pipe = pipe_of(instruction)
        written, read = sass.registers(instruction, pipe == "fp64")
        now = max([now + 1, free[pipe] if pipe else 0, *(ready.get(r, 0) for r in written | read)])
        # A warp has a quarter of a multiprocessor, and all of its shared memory.
        width = bytes_of(instruction) / RATES["shared"] if pipe == "shared" else 4 / RATES[pipe] if pipe else 1
        free[pipe] = now + width
        takes = RESULT_OF.get(instruction.operation, RESULT[pipe])
        if instruction.operation == "LDG":
            takes = MEMORY_WAIT if of_rows(instruction) else CACHE_WAIT
        ready.update(dict.fromkeys(written, now + takes))
    return round(now)


def resident(registers: int, warps: int, shared: int) -> int:
    """Warps in a multiprocessor of blocks of `warps` warps with `shared` bytes."""
    of_warp = (registers * 32 + 255) // 256 * 256
    blocks = min(REGISTERS // (of_warp * warps), SHARED_MEMORY // (shared + 1024), MAX_BLOCKS, MAX_WARPS // warps)
    return blocks * warps


# --- CUDA -------------------------------------------------------------------------------------------------------------

_ROWS = re.compile(
    r"(apply|reduce)_rowsI(f|NS_4Half|NS_6BFloat)E?(?:NS0_6Only(?:32|16)E)?Li(\d+)ELi(\d+)ELi(\d+)ENS0_4WarpELb([01])E"
)
_TYPES = {"f": "fp32", "NS_4Half": "fp16", "NS_6BFloat": "bf16"}
_WARPS = 4  # of a block (Warp::max_block_threads)


def tool(name: str) -> str:
    """A program of CUDA's toolkit: on the path, where CUDA_HOME says, or of Triton's; raises CannotBenchmark."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    found = shutil.which(name) or shutil.which(name, path=f"{home}/bin")
    if found is None and name != "nvcc":
        triton = find_spec("triton")
        places = [Path(place, "backends/nvidia/bin") for place in (triton and triton.submodule_search_locations) or ()]
        found = shutil.which(name, path=os.pathsep.join(map(str, places)))
    if found is None:
        raise CannotBenchmark(
            f"{name} was not found: install CUDA's toolkit" + (" or triton" if name != "nvcc" else "")
        )
    return found


def nvcc_version(nvcc: str) -> str:
    found = re.search(r"V(\d+\.\d+\.\d+)", _output(nvcc, "--version"))
    return found[1] if found else "unknown"


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CannotBenchmark(f"{Path(command[0]).name}: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
    return done.stdout + done.stderr


def compile_cuda(nvcc: str, folder: Path) -> list[Path]:
    def one(name: str) -> Path:
        target = folder / f"{name}.o"
        code = f"-gencode=arch=compute_80,code=[{','.join(CUDA)}]"
        source = ROOT / "csrc" / "cuda" / f"{name}.cu"
        _output(nvcc, *NVCC_FLAGS, code, f"-I{ROOT / 'csrc'}", "-c", str(source), "-o", str(target))
        return target

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, ("apply", "reduce")))


def listing(cuobjdump: str, path: Path, architecture: str) -> str:
    return _output(cuobjdump, "--dump-sass", f"--gpu-architecture={architecture}", str(path))


def cuda_counts(sass_of_all: str, registers: dict[str, int], architecture: str) -> dict[str, Counts]:
    """Counts of the kernels in a listing, by name, for the widths that they are launched for; registers by mangled name."""
    variants: dict[tuple[str, str], dict[int, Counts]] = {}
    for name, code in sass.functions(sass_of_all):
        match = _ROWS.search(name)
        if match is None:
            continue  # a row a block, mixed types, single elements
        kind, dtype = match[1], _TYPES[match[2]]
        chunk, packs, rows = map(int, match.groups()[2:5])
        with_more = match[6] == "1"
        columns = chunk * packs
        flow = sass.Flow(code)
        marked = {b for b, block in flow.blocks.items() if any(i.name.startswith("LDG.E.EF.128") for i in block)}
        counts = counted(
            flow.once_around(sass.smallest_loop(flow, marked), marked, {}),
            lambda i: ".EF" in i.name,
            rows=rows,
            registers=registers[name],
            warps=resident(registers[name], _WARPS, shared_memory(kind, columns, with_more)),
            waits=1,
        )
        for op in {"apply": (OPS[:1], OPS[1:2]), "reduce": (OPS[2:3], OPS[3:])}[kind][with_more]:
            variants.setdefault((op, dtype), {})[columns * 32] = counts
    # As `run` in apply.cu and reduce.cu: the first variant that is wide enough.
    return {
        key("cuda", architecture, op, dtype, d): by_width[min(capacity for capacity in by_width if capacity >= d)]
        for (op, dtype), by_width in sorted(variants.items())
        for d in WIDTHS
        if d <= max(by_width)
    }


def shared_memory(kind: str, columns: int, with_more: bool) -> int:
    """Bytes of a block, as `run` in apply.cu and reduce.cu asks for them."""
    row_map, threads = 10, 32 * _WARPS
    sums = threads * columns if kind == "reduce" or with_more else 0
    vectors = 2 * columns * 32 if kind == "reduce" and with_more else columns * 32 if kind == "apply" else 0
    coefficients = 2 * _WARPS + 2 if kind == "reduce" and with_more else 0
    return 8 * (row_map + sums + coefficients + vectors)


def registers_of(cuobjdump: str, path: Path, architecture: str) -> dict[str, int]:
    """Of each kernel, by mangled name."""
    usage = _output(cuobjdump, "-res-usage", f"--gpu-architecture={architecture}", str(path))
    return {name: int(n) for name, n in re.findall(r"Function (\S+):\s+REG:(\d+)", usage)}


# --- Triton -----------------------------------------------------------------------------------------------------------


def streaming_loops(flow: sass.Flow) -> list[sass.Loop]:
    """The loops over columns: innermost, with 16-byte loads and many multiplications, without a division (a branch)."""

    def streams(loop: sass.Loop) -> bool:
        code = flow.code(loop)
        fused = sum(i.operation in ("DFMA", "FFMA") for i in code)
        wide = any(i.operation == "LDG" and ".128" in i.name for i in code)
        return fused >= 16 and wide and not any(i.operation in ("BSSY", "CALL") for i in code)

    inner = [loop for loop in flow.loops if not any(other.body < loop.body for other in flow.loops)]
    return [loop for loop in inner if streams(loop)]


def triton_counts(cuobjdump: str, op: str, dtype: str, d: int, architecture: str) -> Counts:
    from triton.backends.compiler import GPUTarget

    from bench import triton_code

    compiled = triton_code.compiled(op, dtype, dtype, d, GPUTarget("cuda", int(architecture[3:]), 32))
    tile = triton_code.source(op, dtype, dtype, d)[1]
    assert tile is not None
    with TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.asm["cubin"])
        registers = max(registers_of(cuobjdump, cubin, architecture).values())
        ((_, code),) = sass.functions(listing(cuobjdump, cubin, architecture))
    flow = sass.Flow(code)
    # The dot products, UNROLL blocks a turn; then, after the square roots, the columns of one row after the other. What is
    # unrolled altogether is no loop.
    waits = d // (tile.block * 4)
    roots = next(i.address for i in code if i.name == "MUFU.RSQ64H")
    turns = {loop.header: waits if loop.header < roots else d // tile.long for loop in streaming_loops(flow)}
    if not turns:
        raise CannotBenchmark(f"{op} {dtype} {d}: no loop over columns in the machine code of Triton's kernel")
    over_tiles = max(flow.loops, key=lambda loop: len(loop.body))
    way = flow.once_around(over_tiles, set(turns), turns)
    counts = counted(
        way,
        lambda i: i.address < roots and i.guard != "",  # b and c are not masked
        rows=tile.rows,
        registers=registers,
        warps=resident(registers, 1, compiled.metadata.shared),
        waits=waits,
    )
    if counts.fp64 + counts.fp32 < FUSED[op] * tile.rows * d / 32:
        raise CannotBenchmark(f"{op} {dtype} {d}: the way through the machine code misses some of the columns")
    return counts


# --- predictions ------------------------------------------------------------------------------------------------------


def key(by: str, architecture: str, op: str, dtype: str, d: int) -> str:
    return f"{by} {architecture} {op} {dtype} {d}"


def parts(name: str) -> tuple[str, str, str, str, int]:
    by, architecture, *op, dtype, d = name.split()
    return by, architecture, " ".join(op), dtype, int(d)


class Share(NamedTuple):
    """Of the copy or read: a lower and an upper bound, and what limits the latter."""

    low: float
    high: float
    limit: str


def predicted(counts: Counts, op: str, dtype: str, d: int, machine: Machine) -> Share:
    moved = counts.rows * d * ITEMSIZE[dtype] * (2 if op.startswith("apply") else 1)
    needed = {"issue": counts.instructions} | {pipe: getattr(counts, pipe) for pipe in RATES if pipe != "issue"}
    cycles = {pipe: n / RATES[pipe] for pipe, n in needed.items()}
    cycles["memory"] = moved / machine.bytes_per_cycle
    most = max(cycles.values())
    cycles["latency"] = counts.alone / counts.warps
    limit = max(cycles, key=lambda name: (cycles[name], name == "memory"))
    slowest = (counts.alone + (counts.warps - 1) * most) / counts.warps
    high = cycles["memory"] / cycles[limit]
    return Share(min(high, cycles["memory"] / slowest), high, limit)


def machine_of(device: str, by: str) -> tuple[Machine | None, str]:
    """The machine that a device is, by its name, and the architecture of its kernels; None for one without predictions."""
    for machine in MACHINES:
        if machine.name in device:
            return machine, next(a for a in machine.architectures if a in (CUDA if by == "cuda" else TRITON))
    return None, ""


def issue_slots(counts: Counts, op: str, dtype: str, d: int, machine: Machine) -> tuple[float, float]:
    """The share of issue slots in use, at the lower and at the higher prediction of speed."""
    moved = counts.rows * d * ITEMSIZE[dtype] * (2 if op.startswith("apply") else 1)
    needed = counts.instructions / RATES["issue"] / (moved / machine.bytes_per_cycle)
    share = predicted(counts, op, dtype, d, machine)
    return share.low * needed, share.high * needed


def text_of(machine: str, share: Share) -> str:
    return f"{machine} {share.low:.2f}-{share.high:.2f} ({share.limit})"


def table(counts: dict[str, Counts]) -> Iterator[str]:
    for name, one in counts.items():
        by, architecture, op, dtype, d = parts(name)
        of = one.rows * d / 32
        in_flight = one.warps * one.rows * d * ITEMSIZE[dtype] / one.waits / 1024
        machines = [m for m in MACHINES if architecture in m.architectures]
        shares = [text_of(m.name, predicted(one, op, dtype, d, m)) for m in machines]
        yield (
            f"{by:<6} {architecture:<6} {op:<15} {dtype} {d:>5}  {one.instructions / of:5.1f} instr {one.fp64 / of:4.1f} fp64 "
            f"{one.conversions / of:4.1f} conv {one.shared / of:5.1f} B shared  {one.registers:>3} reg {one.warps:>2} warps "
            f"{in_flight:4.0f} KiB in flight  predicted {', '.join(shares)}"
        )


def load(path: Path = COMMITTED) -> tuple[dict[str, str], dict[str, Counts]]:
    """Versions of the compilers, and counts, as `--json` writes them."""
    found = json.loads(path.read_text())
    return found["compilers"], {name: Counts(**counts) for name, counts in found["counts"].items()}


def write(path: Path, compilers: dict[str, str], counts: dict[str, Counts]) -> None:
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(asdict(one))}" for name, one in counts.items())
    path.write_text(f'{{\n "compilers": {json.dumps(compilers)},\n "counts": {{\n{lines}\n }}\n}}\n')


def grown(now: dict[str, Counts], before: dict[str, Counts], tolerance: float = 0.03) -> list[str]:
    """Instructions, FP64, conversions of a row and registers that are more than before by more than `tolerance`, and any more
    spills in a main loop; a line each."""
    found = []
    for name, one in sorted(now.items()):
        if name not in before:
            found.append(f"{name}: not in the committed counts")
            continue
        was = before[name]
        more = {
            w: (getattr(was, w) / was.rows, getattr(one, w) / one.rows) for w in ("instructions", "fp64", "conversions")
        }
        more["registers"] = was.registers, one.registers
        found += [f"{name}: {what} {a:g} -> {b:g}" for what, (a, b) in more.items() if b > a * (1 + tolerance)]
        if one.spills > was.spills:
            found.append(f"{name}: spills {was.spills} -> {one.spills}")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_budget", description="Predictions from machine code.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts there")
    parser.add_argument("--counts", type=Path, metavar="FILE", help="take counts from there; compile nothing")
    parser.add_argument("--objects", type=Path, nargs="+", metavar="FILE", help="CUDA objects or modules of a build")
    given = parser.parse_args(arguments)
    try:
        compilers, counts = load(given.counts) if given.counts else measure(given.objects)
    except CannotBenchmark as error:
        print(f"bench.gpu_budget: {error}", file=sys.stderr)
        return 1
    print(ASSUMED, f"Compilers: {', '.join(f'{name} {version}' for name, version in compilers.items())}.", sep="\n")
    for line in table(counts):
        print(line)
    if given.json:
        write(given.json, compilers, counts)
    return 0


def measure(objects: list[Path] | None) -> tuple[dict[str, str], dict[str, Counts]]:
    cuobjdump = tool("cuobjdump")
    compilers = {"nvcc": "of the build"}
    counts: dict[str, Counts] = {}
    with TemporaryDirectory() as folder:
        if objects is None:
            nvcc = tool("nvcc")
            compilers["nvcc"] = nvcc_version(nvcc)
            objects = compile_cuda(nvcc, Path(folder))
        for architecture in CUDA:
            for path in objects:
                registers = registers_of(cuobjdump, path, architecture)
                counts |= cuda_counts(listing(cuobjdump, path, architecture), registers, architecture)
    if not counts:
        raise CannotBenchmark(f"no kernels for {' or '.join(CUDA)} in {', '.join(map(str, objects))}")
    try:
        import triton
    except ImportError:
        print("Triton's kernels: left out: Triton is not installed", file=sys.stderr)
        return compilers, counts
    compilers["triton"] = triton.__version__
    cases = [(op, dtype, d, arch) for arch in TRITON for op in OPS for dtype in ITEMSIZE for d in WIDTHS]
    for op, dtype, d, architecture in cases:
        counts[key("triton", architecture, op, dtype, d)] = triton_counts(cuobjdump, op, dtype, d, architecture)
    return compilers, counts


if __name__ == "__main__":
    sys.exit(main())
