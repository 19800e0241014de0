"""The examples in docstrings do what they show."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import sources

import fastrealign

PACKAGE = Path(fastrealign.__path__[0])
# Ray's types of Arrow hold for the whole process; its examples need a cluster and are skipped anyway.
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>>" in path.read_text() and path.name != "ray.py"
]


def _examples(module: ModuleType) -> Iterator[doctest.DocTest]:
    """One test for each docstring with examples, of decorated functions too, which doctest's own finder passes over."""
    path = Path(str(module.__file__))
    for node in ast.walk(sources.tree(path)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ">>>" in (
            text := ast.get_docstring(node) or ""
        ):
            name = getattr(node, "name", module.__name__)
            yield doctest.DocTestParser().get_doctest(text, dict(vars(module)), name, str(path), 0)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"needs {error.name}")
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for example in _examples(module):
        runner.run(example)
    assert runner.tries > 0 and runner.failures == 0
