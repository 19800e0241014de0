"""Prints the oldest releases of the dependencies that pyproject.toml admits, as constraints for pip."""

import re
import sys
from pathlib import Path

text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text()
listed = re.search(r"^dependencies = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
oldest = re.findall(r'"([\w-]+)>=([\d.]+)"', listed[1]) if listed else []
if not oldest or len(oldest) != listed[1].count('"') // 2:
    sys.exit("pyproject.toml: a dependency has no oldest version, NAME>=VERSION")
print(*(f"{name}=={version}" for name, version in oldest), sep="\n")
