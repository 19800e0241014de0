"""The Trainer of transformers, with checkpoints that hold only the trained weights and are complete or absent.

The Trainer's own checkpoints each hold a frozen language model, and have their final name while they are written: one that a
full disk or a kill cut short would count as the last one.
"""

from __future__ import annotations

import math
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.text import one_line
from fastrealign.core.wording import option
from fastrealign.data.process_group import processes
from fastrealign.storage.atomic import sync_tree
from fastrealign.storage.records import record_of

_TRAINED = "trained.safetensors"
_HIDDEN = ".saving"


class Trainer(transformers.Trainer):
    """transformers.Trainer for a model of which a part is trained."""

    _saving: Path | None = None

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        """FastRealignError at the first loss that is NaN or infinite."""
        if not math.isfinite(logs.get("loss", 0.0)):
            raise self._diverged(f"the loss is {logs['loss']}")
        super().log(logs, *rest)

    def _diverged(self, what: str) -> FastRealignError:
        last = get_last_checkpoint(self.args.output_dir)
        stays = f"; {last} stays" if last else ""
        return FastRealignError(
            f"step {self.state.global_step}: {what}{stays}; lower learning_rate, or look for NaN in the language model"
        )

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saving or self.args.output_dir)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any = None) -> None:
        """Save to a hidden folder, and move the checkpoint out when all of it is on disk."""
        bad = next((name for name, weight in self._training() if not weight.isfinite().all()), None)
        if bad is not None:
            raise self._diverged(f"{bad} holds NaN or Inf")
        out = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        hidden = out / _HIDDEN
        if self.args.should_save:
            shutil.rmtree(hidden, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._saving = hidden
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                publish(hidden / name, out / name)
        except Exception as error:
            shutil.rmtree(hidden, ignore_errors=True)
            reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
            last = get_last_checkpoint(out)
            stays = f"{last} stays" if last else "there is none before it"
            raise FastRealignError(
                f"{out / name}: could not be written: {reason}; {stays}; free some space, "
                f"then continue with {option('resume', True)}"
            ) from error
        finally:
            self._saving = None
        if self.args.should_save:
            shutil.rmtree(hidden, ignore_errors=True)
            remove_checkpoints(out, but=name)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        from safetensors.torch import save_file

        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        training = {name: p.detach().cpu().contiguous() for name, p in self._training()}
        save_file(training, folder / _TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        from safetensors.torch import load_file

        file = Path(resume_from_checkpoint) / _TRAINED
        with _readable(file):
            held = load_file(file)
        training = dict(self._training())
        if {k: v.shape for k, v in held.items()} != {k: v.shape for k, v in training.items()}:
            raise InputError(f"{file}: a checkpoint of another model: its weights have other names or shapes")
        with torch.no_grad():
            for name, weight in training.items():
                weight.copy_(held[name])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _readable(checkpoint or ""):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _readable(checkpoint or ""):
            super()._load_rng_state(checkpoint)

    def _training(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]


def last_checkpoint(out: Path) -> str | None:
    """The last checkpoint in a folder, or None. Raises InputError if it is damaged.

    The Trainer resumes without a missing file: with a new optimizer, for example, and so to other weights.
    """
    last = get_last_checkpoint(out) if out.is_dir() else None
    if last is not None:
        with _readable(last):
            _check_whole(Path(last))
    return last


def _check_whole(checkpoint: Path) -> None:
    """ValueError for a checkpoint that lacks a file, or whose record is not of its step."""
    number = processes()
    states = ["rng_state.pth"] if number == 1 else [f"rng_state_{rank}.pth" for rank in range(number)]
    for name in (TRAINER_STATE_NAME, _TRAINED, OPTIMIZER_NAME, SCHEDULER_NAME, *states):
        if not (checkpoint / name).is_file():
            raise ValueError(f"it has no {name}")
    record = record_of((checkpoint / TRAINER_STATE_NAME).read_bytes())
    step, log = record.get("global_step"), record.get("log_history")
    if type(step) is not int or checkpoint.name != f"checkpoint-{step}":
        raise ValueError(f"its {TRAINER_STATE_NAME} is of step {step!r}")
    entries = log if isinstance(log, list) else []
    if sum(isinstance(entry, dict) and "loss" in entry for entry in entries) != step:
        raise ValueError(f"its {TRAINER_STATE_NAME} does not have one loss for each step")


@contextmanager
def _readable(what: str | Path) -> Iterator[None]:
    """Turns whatever goes wrong while a file or folder of a checkpoint is loaded into an InputError."""
    try:
        yield
    except FastRealignError:
        raise
    except Exception as error:
        folder = Path(what) if Path(what).is_dir() else Path(what).parent
        # torch adds advice that does not apply.
        why = "a file of it is no torch file" if isinstance(error, pickle.UnpicklingError) else one_line(error)
        raise InputError(
            f"{what}: cannot be read, the checkpoint is damaged ({why}); remove {folder} to restart"
        ) from None


def remove_checkpoints(out: Path, but: str | None = None) -> None:
    """Remove the checkpoints in a folder, except the one named `but`."""
    for folder in out.glob("checkpoint-*"):
        if folder.name != but:
            shutil.rmtree(folder, ignore_errors=True)


def publish(hidden: Path, final: Path) -> None:
    """Rename a folder once all its files are on disk."""
    sync_tree(hidden)
    os.replace(hidden, final)
