"""The package's own source code as syntax trees, each file parsed once in a process, and the texts in it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def texts(path: Path, passed_over: Callable[[ast.AST], bool] = lambda node: False) -> Iterator[tuple[int, str]]:
    """Line and text of each string of a file but docstrings, with "…" for what is put into it.

    passed_over   whether a node, with all in it, is left out
    """
    nodes: list[ast.AST] = [tree(path)]
    while nodes:
        node = nodes.pop()
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if docstring or passed_over(node):
            continue
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values),
            )
            nodes += [part for part in node.values if not isinstance(part, ast.Constant)]
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        nodes += ast.iter_child_nodes(node)
