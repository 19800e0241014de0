"""Report: what a run to files did, for people (str) and for machines (to_json)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from fastrealign.core.formatting import count, does, listing, short, size
from fastrealign.core.text import shown, shown_values
from fastrealign.data.options import NoiseOptions
from fastrealign.jobs.map_text import kept_lines
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.method import Method
from fastrealign.methods.paired_map import PairedMap
from fastrealign.methods.sampling import Sampling

_BAR = 40
# The smallest gap whose bar may be full: one of rounding alone, about 1e-8, must not look large.
_FULL_BAR = 1e-3


@dataclass(frozen=True)
class Report:
    """What `align` or `apply_files` did.

    Attributes
    ----------
    kind : str
        "align" or "apply".
    source, out : str
        As the user named them.
    columns : dict
        The name under which the files of each side hold the embeddings (column, key, tensor), where they have one.
    alignment : Alignment or Baseline
        What was applied; it is saved beside the output.
    gap_before : float
        ``|mean_source - mean_target|`` of the rows that it was fitted on.
    gap_left : float
        ``|mean of the rows written - mean_target|``, noise included; NaN if none was written.
    noise : NoiseOptions
        Noise that was added to the rows; its `noise` is the length, 0 for none.
    rows_in, rows_out : int
        Embeddings read and written, over all output shards.
    skipped : int
        Items of the source without an embedding.
    bad_rows : int
        Rows without a direction (NaN, Inf, zero); `bad_rows_were` "skip": left out, "keep": written unmapped.
    first_bad : list of str
        The first of them, one line each.
    dropped : dict of str to list of [int, int]
        With `bad_rows` "skip", by the names of the output shards that lack rows: the rows that were left out, as runs
        [first, last], numbered from 0 in the shard. Not in `to_json`; the manifest has them.
    left_out : list of str
        Shards that could not be read and were left out, one line each.
    notes : list of str
        How some shards were read and written, where that needs an explanation.
    shards, shards_before : int
        Output shards, and those of them that were complete before this run (resume).
    bytes_out : int
        Size of all output shards.
    rows_now, bytes_now : int
        Embeddings that this run read to align them, and their size.
    aligned_now, bad_now : int
        Of the shards that this run completed: rows that it aligned and wrote, and bad rows.
    seconds : float
        Time of this run, with the fit.
    files : dict
        Paths of the files beside the shards: alignment and manifest.
    """

    kind: str
    source: str
    out: str
    columns: dict[str, str]
    alignment: Method = field(repr=False)
    gap_before: float
    gap_left: float
    noise: NoiseOptions
    rows_in: int
    rows_out: int
    skipped: int
    bad_rows: int
    bad_rows_were: str
    first_bad: list[str]
    dropped: dict[str, list[list[int]]] = field(repr=False)
    left_out: list[str]
    notes: list[str]
    shards: int
    shards_before: int
    bytes_out: int
    rows_now: int
    bytes_now: int
    aligned_now: int
    bad_now: int
    seconds: float
    files: dict[str, str]

    @property
    def nothing_to_do(self) -> bool:
        """Whether the output was complete already."""
        return self.shards_before == self.shards and self.rows_now == 0

    @property
    def rows_per_second(self) -> float:
        return self.rows_now / self.seconds

    @property
    def gb_per_second(self) -> float:
        """Bytes of the source's embeddings, counted once, in 10^9 a second: to compare with copying the files."""
        return self.bytes_now / self.seconds / 1e9

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps; a gap that was not measured is None."""
        own_form = ("alignment", "noise", "dropped")
        value = shown_values({name: part for name, part in vars(self).items() if name not in own_form})
        a = self.alignment
        own = (
            {"centroid": a.centroid, "sampling": a.sampling and asdict(a.sampling)} if isinstance(a, Alignment) else {}
        )
        return {
            **value,
            "gap_before": None if math.isnan(self.gap_before) else self.gap_before,
            "gap_left": None if math.isnan(self.gap_left) else self.gap_left,
            "noise": self.noise.to_json() or None,
            "nothing_to_do": self.nothing_to_do,
            "rows_per_second": self.rows_per_second,
            "gb_per_second": self.gb_per_second,
            "alignment": {"method": a.name, "dim": a.dim, "s": a.s, **own, "fingerprint": a.fingerprint},
        }

    def __str__(self) -> str:
        fate = "left out" if self.bad_rows_were == "skip" else "kept unmapped"
        rows_out, shards = count(self.rows_out, "row"), count(self.shards, "shard")
        if self.nothing_to_do:
            head = f"nothing to do: {self.out} is complete, {shards} of {rows_out}"
        else:
            a = self.alignment
            by = "" if isinstance(a, Alignment) else f" by {a.name}"
            what, wide = ("mapped", f"{a.dim} to {a.dim_out}") if isinstance(a, PairedMap) else ("aligned", f"{a.dim}")
            head = f"{what} {count(self.aligned_now, 'row')} of {self.source}{by}, {wide} wide"
            if self.bad_now:
                head += f"; {count(self.bad_now, 'bad row')} {fate}"
            if self.shards_before:
                before = does(self.shards_before, "were")
                head += f"; {self.shards_before:,} of {count(self.shards, 'shard')} {before} complete before"
        fitted = self.alignment if self.kind == "align" and isinstance(self.alignment, Alignment) else None
        bad = [f"{self.bad_rows:,} {fate}, the first of them:", *self.first_bad[:5]]
        if self.bad_rows_were == "skip":
            bad.append(f"their numbers: 'dropped' of each shard in {self.files['manifest']}")
        lost = [f"{count(len(self.left_out), 'shard')} that could not be read, the first of them:", *self.left_out[:5]]
        speed = f"{short(self.rows_per_second)} rows/s, {size(self.bytes_now / self.seconds)}/s of source"
        lines = [
            shown(head),
            *kept_lines(self.alignment),
            *gap_lines(self.gap_before, self.gap_left, "before" if self.kind == "align" else "at the fit"),
            # What a sample says of the gap left is of rows without noise.
            *sampling_lines(None if fitted is None or self.noise else fitted.sampling),
            *listing(
                ("noise", noise_text(self.noise)),
                ("column", column_text(self.columns)),
                ("skipped", f"{count(self.skipped, 'item')} without an embedding" if self.skipped else None),
                ("bad rows", bad if self.bad_rows else None),
                ("left out", lost if self.left_out else None),
                *(("note", note) for note in self.notes),
                ("written", [f"{self.out}: {shards}, {rows_out}, {size(self.bytes_out)}", *self.files.values()]),
                ("took", None if self.nothing_to_do else f"{self.seconds:.1f} s: {speed}"),
            ),
        ]
        return "\n".join(lines)


def gap_lines(before: float, left: float, when: str = "before") -> list[str]:
    """The two gaps as numbers and as bars of one scale; nothing where there is none to close."""
    if math.isnan(before) and math.isnan(left):
        return []
    longest = max(before, 0.0 if math.isnan(left) else left, _FULL_BAR)
    lines = []
    for name, gap in ((f"gap {when}", before), ("gap left", left)):
        if math.isnan(gap):
            lines.append(f"  {name:<15}not measured")
        else:
            lines.append(f"  {name:<15}{gap:<9.3g} {'=' * round(_BAR * gap / longest) or '|'}")
    return lines


def noise_text(noise: NoiseOptions) -> str | None:
    """What a run says of the noise that it added."""
    return f"{noise}, added to every row; the gap left includes it" if noise else None


def sampling_lines(sampling: Sampling | None) -> list[str]:
    """How the fit was sampled, and the size of its error."""
    return [] if sampling is None else [f"  {sampling.how:<15}{sampling.text}"]


def column_text(columns: dict[str, str]) -> str:
    """ "'text_emb' of the source, 'img_emb' of the target"."""
    return ", ".join(f"{shown(repr(name))} of the {side}" for side, name in columns.items())
