"""What mkdocs adds to docs/: the command line from its parser, the API from public names, files that pages link to."""

from __future__ import annotations

import argparse
import html
import posixpath
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
ROOT_PAGES = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
MODULES = {name: f"fastrealign.{name}" for name in ("nn", "ray", "diagnostics", "baselines", "retrieval")}
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_CODE = re.compile(r"(```.*?```)", re.DOTALL)


def on_config(config: Any) -> Any:
    """Headings get the anchors that GitHub gives them, so that a link holds in both places."""
    from pymdownx.slugs import slugify

    if any((ROOT / "fastrealign").glob("_core.*")):  # else the package that is installed, of the same source
        sys.path.insert(0, str(ROOT))
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


@event_priority(100)  # before the plugin that takes the notebooks
def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, those of the root, notebooks, and every file outside docs/ that a page links to."""
    for name, uri in ROOT_PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text()))
    files.append(File.generated(config, "assets/site.css", abs_src_path=str(ROOT / "docs/site/site.css")))
    files.append(File.generated(config, "cli.md", content=cli_page()))
    for name, page in api_pages().items():
        files.append(File.generated(config, f"api/{name}.md", content=page))
    for notebook in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb")):
        copy = ROOT / "build" / "notebooks" / notebook.name  # mkdocs-jupyter wants a file
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(re.sub(r"\]\(\.\./\.\./docs/([\w/-]+)\.md", r"](../\1.html", notebook.read_text()))
        files.append(
            File(f"notebooks/{notebook.name}", str(copy.parents[1]), config.site_dir, config.use_directory_urls)
        )
    linked = {
        target
        for file in files.documentation_pages()
        if file.src_uri.endswith(".md")
        for _, link, _ in _LINK.findall(file.content_string)
        if (target := _in_repository(file.src_uri, link))
    }
    for path in sorted(linked):
        uri = _uri(path)
        if files.get_file_from_path(uri) is None and (ROOT / path).is_file():
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between files of the repository become links between files of the site."""
    here = posixpath.dirname(page.file.src_uri)

    def relative(match: re.Match[str]) -> str:
        path = _in_repository(page.file.src_uri, match[2])
        if path is None:
            return match[0]
        link = posixpath.relpath(_uri(path), here or ".")
        anchor = match[2].partition("#")[2]
        return f"{match[1]}{link}{'#' + anchor if anchor else ''}{match[3]}"

    parts = _CODE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(relative, part) for part in parts)


def _in_repository(page: str, link: str) -> str | None:
    """The path in the repository that a link of this page of the site stands for; None if it is no path."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:", path):
        return None
    folder = "." if page in ROOT_PAGES.values() else posixpath.join("docs", posixpath.dirname(page))
    return posixpath.normpath(posixpath.join(folder, path))


def _uri(path: str) -> str:
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    if path.startswith("examples/notebooks/"):
        return path.removeprefix("examples/")
    return path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}"


# --- the command line -------------------------------------------------------------------------------------------------


def cli_page() -> str:
    """One section a command: usage, options and examples as its parser has them."""
    from fastrealign.cli.main import COMMANDS
    from fastrealign.cli.parser import parser_of

    head = "# Command line\n\nGenerated from the parser: what `fastrealign COMMAND --help` prints.\n"
    return head + "".join(_command(parser_of(COMMANDS), 2))


def _command(parser: argparse.ArgumentParser, level: int) -> list[str]:
    formatter = parser._get_formatter()
    usage = re.sub(r"^usage: ", "", parser.format_usage()).strip()
    out = [
        f"\n{'#' * level} {parser.prog}\n",
        f"\n{html.escape(parser.description or '')}\n",
        f"\n```text\n{usage}\n```\n",
    ]
    nested: list[argparse.ArgumentParser] = []
    for group in parser._action_groups:
        rows = []
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                nested += action.choices.values()
            elif action.help is not argparse.SUPPRESS:
                text = formatter._expand_help(action) if action.help else ""
                rows.append(f"| {_cell(formatter._format_action_invocation(action), True)} | {_cell(text)} |\n")
        if rows:
            out.append(f"\n| {group.title} | |\n| --- | --- |\n{''.join(rows)}")
    if parser.epilog:
        out.append(f"\n```text\n{parser.epilog.strip()}\n```\n")
    for one in nested:
        out += _command(one, level + (level > 2))
    return out


def _cell(text: str, code: bool = False) -> str:
    text = html.escape(" ".join(text.split()), quote=False)
    for mark in "|*_`[]":
        text = text.replace(mark, f"&#{ord(mark)};")
    return f"<code>{text}</code>" if code else text


# --- the API ------------------------------------------------------------------------------------------------------------


def api_pages() -> dict[str, str]:
    """A page for each public module, from the docstrings of its public names."""
    import fastrealign

    names = [name for name in dir(fastrealign) if name not in fastrealign._MODULES and not name.startswith("__")]
    head = "# fastrealign\n\n`import fastrealign as fr`.\n"
    pages = {"fastrealign": head + "".join(_entry(fastrealign, name) for name in names)}
    for name, dotted in MODULES.items():
        module = getattr(fastrealign, name)
        public = getattr(module, "__all__", None) or [
            one
            for one, value in vars(module).items()
            if not one.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
        about = (module.__doc__ or "").partition("\n\n")[0].strip()
        pages[name] = f"# {dotted}\n\n{about}\n" + "".join(_entry(module, one) for one in public)
    return pages


def _entry(module: Any, name: str) -> str:
    home = getattr(getattr(module, name), "__module__", None)
    if home is None or not hasattr(import_module(home), name):  # a constant
        return f"\n## {name}\n\n`{getattr(module, name)!r}`\n"
    return f"\n::: {home}.{name}\n    options:\n      heading: {name}\n      toc_label: {name}\n"
