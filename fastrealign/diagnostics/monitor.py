"""Watch the modality gap while a contrastive encoder trains, in a fixed frame (arXiv 2602.07026, sections 3.1 to 3.3).

`embed` returns held-out pairs as the model encodes them now, in evaluation mode; the monitor does not touch the model and
leaves its mode and its gradients to `embed`. For the Trainer of transformers there is `trainer_callback`; in Lightning, a
callback with `def on_train_batch_end(self, trainer, *_): monitor.step(trainer.global_step)`.

The frame is fixed once: at the first measurement, at a later step (the paper trains 800 steps first), or given by the user.
Until then each record is in the frame of its own step, as in the paper.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fastrealign.core.checks import whole
from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.libraries import transformers
from fastrealign.core.optional import optional
from fastrealign.core.text import described, one_line
from fastrealign.data.row_source import RowsLike
from fastrealign.data.sources import open_rows
from fastrealign.diagnostics.frame import Frame, check_energy, coupling, decompose, fixed_frame, is_orthonormal
from fastrealign.diagnostics.gap_record import GapRecord, parse_log
from fastrealign.diagnostics.gradients import Loss, embedding_gradients, read_gradients
from fastrealign.diagnostics.mean_gap import cosine
from fastrealign.diagnostics.second_moments import Covariance, covariance, difference_covariance
from fastrealign.diagnostics.spectrum import condition_number
from fastrealign.diagnostics.subspaces import principal_angles
from fastrealign.diagnostics.unit_rows import count_rows, open_sides
from fastrealign.formats.saved_tensors import load_tensors, save_tensors
from fastrealign.storage.append_log import open_briefly
from fastrealign.storage.paths import is_path, place
from fastrealign.storage.records import sealed


class GapMonitor:
    """Measure the gap between held-out pairs every few steps of training.

    Parameters
    ----------
    embed : callable, optional
        Returns (text rows, image rows), arrays or tensors (n, d) of held-out pairs, row i of one belonging to row i of the
        other, n > d. Not needed where `measure` is called with rows.
    every : int
        Steps between measurements.
    loss : callable, optional
        loss(image, text) of unit rows, one number: the gradients are then measured too (see `embedding_gradients`).
    batch : int, optional
        Pairs contrasted with each other in the loss, as many as in a training step. By default all.
    frame : Frame, optional
        A frame to measure in from the beginning.
    frame_at : int
        Fix the frame at the first measurement from this step on.
    energy : float
        Share of the trace that U holds when the monitor fixes the frame.
    log : str or Path, optional
        File to which each record is appended as one JSON line. An existing log is resumed, also after a kill: a run that
        restarts at an earlier step replaces the records from there on. The fixed frame is in LOG.frame.safetensors.
        Other processes may open the same log, but must not measure.

    Attributes
    ----------
    records : list of GapRecord
    frame : Frame or None
        The fixed frame; None before it is fixed.
    report : callable or None
        Set it to a function that is to get the numbers of each record (`GapRecord.scalars`): `wandb.log`, a Trainer's `log`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> text, image = rng.normal(size=(2, 10, 3))
    >>> monitor = GapMonitor(lambda: (text, image), every=5)
    >>> [record.step for step in range(11) if (record := monitor.step(step))]
    [0, 5, 10]
    """

    def __init__(
        self,
        embed: Callable[[], tuple[RowsLike, RowsLike]] | None = None,
        *,
        every: int = 20,
        loss: Loss | None = None,
        batch: int | None = None,
        frame: Frame | None = None,
        frame_at: int = 0,
        energy: float = 0.95,
        log: str | Path | None = None,
    ) -> None:
        every, energy = whole("every", every, 1, why="steps between measurements"), check_energy(energy)
        batch = None if batch is None else whole("batch", batch, 2)
        frame_at = whole("frame_at", frame_at, 0)
        for name, given in (("embed", embed), ("loss", loss)):
            if given is not None and not callable(given):
                raise InputError(f"{name} is {described(given)}, expected a function")
        if frame is not None:
            _check_frame(frame)
        self.embed, self.every, self.loss, self.batch = embed, every, loss, batch
        self.frame_at, self.energy, self.frame = frame_at, energy, frame
        self.records: list[GapRecord] = []
        self.report: Callable[[dict[str, float]], object] | None = None
        self._handed_in = frame is not None
        self._log = None if log is None else _file_of(log)
        self._size = 0  # of the log, as this monitor left it
        if self._log is not None:
            self._resume(self._log)

    def step(self, step: int) -> GapRecord | None:
        """Call this after each optimizer step with the number of steps done; measures if it is due."""
        step = whole("step", step, 0)
        if step % self.every:
            return None
        if self.embed is None:
            raise InputError("a monitor without embed=: call measure(step, text, image) with the rows of the probe set")
        rows = self.embed()
        if not isinstance(rows, (tuple, list)) or len(rows) != 2 or any(map(is_path, rows)):
            raise InputError("embed() of a monitor must give two arrays, (text rows, image rows)")
        return self.measure(step, *rows)

    def measure(self, step: int, text: RowsLike, image: RowsLike) -> GapRecord:
        """Measure pairs of rows and add the record to `records` and to the log; records of this and later steps are replaced.

        Parameters
        ----------
        step : int
        text, image : array or tensor
            (n, d) each, n > d; row i of one belongs to row i of the other.

        Returns
        -------
        GapRecord

        Raises
        ------
        InputError
            Sides of different length or width, another width than before, no more pairs than the width, no spread.
        BadRowsError
            A row with a NaN or Inf, or of zeros.
        FastRealignError
            The log cannot be written, or another process has written to it: the records stay as they were. Or the file of the
            frame cannot be replaced: the record is in `records` and in the log.
        """
        step = whole("step", step, 0)
        x, y, difference = self._statistics(text, image)
        now = fixed_frame(x, y, energy=self.energy)
        # After a restart from a checkpoint, later steps are measured again, in the frame that was fixed before it.
        earlier = [record for record in self.records if record.step < step]
        fixed = self.frame if self._handed_in or _first(earlier) is not None else None
        fixes = fixed is None and step >= self.frame_at
        fixed = now if fixes else fixed
        record = self._record(step, now, fixed, earlier, x.matrix + y.matrix, difference)
        if self.loss is not None:
            gradients = embedding_gradients(image, text, self.loss, batch=self.batch)
            frame = fixed or now
            reading = read_gradients(frame, replace(now, rank=frame.rank), gradients, difference)
            record = replace(record, gradient=reading)
        if self._log is not None:
            self._append(self._log, [*earlier, record], fixed, fixes)
        else:
            self.records, self.frame = [*earlier, record], fixed
        if self.report is not None:
            self.report(record.scalars())
        return record

    def _append(self, log: Path, records: list[GapRecord], frame: Frame | None, fixes: bool) -> None:
        """Add the last of these records to the log, take them, and save the frame if it is fixed now.

        Nothing is written if the log has changed.
        """
        with open_briefly(log) as lines:
            if lines.size > self._size and b"\n" not in lines.text()[self._size :]:
                lines.cut(self._size)  # part of a line, which could not be removed when writing it failed
            if lines.size != self._size:
                raise FastRealignError(
                    f"{log}: has changed since this monitor wrote to it, as by another process; let one process measure, or "
                    "give each a log of its own"
                )
            if frame is not None and fixes:
                about = {"kind": "frame", "rank": frame.rank, "energy": frame.energy}
                save_tensors(_new_frame_file(log), {"basis": frame.basis}, about)
            lines.append(sealed(json.dumps(records[-1].to_json(), allow_nan=False).encode()) + b"\n")
            self._size, self.records, self.frame = lines.size, records, frame
            if fixes:
                new, path = _new_frame_file(log), _frame_file(log)
                try:
                    new.replace(path)
                except OSError as error:
                    raise FastRealignError(
                        f"{path}: could not be written: {error.strerror or one_line(error)}; the record is in the log and its "
                        f"frame in {new.name}, from which the next monitor with this log continues"
                    ) from error

    def to_json(self) -> list[dict[str, Any]]:
        """All records as plain values."""
        return [record.to_json() for record in self.records]

    def _statistics(self, text: RowsLike, image: RowsLike) -> tuple[Covariance, Covariance, Covariance]:
        images, texts = (
            open_rows(rows.detach() if hasattr(rows, "detach") else rows, name)
            for rows, name in ((image, "probe images"), (text, "probe texts"))
        )
        target, source = open_sides(images, texts, "the monitor")
        n, d = count_rows(target), target.d
        if n <= d:
            raise InputError(
                f"a probe of {n} pairs {d} wide has directions without a spread: expected more pairs than the width, "
                f"{d + 1} at least, better ten times as many"
            )
        before = len(self.frame.basis) if self.frame else len(self.records[-1].mean) if self.records else d
        if before != d:
            what = "the frame is" if self.frame else f"those at step {self.records[-1].step} were"
            raise InputError(f"the probe's rows are {d} wide, {what} {before}: one monitor watches one encoder")
        x, y = (covariance(side) for side in (target, source))
        difference = difference_covariance(target, source)
        if difference.trace <= 2.0**-48 < min(x.trace, y.trace):
            raise InputError(
                "the probe's texts and images are the same rows, or differ by one vector: no gap of pairs can be measured; are "
                "both of one side?"
            )
        return x, y, difference

    def _record(
        self,
        step: int,
        now: Frame,
        fixed: Frame | None,
        earlier: list[GapRecord],
        both: np.ndarray,
        difference: Covariance,
    ) -> GapRecord:
        """now: the frame of this step; fixed: the frame to measure in; both: S_x + S_y, from which `now` is computed."""
        frame, mean = fixed or now, difference.mean
        parts = decompose(frame, difference)
        spectrum_u, spectrum_v = frame.spectra(difference)
        first = _first(earlier)
        before = np.array(earlier[-1].mean) if earlier else None
        if first is None and fixed is not None:
            first = mean
        drifts = [None, None] if first is None else [_drift(*pair) for pair in _paired(frame, mean, first)]
        cosines = [None, None] if before is None else [cosine(*pair) for pair in _paired(frame, mean, before)]
        sines = np.sin(principal_angles(now.basis[:, : frame.rank], frame.U))
        v1 = frame.V @ np.linalg.eigh(frame.restrict(difference)[1])[1][:, -1]
        aligned = cosine(parts.gamma, v1)
        return GapRecord(
            step=step,
            rows=difference.count,
            rank=frame.rank,
            fixed=fixed is not None,
            energy=float(np.sum((both @ frame.U) * frame.U) / np.trace(both)),
            gap=float(np.linalg.norm(mean)),
            beta=float(np.linalg.norm(parts.beta)),
            gamma=float(np.linalg.norm(parts.gamma)),
            beta_drift=drifts[0],
            gamma_drift=drifts[1],
            beta_stability=cosines[0],
            gamma_stability=cosines[1],
            residual_u=parts.residual_u,
            residual_v=parts.residual_v,
            kappa_u=condition_number(spectrum_u),
            kappa_v=condition_number(spectrum_v),
            angle=None if aligned is None else float(np.arccos(min(abs(aligned), 1.0))),
            coupling=coupling(frame, difference),
            sin_theta=float(sines[-1]),
            rms_sin=float(np.sqrt(np.mean(sines**2))),
            gradient=None,
            mean=tuple(mean.tolist()),
        )

    def _resume(self, log: Path) -> None:
        with open_briefly(log) as lines:
            self.records, self._size = parse_log(lines.text(), log)
            lines.cut(self._size)
            if not self._handed_in:
                self.frame = _frame_of(log, next((record for record in self.records if record.fixed), None))


def trainer_callback(monitor: GapMonitor) -> transformers.TrainerCallback:
    """A callback for the Trainer of transformers that measures before training and after steps that are due.

    It runs on the first process only, so `embed` must not need the others (an unwrapped model under DDP).

    Parameters
    ----------
    monitor : GapMonitor

    Returns
    -------
    transformers.TrainerCallback
        For `transformers.Trainer(callbacks=[trainer_callback(monitor)])`.
    """
    optional("transformers", "revision", "trainer_callback")

    class Watch(transformers.TrainerCallback):
        def on_train_begin(self, args: Any, state: transformers.TrainerState, control: Any, **_: Any) -> None:
            self.on_step_end(args, state, control)

        def on_step_end(self, args: Any, state: transformers.TrainerState, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                monitor.step(state.global_step)

    return Watch()


def _first(records: list[GapRecord]) -> np.ndarray | None:
    """The mean of the first record in the fixed frame."""
    return next((np.array(record.mean) for record in records if record.fixed), None)


def _paired(frame: Frame, a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(P_U a, P_U b), (P_V a, P_V b)."""
    return zip(frame.split(a), frame.split(b), strict=True)


def _drift(now: np.ndarray, then: np.ndarray) -> float | None:
    length = np.linalg.norm(then)
    return float(np.linalg.norm(now - then) / length) if length else None


def _check_frame(frame: Frame) -> None:
    """InputError for what is no frame to measure in."""
    if not isinstance(frame, Frame):
        raise InputError(f"frame is {described(frame)}, expected a Frame, of fixed_frame or of a monitor")
    if not is_orthonormal(frame.basis):
        raise InputError("the basis of the frame is not orthonormal, expected a float64 (d, d) array as of fixed_frame")
    if not 1 <= frame.rank < len(frame.basis):
        raise InputError(f"a frame with {frame.rank} of {len(frame.basis)} directions in U: U and V need at least one")


def _file_of(log: object) -> Path:
    """The path of a log; InputError for what is none on this machine, or cannot be made."""
    path = place(log) if is_path(log) and str(log) else log
    if not isinstance(path, Path):
        raise InputError(f"log={str(log)!r}: expected the path of a file on this machine")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file for the log")
    if not path.parent.is_dir():
        raise InputError(
            f"{path}: could not be written: there is no folder {path.parent}; make it, or choose another log"
        )
    return path


def _frame_file(log: Path) -> Path:
    return log.with_name(f"{log.name}.frame.safetensors")


def _new_frame_file(log: Path) -> Path:
    """The frame of a record that is not in the log yet; until then, the records there are in that of `_frame_file`."""
    return log.with_name(f"{log.name}.frame.new.safetensors")


def _frame_of(log: Path, fixed: GapRecord | None) -> Frame | None:
    """The frame of a log, whose first record in it is `fixed`; a new one gets its name here if a kill prevented that."""
    path, new = _frame_file(log), _new_frame_file(log)
    if new.exists():
        written = _read_frame(new)
        if fixed is not None and _measured_in(written, fixed):
            new.replace(path)
        else:
            new.unlink()
    if fixed is None:
        if path.exists():
            load_tensors(path, "frame")  # what is not the frame of a log must not be replaced by one
        return None
    frame = _read_frame(path)
    if not _measured_in(frame, fixed):
        raise InputError(f"{path}: the records of {log} are in another frame; choose another log")
    return frame


def _measured_in(frame: Frame, record: GapRecord) -> bool:
    if (frame.rank, len(frame.basis)) != (record.rank, len(record.mean)):
        return False
    beta, _ = frame.split(np.array(record.mean))
    return bool(np.isclose(np.linalg.norm(beta), record.beta, rtol=1e-6, atol=1e-9))


def _read_frame(path: Path) -> Frame:
    tensors, meta = load_tensors(path, "frame", ("basis",))
    if not is_orthonormal(tensors["basis"]):
        raise InputError(f"{path}: no frame: its directions are not orthonormal; choose another log")
    return Frame(tensors["basis"], meta["rank"], meta["energy"])
