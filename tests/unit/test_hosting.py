"""Files for a public host: what they say about Pythons, systems, commands and versions is what the project has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastrealign as fr

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / ".github").is_dir():
    pytest.skip("a source distribution has no workflows", allow_module_level=True)

WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
PROJECT = (ROOT / "pyproject.toml").read_text()  # as text: Python 3.10 has no reader of TOML
PYTHONS = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
JOBS = {f"{name}/{job}": steps for name, flow in WORKFLOWS.items() for job, steps in flow["jobs"].items()}


def commands() -> list[str]:
    """What the steps run; a variable of a job's matrix stands for each of its values."""
    found = []
    for job in JOBS.values():
        values = job.get("strategy", {}).get("matrix", {})
        for step in job["steps"]:
            run = step.get("run", "")
            for variable, value in step.get("env", {}).items():
                run = run.replace(f'"${variable}"', value)
            name = re.search(r"\$\{\{ matrix\.(\w+) }}", run)
            listed = values.get(name[1], []) if name else []
            found += [run.replace(name[0], value) for value in listed] if name and listed else [run]
    return found


def test_pythons_are_those_of_the_project():
    assert re.search(r'requires-python = ">=(.*)"', PROJECT)[1] == PYTHONS[0]
    matrix = JOBS["tests/quick"]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    used = {row["python"] for row in matrix["include"]}
    for job in JOBS.values():
        used |= {step.get("with", {}).get("python-version", PYTHONS[0]) for step in job["steps"]}
    assert used - {"${{ matrix.python }}"} <= set(PYTHONS)
    assert f'python-version: "{PYTHONS[0]}"' in (ROOT / ".github/workflows/tests.yml").read_text()  # the oldest of each
    wheels = re.search(r"\[tool.cibuildwheel]\nbuild = \[(.*)]", PROJECT)[1]
    assert re.findall(r"cp(3)(\d+)-\*", wheels) == [tuple(python.split(".")) for python in PYTHONS]


def test_commands_of_the_workflows_exist():
    ran = "\n".join(commands())
    assert set(re.findall(r"\bmake (\w+)", ran)) == {"quick", "slow", "fuzz", "docs"} <= TARGETS
    paths = re.findall(r"(?<![\w/.-])(?:\.ci|bench|tests|csrc|docs)/[\w./]+", ran)
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []
    extras = {extra for listed in re.findall(r"'\.\[(.*?)]'", ran) for extra in listed.split(",")}
    assert extras and all(re.search(rf"^{extra} = \[", PROJECT, re.MULTILINE) for extra in extras)
    assert (
        set(re.findall(r"--group (\w+)", ran))
        == {"release"}
        == set(re.findall(r"^(release) = ", PROJECT, re.MULTILINE))
    )


@pytest.mark.parametrize("name", JOBS)
def test_every_job_is_bounded_and_what_never_ran_fails_nothing(name):
    job = JOBS[name]
    assert 1 <= job["timeout-minutes"] <= 360
    may_fail = job.get("continue-on-error", False)
    rows = job.get("strategy", {}).get("matrix", {}).get("include", [])
    systems = {job["runs-on"]} if isinstance(job["runs-on"], str) else set()
    if systems & {"windows-latest", "macos-latest"}:
        assert may_fail is True
    for row in rows:
        if row["os"] != "ubuntu-latest":
            assert row["experimental"] is True and may_fail == "${{ matrix.experimental }}"


def test_workflows_may_read_only_and_hold_no_secret():
    for name, flow in WORKFLOWS.items():
        assert flow["permissions"] == {"contents": "read"}, name
        for job in flow["jobs"].values():
            assert set(job.get("permissions", {})) <= {"id-token"}
        assert "secrets." not in (ROOT / f".github/workflows/{name}.yml").read_text()


def test_actions_are_pinned_and_leave_no_credentials_behind():
    """A tag can be moved; a commit cannot. The version stands beside it, for the updates of dependabot."""
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        used = re.findall(r"uses: (.*)", path.read_text())
        assert [use for use in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use)] == []
    steps = [step for job in JOBS.values() for step in job["steps"]]
    assert all(
        step["with"]["persist-credentials"] is False for step in steps if "actions/checkout" in step.get("uses", "")
    )
    assert [step["run"] for step in steps if re.search(r"\$\{\{.*}}", step.get("run", ""))] == []


def test_the_oldest_dependencies_are_those_of_the_project():
    out = subprocess.run([sys.executable, ".ci/oldest.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = re.search(r"^dependencies = \[(.*)]", PROJECT, re.MULTILINE)[1]
    assert out.split() == [part.replace(">=", "==") for part in re.findall(r'"(.*?)"', listed)]


def test_hooks_are_the_tools_of_the_linters():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    dev = re.search(r"^dev = \[(.*)]", PROJECT, re.MULTILINE)[1]
    assert all(hook["language"] == "system" and f'"{hook["entry"].split()[0]}==' in dev for hook in hooks)
    lint = (ROOT / "Makefile").read_text().split("lint:")[1].split("\n\n")[0]
    assert {hook["entry"].split()[0] for hook in hooks} == set(re.findall(r"^\t([\w-]+)", lint, re.MULTILINE))


def test_the_version_is_everywhere_the_same():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == fr.__version__
    assert f"version = {{{fr.__version__}}}" in (ROOT / "README.md").read_text()
    changes = re.findall(r"^## \[(.*?)]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert changes[:2] == ["Unreleased", fr.__version__]
    family = [author["family-names"] for author in cited["preferred-citation"]["authors"]]
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert [name for name in family if f"{name}, " not in readme] == []


def test_the_images_install_from_the_folder_alone():
    text = (ROOT / "Dockerfile").read_text()
    base = re.findall(r"^FROM python:(3\.\d+)-\S+ AS cpu$", text, re.MULTILINE)
    assert base and base[0] in PYTHONS
    installs = re.findall(r"pip install (.*?)(?: &&|$)", text, re.MULTILINE)
    assert len(installs) == 2 and all("--no-index --find-links /wheels" in line for line in installs)
    page = (ROOT / "docs/release.md").read_text()
    assert f"--python-version {base[0]} " in page and f"-cp{base[0].replace('.', '')}-*.whl" in page
    assert (ROOT / ".dockerignore").read_text().split() == ["*", "!wheels"]
