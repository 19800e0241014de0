"""Modules that are imported on first use."""

from __future__ import annotations

import sys

import pytest

from fastrealign.core.errors import InputError
from fastrealign.core.optional import Lazy


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that counts its imports, and finds some of its names by itself."""
    (tmp_path / "lazily.py").write_text(
        "value = 1\ndef __getattr__(name):\n    if name == 'more':\n        return 2\n    raise AttributeError(name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "lazily"
    sys.modules.pop("lazily", None)


def test_a_module_is_imported_on_first_use_and_seen_as_it_is(module):
    lazy = Lazy(module)
    assert not hasattr(lazy, "__wrapped__") and module not in sys.modules, "tools that look at names import nothing"
    assert lazy.value == 1 and lazy.more == 2 and not hasattr(lazy, "other")
    sys.modules[module].value = 3
    assert lazy.value == 3 and Lazy(module).value == 3
    del sys.modules[module]
    assert lazy.value == 3 and not hasattr(lazy, "other"), "a module that was taken out of sys.modules"


def test_what_is_not_installed_is_named_at_every_use():
    lazy = Lazy("no_such_library", "remote", "x.foo: foo")
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"^x.foo: foo needs no_such_library: pip install 'fastrealign\[remote\]'$"
        ):
            lazy.anything  # noqa: B018
