"""What a map from pairs keeps of a search, against its definition, and what is advised by it."""

from __future__ import annotations

import numpy as np
import pytest
from pair_worlds import unit

from fastrealign.methods.recall_kept import Kept, recall_kept


def test_recall_kept_is_its_definition(rng):
    mapped, new, queries = (unit(rng.standard_normal((60, 8))) for _ in range(3))
    mapped, queries = unit(new + 0.4 * mapped), unit(new + 0.6 * queries)
    found = recall_kept(mapped, new, queries)
    own = np.arange(60)[:, None]

    def ten(queries, documents, apart=False):
        scores = queries @ documents.T - 9.0 * apart * np.eye(60)
        return np.argsort(-scores, axis=1)[:, :10]

    assert found.own == (ten(mapped, new) == own).any(1).mean()
    both = [set(a) & set(b) for a, b in zip(ten(new, new, True), ten(new, mapped, True), strict=True)]
    assert found.neighbours == pytest.approx(np.mean([len(one) / 10 for one in both]))
    there, here = ((ten(queries, documents) == own).any(1) for documents in (new, mapped))
    assert (found.re_embedded, found.mapped) == (there.mean(), here.mean())
    assert found.kept == here.sum() / there.sum()
    # The percentile interval against the normal one of a ratio of means.
    spread = np.std(here - found.kept * there) / np.sqrt(60) / there.mean()
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.25)


@pytest.mark.parametrize(
    ("kept", "low", "high", "queries", "said"),
    [
        (0.98, 0.96, 0.99, True, "use the map: it keeps 98.0%"),
        (0.7, 0.65, 0.75, True, "re-embed: the map keeps only 70.0%"),
        (0.7, 0.65, 0.75, False, "measure the recall that users see"),
        (0.9, 0.8, 0.98, True, "give more pairs"),
        (0.93, 0.91, 0.95, True, "between"),
        (0.2, 0.1, 0.9, "strangers", "are the pairs matched"),
        (0.98, 0.96, 0.99, "few", "199 held-out documents are too few to tell"),
    ],
)
def test_advice(kept, low, high, queries, said):
    own = 0.3 if queries == "strangers" else 1.0
    documents = 199 if queries == "few" else 200
    assert said in Kept(documents, kept, low, high, own, kept, *((0.5, 0.5) if queries else ())).advice
