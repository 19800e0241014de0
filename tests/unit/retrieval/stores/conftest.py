"""Roles for rows of a small index, batches of a few rows, and runs that are killed."""

from __future__ import annotations

import re

import numpy as np
import postgres
import pytest

import fastrealign as fr
from fastrealign.core.errors import InputError
from fastrealign.retrieval import index, searcher
from fastrealign.retrieval.role_maps import Mapper
from fastrealign.retrieval.stores import base

D = 8
ROLES = ("text", "image")


class Killed(BaseException):
    """Stands for a kill: nothing that catches Exception sees it."""


@pytest.fixture
def check_dropped():
    """After `drop_old` nothing can be made again, nothing that was made is lost, and it is not read as a source."""

    def check(place, roles, aligned, rows, dropped, **how):
        with pytest.raises(InputError, match=f"{re.escape(dropped)} is gone, so there is nothing to make"):
            index(place, roles, restart=True, **how)
        again = index(place, roles, **how)
        assert (again.rows, again.before, again.dropped) == (0, rows, "")
        with searcher(place, roles, to=aligned) as search:
            assert search.search(np.ones(8), 3).ids.shape == (1, 3)

    return check


@pytest.fixture(scope="session")
def roles():
    """Three roles, fitted on rows that lie apart."""
    rng = np.random.default_rng(7)
    sides = {role: rng.standard_normal((300, D)) + at for role, at in (("query", 1.5), ("text", 1.0), ("image", -1.0))}
    return fr.fit_roles(sides, anchor="image", method="centred")


@pytest.fixture(scope="session")
def others():
    """Other roles of the same names."""
    rng = np.random.default_rng(8)
    return fr.fit_roles({role: rng.standard_normal((50, D)) for role in ("query", *ROLES)}, anchor="image")


@pytest.fixture(scope="session")
def server():
    """A PostgreSQL server that this process has for itself."""
    pytest.importorskip("psycopg")
    if postgres.programs() is None:
        pytest.skip("needs PostgreSQL, or pip install pgserver")
    with postgres.server() as running:
        yield running


@pytest.fixture(scope="session")
def url(server):
    """Of this server."""
    return server.url


@pytest.fixture
def documents(rng):
    """documents(n): float32 rows, and the role of each."""

    def documents(n):
        kinds = [ROLES[i] for i in rng.integers(0, 2, n)]
        shift = np.where(np.array(kinds) == "text", 1.0, -1.0)[:, None]
        return (rng.standard_normal((n, D)) + shift).astype(np.float32), kinds

    return documents


@pytest.fixture
def mapped(roles):
    """mapped(rows, kinds): what each row is mapped to, one at a time."""
    return lambda rows, kinds: np.stack([roles[kind](row) for row, kind in zip(rows, kinds, strict=True)])


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of 16 rows."""
    monkeypatch.setattr(base, "BATCH_BYTES", 16 * 4 * D)


@pytest.fixture
def killed_at(monkeypatch):
    """killed_at(n): the nth batch that is mapped from now on ends the run; None: none does. Returns the sizes of batches.

    by   what is raised: by default what nothing catches
    """
    real, calls, last, raised = Mapper.__call__, [], [None], [Killed]

    def call(self, batch):
        calls.append(len(batch.rows))
        if len(calls) == last[0]:
            raise raised[0]
        return real(self, batch)

    def killed_at(n, by=Killed):
        calls.clear()
        last[0], raised[0] = n, by
        return calls

    monkeypatch.setattr(Mapper, "__call__", call)
    return killed_at
