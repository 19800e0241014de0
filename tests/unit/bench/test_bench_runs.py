"""bench.scale, bench.tiny and bench.paper.sample_size on few rows: what they report is so. Times are not tested."""

from __future__ import annotations

import json

import benchmarks
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core import reference
from fastrealign.data.row_source import PIECE_BYTES

scale, scale_point, tiny = map(benchmarks.module, ("scale", "scale_point", "tiny"))
sample_size = benchmarks.module("paper.sample_size")


def test_rows_that_are_made_up_are_windows_into_the_tile():
    tile = np.arange(50 * 4, dtype=np.float32).reshape(50, 4) + 1
    shard = scale_point.MadeShard(237, tile)
    chunks = list(shard.chunks(30))
    assert sum(map(len, chunks)) == 237
    for chunk in chunks:
        first = int(chunk[0, 0] - 1) // 4
        assert np.array_equal(chunk, tile[first : first + len(chunk)])
    assert len({chunk[0, 0] for chunk in chunks}) > 5
    with pytest.raises(ValueError, match="the tile has 50"):
        shard.read(0, 51, np.empty(0, np.uint8))


def test_a_fit_of_made_up_rows_is_that_of_the_same_rows_in_memory():
    tile, image = (np.random.default_rng(i).standard_normal((150_000, 8)).astype(np.float32) for i in (1, 2))
    shard = scale_point.MadeShard(300_000, tile)
    step = PIECE_BYTES // (8 * 4)
    rows = np.concatenate([shard.read(lo, min(lo + step, 300_000), image) for lo in range(0, 300_000, step)])
    made = fr.fit(fr.formats.Source("made", [shard], 300_000, 8), image)
    assert made.count_source == 300_000 and made.fingerprint == fr.fit(rows, image).fingerprint


@pytest.mark.parametrize("kind", scale_point.KINDS)
def test_a_point_of_every_kind(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(scale_point, "TILE_ROWS", 3000)
    monkeypatch.setattr(scale_point, "SHARD_ROWS", 1000)
    monkeypatch.setattr(scale_point, "TARGET_ROWS", 500)
    found = scale_point.main(kind, 2000, 1, tmp_path, at_least=0.0)
    assert len(found["seconds"]) == len(found["processor_seconds"]) == 1
    assert found["seconds"][0] > 0 and found["peak_bytes"] > 10e6
    if "files" in kind:
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert manifest["rows_out"] == 2000 and len(manifest["shards"]) == 2


def test_a_time_per_row_is_what_grows_with_the_rows():
    def point(rows, once=0.5, each=1e-6):
        seconds = scale.plain({"s": scale.Spread.of([once + each * rows])})["s"]
        return {"rows": rows, "seconds": seconds, "processor_seconds": seconds, "peak_bytes": 1e8, "others_cores": 0.0}

    points = [point(rows) for rows in (scale.FEW, *scale.DECADES)]
    found = scale.flatness(points)
    assert found["wall"]["ns_a_row"] == pytest.approx([1000.0] * 4, rel=1e-4)
    assert found["wall"]["once_seconds"] == pytest.approx(0.5, abs=0.01)
    assert found["wall"]["largest_over_smallest"] == pytest.approx(1.0, abs=1e-4)
    steeper = scale.flatness([*points[:-1], point(10**9, each=1.2e-6)])
    assert steeper["wall"]["largest_over_smallest"] == pytest.approx(1.2, abs=0.03)


def test_a_point_is_measured_again_while_others_are_busy(monkeypatch):
    busy = iter([0.9, 0.02, 0.0])
    monkeypatch.setattr(scale, "one_point", lambda *of: {"seconds": [1.0]})
    monkeypatch.setattr(scale.Others, "cores", lambda self: next(busy))
    assert scale.quiet_point("fit", 10, 1, 0.0, None)["others_cores"] == 0.02
    still = iter([0.9, 0.5, 0.0, 0.7])
    monkeypatch.setattr(scale, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(scale.Others, "cores", lambda self: next(still))
    scale.wait_for_quiet(60.0)
    assert next(still) == 0.7


def test_a_run_is_reported_drawn_and_kept(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")

    def one_point(kind, rows, *_):
        seconds = [1e-3 + rows * 1e-7, 2e-3 + rows * 1e-7]
        return {"seconds": seconds, "processor_seconds": seconds, "peak_bytes": 123e6}

    monkeypatch.setattr(scale, "one_point", one_point)
    monkeypatch.setattr(scale.Others, "cores", lambda self: 0.0)
    assert scale.main(["--quick", "--out", str(tmp_path / "r.json")]) == 0
    results = json.loads((tmp_path / "r.json").read_text())
    assert [series["kind"] for series in results["series"]] == list(scale_point.KINDS)
    axes = scale.draw(results).axes
    assert [[int(x) for x in line.get_xdata()] for line in axes[1].lines[: len(results["series"])]] == [
        [10**6, 10**7]
    ] * 3
    assert "100.0, 100.0 ns a row" in scale.summary(results["series"][0])


def test_one_kind_alone_keeps_the_others_of_the_file(tmp_path, monkeypatch, capsys):
    """Rounds that others disturbed do not count where there are quiet ones."""
    took, others = iter(range(1, 1000)), iter([0.0, 0.9] * 1000)
    monkeypatch.setattr(scale, "DECADES", (10**6, 10**7))
    monkeypatch.setattr(scale, "TRIES", 1)
    monkeypatch.setattr(
        scale,
        "one_point",
        lambda *_: {"seconds": [(s := float(next(took)))], "processor_seconds": [s], "peak_bytes": 1e8},
    )
    monkeypatch.setattr(scale.Others, "cores", lambda self: next(others))
    monkeypatch.setattr(scale, "wait_for_quiet", lambda patience: None)
    out = tmp_path / "r.json"
    for kind in ("fit in one pass", "fit", "fit"):
        assert scale.main(["--only", kind, "--most", "10000000", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [series["kind"] for series in found["series"]] == ["fit", "fit in one pass"]
    one_pass = found["series"][1]["points"]
    assert [point["seconds"]["n"] for point in one_pass] == [3, 2, 3] and found["machine"]["others_cores"] == 0.0
    assert found["series"][0]["points"][0]["seconds"]["p10"] > one_pass[-1]["seconds"]["p90"]  # measured later
    found["settings"]["threads"] = 99
    out.write_text(json.dumps(found))
    assert scale.main(["--only", "fit", "--most", "10000000", "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "r.json: other settings" in said and "give another --out" in said


def test_a_point_that_fails_is_named(tmp_path):
    with pytest.raises(scale.CannotBenchmark, match="nothing, 5 rows: exit 1: KeyError"):
        scale.one_point("nothing", 5, 1, str(tmp_path))


def test_tiny_shards(tmp_path):
    said = []
    results = tiny.run(tmp_path, 20, 5, 1, said.append)
    assert [(entry["shards"], entry["fsync"]) for entry in results["entries"]] == [(20, False), (5, True)]
    for entry in results["entries"]:
        of = entry["ms_a_shard"]
        for name in ("apply", "align"):
            assert entry["overhead_ms"][name] == pytest.approx(of[name]["median"] - of["loop"]["median"], rel=1e-3)
    assert len([line for line in said if "ms a shard" in line]) == 2 and list(tmp_path.iterdir()) == []


def test_a_cloud_has_the_mean_and_the_spectrum_of_the_rows(rng):
    rows = (rng.standard_normal((500, 6)) * [3, 2, 1, 1, 0.5, 0.1] + 1).astype(np.float16)
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    cloud = sample_size.like(rows, 40_000, 1).astype(np.float64)
    assert np.abs(cloud.mean(0) - unit.mean(0)).max() < 0.02
    assert np.abs(np.cov(cloud.T) - np.cov(unit.T)).max() < 0.02


@pytest.fixture(scope="module")
def measured():
    patch = pytest.MonkeyPatch()
    patch.setattr(sample_size, "SIZES", (100, 1000))
    patch.setattr(sample_size, "TRIALS", 2)
    patch.setattr(sample_size, "TOLERANCES", (0.2,))
    patch.setattr(sample_size, "SHARD_ROWS", 1000)
    yield json.loads(json.dumps(sample_size.run(3000, lambda line: None)))
    patch.undo()


def test_gaps_by_sample_size(measured):
    demo, cloud = measured["by_size"]
    assert [size["n"] for size in demo["sizes"]] == [100, 1000, 4000]
    assert [size["n"] for size in cloud["sizes"]] == [100, 1000, 3000]
    text, image = (sample_size.load(name).astype(np.float64) for name in ("text", "image"))
    fit = reference.fit(text, image)
    left = np.linalg.norm(reference.row_map(text, fit.s, fit.b, fit.c).mean(0) - reference.row_map(image).mean(0))
    few, _, whole = demo["sizes"]
    assert whole["left"]["paper"]["all rows"] == [pytest.approx(left, rel=1e-6)]
    assert whole["left"]["exact"]["all rows"][0] < 1e-9
    assert len(few["left"]["paper"]["held out"]) == 2
    assert np.median(few["left"]["paper"]["all rows"]) > 3 * left


def test_what_each_way_to_fit_says(measured):
    whole, one_pass, sample = measured["by_method"]
    assert whole["trials"][0]["from_the_fit_on_every_row"] == 0.0
    assert one_pass["trials"][0]["rows_source"] == 3000 and one_pass["trials"][0]["stated_error"] is not None
    for trial in sample["trials"]:
        assert trial["stated_bound"] <= 0.2 and trial["gap"] <= trial["stated_gap"] + trial["stated_bound"]


def test_the_sample_sizes_are_reported_and_drawn(measured):
    pytest.importorskip("matplotlib")
    text = sample_size.tell(measured)
    assert "| no alignment |" in text and "`tol=0.2`" in text and "| 4,000 |" in text
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
    assert len(sample_size.draw(measured).axes) == 2
