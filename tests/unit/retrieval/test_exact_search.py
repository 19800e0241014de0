"""Search over documents in blocks, against the whole matrix of scores."""

from __future__ import annotations

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.retrieval import exact_search as module
from fastrealign.retrieval.exact_search import top_k


def brute(queries, documents, k):
    """By the full matrix in float64; of equal scores the lower row."""
    unit = lambda rows: rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)  # noqa: E731
    scores = np.round(unit(queries) @ unit(documents).T, 11)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k], scores


@pytest.mark.parametrize("n, k", [(1, 5), (7, 7), (16384, 3), (16385, 130), (33000, 10)])
def test_is_the_brute_force(rng, monkeypatch, n, k):
    monkeypatch.setattr(module, "QUERIES", 3)  # several groups, the last one shorter
    queries, documents = rng.standard_normal((7, 5)), rng.standard_normal((n, 5)).astype(np.float32)
    documents[n // 2 :] = documents[: n - n // 2]  # ties, some of them across blocks
    found = top_k(queries, documents, k)
    expected, scores = brute(queries, documents, k)
    np.testing.assert_array_equal(found.numbers, expected)
    np.testing.assert_allclose(found.cosines, np.take_along_axis(scores, expected, 1), atol=1e-10)


@pytest.mark.parametrize("method", ["realign", "centred", "z-score"])
def test_documents_are_mapped_as_they_are_read(rng, tmp_path, method):
    text, image = (rng.standard_normal((300, 6)).astype(np.float32) + at for at in (1, -1))
    np.save(tmp_path / "0.npy", text[:100])
    np.save(tmp_path / "1.npy", text[100:])
    roles = fr.fit_roles({"text": text, "image": image}, anchor="image", method=method)
    found = top_k(image[:9], tmp_path, 12, method=roles["text"])
    expected, _ = brute(image[:9], roles["text"](text.astype(np.float64)), 12)
    np.testing.assert_array_equal(found.numbers, expected)


def test_an_index_is_searched_as_it_is(rng):
    faiss = pytest.importorskip("faiss")
    rows = rng.standard_normal((50, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(8)
    index.add(rows)
    np.testing.assert_array_equal(top_k(3 * rows[:4], index, 5).numbers, top_k(rows[:4], rows, 5).numbers)
    with pytest.raises(fr.InputError, match="metric"):
        top_k(rows, faiss.IndexFlatL2(8), 5)


@pytest.mark.parametrize(
    "queries, k, message",
    [(np.ones((2, 3)), 1, "rows are 4 wide, queries 3"), (np.ones((2, 4)), 0, "k=0"), (np.zeros((2, 4)), 1, "row 0")],
)
def test_what_cannot_be_searched(queries, k, message):
    with pytest.raises(fr.InputError, match=message):
        top_k(queries, np.eye(4), k)


def test_no_documents():
    with pytest.raises(fr.InputError, match="target: holds no rows to search; add documents first"):
        top_k(np.ones((2, 4)), np.empty((0, 4)), 1)
