"""The walls of the package: imports go down the layers and never in a circle, and its top stays small enough to read."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import sources

import fastrealign

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fastrealign"
# From the bottom up; rooms of one layer do not import each other.
LAYERS = [
    ["_core"],
    ["kernels"],
    ["core"],
    ["storage"],
    ["formats"],
    ["data"],
    ["diagnostics"],
    ["methods"],
    ["nn"],
    ["jobs"],
    ["gap_report", "embed"],
    ["revision", "retrieval"],
    ["fastrealign"],
    ["cli"],
    ["__main__"],
]
LAYER = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


class Import(NamedTuple):
    by: str
    of: str
    line: int
    typing: bool
    inside: bool
    lazy: bool = False  # by `Lazy` or `optional`, whose argument names the module


def _modules() -> dict[str, Path]:
    found = {}
    for folder, name in ((PACKAGE, "fastrealign"), (ROOT / "kernels", "fastrealign.kernels")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([name, *(parts[:-1] if parts[-1] == "__init__" else parts)])] = path
    return found


MODULES = _modules()


def _imports(module: str) -> Iterator[Import]:
    """Of this package, those in functions and under TYPE_CHECKING too."""

    def visit(node: ast.AST, typing: bool, inside: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                package = f"{module.rpartition('.')[0]}." if child.level else ""
                names = [
                    ".".join(filter(None, [f"{package}{child.module or ''}".strip("."), a.name])) for a in child.names
                ]
            else:
                names = []
            lazy = isinstance(child, ast.Call) and getattr(child.func, "id", "") in ("Lazy", "optional")
            if lazy and isinstance(child.args[0], ast.Constant):
                names = [str(child.args[0].value)]
            for name in names:
                if name.partition(".")[0] == "fastrealign":
                    while name not in MODULES and name != "fastrealign._core":
                        name = name.rpartition(".")[0]
                    yield Import(module, name, child.lineno, typing, inside, lazy)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                yield from visit(ast.Module(child.body, []), True, inside)
                yield from visit(ast.Module(child.orelse, []), typing, inside)
                continue
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from visit(child, typing, inside or function)

    yield from visit(sources.tree(MODULES[module]), False, False)


@cache
def imports() -> list[Import]:
    """All that modules of the package import of it; read by the first test that asks."""
    return [found for module in MODULES for found in _imports(module) if found.of != module]


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else "fastrealign"


def test_every_room_has_a_layer():
    assert {_room(module) for module in MODULES} <= LAYER.keys()


def test_imports_go_down_the_layers():
    """Those for type checkers too. The package's own __init__ names what users use, from every room."""
    up = [
        f"{found.by}:{found.line} imports {found.of}"
        for found in imports()
        if _room(found.by) != _room(found.of)
        and LAYER[_room(found.of)] >= LAYER[_room(found.by)]
        and found.by != "fastrealign"
    ]
    assert not up, "\n".join(up)


def test_every_public_name_has_a_type():
    """Others would be of type Any to the users' type checkers."""
    imported = {found.of for found in imports() if found.by == "fastrealign" and found.typing}
    homes = [f"fastrealign.{home}.{name}" for name, home in fastrealign._HOMES.items()]
    modules = [f"fastrealign.{home}" for home in fastrealign._MODULES.values()]
    assert [name for name in [*homes, *modules] if not {name, name.rpartition(".")[0]} & imported] == []


def test_no_import_circles():
    graph = defaultdict(set)
    for found in imports():
        if not found.typing:
            graph[found.by].add(found.of)
    circles = [sorted(part) for part in _strongly_connected(graph) if len(part) > 1]
    assert not circles, circles


def _strongly_connected(graph: dict[str, set[str]]) -> list[set[str]]:
    """Tarjan's algorithm."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    parts: list[set[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for after in sorted(graph.get(node, ())):
            if after not in number:
                visit(after)
                low[node] = min(low[node], low[after])
            elif after in stack:
                low[node] = min(low[node], number[after])
        if low[node] == number[node]:
            part: set[str] = set()
            while node not in part:
                part.add(stack.pop())
            parts.append(part)

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return parts


# Libraries that come with extras, or with torch.
OPTIONAL = {
    "accelerate",
    "faiss",
    "fsspec",
    "lance",
    "matplotlib",
    "open_clip",
    "pandas",
    "peft",
    "PIL",
    "polars",
    "pyarrow",
}
OPTIONAL |= {"ray", "scipy", "sklearn", "torch", "transformers", "triton", "yaml"}


def _at_the_top(module: str) -> set[str]:
    """The libraries that a module imports when it is imported."""
    found = set()
    for node in sources.tree(MODULES[module]).body:
        for child in ast.walk(node) if isinstance(node, ast.Try) else [node]:
            if isinstance(child, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in child.names}
            elif isinstance(child, ast.ImportFrom) and child.module:
                found.add(child.module.partition(".")[0])
    return found


def test_own_modules_are_imported_at_the_top():
    """In functions only those that import an optional library themselves."""
    above = {
        module: {found.of for found in imports() if found.by == module and not found.inside and not found.lazy}
        for module in MODULES
    }
    heavy = {module for module in MODULES if _at_the_top(module) & OPTIONAL}
    while more := {module for module in MODULES if above[module] & heavy} - heavy:
        heavy |= more
    inside = [
        f"{found.by}:{found.line} imports {found.of}" for found in imports() if found.inside and found.of not in heavy
    ]
    assert not inside, "\n".join(inside)


def test_the_top_of_the_package_is_small():
    """At most 16 entries, as git sees them."""
    entries = {path.relative_to(PACKAGE).parts[0] for path in MODULES.values() if path.is_relative_to(PACKAGE)}
    entries |= {"py.typed"}
    assert len(entries) <= 16, sorted(entries)


def test_few_long_files():
    """At most 8 % have more than 300 lines."""
    long = {path.name: count for path in MODULES.values() if (count := len(path.read_text().splitlines())) > 300}
    assert len(long) <= 0.08 * len(MODULES), long


def test_functions_and_modules_have_names_of_their_own():
    """`import fastrealign.fit` must not give a function."""
    import fastrealign as fr

    rooms = {module.split(".")[1] for module in MODULES if "." in module}
    assert not rooms & set(fr.__all__)
    assert set(dir(fr)) == {
        *fr.__all__,
        "ReAlign",
        "baselines",
        "diagnostics",
        "embed",
        "nn",
        "ray",
        "retrieval",
        "revision",
    }


# What users call: their options are keywords. Inside, options are handed on as the dataclasses that check them.
PUBLIC = {
    "__call__",
    "align",
    "apply_files",
    "ask",
    "check",
    "convert",
    "embed_files",
    "evaluate",
    "fit",
    "fit_baseline",
    "fit_map",
    "fit_roles",
    "index",
    "report",
    "update",
}


def test_no_function_takes_more_than_eight_parameters():
    many = []
    for module, path in MODULES.items():
        if module.startswith("fastrealign.kernels"):  # a Triton kernel takes pointers, strides and sizes one by one
            continue
        for node in ast.walk(sources.tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name not in PUBLIC:
                given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                count = sum(arg.arg not in ("self", "cls") for arg in given)
                if count > 8 and (module, node.name) != (
                    "fastrealign.revision.data",
                    "__init__",
                ):  # the public Collator
                    many.append(f"{module}:{node.lineno} {node.name} takes {count}")
    assert not many, "\n".join(many)


@pytest.mark.parametrize("statement", ["import fastrealign", "from fastrealign.cli.main import main"])
def test_nothing_heavy_is_imported_before_it_is_used(statement):
    heavy = {
        "torch",
        "pyarrow",
        "pandas",
        "matplotlib",
        "transformers",
        "sklearn",
        "scipy",
        "fsspec",
        "asyncio",
        "numpy",
    }
    code = f"import sys; {statement}; print(*{sorted(heavy)!r} and [name for name in {sorted(heavy)!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert run.stdout.split() == []
