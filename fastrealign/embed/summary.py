"""What `embed_files` did, for people (str) and for machines (to_json)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastrealign.core.text import shown, shown_values
from fastrealign.jobs.summary import count, short, size

_LISTED = 5


@dataclass(frozen=True)
class Embedded:
    """What a run of `embed_files` did.

    source, out   as they were named; `side` "images" or "text"
    encoder       its name; its rows are `dim` wide and were written as `dtype`
    columns       of captions in .jsonl and .parquet: the columns that were taken
    rows          embeddings written, over all shards
    left_out      images and captions that could not be used, one line each
    ignored       files of the source that are neither images nor captions, and links to folders: how many, by suffix
    shards        in the output; `shards_before` of them were complete before this run (resume)
    bytes         they take together
    rows_now      embeddings that this run made, in `seconds`, with loading the encoder
    manifest      path of manifest.json
    """

    source: str
    side: str
    out: str
    encoder: str
    dim: int
    dtype: str
    columns: list[str]
    rows: int
    left_out: list[str]
    ignored: dict[str, int]
    shards: int
    shards_before: int
    bytes: int
    rows_now: int
    seconds: float
    manifest: str

    @property
    def nothing_to_do(self) -> bool:
        """Whether the output was complete already."""
        return self.shards_before == self.shards and self.rows_now == 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps."""
        return {"kind": "embed", **shown_values(vars(self)), "nothing_to_do": self.nothing_to_do}

    def __str__(self) -> str:
        thing = "image" if self.side == "images" else "caption"
        if self.nothing_to_do:
            head = f"nothing to do: {shown(self.out)} is complete, {count(self.rows, thing)}"
        else:
            head = f"embedded {count(self.rows_now, thing)} of {shown(self.source)}"
            if self.shards_before:
                head += f"; {count(self.shards_before, 'shard')} of {self.shards} were complete before"
        lines = [head, f"  encoder    {shown(self.encoder)}, {self.dim} wide"]
        if self.columns:
            lines.append(f"  column     captions of {shown(', '.join(map(repr, self.columns)))}")
        if self.left_out:
            lines.append(f"  left out   {count(len(self.left_out), thing)}, all in the manifest, the first of them:")
            lines += [f"             {shown(line)}" for line in self.left_out[:_LISTED]]
        if self.ignored:
            kinds = ", ".join(f"{number:,} {suffix}" for suffix, number in self.ignored.items())
            lines.append(f"  ignored    {shown(kinds)}: neither images nor captions")
        lines.append(
            f"  written    {shown(self.out)}: {count(self.shards, 'shard')}, {count(self.rows, 'row')} of {self.dtype}, "
            f"{size(self.bytes)}"
        )
        lines.append(f"             {shown(self.manifest)}")
        if not self.nothing_to_do:
            lines.append(f"  took       {self.seconds:.1f} s: {short(self.rows_now / self.seconds)} rows/s")
        return "\n".join(lines)
