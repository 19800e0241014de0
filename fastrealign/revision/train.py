"""Stage 1 and stage 2 (arXiv 2602.07026, section 5) on transformers' Trainer and accelerate.

The Trainer does mixed precision, gradient accumulation, several processes (torchrun), the schedule and trackers. Added here: a
checkpoint holds only the trained weights and is complete or absent; a killed run resumes from the last one with the same losses
and, on a CPU, the same bits; the time of aligning is measured.

    out/checkpoint-N/   during the run: trained weights, optimizer, schedule, random states
    out/run.json        configuration and inputs; at the end also the losses and counts (record.py)
    out/                at the end: the model (model.py) and its tokenizer
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import set_seed

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.text import one_line
from fastrealign.core.wording import option
from fastrealign.data.process_group import processes
from fastrealign.methods.loading import load
from fastrealign.methods.method import Method
from fastrealign.revision.checkpoints import Trainer, last_checkpoint, remove_checkpoints
from fastrealign.revision.config import WARM_UP, TrainConfig
from fastrealign.revision.data import Collator, Selected, available, open_embeddings, read_examples
from fastrealign.revision.language_model import load_lm
from fastrealign.revision.model import RevisionModel
from fastrealign.revision.paths import check_paths
from fastrealign.revision.record import TrainFolder, TrainResult, inputs_of, look, note
from fastrealign.storage import hub_models as hub

# Dtype of a frozen language model, by precision.
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    callbacks: Sequence[transformers.TrainerCallback] = (),
    progress: Progress = SILENT,
    name: str | None = None,
) -> TrainResult:
    """Train as configured and save the model to `config.out`; under torchrun, in all its processes together.

    Parameters
    ----------
    resume
        Resume the run in `config.out` from its last complete checkpoint, if it has one. A complete run is not repeated.
    callbacks
        Of transformers, to watch the run.
    progress
        Receives the progress before the first step, while all examples are looked up and checked.
    name
        File of the configuration, for messages.

    Raises
    ------
    InputError
        For a configuration that cannot run.
    FastRealignError
        If a checkpoint cannot be written or the loss is NaN or infinite; the previous checkpoint stays.
    """
    done = look(config, resume)
    if done is not None:
        remove_checkpoints(Path(config.out))  # a kill may have left the last one
        return done
    check_paths(config, name)
    precision = _precision(config)
    set_seed(config.seed)
    tokenizer = _tokenizer(config)
    side = "text" if config.stage == "stage1" else "image"
    embeddings = open_embeddings(config.embeddings, side=side, progress=progress)
    alignment = None if config.alignment is None else _alignment(config.alignment, embeddings.dim)
    read = read_examples(config.data, shared_ids=True, unusable=config.unusable, progress=progress)
    found = available(read, embeddings, config.missing, progress)
    model = _model(config, embeddings.dim, precision)
    collator = Collator(
        tokenizer,
        embeddings,
        stage=config.stage,
        tokens=config.tokens,
        max_length=_context(config, model.lm, tokenizer),
        alignment=alignment,
        unanswered=config.unanswered,
        form=config.form,
        noise=config.noise,
        seed=config.seed,
    )
    checked = collator.check(found, model.lm.get_input_embeddings().num_embeddings, progress)
    examples = Selected(found, np.flatnonzero(checked.answered))
    inputs = inputs_of(config, embeddings, model.lm_fingerprint)
    arguments = _arguments(config, precision, len(examples))
    with TrainFolder(config, inputs, resume) if arguments.should_save else nullcontext():
        trainer = Trainer(
            model=model, args=arguments, train_dataset=examples, data_collator=collator, callbacks=list(callbacks)
        )
        trainer.remove_callback(PrinterCallback)
        last = last_checkpoint(Path(config.out)) if resume else None
        started = time.perf_counter()
        trainer.train(resume_from_checkpoint=last)
        seconds = time.perf_counter() - started
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        tail = losses[-math.ceil(len(losses) / 10) :]
        result = TrainResult(
            stage=config.stage,
            out=str(Path(config.out)),
            steps=trainer.state.global_step,
            samples=_samples(config, len(examples), trainer.state.global_step),
            loss_first=losses[0],
            loss=sum(tail) / len(tail),
            losses=tuple(losses),
            seconds=seconds,
            align_share=collator.align_seconds / seconds,
            skipped=found.left_out,
            truncated=checked.truncated,
            resumed_from=int(last.rpartition("-")[2]) if last else 0,
            unanswered=examples.left_out,
            unusable=read.unusable,
            first_dropped=read.first_dropped,
            by_image=found.by_image,
        )
        if arguments.should_save:
            _save(config, model, tokenizer)
            note(config, inputs, result)
            remove_checkpoints(Path(config.out))
        trainer.accelerator.wait_for_everyone()
    return result


def _save(config: TrainConfig, model: RevisionModel, tokenizer: Any) -> None:
    if config.stage == "stage2" and config.lora is None:
        model.lm.to(model.lm_dtype)
    try:
        model.save_pretrained(config.out)
        tokenizer.save_pretrained(config.out)
    except (OSError, FastRealignError) as error:
        raise FastRealignError(
            f"{config.out}: the model could not be written: {one_line(error)}; the last checkpoint stays, "
            f"{option('resume', True)} continues"
        ) from error


def _arguments(config: TrainConfig, precision: str, examples: int) -> transformers.TrainingArguments:
    steps = math.ceil(_steps_an_epoch(config, examples) * config.epochs)
    on_cpu = config.device == "cpu"
    _check_trackers(config.report_to)
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
        # Every step: a mean over several would restart where a run is resumed, and the losses would differ.
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_steps,
        report_to=config.report_to,
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available() and not on_cpu,
        ddp_find_unused_parameters=False,
    )
    # One GPU per process: the Trainer would wrap the model in DataParallel over all GPUs it sees.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def _check_trackers(names: str | list[str]) -> None:
    """InputError for a tracker that transformers does not know, or that is not installed."""
    listed = [names] if isinstance(names, str) else names
    if listed in (["none"], ["all"]):
        return
    try:
        for tracker in get_reporting_integration_callbacks(listed):
            tracker()
    except (ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"report_to: {one_line(error)}") from None


def _samples(config: TrainConfig, examples: int, steps: int) -> int:
    """Number of examples in so many steps."""
    epochs, rest = divmod(steps, _steps_an_epoch(config, examples))
    return epochs * examples + min(rest * _a_batch(config) * config.gradient_accumulation, examples)


def _steps_an_epoch(config: TrainConfig, examples: int) -> int:
    return math.ceil(math.ceil(examples / _a_batch(config)) / config.gradient_accumulation)


def _a_batch(config: TrainConfig) -> int:
    """Examples per forward pass, over all processes."""
    return config.batch_size * processes()


def _precision(config: TrainConfig) -> str:
    """fp32, bf16 or fp16; InputError if the device is missing or does not support it."""
    gpu = torch.cuda.is_available() and config.device != "cpu"
    if config.device == "cuda" and not gpu:
        raise InputError("device: cuda, but torch finds no GPU here; device: auto uses the CPU")
    if config.precision == "fp16" and not gpu:
        raise InputError("precision: fp16 needs a GPU; bf16 and fp32 run on the CPU too")
    if config.precision == "bf16" and gpu and not torch.cuda.is_bf16_supported():
        raise InputError("precision: this GPU has no bf16; fp16 and fp32 run on it")
    if config.precision != "auto":
        return config.precision
    return "bf16" if gpu and torch.cuda.is_bf16_supported() else "fp32"


def _model(config: TrainConfig, dim: int, precision: str) -> RevisionModel:
    model = RevisionModel(load_lm(config.model, hub=config.hub), dim, tokens=config.tokens)
    # Trained weights are float32: an update of 1e-5 would be lost in bfloat16. Frozen ones have the precision of the run.
    frozen = config.stage == "stage1" or config.lora is not None
    model.lm.to(_DTYPES[precision] if frozen else torch.float32)
    if config.adapter is not None:
        model.load_adapter(config.adapter)
    return model.set_stage(config.stage, config.lora)


def _context(config: TrainConfig, lm: Any, tokenizer: Any) -> int:
    """Longest example in tokens: as configured, or as long as the language model and its tokenizer allow."""
    takes = min(getattr(lm.config, "max_position_embeddings", math.inf), tokenizer.model_max_length)
    if config.max_length is not None and config.max_length > takes:
        raise InputError(f"max_length: {config.max_length}, the language model takes {takes}")
    return config.max_length or takes


def _alignment(path: str, dim: int) -> Method:
    """The fitted method in a file, for rows of this width."""
    found = load(path)
    if found.dim != dim:
        raise InputError(f"{path}: was fitted on rows {found.dim} wide, the embeddings are {dim} wide")
    return found


def _tokenizer(config: TrainConfig) -> Any:
    found = hub.find(config.model, f"model: {config.model}", config.hub, "set hub: true")
    try:
        with hub.asked(found.online):
            tokenizer = hub.load_tokenizer(found)
    except InputError:
        raise
    except Exception as error:  # OSError, or anything that a damaged file causes
        raise InputError(f"{config.model}: has no tokenizer that can be loaded: {one_line(error)}") from None
    if config.form == "llava":
        tokenizer.chat_template = None  # so that the tokenizer saved with the model uses the same form
    return tokenizer
