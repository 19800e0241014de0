"""`fastrealign embed`: images and captions to embeddings, with encoders of open_clip and transformers.

    inputs      the items of a folder or of files; pictures, captions: one kind of item each
    encoders    one tower, ready to run; openclip, hf: those of open_clip and transformers
    batches     items read and decoded ahead of the encoder
    run         embed_files; embed_job: what it does; shards: the files it writes; summary: its result

Needs the extra `embed` (open_clip, transformers, torch, Pillow, pyarrow).
"""

from fastrealign.embed.encoders import Encoder
from fastrealign.embed.hf import Transformers
from fastrealign.embed.openclip import OpenClip
from fastrealign.embed.run import embed_files
from fastrealign.embed.summary import Embedded

__all__ = ["Embedded", "Encoder", "OpenClip", "Transformers", "embed_files"]
