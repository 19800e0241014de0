"""The documentation: links resolve, code and commands run as printed, names and paths exist, the README stays short."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import pickle
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.demo.samples import load
from fastrealign.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text()
    for page in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
}
# Pages whose blocks run in the `data` folder, one after the other; the others need models, clusters or servers.
PYTHON = ("README.md", "docs/start.md", "docs/python.md", "docs/diagnostics.md")
SHELL = ("README.md", "docs/start.md", "docs/guide.md", "docs/formats.md", "docs/recalibration.md")
NOT_RUN = ("pip install", "torchrun", "://")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[name], re.DOTALL)


def prose(name: str) -> str:
    """A page without blocks of code."""
    return re.sub(r"```.*?```", "", PAGES[name], flags=re.DOTALL)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with the files that the pages name, of the embeddings that ship with the package."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    monkeypatch.chdir(tmp_path)
    text, image = (load(name)[:1200].astype(np.float32) for name in ("text", "image"))
    np.save("texts.npy", text)
    np.save("images.npy", image)
    for folder, rows in {
        "text_emb": text,
        "img_emb": image,
        "more_text": text[:300],
        "new_text": text,
        "new_img": image,
    }.items():
        Path(folder).mkdir()
        for i, part in enumerate(np.array_split(rows, 2)):
            np.save(f"{folder}/{i}.npy", part)
    for folder in ("raw_emb", "raw_ids"):
        Path(folder).mkdir()
    for i, part in enumerate(np.array_split(text, 2)):
        np.save(f"raw_ids/{i}.npy", np.array([f"caption {row}" for row in range(len(part))]))
        part = part.copy()
        part[[0, 7, 8, 9]] = np.nan
        np.save(f"raw_emb/{i}.npy", part)
    pq.write_table(pa.table({"text_emb": list(text), "image_emb": list(image)}), "pairs.parquet")
    Path("captions.txt").write_text("".join("word " * (1 + i % 9) + "\n" for i in range(len(text))))
    Path("text.pkl").write_bytes(pickle.dumps([{"id": i, "embed": row} for i, row in enumerate(text[:50])]))
    return tmp_path


# --- links, names, paths ----------------------------------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", head).replace("`", "") for head in heads)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in plain}


@pytest.mark.parametrize("name", PAGES)
def test_relative_links_and_anchors_resolve(name):
    here = (ROOT / name).parent
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        there = (here / path).resolve() if path else ROOT / name
        if not there.exists() or (anchor and anchor not in anchors(there.read_text())):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", PAGES)
def test_modules_and_paths_in_the_text_exist(name):
    spans = re.findall(r"`([^`\n]+)`", prose(name))
    words = [word for span in spans for word in span.split() if "NAME" not in word]
    paths = [
        word for word in words if re.fullmatch(r"(fastrealign|csrc|kernels|bench|tests|docs|examples)/[\w./-]*", word)
    ]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    files = {
        path.name
        for folder in ("fastrealign", "csrc", "kernels", "bench", "tests")
        for path in (ROOT / folder).rglob("*.*")
    }
    assert [word for word in words if re.fullmatch(r"\w+\.(py|h|cpp|cu|cuh)", word) and word not in files] == []
    for span in spans:
        if re.fullmatch(r"fastrealign(\.\w+)+", span):
            assert exists(span), span


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one; True if a library for it is not installed."""
    module, *rest = dotted.split(".")
    found = importlib.import_module(module)
    for part in rest:
        module = f"{module}.{part}"
        try:
            found = getattr(found, part) if hasattr(found, part) else importlib.import_module(module)
        except ModuleNotFoundError as error:
            return not (error.name or "").startswith("fastrealign")
        except ImportError:
            return True
        except fr.InputError:  # names the extra that is missing
            return True
    return True


# --- code ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PAGES if blocks(name, "python")])
def test_imports_of_python_blocks_resolve(name):
    for block in blocks(name, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("fastrealign"):
                assert all(exists(f"{node.module}.{alias.name}") for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("name", PYTHON)
@pytest.mark.filterwarnings("ignore::fastrealign.FitWarning")
def test_python_blocks_run(data, name):
    for needed in ("torch", "sklearn", "faiss") if name in ("docs/python.md", "docs/start.md") else ():
        pytest.importorskip(needed)
    names: dict = {}
    for block in blocks(name, "python"):
        exec(compile(block, name, "exec"), names)
    aligned = names.get("aligned", fr.fit(names["texts"], names["images"])(names["texts"]))
    assert np.allclose(np.linalg.norm(aligned, axis=1), 1, atol=1e-6)


def test_ids_of_the_rows_that_are_left(data):
    names = {"np": np, "fr": fr, "texts": np.load("texts.npy"), "images": np.load("images.npy")}
    names["alignment"] = fr.fit(names["texts"], names["images"])
    for block in blocks("docs/python.md", "python"):
        if "bad_rows=" in block:
            exec(compile(block, "docs/python.md", "exec"), names)
    gone = {f"caption {row}" for row in (3, 700)}
    assert list(names["left"].index) == [one for one in names["ids"] if one not in gone]
    assert names["name"] == "1.npy" and len(names["report"].dropped) == 2
    assert np.array_equal(names["ids_left"], np.load("raw_ids/1.npy")[[*range(1, 7), *range(10, 600)]])
    written = fr.fit(np.load("raw_emb/1.npy"), names["images"], bad_rows="skip")
    assert written.count_source == len(names["ids_left"]) == len(np.load("clean/1.npy"))


@pytest.mark.filterwarnings("ignore::fastrealign.FitWarning")
def test_what_bad_rows_takes_in_each_call(data):
    """The table of docs/python.md: every value is tried, of each call."""
    pytest.importorskip("sklearn")
    texts, images = np.load("texts.npy"), np.load("images.npy")
    alignment = fr.fit(texts, images)
    texts[5::10] = 0.0
    file, again = "raw_emb/0.npy", {"overwrite": True}
    calls: dict = {
        "alignment(rows)": (fr.Alignment.__call__, lambda how: alignment(texts, **how)),
        "fr.align": (fr.align, lambda how: fr.align(file, images, "aligned", **again, **how)),
        "fr.apply_files": (fr.apply_files, lambda how: fr.apply_files(alignment, file, "applied", **again, **how)),
        "fr.convert": (fr.convert, lambda how: fr.convert(file, "a.parquet", to="parquet", **again, **how)),
        "fr.fit": (fr.fit, lambda how: fr.fit(texts, images, **how)),
        "fr.fit_roles": (fr.fit_roles, lambda how: fr.fit_roles({"a": texts, "b": images}, anchor="b", **how)),
        "fr.update": (fr.update, lambda how: fr.update(alignment, texts, **how)),
        "fr.check": (fr.check, lambda how: fr.check(alignment, texts, **how)),
        "fr.Moments.update": (fr.Moments.update, lambda how: fr.Moments(texts.shape[1]).update(texts, **how)),
        "fr.fit_map": (fr.fit_map, lambda how: fr.fit_map(texts, images, **how)),
        "fr.report": (fr.report, lambda how: fr.report(texts, images, methods=("none",), **how)),
        "fr.ReAlign": (fr.ReAlign, lambda how: fr.ReAlign(target=images, **how).fit(texts).transform(texts)),
    }
    said = {}
    for call, values in re.findall(r"^\| (.*) \| ((?:`\w+`(?:, )?)+) \| .* \|$", PAGES["docs/python.md"], re.MULTILINE):
        said |= dict.fromkeys(re.findall(r"`([^`]+)`", call), re.findall(r"`(\w+)`", values))
    assert said.keys() == calls.keys()
    for name, (function, call) in calls.items():
        assert inspect.signature(function).parameters["bad_rows"].default == said[name][0], name
        for value in ("error", "skip", "keep"):
            if value == "error" or value not in said[name]:
                kind = fr.BadRowsError if value == "error" else fr.InputError
                with pytest.raises(kind, match="all zeros|NaN" if value == "error" else "expected"):
                    call({"bad_rows": value})
            else:
                call({"bad_rows": value})


@pytest.mark.parametrize("name", SHELL)
def test_shell_blocks_run(data, name):
    pytest.importorskip("matplotlib")
    run_shell(blocks(name, "sh"))


# Those that a page had written: several pages have the same one, and nothing reads it.
REPORTS: set[str] = set()


def run_shell(given):
    """Run the commands of these blocks, one after the other, without those that need a network.

    A block of commands alone runs in this process, which has imported what they need; others are bash's.
    """
    for block in given:
        lines = block.replace("\\\n", " ").splitlines()
        wanted = [line for line in lines if line and not any(word in line for word in NOT_RUN)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FASTREALIGN_BACKEND", "cpu")
            if all(re.fullmatch(r"fastrealign [^*?$;&|<>`]*", line.partition(" #")[0]) for line in wanted):
                for line in wanted:
                    if line in REPORTS:
                        continue
                    assert main(shlex.split(line, comments=True)[1:]) == 0, line
                    REPORTS.update([line] if line.startswith("fastrealign report ") else [])
                continue
            program = f'set -euo pipefail\nfastrealign() {{ "{sys.executable}" -m fastrealign "$@"; }}\n'
            run = subprocess.run(["bash", "-c", program + "\n".join(wanted)], capture_output=True, text=True)
            assert run.returncode == 0, run.stderr


@cache
def help_of(*command: str) -> str:
    with redirect_stdout(io.StringIO()) as said:
        assert main([*command, "--help"]) == 0
    return said.getvalue()


@pytest.mark.parametrize("name", [name for name in PAGES if blocks(name, "sh")])
def test_options_of_commands_exist(name):
    lines = [line.partition(" #")[0] for block in blocks(name, "sh") for line in block.splitlines()]
    for line in lines:
        for command in re.findall(r"fastrealign ([a-z]+(?: stage[12]| demo)?) ([^|&]*)", line):
            text = help_of(*command[0].split())
            assert text, line
            unknown = [option for option in re.findall(r"(?<!\S)--[a-z-]+", command[1]) if option not in text]
            assert not unknown, f"{line}: {unknown}"


def test_the_guide_lists_every_command():
    commands = re.search(r"\{?COMMAND\}?\n(.*?)\nexamples:", help_of(), re.DOTALL)[1]
    names = re.findall(r"^    ([a-z]+)(?: |$)", commands, re.MULTILINE)
    assert len(names) > 10
    assert [name for name in names if f"| `fastrealign {name}" not in PAGES["docs/guide.md"]] == []


def test_figures_of_the_uses(data):
    pytest.importorskip("sklearn")
    from threadpoolctl import threadpool_limits

    names: dict = {}
    with threadpool_limits(1):
        for block in blocks("docs/uses.md", "python"):
            exec(compile(block, "docs/uses.md", "exec"), names)
    search, transfer = names["search"], names["transfer"]
    assert [round(float(x), 2) for x in search.values()] == pytest.approx([0.03, 0.34, 0.51, 0.52], abs=0.011)
    assert transfer["number"] == pytest.approx([0.89, 0.66, 0.87], abs=0.02)
    assert transfer["red"] == pytest.approx([1, 1, 1], abs=0.01)


def test_scores_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("scipy")
    names: dict = {}
    for block in blocks("docs/scores.md", "python"):
        exec(compile(block, "docs/scores.md", "exec"), names)
    said = re.search(r"scores from (\S+) on have (precision .*)", PAGES["docs/scores.md"])
    assert said is not None and float(said[1]) == pytest.approx(names["threshold"].value, rel=1e-5)
    assert said[2] in str(names["threshold"])
    assert (
        set(names["hits"].roles) == {"image", "text"}
        and 5 in names["hits"].ids
        and names["calibrated"].shape == (913, 913)
    )


@pytest.mark.slow
def test_the_report_of_search_as_the_page_says(capsys):
    names: dict = {}
    (block,) = blocks("docs/search-report.md", "python")
    exec(compile(block, "docs/search-report.md", "exec"), names)
    page, found = " ".join(PAGES["docs/search-report.md"].replace("> ", "").split()), names["found"]
    assert found.advice in page and f"It warns: {'; '.join(found.warnings)}." in page
    for name in ("none", "realign", "centred", "roles (balanced)"):
        for key in (("mixed", "R@10"), ("mixed", "NDCG@10"), ("mixed", "R@10 of images"), ("image", "NDCG@10")):
            of = found.figures[key][name]
            assert f"{of.value:.3f} ({of.interval[0]:.3f} to {of.interval[1]:.3f})" in page


def test_search_and_stores_as_the_pages_say(tmp_path, monkeypatch, capsys):
    """Every block of docs/search.md in an empty folder, then the first ones of docs/stores.md on what it made."""
    for needed in ("matplotlib", "pytrec_eval", "faiss", "lance", "qdrant_client"):
        pytest.importorskip(needed)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for page, most in (("docs/search.md", None), ("docs/stores.md", 3)):
        for language, block in re.findall(r"```(python|sh)\n(.*?)```", PAGES[page], re.DOTALL)[:most]:
            if language == "sh":
                run_shell([block.replace("http://localhost:6333", "data/qdrant")])
            else:
                exec(compile(block, page, "exec"), names)
    assert "have precision 0.5" in capsys.readouterr().out
    assert (names["report"].rows, names["report"].before) == (0, 2 * len(names["fit"].ids))
    assert names["found"].ids.shape == (1, 10) and set(names["found"].roles.ravel()) <= {"text", "image"}


def test_training_on_text_as_the_page_says(data):
    pytest.importorskip("sklearn")
    torch = pytest.importorskip("torch")
    from threadpoolctl import threadpool_limits

    torch.manual_seed(0)
    names: dict = {}
    with threadpool_limits(1):
        for block in blocks("docs/train-on-text.md", "python"):
            assert len([line for line in block.splitlines() if line and "import" not in line]) <= 10
            exec(compile(block, "docs/train-on-text.md", "exec"), names)
        of = names["LogisticRegression"](C=10, max_iter=1000)
        others = [
            of.fit(names[x], names["labels"]).score(names["test_images"], names["truth"]) for x in ("texts", "images")
        ]
    said = [
        float(x) for x in re.findall(r"(?<= )0\.\d\d\b", PAGES["docs/train-on-text.md"].split("test images: ")[1])[:4]
    ]
    assert len(names["truth"]) == 913
    assert [names["by_pipeline"], names["by_loop"], *others] == pytest.approx(said, abs=0.016)


# --- the README ---------------------------------------------------------------------------------------------------------


def test_the_readme_is_short_and_has_the_two_commands():
    text = "\n".join(line for line in prose("README.md").splitlines() if not line.startswith("|"))
    assert len(text.split()) <= 600
    assert (
        "```sh\npip install '.[demo]' && fastrealign demo\npip install -U pip && pip install '.[test]' && pytest\n```"
        in PAGES["README.md"]
    )


def test_figures_of_the_readme_are_those_of_the_pages():
    """Those of its pictures: tests/unit/bench/test_pictures.py."""
    performance, paper, uses = (PAGES[f"docs/{name}.md"] for name in ("performance", "paper", "uses"))
    rates = re.search(r"`apply` runs at ([\d.]+) GB/s, `reduce` at ([\d.]+)", PAGES["README.md"]).groups()
    for kernel, rate in zip(("`apply`, plain", "`reduce`, moments"), rates, strict=True):
        assert f"| {kernel} | fp32 | 768 | {rate} (" in performance
    assert all(
        figure in paper and figure in uses for figure in ("56.2 ± 2.0", "58.6 ± 2.3", "60.4 ± 1.4", "60.7 ± 1.3")
    )
    assert all(f"| {figure} |" in uses for figure in ("0.03", "0.34", "0.66", "0.87", "0.51", "0.52", "0.89", "1.00"))
