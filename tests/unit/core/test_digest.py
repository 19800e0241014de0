import hashlib

import pytest

from fastrealign.core.digest import sha256


@pytest.mark.parametrize("size", [0, 1, 63, 64, 100_000])
def test_it_is_sha256(rng, size):
    data = rng.bytes(size)
    found = sha256(data[: size // 2])
    found.update(memoryview(data)[size // 2 :])
    assert found.hexdigest() == hashlib.sha256(data).hexdigest()
