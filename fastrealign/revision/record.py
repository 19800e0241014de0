"""What a training run notes in its folder, run.json: what was asked for and read, in the end what came out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.core.text import redacted, shown
from fastrealign.data.lookup import Embeddings
from fastrealign.jobs.output_folder import OutputFolder
from fastrealign.revision import adapter
from fastrealign.revision.config import TrainConfig
from fastrealign.revision.conversations import UNUSABLE
from fastrealign.storage.atomic import save_bytes
from fastrealign.storage.fingerprint import FileFingerprint
from fastrealign.storage.paths import each
from fastrealign.storage.records import parsed

RUN = "run.json"
# There while a run goes on, and left where it was killed.
_LOCK = ".fastrealign-train"


@dataclass(frozen=True)
class TrainResult:
    """What a run did.

    stage, out       as configured; out has the trained model
    steps, samples   optimizer steps, and examples they were of
    loss_first       mean loss a token of the first step
    loss             the same over the last tenth of the steps
    losses           of every step
    seconds          that training took, of this call (one that resumed: since then)
    align_share      part of `seconds` spent aligning embeddings; 0 where nothing is aligned
    skipped          examples without an embedding, left out
    truncated        examples of which max_length cuts something off
    resumed_from     the step that it went on from; 0: from the start
    unanswered       examples of whose responses max_length leaves nothing, left out
    unusable         records that are not about one image, left out: how many, by reason (examples.UNUSABLE)
    first_dropped    examples whose first message was not from human, and was dropped
    by_image         examples found by their image, since no row has their id
    """

    stage: str
    out: str
    steps: int
    samples: int
    loss_first: float
    loss: float
    losses: tuple[float, ...]
    seconds: float
    align_share: float
    skipped: int
    truncated: int
    resumed_from: int
    unanswered: int = 0
    unusable: dict[str, int] = field(default_factory=dict)
    first_dropped: int = 0
    by_image: int = 0

    def to_json(self) -> dict[str, Any]:
        """All but the losses of every step."""
        return {key: value for key, value in asdict(self).items() if key != "losses"}

    def __str__(self) -> str:
        aligning = f", {100 * self.align_share:.2g} % of it aligning" if self.align_share else ""
        left_out = f"\n{self.skipped:,} examples without an embedding left out" if self.skipped else ""
        left_out += (
            f"\n{self.unanswered:,} examples with no response within max_length left out" if self.unanswered else ""
        )
        for reason, number in self.unusable.items():
            left_out += f"\n{number:,} examples {UNUSABLE.get(reason, reason)} left out"
        left_out += (
            f"\n{self.first_dropped:,} examples without their first message, not from human"
            if self.first_dropped
            else ""
        )
        left_out += f"\n{self.truncated:,} examples cut to max_length" if self.truncated else ""
        left_out += f"\n{self.by_image:,} examples found by their image, not by their id" if self.by_image else ""
        return (
            f"{self.stage}: {self.samples:,} examples in {self.steps:,} steps, {self.seconds:.1f} s{aligning}{left_out}\n"
            f"loss {self.loss_first:.4g} -> {self.loss:.4g}\n{shown(self.out)}: the model"
        )


def inputs_of(config: TrainConfig, embeddings: Embeddings, lm_fingerprint: str) -> dict[str, Any]:
    """What decides a weight beside the configuration: {"lm": fingerprint, "files": {path: fingerprint}}."""
    paths = [config.data] if isinstance(config.data, str) else list(config.data)
    paths += embeddings.paths
    paths += [] if config.alignment is None else [config.alignment]
    paths += [] if config.adapter is None else [str(adapter.find(config.adapter))]
    fingerprints = each(lambda path: asdict(FileFingerprint.of(path, modified=True)), paths)
    return {"lm": lm_fingerprint, "files": dict(zip(map(redacted, paths), fingerprints, strict=True))}


def look(config: TrainConfig, resume: bool) -> TrainResult | None:
    """Whether `config.out` can be trained into; the result, where the run that is to be resumed had ended."""
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, expected a new folder for the trained model")
    used = out.is_dir() and any(one.name != _LOCK for one in out.iterdir())
    there = used and (out / RUN).is_file()
    if used and not resume:
        go_on = "go on with the run that is in it with --resume, or " if there else ""
        raise InputError(f"{out}: is not empty; {go_on}choose another out")
    if used and not there:
        raise InputError(f"{out}: has no {RUN}, so there is no run to go on with; choose another out")
    if not there:
        return None
    run = _read(out)
    differing = config.differing(run["config"])
    if differing:
        now = config.to_json()
        told = ", ".join(f"{key} {run['config'].get(key)!r}, now {now[key]!r}" for key in differing)
        raise InputError(
            f"{out}: the run in it is another one ({told}); go on with its own configuration or choose another out"
        )
    result = run.get("result")
    return None if result is None else TrainResult(**{**result, "losses": tuple(result["losses"])})


class TrainFolder(OutputFolder):
    """The output folder of a training run, held while it trains, so that no other run writes there."""

    def __init__(self, config: TrainConfig, inputs: dict[str, Any], resume: bool) -> None:
        out = Path(config.out)
        super().__init__(out, out / _LOCK, fsync=False)
        self._config, self._inputs, self._resume = config, inputs, resume

    def begin(self) -> None:
        """Raises InputError if the run that is to be resumed was of other inputs."""
        if look(self._config, self._resume) is not None:
            raise InputError(f"{self.root}: another fastrealign has just finished there; look at what it wrote")
        if (self.root / RUN).is_file():
            _check_same(self.root, _read(self.root)["inputs"], self._inputs)
        else:
            note(self._config, self._inputs)


def note(config: TrainConfig, inputs: dict[str, Any], result: TrainResult | None = None) -> None:
    """Write run.json, in one step."""
    run = {"config": config.to_json(), "inputs": inputs} | ({} if result is None else {"result": asdict(result)})
    save_bytes(Path(config.out) / RUN, json.dumps(run, indent=1).encode())


def _read(out: Path) -> dict[str, Any]:
    file = out / RUN
    try:
        run = parsed(file.read_bytes())
        if not all(isinstance(run[part], dict) for part in ("config", "inputs")):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{file}: not readable; the file is damaged") from None
    return run


def _check_same(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [path for path, fingerprint in now["files"].items() if _changed(before["files"].get(path), fingerprint)]
    what = f"{changed[0]} is another one" if changed else "the language model is another one"
    if changed or before["lm"] != now["lm"]:
        raise InputError(f"{out}: the run in it cannot be gone on with: {what} than when it began; choose another out")


def _changed(before: dict[str, Any] | None, now: dict[str, Any]) -> bool:
    return before is None or not FileFingerprint(**before).same(FileFingerprint(**now))
