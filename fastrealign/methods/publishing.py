"""`push_to_hub`: a fitted method in a repository of the Hugging Face hub, with a model card made from its record."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastrealign.core.text import shown
from fastrealign.core.version import __version__
from fastrealign.storage.hub_files import FILE, upload
from fastrealign.storage.paths import AnyPath

_HEAD = """\
---
library_name: fastrealign
tags:
- fastrealign
- embeddings
- modality-gap
---
"""
_FACTS = {
    "name": "method",
    "method": "method",
    "dim": "width of rows",
    "dim_out": "width of the result",
    "anchor": "anchor",
    "encoder_source": "encoder of the source",
    "encoder_target": "encoder of the target",
    "count_source": "source rows it was fitted on",
    "count_target": "target rows it was fitted on",
    "pairs": "pairs it was fitted on",
    "matched": "pairs matched by",
    "strength": "strength of the ridge",
    "kept": "recall kept on held-out pairs",
    "gap_before": "gap before",
    "gap_left": "gap left",
}


class OnHub:
    """What a fitted value that can be saved to a file does with the hub."""

    def save(self, path: AnyPath) -> None:
        raise NotImplementedError

    def push_to_hub(self, repository: str, *, token: str | None = None, private: bool | None = None) -> str:
        """Save to a model repository of the Hugging Face hub, with a model card; `hf://ORG/NAME` loads it again.

        One commit adds the file and README.md, and replaces those of an earlier call. Needs the extra [hub].

        Parameters
        ----------
        repository : str
            "ORG/NAME"; it is made if there is none.
        token : str, optional
            By default that of `hf auth login`, or HF_TOKEN.
        private : bool, optional
            Of a new repository; by default as the organisation has it.

        Returns
        -------
        str
            The URL of the repository.

        Raises
        ------
        InputError
            For another name, without the library or a token, and where the hub refuses it.
        FastRealignError
            Where the hub cannot be reached.
        """
        import tempfile

        with tempfile.TemporaryDirectory(prefix="fastrealign-hub-") as made:
            folder = Path(made)
            self.save(folder / FILE)
            (folder / "README.md").write_text(card(self, repository), encoding="utf-8")
            return upload(folder, repository, f"fastrealign {__version__}", token, private)


def card(fitted: Any, repository: str) -> str:
    """The model card: what it is, what it was fitted on, how to use it."""
    maps = getattr(fitted, "maps", None)
    return "\n".join(
        [
            f"{_HEAD}\n# {repository.rpartition('/')[2]}\n",
            f"A fitted map of embeddings of fastrealign {__version__}: {_what(fitted)}\n",
            "| | |\n| --- | --- |",
            *(f"| {label} | {value} |" for label, value in _facts(fitted)),
            *(() if maps is None else _roles(maps)),
            f"\n## Use\n\n```python\n{_use(fitted, repository)}```\n",
            "It holds for embeddings of the encoders that it was fitted on, and of like data; `fastrealign check` tests on a",
            "sample whether it still does. A small gap does not say that a task gets better: measure the task.\n",
        ]
    )


def _what(fitted: Any) -> str:
    if hasattr(fitted, "maps"):
        return "one map for each role of an index, towards an anchor."
    if hasattr(fitted, "pairs"):
        return "from the rows of an old encoder to those of a new one."
    return "it moves embeddings of the source (text) to where those of the target (images) lie."


def _facts(fitted: Any) -> Iterator[tuple[str, str]]:
    for name, label in _FACTS.items():
        value = getattr(fitted, name, None)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if name == "dim_out" and value == fitted.dim:
            continue
        yield label, _cell(value)
    sampling = getattr(fitted, "sampling", None)
    if sampling is not None:
        yield "statistics", _cell(f"{sampling.how}: {sampling.text}")
    if hasattr(fitted, "fingerprint"):
        yield "fingerprint", fitted.fingerprint[:16]


def _cell(value: Any) -> str:
    """A value in a table of Markdown, whose text others wrote."""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = shown(value).replace("\\", "\\\\")
    for mark in "|<>[]`*_":
        text = text.replace(mark, f"\\{mark}")
    return text


def _roles(maps: Any) -> Iterator[str]:
    yield "\n| role | method | gap before | gap left |\n| --- | --- | --- | --- |"
    for role, method in maps.items():
        gaps = ("" if math.isnan(gap) else f"{gap:.4g}" for gap in (method.gap_before, method.gap_left))
        yield f"| {_cell(role)} | {_cell(method.name)} | {' | '.join(gaps)} |"


def _use(fitted: Any, repository: str) -> str:
    if hasattr(fitted, "maps"):
        role = next((role for role in fitted if role != fitted.anchor), fitted.anchor)
        load, call = f'roles = fr.Roles.load("hf://{repository}")', f'rows = roles["{role}"](rows)'
    else:
        load, call = f'method = fr.load("hf://{repository}")', "rows = method(rows)"
    return f"# pip install 'fastrealign[hub]'\nimport fastrealign as fr\n\n{load}\n{call}  # (n, {fitted.dim})\n"
