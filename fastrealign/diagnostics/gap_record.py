"""The record of one measurement of a `GapMonitor`, and the log that it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.diagnostics.frame import Coupling
from fastrealign.diagnostics.gradients import GradientReading
from fastrealign.diagnostics.spectrum import Condition
from fastrealign.storage.append_log import read_append_log
from fastrealign.storage.records import is_sealed, record_of, unsealed


@dataclass(frozen=True)
class GapRecord:
    """The gap between held-out pairs at one step: D = e_image - e_text of unit rows, m = E[D], in a frame U, V.

    Attributes
    ----------
    step, rows, rank : int
        Optimizer steps done, pairs measured, dimension of U.
    fixed : bool
        Whether the frame is the fixed one; before that it is this step's own.
    energy : float
        Share of the trace of S_x + S_y, as they are now, that lies in U.
    gap, beta, gamma : float
        |m|, |P_U m|, |P_V m|.
    beta_drift, gamma_drift : float or None
        |P(m - m_0)| / |P m_0|, m_0 of the first record in the fixed frame; None before that.
    beta_stability, gamma_stability : float or None
        Cosine of P m with P m of the previous record, both in this record's frame; None for the first record.
    residual_u, residual_v : float
        Traces of S_U = Cov(P_U D) and S_V = Cov(P_V D).
    kappa_u, kappa_v : Condition
        Their effective condition numbers.
    angle : float or None
        Angle between gamma and the leading direction v1 of S_V, as lines: radians, 0 to pi/2; None without a gamma.
    coupling : Coupling
        L, of the residual in V on that in U.
    sin_theta : float
        Sine of the largest angle between U and U_t, the leading directions of S_x + S_y now, as many as U has.
    rms_sin : float
        Root mean square of the sines of all their principal angles, the part of evenly spread vectors of U_t that lies in V.
        (The largest angle alone is a right angle as soon as one direction is exchanged.)
    gradient : GradientReading or None
        Gradients of the loss; None for a monitor without a loss.
    mean : tuple of float
        m; beta and gamma are its parts, `frame.split(mean)`.
    """

    step: int
    rows: int
    rank: int
    fixed: bool
    energy: float
    gap: float
    beta: float
    gamma: float
    beta_drift: float | None
    gamma_drift: float | None
    beta_stability: float | None
    gamma_stability: float | None
    residual_u: float
    residual_v: float
    kappa_u: Condition
    kappa_v: Condition
    angle: float | None
    coupling: Coupling
    sin_theta: float
    rms_sin: float
    gradient: GradientReading | None
    mean: tuple[float, ...] = field(repr=False)

    @property
    def leakage_bound(self) -> float | None:
        """sin theta + |L| + rho, to be held beside `gradient.leakage`; None for a monitor without a loss.

        arXiv 2602.07026, theorem C.3; rho is taken as `gradient.outside`, the part of the gradients outside U_t.
        """
        return None if self.gradient is None else self.sin_theta + self.coupling.norm + self.gradient.outside

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps."""
        return asdict(self)

    def scalars(self) -> dict[str, float]:
        """The numbers for a tracker of experiments: "gap/step", "gap/beta", "gap/coupling/norm", ...; none for None."""
        return dict(_numbers("gap", {**asdict(self), "leakage_bound": self.leakage_bound}))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> GapRecord:
        """The record that `to_json` described."""
        kinds = {"kappa_u": Condition, "kappa_v": Condition, "coupling": Coupling}
        parts: dict[str, Any] = {name: kind(**value[name]) for name, kind in kinds.items()}
        gradient = value["gradient"] and GradientReading(**value["gradient"])
        return cls(**{**value, **parts, "gradient": gradient, "mean": tuple(value["mean"])})


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(f"{name}/{key}", inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, value


def read_log(path: str | Path) -> list[GapRecord]:
    """The records of a monitor's log; a last line that a kill cut off is left out.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    list of GapRecord

    Raises
    ------
    InputError
        The file is not such a log, or a line of it is damaged.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from fastrealign.diagnostics import GapMonitor
    >>> rows = np.random.default_rng(0).normal(size=(2, 10, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     monitor = GapMonitor(lambda: tuple(rows), log=f"{folder}/gap.jsonl")
    ...     record = monitor.step(0)
    ...     read_log(f"{folder}/gap.jsonl") == [record]
    True
    """
    return parse_log(read_append_log(Path(path)), Path(path))[0]


def parse_log(text: bytes, path: Path) -> tuple[list[GapRecord], int]:
    """(records, bytes of whole lines). A record replaces earlier ones of its own and later steps."""
    records: list[GapRecord] = []
    *lines, rest = text.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            record = GapRecord.from_json((unsealed if is_sealed(line) else record_of)(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError(
                f"{path}, line {number}: damaged, or no record of a gap monitor; remove the line or choose another log"
            ) from None
        records = [*(r for r in records if r.step < record.step), record]
    if not records and rest and not rest.startswith(b'{"check":"'[: len(rest)]):
        raise InputError(f"{path}: no log of a gap monitor; choose another log")
    return records, len(text) - len(rest)
