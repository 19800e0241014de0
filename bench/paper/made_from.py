"""What kept results were made from: settings, seeds, and hashes of the files of the heads.

Compared before anything is measured.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.storage.atomic import save_bytes

# Of a folder of `bench.paper.real`: what all heads share, and the rows of one that are read.
SHARED, SIDES = ("ids", "titles", "categories", "split"), ("title", "image")
RECORD = "made_from.json"


@dataclass(frozen=True)
class MadeFrom:
    """settings by name, such as the number of seeds; sha256 of each file read, by its path in the folder of the heads."""

    settings: dict[str, Any]
    inputs: dict[str, str]

    @classmethod
    def of(cls, folder: Path, head: str, seeds: int, settings: Mapping[str, Any]) -> MadeFrom:
        """Of one kind of heads, with this many seeds."""
        names = [f"{name}.npy" for name in SHARED]
        names += [f"heads/{head}{seed}_{side}.npy" for seed in range(seeds) for side in SIDES]
        return cls(dict(settings), {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names})

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MadeFrom:
        return cls(value["settings"], value["inputs"])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def differences(self, now: MadeFrom) -> list[str]:
        """In words, what is not as it is now; of the files only those that both have read."""
        settings = json.loads(json.dumps(now.settings))  # as they come back from a file
        changed = [
            f"{name} {self.settings.get(name)}, now {settings.get(name)}"
            for name in sorted(self.settings.keys() | settings.keys())
            if self.settings.get(name) != settings.get(name)
        ]
        common = sorted(self.inputs.keys() & now.inputs.keys())
        return changed + [f"another {name}" for name in common if self.inputs[name] != now.inputs[name]]


def check_work(work: Path, now: Sequence[MadeFrom]) -> None:
    """Compare what is in the folder with what is to be measured, and record the latter; InputError where they differ."""
    record = work / RECORD
    do = "remove the folder, or name another with --work"
    if record.exists():
        before = MadeFrom.from_json(json.loads(record.read_text()))
    elif work.exists() and any(work.iterdir()):
        raise InputError(f"{work}: has no {RECORD}, which says what its models and scores were made from; {do}")
    else:
        before = MadeFrom(now[0].settings, {})
    changed = [one for of in now for one in before.differences(of)]
    if changed:
        raise InputError(f"{work}: was made from {'; '.join(dict.fromkeys(changed))}; {do}")
    inputs = before.inputs | {name: digest for of in now for name, digest in of.inputs.items()}
    work.mkdir(parents=True, exist_ok=True)
    save_bytes(record, (json.dumps(MadeFrom(before.settings, inputs).to_json(), indent=1) + "\n").encode())


def check_kept(path: Path, kept: Mapping[str, Any], heads: Path, new: Mapping[str, MadeFrom]) -> None:
    """Compare the results of heads that are kept with those to be measured; InputError where they differ.

    kept: what the results of a file were made from, JSON by head; new: what the others will be made from
    """
    for head, value in kept.items():
        before, now = MadeFrom.from_json(value), next(iter(new.values()))
        changed = before.differences(now)
        if not changed:  # their own rows, too
            changed = before.differences(MadeFrom.of(heads, head, before.settings["seeds"], now.settings))
        if changed:
            every = " ".join(sorted({*new, *kept}))
            raise InputError(
                f"{path}: its results of head {head} were made from {'; '.join(changed)}; measure all alike, "
                f"with --only {every}"
            )
