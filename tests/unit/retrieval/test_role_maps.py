"""Rows of several roles in one batch: each as its own map gives it, however many are gathered at a time."""

from __future__ import annotations

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core.progress import SILENT
from fastrealign.retrieval import role_maps
from fastrealign.retrieval.role_maps import Mapper, RoleMaps
from fastrealign.retrieval.stores.base import Batch

D = 8


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("block", [1, 3 * D * 4, 1 << 20], ids=["a row", "some rows", "all rows"])
def test_each_row_by_the_map_of_its_role(rng, monkeypatch, block, dtype):
    monkeypatch.setattr(role_maps, "_BLOCK_BYTES", block)
    sides = {role: rng.standard_normal((100, D)) + at for role, at in (("text", 1.0), ("image", -1.0), ("sound", 0.5))}
    maps = RoleMaps.of(fr.fit_roles(sides, anchor="image"))
    rows = rng.standard_normal((101, D)).astype(dtype)
    roles = rng.choice(["text", "image"], len(rows))
    rows[[7, 50]] = np.nan
    mapper = Mapper("a", maps, None, "skip", None, SILENT)
    made, good = mapper(Batch(rows, range(len(rows)), roles))
    assert good.tolist() == [i not in (7, 50) for i in range(len(rows))] and mapper.skipped == 2
    for role in ("text", "image"):
        of = good & (roles == role)
        assert (
            made.dtype == dtype
            and np.array_equal(made[of], maps.maps[role](rows[of]))
            and mapper.counts[role] == of.sum()
        )
