"""faiss_export.py: the chain of FAISS transforms against the float64 reference, saved and loaded again."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core import reference
from fastrealign.core.errors import InputError

faiss = pytest.importorskip("faiss")
pytestmark = pytest.mark.filterwarnings("ignore::fastrealign.FitWarning")


@pytest.fixture(params=[3, 16, 257, 768])
def sides(request, rows_of):
    """Source rows of all lengths, and target rows on the other side of a gap."""
    d = request.param
    return rows_of(400, d), rows_of(300, d) + 3 * np.abs(rows_of(1, d)) / np.sqrt(d)


def stored(index):
    inner = faiss.downcast_index(index.index)
    return inner.reconstruct_n(0, inner.ntotal)


def float32_limit(text, alignment):
    """Rounding of float32, times what a row loses in digits where a translation cancels most of it."""
    u = reference.project(text) + alignment.b / alignment.s
    v = reference.project(u) + alignment.c
    lost = (1 + 1 / np.linalg.norm(u, axis=1)) * (1 + 1 / np.linalg.norm(v, axis=1))
    return 2.0**-23 * lost[:, None]


@pytest.mark.parametrize("centroid", ["paper", "exact"])
def test_the_chain_gives_what_the_reference_gives(sides, tmp_path, centroid):
    text, image = sides
    alignment = fr.fit(text, image, centroid=centroid)
    index = alignment.to_faiss()
    assert index.d == index.index.d == alignment.dim and index.ntotal == 0 and index.is_trained
    index.add(text)
    expected = reference.row_map(text, alignment.s, alignment.b, alignment.c)
    assert np.all(np.abs(stored(index) - expected) <= float32_limit(text, alignment))
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    again = faiss.read_index(str(tmp_path / "index.faiss"))
    again.add(text)
    assert np.array_equal(stored(again)[400:], stored(index))


def test_text_searches_an_index_of_images(sides, tmp_path):
    text, image = sides
    alignment = fr.fit(text, image)
    images = faiss.IndexFlatIP(alignment.dim)
    images.add(reference.project(image).astype(np.float32))
    index = alignment.to_faiss(images)
    assert index.ntotal == 300
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    similar = reference.row_map(text, alignment.s, alignment.b, alignment.c) @ reference.project(image).T
    expected = -np.sort(-similar, axis=1)[:, :5]
    for searched in (index, faiss.read_index(str(tmp_path / "index.faiss"))):
        scores, found = searched.search(text, 5)
        limit = np.sqrt(alignment.dim) * float32_limit(text, alignment)
        assert np.all(np.abs(scores - expected) <= limit)
        assert np.all(np.abs(np.take_along_axis(similar, found, 1) - expected) <= 2 * limit)
    images.add(reference.project(image[:7]).astype(np.float32))  # the index is wrapped, not copied
    assert faiss.downcast_index(index.index).ntotal == 307


@pytest.mark.parametrize("wrong", [5, "images.faiss", lambda: faiss.IndexBinaryFlat(64)])
def test_what_is_no_index_is_refused(rows_of, wrong):
    alignment = fr.fit(rows_of(50, 8), rows_of(60, 8) + 1)
    with pytest.raises(
        InputError, match=r"expected an index of FAISS for float32 rows, such as faiss\.IndexFlatIP\(8\)"
    ):
        alignment.to_faiss(wrong() if callable(wrong) else wrong)


def test_what_has_no_chain_is_refused(rows_of, monkeypatch):
    alignment = fr.fit(rows_of(40, 8), rows_of(40, 8))
    with pytest.raises(InputError, match="the index holds rows of 9, the alignment is of 8"):
        alignment.to_faiss(faiss.IndexFlatL2(9))
    zeros = np.zeros(8)
    still = fr.Alignment(0.0, zeros + 1, zeros, zeros, zeros, 0.5, 0.0, 9, 9, 1.0)
    with pytest.raises(InputError, match=r"s = 0.0 has no chain"):
        still.to_faiss()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"pip install 'fastrealign\[faiss\]'"):
        alignment.to_faiss()
