"""bench/sass.py and bench/gpu_budget.py: the way through a loop, the counts, the predictions, and what is more than before.

The counts of the kernels themselves are compared in tests/unit/cuda and tests/unit/kernels, where they are compiled.
"""

from __future__ import annotations

from dataclasses import replace

import benchmarks
import pytest

gpu_budget, sass = map(benchmarks.module, ("gpu_budget", "sass"))

# A loop over tiles (0x10 to 0x100) with: a subroutine for a special case; a loop over columns; a branch to a slow path, whose
# loop has a guard that passes by it; and a longer and a shorter way to store.
LISTING = """
\t\tFunction : kernel
        /*0000*/                   MOV R1, c[0x0][0x28] ;                     /* 0x00000a0000017a02 */
        /*0010*/                   LDG.E.EF.128 R4, desc[UR4][R2.64] ;        /* 0x000ea2000c1e1d00 */
        /*0020*/                   MUFU.RSQ64H R9, R8 ;
        /*0030*/              @!P0 BRA 0x50 ;
        /*0040*/                   CALL.REL.NOINC 0x140 ;
        /*0050*/                   DFMA R10, R4, R6, R10 ;
        /*0060*/               @P1 BRA 0x50 ;
        /*0070*/              @!P2 BRA 0xd0 ;
        /*0080*/                   IADD3 R11, R11, 0x1, RZ ;
        /*0090*/               @P3 BRA 0xd0 ;
        /*00a0*/                   LDG.E.64 R12, desc[UR4][R2.64] ;
        /*00b0*/                   DADD R12, R12, R12 ;
        /*00c0*/               @P3 BRA 0xa0 ;
        /*00d0*/               @P4 BRA 0xf0 ;
        /*00e0*/                   LDS.128 R12, [R11] ;
        /*00f0*/                   STG.E.EF.128 desc[UR4][R2.64], R4 ;
        /*0100*/               @P5 BRA 0x10 ;
        /*0110*/                   EXIT ;
        /*0140*/                   DMUL R8, R8, R8 ;
        /*0150*/                   RET.REL.NODEC R20 0x0 ;
"""


def flow_of(listing):
    ((name, code),) = sass.functions(listing)
    assert name == "kernel"
    return sass.Flow(code)


def test_the_way_around_a_loop():
    flow = flow_of(LISTING)
    assert [loop.header for loop in flow.loops] == [0x10, 0x50, 0xA0]
    marked = {b for b, block in flow.blocks.items() if any(i.name == "LDG.E.EF.128" for i in block)}
    loop = sass.smallest_loop(flow, marked)
    assert loop.header == 0x10
    way = flow.once_around(loop, marked, {0x50: 3})
    assert [(hex(i.address), n) for i, n in way] == [
        ("0x10", 1), ("0x20", 1), ("0x30", 1), ("0x50", 3), ("0x60", 3), ("0x70", 1), ("0xd0", 1), ("0xe0", 1),
        ("0xf0", 1), ("0x100", 1),
    ]  # fmt: skip
    counts = gpu_budget.counted(way, lambda i: True, rows=1, registers=40, warps=16, waits=1)
    assert (counts.instructions, counts.fp64, counts.conversions, counts.shared, counts.spills) == (14, 3, 1, 16, 0)


def test_a_loop_that_nothing_marks():
    with pytest.raises(ValueError, match="no loop"):
        sass.smallest_loop(flow_of(LISTING), {0x140})


def test_spills_and_half_precision():
    listing = LISTING.replace("MUFU.RSQ64H R9, R8", "LDL R9, [R1]").replace(
        "LDS.128 R12, [R11]", "HADD2.F32 R3, -RZ, R3.H0_H0"
    )
    flow = flow_of(listing)
    way = flow.once_around(flow.loops[0], {0x10}, {0x50: 1})
    counts = gpu_budget.counted(way, lambda i: True, rows=1, registers=40, warps=16, waits=1)
    assert (counts.spills, counts.multiply, counts.shared) == (1, 1, 0)


@pytest.mark.parametrize(
    ("registers", "warps", "shared", "found"),
    # 65536 registers in pieces of 256; 227 KiB; 32 blocks
    [(128, 4, 0, 16), (129, 4, 0, 12), (255, 1, 0, 8), (32, 4, 60 << 10, 12), (16, 1, 0, 32)],
)
def test_resident_warps(registers, warps, shared, found):
    assert gpu_budget.resident(registers, warps, shared) == found


NOTHING = gpu_budget.Counts(4, 0, 0, 0, 0, 0, 0, 0, 0, 32, 64, 0, 0)
# 16 bytes a cycle of a multiprocessor
MACHINE = gpu_budget.Machine("some", 16e9, 1e9, 1, ("sm_90a",))


@pytest.mark.parametrize(
    ("limit", "counts", "high"),
    # 4 rows of 512 16-bit elements are 4096 bytes, 256 cycles of memory
    [
        ("issue", {"instructions": 2048}, 0.5),
        ("fp64", {"fp64": 1024}, 0.5),
        ("conversions", {"conversions": 160}, 0.8),
        ("shared", {"shared": 4096}, 0.25),
        ("memory", {"instructions": 100, "fp64": 50}, 1.0),
        ("latency", {"alone": 20480, "warps": 40}, 0.5),
    ],
)
def test_the_tightest_limit(limit, counts, high):
    share = gpu_budget.predicted(replace(NOTHING, **counts), "reduce moments", "bf16", 512, MACHINE)
    assert share.limit == limit and share.high == pytest.approx(high) and share.low <= share.high


def test_a_store_halves_what_an_instruction_costs():
    counts = replace(NOTHING, instructions=8192)
    read, copied = (gpu_budget.predicted(counts, op, "fp32", 512, MACHINE).high for op in ("reduce b", "apply"))
    assert copied == pytest.approx(2 * read)


def test_the_lower_bound_lets_warps_wait_for_each_other():
    share = gpu_budget.predicted(replace(NOTHING, fp64=1024, alone=1024, warps=4), "reduce b", "bf16", 512, MACHINE)
    assert share == ((256 / ((1024 + 3 * 512) / 4)), 0.5, "fp64")
    share = gpu_budget.predicted(replace(NOTHING, alone=100, warps=1), "reduce b", "bf16", 512, MACHINE)
    assert share == (1.0, 1.0, "memory")


@pytest.mark.parametrize(
    ("lines", "cycles"),
    [
        (["DFMA R8, R4, R4, R8", "DFMA R10, R4, R4, R10"], 3),  # a unit of FP64 takes two cycles
        (["DFMA R8, R4, R4, R8", "DFMA R8, R6, R6, R8"], 9),
        (["FFMA R8, R4, R4, R8", "FFMA R9, R4, R4, R9"], 2),
        (["F2F.F64.F32 R8, R3", "DADD R10, R8, R8"], 15),
        (["F2F.F64.F32 R8, R3", "F2F.F64.F32 R10, R4"], 9),
        (["LDG.E.EF.128 R4, desc[UR4][R2.64]", "FADD R9, R7, R7"], 701),
        (["LDG.E.EF.128 R4, desc[UR4][R2.64]", "FADD R9, R8, R8"], 2),
        (["LDG.E.128 R4, desc[UR4][R2.64]", "STG.E desc[UR4][R2.64], R5"], 251),
        (["SHFL.BFLY PT, R5, R4, 0x1, 0x1f", "DADD R6, R4, R4"], 25),
        (["DSETP.GT.AND P0, PT, R4, R6, PT", "FSEL R9, R8, R7, P0"], 9),
        (["DMUL R4, R6, R6", "SHFL.BFLY PT, R9, R5, 0x1, 0x1f"], 9),
    ],
)
def test_cycles_of_one_warp_by_itself(lines, cycles):
    text = "\t\tFunction : kernel\n" + "".join(f"        /*{16 * i:04x}*/   {line} ;\n" for i, line in enumerate(lines))
    ((_, code),) = sass.functions(text)
    assert gpu_budget.alone(code, lambda i: ".EF" in i.name) == cycles


def test_turns_of_an_inner_loop_come_one_after_the_other():
    flow = flow_of(LISTING)
    loop = flow.loops[0]
    way = flow.once_around(loop, {0x10}, {0x50: 2})
    assert [hex(i.address) for i in sass.repeated(way)][3:7] == ["0x50", "0x60", "0x50", "0x60"]


@pytest.mark.parametrize("what", ["instructions", "fp64", "conversions", "registers"])
def test_what_grows_is_found(what):
    before = gpu_budget.Counts(4, 1000, 200, 100, 0, 0, 0, 0, 0, 100, 12, 1, 0)
    for factor, found in ((1.0, 0), (0.5, 0), (1.03, 0), (1.04, 1)):
        now = replace(before, **{what: round(getattr(before, what) * factor)})
        lines = gpu_budget.grown({"a kernel": now}, {"a kernel": before})
        assert len(lines) == found and all(what in line for line in lines)


def test_spills_and_unknown_kernels_are_found():
    before = gpu_budget.Counts(4, 1000, 200, 100, 0, 0, 0, 0, 0, 100, 12, 1, 0)
    assert gpu_budget.grown({"a": replace(before, spills=1)}, {"a": before}) == ["a: spills 0 -> 1"]
    assert gpu_budget.grown({"a": before}, {}) == ["a: not in the committed counts"]
    # Tiles of other heights: per row.
    assert gpu_budget.grown({"a": replace(before, rows=2)}, {"a": before}) != []
    assert (
        gpu_budget.grown({"a": replace(before, rows=8, instructions=2000, fp64=400, conversions=200)}, {"a": before})
        == []
    )


def test_the_committed_counts_are_of_every_kernel(capsys):
    compilers, counts = gpu_budget.load()
    assert set(compilers) == {"nvcc", "triton"}
    expected = {
        gpu_budget.key(by, architecture, op, dtype, d)
        for by, architectures in (("cuda", ("sm_90a", "sm_100")), ("triton", ("sm_90", "sm_100")))
        for architecture in architectures
        for op in gpu_budget.OPS
        for dtype in gpu_budget.ITEMSIZE
        for d in gpu_budget.WIDTHS
    }
    assert counts.keys() == expected
    assert not any(one.spills for name, one in counts.items() if name.startswith("cuda"))
    assert gpu_budget.main(["--counts", str(gpu_budget.COMMITTED)]) == 0
    printed = capsys.readouterr().out
    assert "Predicted from machine code; nothing was timed" in printed
    assert sum("predicted H100" in line or "predicted B200" in line for line in printed.splitlines()) == len(expected)


def test_counts_are_read_as_they_were_written(tmp_path):
    compilers, counts = gpu_budget.load()
    gpu_budget.write(tmp_path / "counts.json", compilers, counts)
    assert gpu_budget.load(tmp_path / "counts.json") == (compilers, counts)


def test_objects_without_our_kernels_are_one_line(monkeypatch, capsys):
    monkeypatch.setattr(gpu_budget, "tool", lambda name: name)
    monkeypatch.setattr(gpu_budget, "_output", lambda *command: "")
    assert gpu_budget.main(["--objects", "other.o"]) == 1
    assert capsys.readouterr().err == "bench.gpu_budget: no kernels for sm_90a or sm_100 in other.o\n"


def test_no_compiler_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    assert gpu_budget.main([]) == 1
    assert capsys.readouterr().err.startswith("bench.gpu_budget: ")
