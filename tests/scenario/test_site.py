"""The documentation as a site: it builds without warnings, its links hold, nothing comes from another host, it fits a phone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from browser import CHROMIUM, Browser

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
DOCS_TOOLS = ("mkdocs", "material", "mkdocstrings", "mkdocs_jupyter")
MISSING = [name for name in DOCS_TOOLS if find_spec(name) is None]
needs_tools = pytest.mark.skipif(bool(MISSING), reason=f"install the extra [docs]: no {', '.join(MISSING)}")


# --- what needs no tools --------------------------------------------------------------------------------------------------


def test_every_page_and_notebook_is_in_the_navigation():
    yaml = pytest.importorskip("yaml")
    named = re.findall(r"[\w/-]+\.(?:md|ipynb)", json.dumps(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert len(named) == len(set(named))
    assert pages | {f"notebooks/{path.name}" for path in NOTEBOOKS} <= set(named)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_executed_small_and_clean(path):
    text = path.read_text()
    notebook = json.loads(text)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["nbformat"] == 4 and len(text) < 200_000
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs and {output["output_type"] for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not re.search(r"/(home|root|tmp|work|Users|usr)/|https?://(?!arxiv)", text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            for link in re.findall(r"\]\(([^)#]+)", "".join(cell["source"])):
                assert (path.parent / link).exists(), link


@needs_tools
def test_source_without_a_core_does_not_hide_the_installed_package(tmp_path, monkeypatch):
    """`pip install '.[docs]'` compiles nothing in the source folder, where `make docs` runs."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))
    import hooks

    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    hooks.on_config(SimpleNamespace(mdx_configs={}))
    assert str(tmp_path) not in sys.path
    (tmp_path / "fastrealign").mkdir()
    (tmp_path / "fastrealign" / "_core.so").touch()
    hooks.on_config(SimpleNamespace(mdx_configs={}))
    assert sys.path[0] == str(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path):
    pytest.importorskip("nbclient", reason="install the extra [docs]")
    pytest.importorskip("ipykernel", reason="install the extra [docs]")
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    try:
        from notebooks import executed
    finally:
        sys.path.pop(0)
    of = [cell for cell in executed(path).cells if cell.cell_type == "code"]
    assert all(output.output_type != "error" for cell in of for output in cell.outputs)


# --- the site -------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Anchors, links, and what a browser would fetch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = {name: value or "" for name, value in attrs}
        self.ids |= {of[name] for name in ("id", "name") if name in of}
        if tag == "a" and "href" in of:
            self.links.append(of["href"])
        if tag == "link" and "canonical" not in of.get("rel", ""):
            self.fetched.append(of.get("href", ""))
        if tag in ("script", "img", "iframe", "source") and "src" in of:
            self.fetched.append(of["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert run.returncode == 0 and "WARNING" not in run.stderr, run.stderr
    return folder


@pytest.mark.slow
@needs_tools
def test_links_of_the_site_hold_and_nothing_comes_from_elsewhere(site):
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    assert len(pages) > 30
    broken = []
    for path, page in pages.items():
        assert [link for link in page.fetched if re.match(r"(https?:)?//", link)] == [], path
        for link in (*page.links, *page.fetched):
            to, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:|//", link) or to.startswith("/") or path.name == "404.html":
                continue
            there = (path.parent / to).resolve() if to else path
            known = pages.get(there)
            if not there.exists() or (anchor and known and anchor not in known.ids and anchor != "__tabbed"):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


@pytest.mark.slow
@needs_tools
def test_every_command_and_public_name_is_in_the_reference(site):
    import fastrealign as fr

    cli, api = ((site / name).read_text() for name in ("cli.html", "api/fastrealign.html"))
    for command in ("align", "apply", "map", "train-stage1", "inspect"):
        assert f'id="fastrealign-{command}"' in cli
    assert "--target" in cli and "==SUPPRESS==" not in cli
    heads = {dotted.split(".")[-1] for dotted in re.findall(r'<h2 id="(fastrealign\.[\w.]+)"', api)}
    assert set(fr.__all__) - {"__version__"} - heads == set()
    assert "{ReadOptions}" not in api and "bad_rows" in api


@pytest.mark.slow
@needs_tools
@pytest.mark.skipif(CHROMIUM is None, reason="install chromium")
def test_pages_fit_a_phone(site):
    browser = Browser()
    try:
        for name in ("index", "guide", "uses", "paper", "cli", "faq", "api/fastrealign", "notebooks/see_your_gap"):
            browser.asked.clear()
            browser.open(site / f"{name}.html", 400)
            assert browser.value("document.documentElement.scrollWidth <= window.innerWidth"), name
            assert all(address.startswith(("file:", "data:", "blob:")) for address in browser.asked), browser.asked
        browser.open(site / "search-report.html", 400)
        wide = "[...document.querySelectorAll('.md-typeset__scrollwrap')].find(e => e.scrollWidth > e.clientWidth)"
        first = f"{wide}.querySelector('tbody td').getBoundingClientRect()"
        browser.value(f"{wide}.scrollLeft = 300")
        assert browser.value(f"{wide}.scrollLeft") > 100  # the figures scroll, and what each row is stays in view
        assert browser.value(f"{first}.left >= 0 && {first}.right < 200")
    finally:
        browser.close()
