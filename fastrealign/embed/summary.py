"""The result of `embed_files`, as text (str) and as plain values (to_json)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastrealign.core.formatting import count, does, listing, short, size
from fastrealign.core.text import shown, shown_values

_LISTED = 5


@dataclass(frozen=True)
class Embedded:
    """The result of `embed_files`; `print` it, or take `to_json`.

    Attributes
    ----------
    source, out, side : str
        Input and output as they were named; "images" or "text".
    encoder : str
        Its name.
    dim, dtype : int, str
        Width and element type of the rows written.
    columns : list of str
        Of captions in .jsonl and .parquet: the columns that were taken.
    rows : int
        Embeddings written, over all shards.
    left_out : list of str
        Images and captions that could not be used, one line each.
    ignored : dict of int
        Number of files that are neither images nor captions, by suffix, and of links to folders.
    shards, shards_before : int
        Output shards, and those of them that were complete before this run (resume).
    bytes : int
        Size of all shards.
    rows_now, seconds : int, float
        Embeddings that this run made, and the time it took, with loading the encoder.
    manifest : str
        Path of manifest.json.
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
        thing, shards = "image" if self.side == "images" else "caption", count(self.shards, "shard")
        if self.nothing_to_do:
            head = f"nothing to do: {self.out} is complete, {count(self.rows, thing)}"
        else:
            head = f"embedded {count(self.rows_now, thing)} of {self.source}"
            if self.shards_before:
                before = does(self.shards_before, "were")
                head += f"; {self.shards_before:,} of {count(self.shards, 'shard')} {before} complete before"
        lost = [
            f"{count(len(self.left_out), thing)}, all in the manifest, the first of them:",
            *self.left_out[:_LISTED],
        ]
        kinds = ", ".join(f"{number:,} {suffix}" for suffix, number in self.ignored.items())
        written = f"{self.out}: {shards}, {count(self.rows, 'row')} of {self.dtype}, {size(self.bytes)}"
        speed = f"{self.seconds:.1f} s: {short(self.rows_now / self.seconds)} rows/s"
        lines = listing(
            ("encoder", f"{self.encoder}, {self.dim} wide"),
            ("column", f"captions of {', '.join(map(repr, self.columns))}" if self.columns else None),
            ("left out", lost if self.left_out else None),
            ("ignored", f"{kinds}: neither images nor captions" if kinds else None),
            ("written", [written, self.manifest]),
            ("took", None if self.nothing_to_do else speed),
        )
        return "\n".join([shown(head), *lines])
