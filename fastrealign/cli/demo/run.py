"""`fastrealign demo`: align the shipped captions to the shipped images, and measure held-out pairs before and after."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fastrealign as fr
from fastrealign.cli.demo import samples
from fastrealign.cli.demo.picture import check_picture, draw
from fastrealign.cli.demo.readings import NEIGHBOURS, Reading, read


@dataclass(frozen=True)
class DemoResult:
    """Result of the demo.

    Attributes
    ----------
    before, after
        Metrics of the held-out pairs, with the captions as the encoder gives them and aligned.
    fitted_gap_before, fitted_gap_left
        Gap of the rows that the alignment was fitted on.
    texts, images, pairs, dim
        Rows to fit on (of different scenes), held-out pairs, width.
    centroid
        How the centroid was found: "paper" or "exact".
    seconds
        Time of loading, fitting and aligning, without the metrics.
    picture
        File of the picture, if one was asked for.
    """

    before: Reading
    after: Reading
    fitted_gap_before: float
    fitted_gap_left: float
    texts: int
    images: int
    pairs: int
    dim: int
    centroid: str
    seconds: float
    picture: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps."""
        return asdict(self)

    def summary(self) -> str:
        """Some twenty lines of text."""
        before, after = self.before, self.after
        rows = [
            ("gap  |mean(text) - mean(image)|", f"{before.gap:.3f}", f"{after.gap:.3f}"),
            (f"mixing of {NEIGHBOURS} neighbours (0.5 = mixed)", f"{before.mixing:.4f}", f"{after.mixing:.4f}"),
            *(
                (f"text to image, recall@{k} (chance {k / self.pairs:.3f})", f"{b:.3f}", f"{a:.3f}")
                for (k, b), a in zip(before.recall.items(), after.recall.values(), strict=True)
            ),
        ]
        lines = [
            f"Aligned {self.texts:,} captions to {self.images:,} pictures of other scenes "
            f"({self.dim} wide, float16) in {self.seconds:.2f} s.",
            f"Gap of these rows: {self.fitted_gap_before:.3f} before, {self.fitted_gap_left:.1e} left.",
            "",
            f"{f'On {self.pairs:,} held-out pairs':44}{'before':>9}{'after':>9}",
            *(f"{name:44}{b:>9}{a:>9}" for name, b, a in rows),
            *(["", f"Picture: {self.picture}"] if self.picture else []),
            "",
            "With your own embeddings (.npy, .parquet or pickles; text and image of one encoder pair):",
            "    fastrealign align text_emb/ --target img_emb/ --out aligned/",
        ]
        return "\n".join(lines)


def run(*, centroid: str = "paper", picture: str | Path | None = None) -> DemoResult:
    """Fit on the unpaired shipped sets, align the captions, and measure the held-out pairs before and after.

    Parameters
    ----------
    centroid
        "paper" or "exact".
    picture
        PNG to draw: both modalities in two dimensions, before and after. Needs matplotlib.
    """
    if picture is not None:
        check_picture(picture)
    start = time.perf_counter()
    text, image = samples.load("text"), samples.load("image")
    alignment = fr.fit(text, image, centroid=centroid)
    alignment(text)
    seconds = time.perf_counter() - start

    pairs_text, pairs_image = samples.load("pairs_text"), samples.load("pairs_image")
    aligned = alignment(pairs_text)
    before, after = read(pairs_text, pairs_image), read(aligned, pairs_image)
    if picture is not None:
        draw(picture, pairs_text, aligned, pairs_image, before, after)
    return DemoResult(
        before=before,
        after=after,
        fitted_gap_before=alignment.gap_before,
        fitted_gap_left=alignment.gap_left,
        texts=len(text),
        images=len(image),
        pairs=len(pairs_text),
        dim=alignment.dim,
        centroid=centroid,
        seconds=seconds,
        picture=None if picture is None else str(picture),
    )
