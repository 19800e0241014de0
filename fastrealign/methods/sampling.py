"""How the statistics of an alignment were estimated, where they are not those of every row; kept in its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastrealign.formats.saved_tensors import check_record
from fastrealign.storage.paths import AnyPath
from fastrealign.storage.record_rules import COUNT, LIST, NOT_NEGATIVE, NUMBER, TEXT, Rule, or_none

_RECORD = {
    "how": TEXT,
    "rows_source": COUNT,
    "rows_target": COUNT,
    "of_source": or_none(COUNT),
    "of_target": or_none(COUNT),
    "error": or_none(NOT_NEGATIVE),
    "bound": or_none(NOT_NEGATIVE),
    "confidence": or_none(NOT_NEGATIVE),
    "seed": or_none(NOT_NEGATIVE),
    "generations": or_none(LIST),
}
_GENERATION = {
    "rows_source": COUNT,
    "rows_target": COUNT,
    "decay": Rule("a number above 0, at most 1", lambda value: NUMBER.holds(value) and 0.0 < value <= 1.0),
}


@dataclass(frozen=True)
class Generation:
    """The rows of one fit or update.

    Attributes
    ----------
    rows_source, rows_target : int
        Rows that it added.
    decay : float
        Factor, above 0 and at most 1, of the weight of all rows before it: of the source, and of the target where it added
        rows to that.
    """

    rows_source: int
    rows_target: int
    decay: float


@dataclass(frozen=True)
class Sampling:
    """How the statistics of an alignment were estimated, where they are not those of every row.

    Attributes
    ----------
    how : str
        "one pass": a sample corrects the centroid correction; "certified": all statistics are of a sample of blocks;
        "updated": the old statistics and those of new rows, merged.
    rows_source, rows_target : int
        Rows that were read.
    of_source, of_target : int or None
        Rows of each side; None: not known.
    error : float or None
        Standard error of the mean of the aligned rows (Euclidean norm); None: not known.
    bound, confidence : float or None
        With this confidence, the gap that is left is at most gap_left + bound.
    seed : int or None
        Seed of the sample.
    generations : tuple of Generation
        "updated": the first fit and every update, oldest first; else empty.
    """

    how: str
    rows_source: int
    rows_target: int
    of_source: int | None
    of_target: int | None
    error: float | None
    bound: float | None = None
    confidence: float | None = None
    seed: int | None = None
    generations: tuple[Generation, ...] = ()

    @property
    def text(self) -> str:
        """What a summary and a model card say after `how`: which rows were read, and the error that is left."""
        source, target = f"{self.rows_source:,}", f"{self.rows_target:,}"
        if self.how == "certified" and (self.rows_source, self.rows_target) == (self.of_source, self.of_target):
            return f"exact: every row was read, {source} of the source and {target} of the target"
        if self.how == "certified":
            return (
                f"the gap left is certain to {self.bound:.2g} at {self.confidence:.0%}, from {source} of {self.of_source:,} "
                f"source and {target} of {self.of_target:,} target rows (seed {self.seed})"
            )
        if self.how == "one pass":
            return f"the centroid correction is an estimate, standard error {self.error:.2g}"
        *before, last = self.generations or (None, None)
        decay = f" (decay {last.decay:g}, update {len(before)})" if last is not None else ""
        return (
            f"{source} of the source rows and {target} of the target rows are new, the others are those of the alignment "
            f"before{decay}"
        )

    @classmethod
    def read(cls, path: AnyPath, record: dict[str, Any]) -> Sampling:
        """From its record in the file of an alignment. Raises InputError, which names the file, for a damaged one."""
        check_record(path, "alignment", record, _RECORD)
        generations = record.get("generations") or []
        for of in generations:
            check_record(path, "alignment", of, _GENERATION)
        return cls(**{**record, "generations": tuple(Generation(**of) for of in generations)})


def weights(generations: tuple[Generation, ...]) -> tuple[float, float]:
    """The weight of all rows of the source, and of the target, after the last generation; a new row has the weight 1."""
    source = target = 0.0
    for of in generations:
        source = of.decay * source + of.rows_source
        if of.rows_target:
            target = of.decay * target + of.rows_target
    return source, target
