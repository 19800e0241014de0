from __future__ import annotations

import pytest
from shim_kernels import Kernels, build_library


@pytest.fixture(scope="session")
def library(request):
    library = build_library(request.config)
    return library if library is not None else pytest.skip("install a C++ compiler")


@pytest.fixture
def kernels(library) -> Kernels:
    return Kernels(library)
