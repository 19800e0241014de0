"""run.json in the folder of a training run: the configuration and its inputs, at the end also the result."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.core.formatting import count
from fastrealign.core.text import redacted, shown
from fastrealign.core.wording import option
from fastrealign.data.lookup import Embeddings
from fastrealign.data.process_group import processes
from fastrealign.jobs.output_folder import OutputFolder
from fastrealign.revision import adapter
from fastrealign.revision.config import TrainConfig
from fastrealign.revision.conversations import UNUSABLE
from fastrealign.storage.atomic import save_bytes
from fastrealign.storage.fingerprint import FileFingerprint
from fastrealign.storage.paths import each
from fastrealign.storage.record_rules import COUNT, MAPPING, TEXT, check, or_none
from fastrealign.storage.records import record_of

RUN = "run.json"
# Exists while a run holds the folder, and stays where a run was killed.
_LOCK = ".fastrealign-train"


@dataclass(frozen=True)
class TrainResult:
    """Result of a run.

    Attributes
    ----------
    stage, out
        As configured; `out` has the trained model.
    steps, samples
        Optimizer steps, and the examples they used.
    loss_first, loss
        Mean loss per token of the first step, and over the last tenth of the steps.
    losses
        Of every step.
    seconds
        Time of training in this call (after a resume: since then).
    align_share
        Share of `seconds` spent aligning embeddings; 0 where nothing is aligned.
    skipped
        Examples without an embedding, left out.
    truncated
        Examples cut to max_length.
    resumed_from
        Step of the checkpoint that the run was resumed from; 0: from the start.
    unanswered
        Examples that max_length leaves no response, left out.
    unusable
        Records that are not about one image, left out: their number by reason (conversations.UNUSABLE).
    first_dropped
        Examples whose first message was not from human, and was dropped.
    by_image
        Examples found by their image, since no row has their id.
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
        counts = [
            (self.skipped, "without an embedding left out"),
            (self.unanswered, "with no response within max_length left out"),
            *((number, f"{UNUSABLE.get(reason, reason)} left out") for reason, number in self.unusable.items()),
            (self.first_dropped, "without the first message, not from human"),
            (self.truncated, "cut to max_length"),
            (self.by_image, "found by image, not by id"),
        ]
        aligning = f", {100 * self.align_share:.2g} % of it aligning" if self.align_share else ""
        lines = [
            f"{self.stage}: {count(self.samples, 'example')} in {count(self.steps, 'step')}, {self.seconds:.1f} s{aligning}",
            *(f"{count(number, 'example')} {what}" for number, what in counts if number),
            f"loss {self.loss_first:.4g} -> {self.loss:.4g}",
            f"{shown(self.out)}: the model",
        ]
        return "\n".join(lines)


def inputs_of(config: TrainConfig, embeddings: Embeddings, lm_fingerprint: str) -> dict[str, Any]:
    """What determines the weights besides the configuration: {"lm": fingerprint, "files": {path: fingerprint}, "processes": n}.

    A step takes the batches of all processes together.
    """
    paths = [config.data] if isinstance(config.data, str) else list(config.data)
    paths += embeddings.paths
    paths += [] if config.alignment is None else [config.alignment]
    paths += [] if config.adapter is None else [str(adapter.find(config.adapter))]
    fingerprints = each(lambda path: asdict(FileFingerprint.of(path, modified=True)), paths)
    files = dict(zip(map(redacted, paths), fingerprints, strict=True))
    return {"lm": lm_fingerprint, "files": files, "processes": processes()}


def look(config: TrainConfig, resume: bool) -> TrainResult | None:
    """Check that a run can write to `config.out`. Returns the result, if the run to resume is complete."""
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, expected a new folder for the trained model")
    used = out.is_dir() and any(one.name != _LOCK for one in out.iterdir())
    there = used and (out / RUN).is_file()
    if used and not resume:
        resume_it = f"resume the run in it with {option('resume', True)}, or " if there else ""
        raise InputError(f"{out}: is not empty; {resume_it}choose another out")
    if used and not there:
        raise InputError(f"{out}: has no {RUN}, so there is no run to resume; choose another out")
    if not there:
        return None
    run, result = _read(out)
    differing = config.differing(run["config"])
    if differing:
        now = config.to_json()
        changes = ", ".join(f"{key} {run['config'].get(key)!r}, now {now[key]!r}" for key in differing)
        raise InputError(
            f"{out}: the run in it has another configuration ({changes}); resume it with that one or choose another out"
        )
    return result


class TrainFolder(OutputFolder):
    """The output folder of a training run, held while it trains, so that no other run writes there."""

    root: Path

    def __init__(self, config: TrainConfig, inputs: dict[str, Any], resume: bool) -> None:
        out = Path(config.out)
        super().__init__(out, out / _LOCK, fsync=False)
        self._config, self._inputs, self._resume = config, inputs, resume

    def begin(self) -> None:
        """Raises InputError if the run to resume had other inputs."""
        out = Path(self._config.out)
        if look(self._config, self._resume) is not None:
            raise InputError(f"{out}: another fastrealign has just finished there; see what it wrote")
        if (out / RUN).is_file():
            _check_same(out, _read(out)[0]["inputs"], self._inputs)
        else:
            note(self._config, self._inputs)


def note(config: TrainConfig, inputs: dict[str, Any], result: TrainResult | None = None) -> None:
    """Write run.json atomically."""
    run = {"config": config.to_json(), "inputs": inputs} | ({} if result is None else {"result": asdict(result)})
    save_bytes(Path(config.out) / RUN, json.dumps(run, indent=1).encode())


def _read(out: Path) -> tuple[dict[str, Any], TrainResult | None]:
    """run.json, and the result in it if the run is complete."""
    file = out / RUN
    try:
        run = record_of(file.read_bytes())
        check(run, {"config": MAPPING, "inputs": MAPPING, "result": or_none(MAPPING)})
        check(run["inputs"], {"lm": TEXT, "files": MAPPING, "processes": or_none(COUNT)})
        for fingerprint in run["inputs"]["files"].values():
            FileFingerprint.from_json(fingerprint)
        if (result := run.get("result")) is not None:
            result = TrainResult(**{**result, "losses": tuple(result["losses"])})
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{file}: not readable; the file is damaged, choose another out") from None
    return run, result


def _check_same(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [path for path, fingerprint in now["files"].items() if _changed(before["files"].get(path), fingerprint)]
    if changed or before["lm"] != now["lm"]:
        what = changed[0] if changed else "the language model"
        raise InputError(
            f"{out}: the run in it cannot be resumed: {what} has changed since it began; choose another out"
        )
    began = before.get("processes") or now["processes"]  # not recorded by an older version
    if began != now["processes"]:
        raise InputError(
            f"{out}: the run in it cannot be resumed by {count(now['processes'], 'process')}: it began with {began}, whose "
            f"batches make up a step; use torchrun --nproc-per-node {began} -m fastrealign train ..., or choose another out"
            if began > 1
            else f"{out}: the run in it cannot be resumed by {now['processes']} processes: it began with one; leave out "
            "torchrun, or choose another out"
        )


def _changed(before: dict[str, Any] | None, now: dict[str, Any]) -> bool:
    return before is None or not FileFingerprint.from_json(before).same(FileFingerprint(**now))
