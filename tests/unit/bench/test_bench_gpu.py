"""bench.gpu and what it stands on, as far as a CPU can run it: timing, ceilings, the figures of a case, ncu's report."""

from __future__ import annotations

import os
import re
from itertools import count

import benchmarks
import pytest

torch = pytest.importorskip("torch")
gpu, gpu_budget, gpu_issue, gpu_timing, table = map(
    benchmarks.module, ("gpu", "gpu_budget", "gpu_issue", "gpu_timing", "table")
)
Case = gpu.Case


class FakeEvent:
    """A clock that advances by one millisecond with every call of the work."""

    clock = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = FakeEvent.clock

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return end.at - self.at


def test_calls_are_timed_back_to_back(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    events = count()

    def work():
        FakeEvent.clock += 1
        next(events)

    assert gpu_timing.timed("cuda", work, 7)() == pytest.approx(7e-3)
    assert next(events) == 7


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ceilings_of_reduce_are_reads_and_a_copy(dtype):
    problem = gpu.Problem(Case("reduce", "moments", 64, 600, dtype), "cpu", 0)
    found = gpu_timing.ceilings(problem)
    assert list(found) == ["copy", "read, torch's sum"]
    nbytes = problem.x[0].numel() * problem.x[0].element_size()
    assert [moved for _, moved in found.values()] == [2 * nbytes, nbytes]
    first, last = problem.x[0].clone(), len(problem.x) - 1
    found["copy"][0]()
    assert torch.equal(problem.x[last].view(torch.int16), first.view(torch.int16))
    total = problem.x[1].view(torch.float32).sum()
    assert torch.equal(found["read, torch's sum"][0](), total) or torch.isnan(total)


def test_the_ceiling_of_apply_is_a_copy_to_its_results():
    problem = gpu.Problem(Case("apply", "plain", 64, 600, "float16", "float16"), "cpu", 0)
    ((name, (copy, moved)),) = gpu_timing.ceilings(problem).items()
    copy()
    assert name == "copy" and moved == 2 * 600 * 64 * 2
    assert torch.equal(problem.out[0].view(torch.int16), problem.x[0].view(torch.int16))


@pytest.mark.parametrize(
    "case",
    [Case("apply", "with sums", 64, 600, "bfloat16", "bfloat16"), Case("reduce", "gap left", 64, 600, "float32")],
)
def test_the_figures_of_a_case(case):
    said = []
    result = gpu.one_case(case, "cpu", ["cpu"], False, 2, said.append)
    assert result["backend"] == "cpu" and result["predicted"] is None
    assert result["ceiling"] == ("copy" if case.op == "apply" else "read, torch's sum")
    assert result["of_ceiling"]["median"] > 0 and "not predicted" in said[0] and "copy" in said[0]
    machine = {"versions": {}, "device": "a device", "date": "2026-01-01T00:00:00"}
    shown = "\n".join(table.gpu({"machine": machine, "cases": [result], "small": []}, "x.json"))
    assert f"| `{case.op}`, {case.variant} (cpu) | 64 |" in shown


@pytest.mark.parametrize(
    ("device", "by", "found"),
    [
        ("NVIDIA H100 80GB HBM3", "cuda", ("H100", "sm_90a")),
        ("NVIDIA H200", "triton", ("H200", "sm_90")),
        ("NVIDIA B200", "cuda", ("B200", "sm_100")),
        ("NVIDIA A100-SXM4-80GB", "cuda", (None, "")),
    ],
)
def test_predictions_are_for_the_machine(monkeypatch, device, by, found):
    machine, architecture = gpu_budget.machine_of(device, by)
    assert (machine and machine.name, architecture) == found
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: device)
    text = gpu.predicted(Case("reduce", "gap left", 768, 1000, "bfloat16"), "cuda", by)
    assert text is None if machine is None else text.startswith("predicted ")
    assert gpu.predicted(Case("reduce", "gap left", 2048, 1000, "bfloat16"), "cuda", by) is None
    assert gpu.predicted(Case("apply", "plain", 768, 1000, "bfloat16", "float16"), "cuda", by) is None


def test_issue_slots_follow_from_the_share():
    counts = gpu_budget.load()[1]["cuda sm_90a reduce b and c fp16 768"]
    machine = gpu_budget.machine_of("H200", "cuda")[0]
    low, high = gpu_budget.issue_slots(counts, "reduce b and c", "fp16", 768, machine)
    assert gpu_budget.predicted(counts, "reduce b and c", "fp16", 768, machine).limit == "issue"
    assert high == pytest.approx(1) and 0 < low <= high


FAKE_NCU = """#!/bin/sh
while [ "$1" != --log-file ]; do shift; done
{body}
"""


def fake_ncu(monkeypatch, tmp_path, body):
    program = tmp_path / "ncu"
    program.write_text(FAKE_NCU.format(body=body))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


def test_issue_slots_from_ncu(monkeypatch, tmp_path, capsys):
    head = '"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"'
    rows = [
        f'"{i}","1","void apply_rows<(int)4>(x, y)","{gpu_issue.METRIC}","%","{50 + i}.25"'
        for i in range(len(gpu_issue.CASES))
    ]
    (tmp_path / "report").write_text("\n".join(["==PROF== Connected", head, *rows]) + "\n")
    fake_ncu(monkeypatch, tmp_path, f'cp {tmp_path}/report "$2"')
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert gpu_issue.main(["--out", str(tmp_path / "issue.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("issue slots  cuda apply bf16 768: 0.50 busy, predicted ") and len(lines) == len(rows)
    assert "issue slots  cuda apply bf16 768" in (tmp_path / "issue.json").read_text()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("exit 1", "ncu saw 0 of 16 kernels"),
        (
            'echo "==ERROR== ERR_NVGPUCTRPERM: no permission" > "$2"; exit 1',
            "==ERROR== ERR_NVGPUCTRPERM: no permission",
        ),
    ],
)
def test_ncu_that_cannot_measure_is_one_line(monkeypatch, tmp_path, capsys, body, says):
    fake_ncu(monkeypatch, tmp_path, body)
    assert gpu_issue.main([]) == 0
    assert capsys.readouterr().out == f"issue slots: left out: {says}\n"


def test_no_ncu_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert gpu_issue.main([]) == 0
    assert capsys.readouterr().out == "issue slots: left out: ncu is not installed\n"


# That it reads all whole blocks: tests/unit/kernels/interpreted.py.
@pytest.mark.usefixtures("no_garbage_collection")
def test_the_plain_kernel_reads_16_bytes_a_load():
    triton = pytest.importorskip("triton")
    if not hasattr(triton, "knobs"):
        pytest.skip("this release of Triton compiles by other arguments, such as 3.2")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = benchmarks.module("gpu_read").read_kernel
    source = ASTSource(
        fn=kernel,
        signature={"x_ptr": "*fp32", "out_ptr": "*fp32", "blocks": "i32", "BLOCK": "constexpr"},
        constexprs={(3,): 4096},
        attrs={(0,): [["tt.divisibility", 16]], (1,): [["tt.divisibility", 16]]},
    )
    text = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm["ptx"]
    assert len(re.findall(r"ld\.global\S*\.v4\.b32", text)) == 8
