"""bench/: the bytes model, ratios, ceilings that do what they say, peers that compute the same map, JSON, tables.

How fast anything is, is never tested.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import benchmarks
import numpy as np
import pytest

from fastrealign.core.cpu import instruction_sets

ceilings, common, cpu, files, native, ops, peers, problem, small, table = map(
    benchmarks.module, ("ceilings", "common", "cpu", "files", "native", "ops", "peers", "problem", "small", "table")
)

# apply with and without sums, and the reductions
CASES = [pytest.param(op, id=f"{op.op}-{op.variant}") for op in problem.OPS]


@pytest.fixture(scope="module")
def memory():
    return problem.Memory(96 * 1024)


@pytest.fixture(autouse=True)
def torch_threads():
    """The peers set torch's number of threads; other tests find it as it was."""
    torch = sys.modules.get("torch")
    before = torch and torch.get_num_threads()
    yield
    if before:
        torch.set_num_threads(before)


def make(memory, op=problem.OPS[0], dtype="float32", d=33):
    return memory.problem(op, d, dtype, threads=1)


# --- common.py --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "dtype_out", "nbytes"),
    [
        ("float32", "float32", 10 * 768 * 8),
        ("bfloat16", "float16", 10 * 768 * 4),
        ("float16", None, 10 * 768 * 2),
        ("float64", "float32", 10 * 768 * 12),
    ],
)
def test_bytes_are_a_read_and_a_write_of_each_row(dtype, dtype_out, nbytes):
    assert common.Case("op", "variant", 768, 10, dtype, dtype_out).bytes == nbytes


def test_spread_is_the_median_and_the_outer_tenths():
    spread = common.Spread.of([float(i) for i in range(101)][::-1])
    assert (spread.median, spread.p10, spread.p90, spread.n) == (50.0, 10.0, 90.0, 101)
    assert common.Spread.of([3.0]) == common.Spread(3.0, 3.0, 3.0, 1)


def test_ratios_are_between_neighbours_only(monkeypatch):
    monkeypatch.setattr(common, "SECONDS_TO_SETTLE", 0.0)
    # The clock slows down by half before the peer's part: a ratio across the whole run would show that.
    ours = itertools.cycle([1.0, 2.0])
    rounds = common.Rounds()
    rounds.add("ours", lambda: next(ours), 100)
    rounds.add("ceiling", lambda: 0.5, 100)
    rounds.add("peer", lambda: 8.0, 50)
    rounds.go(["ceiling", "ours", "peer", "ours"], 1)
    assert rounds.ratio("ours", "ceiling") == common.Spread(0.5, 0.5, 0.5, 1)
    # After 1 s and before 2 s of ours for 100 bytes, the peer's 8 s for 50: ratios 16 and 8.
    both = rounds.ratio("ours", "peer")
    assert (both.median, both.n) == (12.0, 2)
    assert rounds.gbs("peer").median == pytest.approx(50 / 8 / 1e9)
    assert rounds.seconds("ours").median == 1.5


def test_schedule_puts_each_peer_between_two_of_ours_and_a_ceiling_beside_it():
    order = common.schedule("ours", ["x", "y"], ["a", "b"], repeats=2)
    assert order == [name for other in "xyaxyb" for name in (other, "ours")]
    assert common.schedule("ours", ["x"], ["a"], repeats=3)[::2] == list("xaxx")
    assert common.schedule("ours", ["x"], ["a", "b", "c"], repeats=1)[::2] == list("xabc")


def test_a_program_that_fails_is_named_in_one_line():
    with pytest.raises(common.CannotBenchmark, match=r"^nothing to see: exit 3: gone$"):
        common.command(
            [sys.executable, "-c", "import sys; print('gone', file=sys.stderr); sys.exit(3)"], "nothing to see"
        )


def test_what_others_take_is_separated_from_what_we_take(monkeypatch):
    # wall, busy, ours: in ten seconds the processors were busy for 25, of which 10 were ours.
    readings = iter([(0.0, 100.0, 5.0), (10.0, 125.0, 15.0)])
    monkeypatch.setattr(common.Others, "_read", staticmethod(lambda: next(readings)))
    assert common.Others().cores() == pytest.approx(1.5)


def test_our_own_work_is_not_others():
    read = common.Others._read
    if read() is None:
        pytest.skip("no /proc/stat")
    before = read()
    sum(range(3_000_000))
    wall, busy, ours = (b - a for a, b in zip(before, read(), strict=True))
    assert wall > 0 and ours > 0 and busy >= 0


# --- ceilings ---------------------------------------------------------------------------------------------------------

# Not whole blocks, pages or shares of a block, and more than one block.
BYTES = 64 * 9001


def test_every_copy_copies_every_byte(memory):
    source = problem.Memory(BYTES)
    source.source[:] = np.random.default_rng(0).integers(0, 256, BYTES, dtype=np.uint8)
    for variant, name in enumerate(ceilings.loop_names()):
        source.out[:] = 0
        ceilings.copy(variant, source.source, source.out, threads=2)
        assert np.array_equal(source.source, source.out), name


def test_every_read_reads_every_byte():
    source = problem.Memory(BYTES).source
    source[:] = np.random.default_rng(0).integers(0, 256, BYTES, dtype=np.uint8)
    expected = int(source.view(np.uint64).sum(dtype=np.uint64))
    for variant, name in enumerate(ceilings.loop_names()):
        assert ceilings.read_sum(variant, source, threads=2) == expected, name


def test_the_ceiling_is_the_fastest_that_was_tried(memory):
    found = ceilings.Ceilings(memory.source, memory.out, threads=1, rounds=1)
    for kind in ("copy", "read"):
        assert found.tried[kind][found.chosen[kind]] == max(found.tried[kind].values())


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(common.CannotBenchmark, match="no C\\+\\+ compiler"):
        native.compiler()


def test_a_cycle_is_an_addition():
    assert 0.3e9 < ceilings.clock() < 10e9
    x = ceilings._library().dependent_adds
    x.restype = ceilings.ctypes.c_uint64
    assert x(8_000) == 8_000


# --- the operations, the problem and the peers -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", common.DTYPES)
@pytest.mark.parametrize("op", CASES)
def test_ours_is_right_and_what_is_wrong_is_found(memory, op, dtype):
    given = make(memory, op, dtype)
    assert given.x.ctypes.data % 64 == 0 and len(given.x) > 2
    result = ops.ours(given)()
    assert given.error(result) <= 1.0
    wrong = result.copy()
    wrong[-1] += 0.05
    assert given.error(wrong) > 1.0


@pytest.mark.parametrize("op", CASES)
@pytest.mark.parametrize(
    ("peer", "dtype"),
    [
        pytest.param(p, dtype, id=f"{p.name}-{dtype}", marks=[pytest.mark.slow] * ("compile" in p.name))
        for p in peers.PEERS
        for dtype in common.DTYPES
        if p.name != "FAISS" or dtype == "float32"  # FAISS's transforms take no other rows
    ],
)
def test_a_peer_computes_the_same_map(memory, peer, op, dtype):
    given = make(memory, op, dtype)
    before = given.x.copy()
    if given.out is not None:
        given.out[:] = 0
    try:
        work, smaller = peers.prepare(peer, given)
    except peers.NotComparable as reason:
        pytest.skip(f"{peer.name}: {reason}")
    # Once more, since it is timed more than once; and nobody may spoil the input for the next.
    assert smaller.error(work()) <= 1.0
    assert np.array_equal(given.x.view(np.uint8), before.view(np.uint8))


def test_a_peer_that_is_wrong_is_not_timed(memory):
    def half(given):
        return lambda: given.x * np.float32(0.5)

    with pytest.raises(peers.NotComparable, match="its result is off by"):
        peers.prepare(peers.Peer("half", half, 1.0), make(memory))


@pytest.mark.parametrize(
    ("package", "name"), [("torch", "torch eager"), ("faiss", "FAISS"), ("sklearn", "scikit-learn")]
)
def test_a_peer_that_is_not_installed_is_left_out_by_name(memory, monkeypatch, package, name):
    for module in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    peer = next(peer for peer in peers.PEERS if peer.name == name)
    with pytest.raises(peers.NotComparable, match="is not installed"):
        peer.prepare(make(memory))


# --- a whole run, its JSON and its tables -----------------------------------------------------------------------------

TINY = cpu.Settings(
    shapes=ops.shapes([], widths=(768, 24), dtypes=("float32", "bfloat16")),
    parts=("small",),
    peers=("fast-math loop", "NumPy", "FAISS"),
    input_bytes=2**17,
    rounds=1,
    small_rows=(1, 5),
)


@contextlib.contextmanager
def timed_briefly():
    """Figures are there, and are no good: few repetitions, and no wait for threads that spin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "cycles_a_line", partial(ops.cycles_a_line, rounds=3))
        patch.setattr(common, "SECONDS_TO_SETTLE", 0.0)
        patch.setattr(small, "SECONDS_A_RUN", 1e-4)
        yield


@pytest.fixture(scope="module")
def results():
    said = []
    with timed_briefly():
        found = cpu.run(TINY, said.append)
    assert sum("of the ceiling" in line for line in said) == 20 and sum("memory ceiling" in line for line in said) == 2
    return json.loads(json.dumps(found))


def test_the_json_holds_every_case(results):
    assert results["kind"] == "cpu"
    assert {
        "date",
        "cpu",
        "cores",
        "isa",
        "versions",
        "compiler",
        "load_before",
        "load_after",
        "others_cores",
    } <= results["machine"].keys()
    assert results["machine"]["isa"] in instruction_sets()
    keys = [(c["op"], c["variant"], c["d"], c["dtype"]) for c in results["cases"]]
    assert keys == [(o.op, o.variant, d, t) for d in (768, 24) for t in ("fp32", "bf16") for o in problem.OPS]
    for case in results["cases"]:
        size = {"fp32": 4, "bf16": 2}[case["dtype"]] * (2 if case["op"] == "apply" else 1)
        assert case["bytes"] == case["rows"] * case["d"] * size
        assert case["gbs"]["median"] == pytest.approx(case["bytes"] / case["seconds"]["median"] / 1e9, rel=0.01)
        assert case["of_ceiling"]["p10"] <= case["of_ceiling"]["median"] <= case["of_ceiling"]["p90"]
        everyone = case["variant"] in ("plain", "moments", "gap") and (case["d"], case["dtype"]) == (768, "fp32")
        assert list(case["peers"]) == (["fast-math loop", "NumPy", "FAISS"] if everyone else ["fast-math loop"])
        assert case["cycles_a_line"]["n"] > 1 and not case["left_out"]
    assert [batch["rows"] for batch in results["small"]["batches"]] == [1, 5]


def test_the_tables_show_what_the_json_holds(results):
    text = table.render(results, "bench/results/x.json")
    case = next(
        c for c in results["cases"] if (c["op"], c["variant"], c["d"], c["dtype"]) == ("reduce", "gap", 768, "fp32")
    )
    row = next(line for line in text.splitlines() if line.startswith("| `reduce`, gap | fp32 | 768 |"))
    assert f"{case['gbs']['median']:.1f} (" in row and f"{case['of_ceiling']['median']:.2f} (" in row
    assert f"{case['cycles_a_line']['median']:.1f} (" in row
    assert table._times(case["peers"]["fast-math loop"]["ours_is"]) in row
    over = next(line for line in text.splitlines() if line.startswith("| NumPy |"))
    assert table._times(case["peers"]["NumPy"]["ours_is"]) in over and over.count("(") == 3
    assert sum("| 768 |" in line for line in text.splitlines()) == 10 and "Memory ceilings: copy" in text
    assert "bench/results/x.json" in text and "fastrealign --help" in text
    # Cells line up: every line of a table has as many as its head.
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_a_busy_run_is_marked_in_its_tables(results):
    quiet, busy = ({**results, "machine": {**results["machine"], "others_cores": c}} for c in (0.01, 0.7))
    assert "Do not keep" not in table.render(quiet, "x.json")
    assert "other processes took 0.70 cores" in table.render(busy, "x.json")


def test_a_part_that_was_not_run_has_no_table(results):
    text = table.render({key: results[key] for key in ("kind", "machine", "settings", "small")}, "x.json")
    assert "Small batches" in text and "ceiling" not in text and "Files to files" not in text


def test_a_page_is_filled_between_its_markers_and_nowhere_else(results, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(results))
    kind = table.marker(results)
    assert kind == f"cpu-{results['machine']['isa']}"
    page = tmp_path / "docs" / "performance.md"
    page.parent.mkdir()
    page.write_text(f"before\n<!-- results:{kind} -->\nold\n<!-- /results:{kind} -->\nafter\n")
    assert table.main([str(tmp_path / "r.json"), str(page)]) == 0
    once = page.read_text()
    assert once.startswith(f"before\n<!-- results:{kind} -->\n") and once.endswith(
        f"\n<!-- /results:{kind} -->\nafter\n"
    )
    assert "| `apply`, plain |" in once and "old" not in once and "[`r.json`](../r.json)" in once
    assert table.main([str(tmp_path / "r.json"), str(page)]) == 0
    assert page.read_text() == once


def test_the_page_of_the_project_shows_the_results_that_are_kept():
    root = benchmarks.FOLDER.parent
    page = (root / "docs" / "performance.md").read_text()
    for kept in (root / "bench" / "results").glob("cpu-*.json"):
        assert table.render(json.loads(kept.read_text()), f"../bench/results/{kept.name}") in page


def test_a_page_without_markers_is_left_alone(results, tmp_path, capsys):
    (tmp_path / "r.json").write_text(json.dumps(results))
    page = tmp_path / "performance.md"
    page.write_text("no markers\n")
    assert table.main([str(tmp_path / "r.json"), str(page)]) == 2
    assert page.read_text() == "no markers\n"
    assert f"expected one <!-- results:{table.marker(results)} -->" in capsys.readouterr().err


def test_the_last_line_is_json_and_so_is_the_file(monkeypatch, tmp_path, capsys):
    command = benchmarks.module("__main__")
    whole = cpu.settings
    monkeypatch.setattr(cpu, "settings", lambda *of: replace(whole(*of), input_bytes=2**17, peers=()))
    out = tmp_path / "results" / "x.json"
    with timed_briefly():
        assert command.main(["--quick", "--only", "reduce-24", "--threads", "1", "--out", str(out)]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == json.loads(out.read_text())
    assert {case["op"] for case in last["cases"]} == {"reduce"} and "small" not in last
    assert last["settings"]["threads"] == 1


def test_what_a_name_selects():
    def of(*names):
        return [(op.variant, d, dtype) for op, d, dtype in ops.shapes(names)]

    assert len(of()) == 5 * 2 * 3
    assert of("apply-float32-768") == [("plain", 768, "float32"), ("with sums", 768, "float32")]
    assert of("gap-bf16-4096", "gap-bf16") == [("gap", d, "bfloat16") for d in (4096, 768, 1024)]
    assert {(variant, dtype) for variant, _, dtype in of("sums")} == {("with sums", t) for t in common.DTYPES}
    with pytest.raises(ValueError, match="apply-int8: int8 is no operation"):
        of("apply-int8")
    chosen = cpu.settings(["small", "moments"], True, 2, None)
    assert chosen.parts == ("small",) and {op.variant for op, *_ in chosen.shapes} == {"moments"}
    assert cpu.settings(["files"], False, 1, None).shapes == () and cpu.settings([], False, 1, None).parts == cpu.PARTS


@pytest.mark.parametrize("given", [["--threads", "0"], ["--files-in", "/no/such/folder"], ["--only", "everything"]])
def test_bad_usage_is_refused(given, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmarks.module("__main__").main(given)
    assert stop.value.code == 2
    assert given[0] in capsys.readouterr().err


def test_files_to_files(tmp_path):
    said = []
    entries = files.run([8_000_000], 2, 1, str(tmp_path), said.append)
    assert [entry["target"] for entry in entries] == [*files.TARGET_SHARE]
    # Four shards of whole tiles, each with its header.
    tile = problem.TILE * files.WIDTH * 4
    assert entries[0]["source_bytes"] == 4 * (tile + 128)
    for entry in entries:
        assert 10e6 < entry["peak_bytes"] < entry["one_pass_peak_bytes"] < 2e9  # which holds a sample
        assert all(entry[of]["median"] > 0 for of in ("of_cp", "of_its_moves", "one_pass_of_cp_and_read"))
        assert entry["of_cp"]["n"] == entry["one_pass_of_cp_and_read"]["n"] == 1
        assert entry["seconds"]["align"]["n"] == 1
        assert entry["one_pass_of_two"].keys() == {"page cache", "slow source"}
    assert list(tmp_path.iterdir()) == [] and len(said) == 2
    assert all("| " in part for part in table.to_files(entries)[1:])
    later = {"command": "python -m bench --only files", "after": "2026-01-01T10:00", "before": "2026-01-01T12:30:01"}
    assert "with `python -m bench --only files`, before 2026-01-01 12:30 UTC" in table.to_files(entries, later)[0]


def test_files_of_further_sizes_have_one_target(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_measure", lambda root, name, size, share, *_: (name, size, share))
    monkeypatch.setattr(files, "_compile", lambda root: None)
    first = [(name, 2000, share) for name, share in files.TARGET_SHARE.items()]
    further = ("target of a tenth", 1000, files.TARGET_SHARE["target of a tenth"])
    assert files.run([2000, 1000], 2, 1, str(tmp_path), print) == [*first, further]


def test_the_yardstick_moves_every_byte(tmp_path):
    data = {f"{i}.npy": np.random.default_rng(i).bytes(size) for i, size in enumerate((5, 3_000_000, files.STEP))}
    for folder in ("source", "target"):
        (tmp_path / folder).mkdir()
        for name, content in data.items():
            (tmp_path / folder / name).write_bytes(content)
    files._move_all(tmp_path / "source", tmp_path / "target", tmp_path / "out", 2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == data


def test_a_slow_source_is_slow_and_read_in_part(tmp_path, monkeypatch):
    rows = np.ones((4000, 32), np.float32)
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", rows)
    monkeypatch.setattr(files, "SLOW_BYTES", 2e6)
    slow = files._Slow(tmp_path, 384_000)
    start = time.perf_counter()
    read = sum(
        len(chunk) for piece in slow.pieces(64_000) for _, chunk in slow.chunks(piece, np.empty(64_000, np.uint8))
    )
    assert read == slow.rows == 3000 and time.perf_counter() - start >= 0.19


def test_files_are_left_out_where_there_is_no_room(tmp_path):
    said = []
    assert files.run([10**18], 2, 1, str(tmp_path), said.append) == []
    assert "left out" in said[0]


def test_the_fast_math_loop_leaves_the_float_state_as_it_was(tmp_path):
    """A library linked with -ffast-math would flush subnormal numbers in the whole process."""
    # Last on the path: in the source folder `fastrealign` may have no compiled core.
    program = (
        f"import sys; sys.path.append({str(Path(__file__).parents[3])!r}); from fastrealign import _core; "
        "from bench.native import compiled; compiled('fast_math.cpp', '-ffast-math'); "
        "left = _core.set_float_state(_core.DEFAULT_FLOAT_STATE); assert left & ~0x3F == _core.DEFAULT_FLOAT_STATE, hex(left)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
