from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _here(one_thread_and_no_network):
    """For all tests of this folder."""
