"""The compared methods from files to files: the rows of one call, whatever the shards, threads, stops and processes."""

from __future__ import annotations

import json

import corpus
import numpy as np
import processes
import pytest
import stops

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.core.errors import InputError
from fastrealign.core.progress import Progress
from fastrealign.methods.baseline import IN_STEPS, Baseline
from fastrealign.methods.baselines import METHODS, fit_baseline
from fastrealign.methods.method import Call, Method

BASELINES = [name for name in METHODS if not name.startswith("realign")]
SIZES = (70, 1, 1300, 40)


@pytest.fixture
def sides(tmp_path):
    """A folder of text shards, an image folder, and the text rows of all shards in the order of their names."""
    parts = [corpus.rows(n, i) for i, n in enumerate(SIZES)]
    text = corpus.npy_folder(tmp_path / "text", parts)
    image = corpus.npy_folder(tmp_path / "image", [corpus.rows(900, 50)])
    return text, image, np.concatenate(parts)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_method(tmp_path, name):
    """What the rest of the package uses of a fitted method (Method) is there, of the type that is promised."""
    rows, image = corpus.rows(300, 1), corpus.rows(200, 2)
    method: Method = fit_baseline(name, rows, image)
    for member in (member for member in vars(Method) if not member.startswith("_")):
        assert hasattr(method, member), member
    assert (method.name, method.dim) == (name, rows.shape[1])
    assert isinstance(method.fingerprint, str) and isinstance(method.numbered, bool)
    assert method.mean_target.shape == (method.dim,) and method.gap_before > 0.0
    method.save(tmp_path / "method.safetensors")
    loaded = fr.load(tmp_path / "method.safetensors")
    assert (type(loaded), loaded.fingerprint) == (type(method), method.fingerprint)
    assert loaded == method and len({loaded, method}) == 1
    expected, out = method(rows, first=7), np.empty_like(rows)
    assert method.apply(rows, out, Call(first=7)).bad == 0
    for mapped in (out, loaded(rows, first=7), np.concatenate([method(rows[:9], first=7), method(rows[9:], first=16)])):
        np.testing.assert_array_equal(mapped, expected)
    assert np.array_equal(method(rows), expected) == (not method.numbered)
    with pytest.raises(InputError, match="rows are 3 wide"):
        method(rows[:, :3])


@pytest.mark.parametrize("name", BASELINES)
def test_files_hold_what_one_call_gives(sides, tmp_path, name):
    text, image, rows = sides
    report = fr.align(text, image, tmp_path / "out", method=name)
    method = fr.load(tmp_path / "out" / "alignment.safetensors")
    assert isinstance(method, Baseline) and method.name == report.alignment.name == name
    assert (method.row_map is None) == (name in IN_STEPS)
    assert method.fingerprint == fit_baseline(name, rows, corpus.loaded(image)).fingerprint
    written = corpus.loaded(tmp_path / "out")
    np.testing.assert_array_equal(written, method(rows))
    gap = np.linalg.norm(written.astype(np.float64).mean(0) - corpus.unit(corpus.loaded(image)).mean(0))
    assert report.gap_left == pytest.approx(gap, abs=1e-7) == method.gap_left
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["asked"]["options"]["method"] == name
    assert f"by {name}" in str(report) and report.to_json()["alignment"]["method"] == name
    assert fr.align(text, image, tmp_path / "out", method=name, resume=True).nothing_to_do
    with pytest.raises(InputError, match=f"method was {name}, now it is the default|centroid was"):
        fr.align(text, image, tmp_path / "out", resume=True)


@pytest.mark.parametrize("name", ["c3", "bca", "mean-shift"])
def test_the_same_bytes_whatever_threads_memory_order_and_stops(sides, tmp_path, name):
    text, image, _ = sides
    method = fr.fit(text, image, method=name)
    fr.apply_files(method, text, tmp_path / "whole", threads=1)
    whole = corpus.tree(tmp_path / "whole")
    fr.apply_files(method, sorted(text.iterdir(), reverse=True), tmp_path / "back", threads=3, max_memory=400_000)
    back = corpus.tree(tmp_path / "back")
    assert {n: b for n, b in back.items() if n.endswith(".npy")} == {
        n: b for n, b in whole.items() if n.endswith(".npy")
    }
    for rows in (100, 1390):
        out = tmp_path / f"stopped{rows}"
        with pytest.raises(fr.FastRealignError, match="disk is full"):
            fr.apply_files(method, text, out, threads=1, progress=stops.StopAfter(rows))
        report = fr.apply_files(method, text, out, resume=True, threads=2)
        assert report.shards_before > 0 and corpus.tree(out) == whole


def test_numbers_of_rows_that_no_longer_are_what_they_were(sides, tmp_path):
    text, image, _ = sides
    for name, numbered in (("c3", True), ("mean-shift", False)):
        method, out = fr.fit(text, image, method=name), tmp_path / name
        with pytest.raises(fr.FastRealignError):
            fr.apply_files(method, text, out, threads=1, progress=stops.StopAfter(100))
        rows = np.load(text / "part_3.npy")
        np.save(text / "part_3.npy", rows[::-1])  # as many rows: the numbers stay
        np.save(text / "part_0b.npy", rows[:3])
        if numbered:
            with (
                pytest.warns(UserWarning, match=r"part_0b\.npy: read as part of one set"),
                pytest.raises(InputError, match=r"rows of the source have other numbers .*overwrite=True"),
            ):
                fr.apply_files(method, text, out, resume=True)
        (text / "part_0b.npy").unlink()
        fr.apply_files(method, text, out, resume=True)
        np.save(text / "part_3.npy", rows)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_rows_without_a_direction(sides, tmp_path, name, dtype):
    text, image, rows = sides
    method = fr.fit(text, image, method=name)
    spoiled = np.load(text / "part_2.npy")
    spoiled[5], spoiled[1100] = np.nan, 0
    np.save(text / "part_2.npy", spoiled)
    rows = np.concatenate([np.load(text / f"part_{i}.npy") for i in range(4)])
    with pytest.raises(fr.BadRowsError, match=r"part_2\.npy: row 5 has a NaN or Inf"):
        fr.apply_files(method, text, tmp_path / "error")
    target = corpus.unit(corpus.loaded(image)).mean(0)
    for bad_rows in ("skip", "keep"):
        report = fr.apply_files(method, text, tmp_path / bad_rows, bad_rows=bad_rows, dtype=dtype)
        written = corpus.loaded(tmp_path / bad_rows)
        np.testing.assert_array_equal(written, method(rows, bad_rows=bad_rows, dtype=dtype))
        good = written.astype(np.float64)
        good = np.delete(good, [76, 1171], 0) if bad_rows == "keep" else good
        assert report.bad_rows == 2
        assert report.gap_left == pytest.approx(np.linalg.norm(good.mean(0) - target), abs=1e-7)


def test_realign_by_its_names(sides, tmp_path):
    text, image, _ = sides
    assert fr.fit(text, image, method="realign-exact").fingerprint == fr.fit(text, image, centroid="exact").fingerprint
    fr.align(text, image, tmp_path / "a", method="realign-exact")
    fr.align(text, image, tmp_path / "b", centroid="exact")
    assert corpus.tree(tmp_path / "a") == corpus.tree(tmp_path / "b")
    assert (fr.fit(text, image).name, fr.load(tmp_path / "a/alignment.safetensors").name) == (
        "realign",
        "realign-exact",
    )


def test_each_side_is_read_once(sides):
    class Phases(Progress):
        def __init__(self):
            self.seen = []

        def start(self, phase, rows, nbytes):
            self.seen.append(phase)

        def advance(self, rows, nbytes):
            pass

    for name in BASELINES:
        phases = Phases()
        fr.fit(*sides[:2], method=name, progress=phases)
        assert phases.seen == ["reading the target", "reading the source"]
    once = fr.fit(iter([sides[2]]), sides[1], method="anchor")
    assert once.fingerprint == fr.fit(*sides[:2], method="anchor").fingerprint


def test_blockwise_is_another_name_of_bca(sides, tmp_path):
    """Wherever a method is named; what is saved says bca."""
    text, image, _ = sides
    assert fr.fit(text, image, method="Blockwise").fingerprint == fr.fit(text, image, method="bca").fingerprint
    roles = fr.fit_roles({"text": text, "image": image}, anchor="image", method="blockwise")
    assert (roles.method, roles["text"].name) == ("bca", "bca")
    assert list(fr.report(text, image, methods=("blockwise",)).methods) == ["none", "bca"]
    out = str(tmp_path / "map.safetensors")
    assert main(["fit", str(text), "--target", str(image), "--method", "blockwise", "--out", out, "--quiet"]) == 0
    assert fr.load(out).name == "bca"
    for call in (
        lambda: fr.fit(text, image, method="blockwize"),
        lambda: fr.fit_roles({"text": text, "image": image}, anchor="image", method="blockwize"),
    ):
        with pytest.raises(InputError, match="did you mean 'blockwise'"):
            call()


def test_what_does_not_go_with_a_method(sides, tmp_path):
    text, image, _ = sides
    pytest.importorskip("torch")
    out = tmp_path / "out"
    for call, says in (
        (lambda: fr.fit(text, image, method="c4"), "there is no method 'c4': did you mean 'c3'"),
        (
            lambda: fr.fit(text, image, method="c3", centroid="exact"),
            "centroid= applies to ReAlign, not to the method c3",
        ),
        (
            lambda: fr.align(text, image, out, method="bca", one_pass=True),
            "one_pass= applies to ReAlign, not to the method bca",
        ),
        (lambda: fr.align(text, image, out, method="none", tol=0.1), "tol= applies to ReAlign, not to the method none"),
        (lambda: fr.align(text, image, out, method="c3", devices=["cpu"]), "c3 is computed on the CPU; leave"),
        (lambda: fr.fit(text, image, method="c3", encoder_source="x"), "c3 keeps no names of encoders"),
        (
            lambda: fr.align(text, image, out, method="bca", bad_rows="skip"),
            "bca is fitted on rows that all have a dir",
        ),
        (lambda: fr.fit(text, image, method="c3", seed=-1), "seed=-1: expected a whole number"),
    ):
        with pytest.raises(InputError, match=says):
            call()
        assert not out.exists()
    method = fr.fit(text, image, method="mean-shift")
    with pytest.raises(InputError, match="mean-shift is computed on the CPU"):
        fr.apply_files(method, text, out, devices=["cpu"])
    np.save(tmp_path / "wide.npy", np.ones((3, 5), np.float32))
    with pytest.raises(InputError, match=r"wide\.npy: rows are 5 wide, mean-shift was fitted on 16"):
        fr.apply_files(method, tmp_path / "wide.npy", out)
    anchor = fr.fit(text, image, method="anchor")
    fr.apply_files(anchor, text, out, devices=["cpu"])
    np.testing.assert_array_equal(corpus.loaded(out), anchor(sides[2]))


def test_the_command(sides, tmp_path, capsys):
    text, image, rows = (str(sides[0]), str(sides[1]), sides[2])
    saved, out = str(tmp_path / "c3.safetensors"), tmp_path / "out"
    assert main(["fit", text, "--target", image, "--out", saved, "--method", "c3", "--seed", "5", "--quiet"]) == 0
    assert fr.load(saved).fingerprint == fit_baseline("c3", rows, corpus.loaded(sides[1]), seed=5).fingerprint
    assert main(["fit", text, "--target", image, "--out", saved, "--method", "c3", "--overwrite", "--quiet"]) == 0
    assert main(["inspect", saved]) == 0
    shown = capsys.readouterr().out
    assert "the method c3 for 16 wide rows" in shown and "noise          of length 0.5 (seed 0), sigma = 0.125" in shown
    assert "gap left       not measured" in shown
    assert main(["inspect", saved, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "baseline"
    assert main(["apply", saved, text, "--out", str(out), "--quiet"]) == 0
    assert main(["align", text, "--target", image, "--out", str(tmp_path / "o2"), "--method", "c3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["alignment"]["method"] == "c3"
    for name in ("part_0.npy", "part_2.npy"):
        assert (out / name).read_bytes() == (tmp_path / "o2" / name).read_bytes()
    assert main(["inspect", str(out)]) == 0
    assert "apply (" in (shown := capsys.readouterr().out) and "method c3" in shown
    for words, says in (
        (["align", text, "--target", image, "--out", "x", "--method", "bac"], "did you mean 'bca'"),
        (
            ["align", text, "--target", image, "--out", "x", "--method", "c3", "--centroid", "paper"],
            "--centroid applies to",
        ),
        (["align", text, "--target", image, "--out", "x", "--method", "c3", "--tol", "1"], "--tol applies to ReAlign"),
        (["fit", text, "--from", saved, "--out", "x", "--method", "c3"], "leave out --method"),
        (["check", saved, text], "holds baseline, and check needs the statistics"),
    ):
        assert main([*words, "--quiet"]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
    with pytest.raises(SystemExit) as stopped:
        from fastrealign.cli.main import COMMANDS
        from fastrealign.cli.parser import parser_of

        parser_of(COMMANDS).parse_args(["fit", "--help"])
    assert stopped.value.code == 0
    help_text = " ".join(capsys.readouterr().out.split())
    assert all(name in help_text for name in METHODS)


def _rank(rank, size, folder):
    for name in ("c3", "anchor"):
        fr.align(folder / "text", folder / "image", folder / f"ranks_{name}", method=name, group="world", threads=1)
        fitted = fr.fit(folder / "text", folder / "image", method=name, group="world", threads=1)
        assert fitted.fingerprint == fr.load(folder / f"ranks_{name}" / "alignment.safetensors").fingerprint
    fr.align(folder / "text", folder / "image", folder / "ranks_noise", noise=1.0, seed=4, group="world", threads=1)
    with pytest.raises(InputError, match="bca is fitted by one process"):
        fr.align(folder / "text", folder / "image", folder / "no", method="bca", group="world")
    bca = fr.load(folder / "bca.safetensors")
    fr.apply_files(bca, folder / "text", folder / "ranks_bca", group="world", threads=1)


def test_ranks_write_what_one_process_writes(sides, tmp_path):
    pytest.importorskip("torch")
    text, image, _ = sides
    bca = fr.fit(text, image, method="bca")
    bca.save(tmp_path / "bca.safetensors")
    processes.run_on_processes(_rank, 2, tmp_path)
    fr.apply_files(bca, text, tmp_path / "alone_bca")
    for name in ("c3", "anchor"):
        fr.align(text, image, tmp_path / f"alone_{name}", method=name)
    fr.align(text, image, tmp_path / "alone_noise", noise=1.0, seed=4)
    for name in ("c3", "anchor", "bca", "noise"):
        assert corpus.tree(tmp_path / f"ranks_{name}") == corpus.tree(tmp_path / f"alone_{name}")
    assert not (tmp_path / "no").exists()
