"""How to take a method that a report of search compared: shell commands with the paths that were given, or Python calls."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import join
from typing import Any

from fastrealign.methods.roles import Roles
from fastrealign.retrieval.compared_roles import PAIRED, role_of_queries
from fastrealign.retrieval.documents import IMAGE, QUERY, TEXT, Rows
from fastrealign.storage.paths import is_path

_VARIABLES = {QUERY: "queries", TEXT: "text", IMAGE: "images"}


@dataclass(frozen=True, eq=False)
class ApplyRecipe:
    """What was given to `evaluate`: the rows of each role, as named and as opened, what names their ids and columns, and the
    judgements; None: rows are pairs, row by row."""

    given: Mapping[str, Any]
    sides: Mapping[str, Rows]
    named: Mapping[str, Any]
    qrels: Any

    def by_fitting(self, method: str) -> tuple[str, ...]:
        """Fit the method of this name on these rows, then apply it to each role."""
        if not self._paths or (method in PAIRED and not self._judged_by_file):
            return self._in_python(method)
        file = f"roles_{method}.safetensors"
        return self._fit(method, file), *self._apply(file, {role: role for role in self.sides}, method)

    def by_roles(self, name: str, saved: Any, roles: Roles) -> tuple[str, ...]:
        """Apply fitted roles: the path of saved ones, or Roles."""
        of = {role: role_of_queries(roles) if role == QUERY else role for role in self.sides}
        if is_path(saved) and self._paths:
            return self._apply(os.fspath(saved), of, re.sub(r"[^\w.-]+", "_", name).strip("_"))
        return tuple(f"roles[{of[role]!r}]({_VARIABLES[role]})" for role in self.sides)

    @property
    def _anchor(self) -> str:
        return IMAGE if IMAGE in self.sides else TEXT

    @property
    def _judged_by_file(self) -> bool:
        """Whether judgements and ids are in files, which commands can name; or there are none of either."""
        given = [self.qrels, *(self.named["ids"] or {}).values()]
        return all(one is None or is_path(one) for one in given)

    @property
    def _paths(self) -> Mapping[str, Sequence[str]]:
        """The paths of each role; empty where rows in memory were given."""
        found = {}
        for role in self.sides:
            given = self.given[role]
            paths = [given] if is_path(given) else given
            if not isinstance(paths, (list, tuple)) or not all(is_path(one) for one in paths):
                return {}
            found[role] = [os.fspath(one) for one in paths]
        return found

    def _column(self, role: str) -> str | None:
        """The column to name: only where one was given, and the files of this role have columns."""
        if self.named["column"] is None and self.named["image_column"] is None:
            return None
        return getattr(self.sides[role].source, "column", None)

    def _fit(self, method: str, file: str) -> str:
        paths = self._paths
        by_ids = method in PAIRED and self.qrels is not None
        if by_ids or any(len(of) > 1 for of in paths.values()):  # --role takes one path, --pairs rows in their order
            return join(["python", "-c", f"import fastrealign as fr; {self._call(method, paths)}.save({file!r})"])
        words = ["fastrealign", "fit"]
        for role, (path,) in paths.items():
            column = self._column(role)
            words += ["--role", f"{role}={path}" + (f":{column}" if column else "")]
        words += ["--anchor", self._anchor, "--method", method]
        if method in PAIRED:
            for role in paths:
                if role != QUERY:
                    words += ["--pairs", f"{QUERY}:{role}={paths[QUERY][0]},{paths[role][0]}"]
        return join([*words, "--out", file])

    def _apply(self, file: str, of: Mapping[str, str], name: str) -> tuple[str, ...]:
        commands = []
        for role, paths in self._paths.items():
            column = self._column(role)
            named = ["--column", column] if column else []
            words = ["fastrealign", "apply", file, *paths, "--role", of[role], *named, "--out", f"{role}_{name}"]
            commands.append(join(words))
        return tuple(commands)

    def _call(self, method: str, rows: Mapping[str, Sequence[str]]) -> str:
        sides = {role: list(of) if len(of) > 1 else of[0] for role, of in rows.items()}
        columns = {role: column for role in rows if (column := self._column(role))}
        more = f", column={columns!r}" if columns else ""
        if method in PAIRED and self.qrels is None:
            others = [role for role in sides if role != QUERY]
            more += f", pairs={ {(QUERY, role): (sides[QUERY], sides[role]) for role in others}!r}"
        elif method in PAIRED:
            of = {_VARIABLES[role]: side for role, side in sides.items() if role != QUERY} | {"qrels": self.qrels}
            of |= {name: value for name, value in self.named.items() if value}
            words = ", ".join(f"{name}={_plain(value)!r}" for name, value in of.items())
            more += f", pairs=fr.retrieval.judged_pairs({sides[QUERY]!r}, {words})"
        return f"fr.fit_roles({sides!r}, anchor={self._anchor!r}, method={method!r}{more})"

    def _in_python(self, method: str) -> tuple[str, ...]:
        sides = ", ".join(f"{role!r}: {_VARIABLES[role]}" for role in self.sides)
        others = [role for role in self.sides if role != QUERY]
        if self.qrels is None:
            rows = ", ".join(f"({QUERY!r}, {role!r}): ({_VARIABLES[QUERY]}, {_VARIABLES[role]})" for role in others)
            pairs = f"{{{rows}}}"
        else:
            also = (
                [_VARIABLES[role] for role in others]
                + ["qrels"]
                + [name for name, value in self.named.items() if value]
            )
            words = ", ".join(f"{name}={name}" for name in also)
            pairs = f"fastrealign.retrieval.judged_pairs({_VARIABLES[QUERY]}, {words})"
        more = f", pairs={pairs}" if method in PAIRED else ""
        fit = f"roles = fastrealign.fit_roles({{{sides}}}, anchor={self._anchor!r}, method={method!r}{more})"
        return fit, *(f"roles[{role!r}]({_VARIABLES[role]})" for role in self.sides)


def _plain(value: Any) -> Any:
    """Paths as text, so that their repr can be read back."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return {name: _plain(one) for name, one in value.items()} if isinstance(value, Mapping) else value
