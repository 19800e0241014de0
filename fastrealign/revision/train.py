"""Stage 1 and stage 2 (arXiv 2602.07026, section 5) on transformers' Trainer and accelerate.

What the Trainer does: mixed precision, gradient accumulation, several processes (torchrun), the schedule, trackers. What is
added: a checkpoint holds only what trains, appears under its name complete or not at all, and a run that was killed goes on
from the last one with the same losses and, on a CPU, the same bits; the time that alignment takes is measured.

    out/checkpoint-N/   while it trains: what trains, optimizer, schedule, random states
    out/run.json        the configuration; in the end also the losses and what the run took
    out/                in the end: the model (model.py) and its tokenizer
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import ConcatDataset
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint, set_seed

from fastrealign import baseline
from fastrealign.alignment import Alignment
from fastrealign.baseline import Baseline
from fastrealign.errors import InputError
from fastrealign.io.atomic import AtomicFile
from fastrealign.io.files import one_line
from fastrealign.revision.checkpoints import Trainer, remove_checkpoints
from fastrealign.revision.config import WARM_UP, TrainConfig
from fastrealign.revision.data import Collator, available, open_embeddings, read_examples
from fastrealign.revision.model import RevisionModel, load_lm

RUN = "run.json"
# What a mixed precision keeps the frozen language model in.
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    truncated        examples of which max_length cut something off (of this process and call)
    resumed_from     the step that it went on from; 0: from the start
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

    def to_json(self) -> dict[str, Any]:
        """All but the losses of every step."""
        return {key: value for key, value in asdict(self).items() if key != "losses"}

    def __str__(self) -> str:
        aligning = f", {100 * self.align_share:.2g} % of it aligning" if self.align_share else ""
        left_out = f"\n{self.skipped:,} examples without an embedding left out" if self.skipped else ""
        left_out += f"\n{self.truncated:,} examples cut to max_length" if self.truncated else ""
        return (
            f"{self.stage}: {self.samples:,} examples in {self.steps:,} steps, {self.seconds:.1f} s{aligning}{left_out}\n"
            f"loss {self.loss_first:.4g} -> {self.loss:.4g}\n{self.out}: the model"
        )


def train(
    config: TrainConfig, *, resume: bool = False, callbacks: Sequence[transformers.TrainerCallback] = ()
) -> TrainResult:
    """Train as configured and save the model to `config.out`; under torchrun, on all its processes together.

    resume      go on with the run in `config.out` from its last complete checkpoint, if it has one; one that had ended already
                is not run again
    callbacks   transformers' own, to watch it
    Raises InputError for a configuration that cannot run, and FastRealignError where a checkpoint cannot be written: then
    the one before it stays.
    """
    out = Path(config.out)
    done = _check_out(config, resume)
    if done is not None:
        return done
    precision = _precision(config)
    set_seed(config.seed)
    tokenizer = _tokenizer(config.model)
    embeddings = open_embeddings(config.embeddings, side="text" if config.stage == "stage1" else "image")
    files = [config.data] if isinstance(config.data, str) else config.data
    read = [read_examples(file, shared_ids=True) for file in files]
    chosen = [available(part, embeddings, config.missing) for part in read]
    examples = ConcatDataset(chosen)
    model = _model(config, embeddings.dim, precision)
    collator = Collator(
        tokenizer,
        embeddings,
        stage=config.stage,
        tokens=config.tokens,
        max_length=_context(config, model.lm, tokenizer),
        alignment=None if config.alignment is None else _alignment(config.alignment, embeddings.dim),
    )
    trainer = Trainer(
        model=model,
        args=_arguments(config, precision, len(examples)),
        train_dataset=examples,
        data_collator=collator,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.args.should_save:
        _write_run(out, {"config": config.to_json(), "examples": len(examples)})
    last = get_last_checkpoint(out) if resume and out.is_dir() else None
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=last)
    seconds = time.perf_counter() - started
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tail = losses[-math.ceil(len(losses) / 10) :]
    result = TrainResult(
        stage=config.stage,
        out=str(out),
        steps=trainer.state.global_step,
        samples=round(len(examples) * config.epochs),
        loss_first=losses[0],
        loss=sum(tail) / len(tail),
        losses=tuple(losses),
        seconds=seconds,
        align_share=collator.align_seconds / seconds,
        skipped=sum(part.left_out for part in chosen),
        truncated=collator.truncated,
        resumed_from=int(last.rpartition("-")[2]) if last else 0,
    )
    if trainer.args.should_save:
        if config.stage == "stage2" and config.lora is None:
            model.lm.to(model.lm_dtype)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        _write_run(out, {"config": config.to_json(), "examples": len(examples), "result": asdict(result)})
        remove_checkpoints(out)
    trainer.accelerator.wait_for_everyone()
    return result


def _arguments(config: TrainConfig, precision: str, examples: int) -> transformers.TrainingArguments:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    batches = math.ceil(examples / (config.batch_size * processes))
    steps = math.ceil(math.ceil(batches / config.gradient_accumulation) * config.epochs)
    on_cpu = config.device == "cpu"
    arguments = transformers.TrainingArguments(
        output_dir=config.out,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        num_train_epochs=config.epochs,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(WARM_UP * steps),
        weight_decay=0.0,
        seed=config.seed,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=on_cpu,
        # Every step: a mean over several would begin anew where a run resumes, and the losses would differ.
        logging_steps=1,
        save_strategy="steps",
        save_steps=config.save_steps,
        report_to=config.report_to,
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available() and not on_cpu,
        ddp_find_unused_parameters=False,
    )
    # With one process, one GPU: the Trainer would put DataParallel around the model for all it sees.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def _precision(config: TrainConfig) -> str:
    """fp32, bf16 or fp16; InputError where the device that is asked for is not there, or cannot do that."""
    gpu = torch.cuda.is_available() and config.device != "cpu"
    if config.device == "cuda" and not gpu:
        raise InputError("device: cuda is asked for, but torch sees no GPU here; device: auto takes what there is")
    if config.precision == "fp16" and not gpu:
        raise InputError("precision: fp16 needs a GPU; bf16 and fp32 run on the CPU too")
    if config.precision == "bf16" and gpu and not torch.cuda.is_bf16_supported():
        raise InputError("precision: this GPU has no bf16; fp16 and fp32 run on it")
    if config.precision != "auto":
        return config.precision
    return "bf16" if gpu and torch.cuda.is_bf16_supported() else "fp32"


def _model(config: TrainConfig, dim: int, precision: str) -> RevisionModel:
    model = RevisionModel(load_lm(config.model), dim, tokens=config.tokens)
    # What trains is float32: an update of 1e-5 would be lost in bfloat16. What is frozen takes the precision it is used in.
    frozen = config.stage == "stage1" or config.lora is not None
    model.lm.to(_DTYPES[precision] if frozen else torch.float32)
    if config.adapter is not None:
        model.load_adapter(config.adapter)
    return model.set_stage(config.stage, config.lora)


def _context(config: TrainConfig, lm: Any, tokenizer: Any) -> int:
    """Tokens an example may have: as configured, or as many as the language model and its tokenizer take."""
    takes = min(getattr(lm.config, "max_position_embeddings", math.inf), tokenizer.model_max_length)
    if config.max_length is not None and config.max_length > takes:
        raise InputError(f"max_length: {config.max_length}, the language model takes {takes}")
    return config.max_length or takes


def _alignment(path: str, dim: int) -> Alignment | Baseline:
    """An alignment or a baseline (baselines.py) from a file, for rows of this width."""
    found = baseline.load(path)
    if found.dim != dim:
        raise InputError(f"{path}: was fitted on rows {found.dim} wide, the embeddings are {dim} wide")
    return found


def _tokenizer(source: str) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: has no tokenizer that can be loaded: {one_line(error)}") from None


def _check_out(config: TrainConfig, resume: bool) -> TrainResult | None:
    """Whether `config.out` can be trained into; the result, where the run that is to be resumed had ended."""
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, expected a new folder for the trained model")
    file = out / RUN
    if not resume:
        if out.is_dir() and any(out.iterdir()):
            held = "go on with the run that is in it with --resume, or " if file.is_file() else ""
            raise InputError(f"{out}: is not empty; {held}choose another out")
        return None
    if not file.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise InputError(f"{out}: has no {RUN}, so there is no run to go on with; choose another out")
        return None
    try:
        run = json.loads(file.read_bytes())
        differing = config.differing(run["config"])
        result = run.get("result")
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{file}: not readable; the file is damaged") from None
    if differing:
        now = config.to_json()
        told = ", ".join(f"{key} {run['config'].get(key)!r}, now {now[key]!r}" for key in differing)
        raise InputError(
            f"{out}: the run in it is another one ({told}); go on with its own configuration or choose another out"
        )
    return None if result is None else TrainResult(**{**result, "losses": tuple(result["losses"])})


def _write_run(out: Path, run: dict[str, Any]) -> None:
    with AtomicFile(out / RUN) as file:
        file.append(json.dumps(run, indent=1).encode())
        file.commit()
