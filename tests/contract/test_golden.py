"""Parity with the published method, end to end: pickles in, aligned pickles out, against float64 and the reference script.

The sets under shared/golden hold what the public reference script made of them; where they are not there, sets of the same
kind are made here and compared with `reference.py`. Run with -s to read the figures.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core import reference

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
SETS = ("raw_fp32", "unit_fp16")

PARITY = 3e-7  # of an aligned entry
STATISTICS = 1e-6  # of scale, means and traces


def embeddings(folder: Path) -> np.ndarray:
    """All rows of a folder of pickles in the order of their numbers, items without an embedding left out."""
    paths = sorted(folder.glob("*.pkl"), key=lambda path: int(path.stem.rpartition("_")[2]))
    items = [item for path in paths for item in pickle.loads(path.read_bytes())]
    return np.stack([np.ravel(item["embed"]) for item in items if item.get("embed") is not None])


@pytest.fixture(params=SETS)
def golden(request):
    if not (GOLDEN / request.param).is_dir():
        pytest.skip("the golden sets are not here")
    folder = GOLDEN / request.param
    return folder, np.load(folder / "reference.npz")


@pytest.fixture(params=[np.float32, np.float16])
def made(request, tmp_path, rng):
    """A folder like a golden one, of text and images around two centres; some items have no embedding."""

    def side(count, key, centre):
        rows = rng.standard_normal((count, 96)) * np.linspace(1.5, 0.3, 96) + centre
        if request.param == np.float16:
            rows = reference.project(rows)
        items = [{"id": f"{key}{i}", key: f"{i}", "embed": row.astype(request.param)} for i, row in enumerate(rows)]
        items[3]["embed"] = None
        del items[5]["embed"]
        return items

    centres = rng.standard_normal((2, 96))
    for name, items in (
        ("text/text_embeds_2.pkl", side(700, "caption", centres[0])),
        ("text/text_embeds_10.pkl", side(600, "caption", centres[0])),
        ("img/image_embeds_1.pkl", side(900, "image_path", centres[1])),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(pickle.dumps(items))
    return tmp_path


def align(folder, out, centroid):
    report = fr.align(folder / "text", folder / "img", out, centroid=centroid)
    return report, embeddings(out)


def test_the_reference_scripts_output(golden, tmp_path):
    folder, expected = golden
    report, aligned = align(folder, tmp_path / "out", "paper")
    a = report.alignment
    found = {
        "aligned": np.abs(aligned.astype(np.float64) - expected["aligned"]).max(),
        "scale": abs(a.s - float(expected["scale"])),
        "trace_txt": abs(a.trace_source - float(expected["trace_txt"])),
        "trace_img": abs(a.trace_target - float(expected["trace_img"])),
        "mu_txt": np.abs(a.mean_source - expected["mu_txt"]).max(),
        "mu_img": np.abs(a.mean_target - expected["mu_img"]).max(),
    }
    print(f"\n{folder.name}: {', '.join(f'{name} {error:.1e}' for name, error in found.items())}")
    assert aligned.dtype == np.float32
    assert found["aligned"] <= PARITY
    assert all(error <= STATISTICS for name, error in found.items() if name != "aligned")


def test_the_float64_reference(made, tmp_path):
    text, images = embeddings(made / "text"), embeddings(made / "img")
    assert len(text) == 1296
    report, aligned = align(made, tmp_path / "out", "paper")
    expected = reference.fit(text, images)
    a = report.alignment
    assert report.skipped == 4
    assert a.s == pytest.approx(expected.s, abs=STATISTICS)
    for name in ("mean_source", "mean_target", "b", "c"):
        np.testing.assert_allclose(getattr(a, name), getattr(expected, name), atol=1e-12)
    exact = reference.row_map(text, expected.s, expected.b, expected.c)
    assert aligned.dtype == np.float32
    assert np.abs(aligned - exact).max() <= PARITY


def check_exact_centroid(folder):
    text, images = embeddings(folder / "text"), embeddings(folder / "img")
    paper, exact = (fr.fit(text, images, centroid=centroid) for centroid in ("paper", "exact"))
    center = reference.project(images).mean(0)

    def left(rows):
        return np.linalg.norm(rows.astype(np.float64).mean(0) - center)

    in_float64 = left(reference.row_map(text, exact.s, exact.b, exact.c))
    in_float32 = left(exact(text.astype(np.float32)))
    print(
        f"\n{folder.name}: gap {paper.gap_before:.3f}, paper leaves {paper.gap_left:.1e}, exact {in_float64:.1e}",
        end="",
    )
    print(f" in float64, {in_float32:.1e} stored in float32")
    assert in_float64 <= 1e-9
    assert in_float32 <= 1e-6
    assert paper.gap_left > 1e-6


def test_the_exact_centroid_leaves_no_gap_on_the_golden_sets(golden):
    check_exact_centroid(golden[0])


def test_the_exact_centroid_leaves_no_gap(made):
    check_exact_centroid(made)
