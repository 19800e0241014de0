"""`embed_files`: images or captions to a folder of embeddings."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.options import OutputOptions
from fastrealign.embed.embed_job import EmbedJob, EmbedOptions
from fastrealign.embed.encoders import EncoderChoice
from fastrealign.embed.summary import Embedded
from fastrealign.jobs.layout import Layout
from fastrealign.jobs.resumable_folder import ResumableFolder

# Small enough that a kill costs minutes even without a GPU; a billion rows make 100,000 files.
SHARD_ROWS = 10_000
BATCH_SIZE = 64


def embed_files(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    encoder: EncoderChoice,
    *,
    side: str | None = None,
    column: str | None = None,
    ids: str | None = None,
    bad_items: str = "error",
    dtype: str = "float16",
    batch_size: int = BATCH_SIZE,
    shard_rows: int = SHARD_ROWS,
    threads: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = SILENT,
    fsync: bool = True,
) -> Embedded:
    """Embed images or captions into a folder of parquet shards that `align`, `fit`, `report` and `train` read.

    The shards have the columns id, caption (of text) and embedding, with rows of length 1; manifest.json is written last.

    Parameters
    ----------
    source : path or list of paths
        A folder of images or of caption files, a file, or a list of these (embed/inputs.py).
    out : path
        An empty or new folder.
    encoder : OpenClip or Transformers
    side : {"images", "text"}, optional
        Which to take, if the source has both.
    column, ids : str, optional
        Of .jsonl and .parquet captions: the columns of the captions and of their ids, where they have unusual names.
    bad_items : {"error", "skip"}
        Images that cannot be read, and captions that are empty or not text: stop at the first, or leave them out and list them
        in the manifest.
    dtype : {"float16", "float32"}
        Of the rows written.
    batch_size : int
        Items encoded at a time. Another size changes rows by rounding errors.
    shard_rows : int
        Items of a shard, whose embeddings are held in memory.
    threads : int, optional
        Threads that decode images; by default one per core.
    resume, overwrite, fsync : bool
        As for `align`.
    progress : Progress
        Receives the progress of the work.

    Returns
    -------
    Embedded

    Raises
    ------
    InputError
        Bad input, an encoder that cannot be found, an output that cannot be used.
    FastRealignError
        Encoding or writing failed. Complete shards are kept for `resume`.

    Examples
    --------
    >>> from fastrealign.embed import OpenClip, embed_files
    >>> encoder = OpenClip("ViT-B-32", pretrained="weights.safetensors")
    >>> print(embed_files("photos/", "img_emb/", encoder))  # doctest: +SKIP
    """
    options = EmbedOptions(side, column, ids, bad_items, dtype, batch_size, shard_rows, threads)
    output = OutputOptions(np.dtype(dtype), overwrite, resume, fsync=fsync)
    folder = ResumableFolder(Layout.of_new_shards(out), output)
    return EmbedJob(source, folder, encoder, options, progress).run()
