"""`fastrealign embed`: images and captions to embeddings. Heavy libraries are imported only when it runs."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

import fastrealign as fr
from fastrealign.cli.arguments import add_fsync, add_option, add_output_options, chosen, dtype, positive, small
from fastrealign.cli.config import add_config
from fastrealign.cli.console import show
from fastrealign.cli.garbage_collection import collect_as_usual
from fastrealign.cli.parser import Command
from fastrealign.cli.progress import progress_of
from fastrealign.core.errors import InputError

if TYPE_CHECKING:
    from fastrealign.embed.encoders import EncoderChoice

_MORE = """\
OUT gets parquet shards with the columns id, caption (of text) and embedding,
whose rows have length 1, and manifest.json, written last. The id is the image's
path within the folder, its name within a tar, or the record's own id, else the
number of its line, from 0. --resume continues an interrupted run.

examples:
  fastrealign embed photos/ --clip ViT-L-14 --pretrained weights.safetensors --out img_emb/
  fastrealign embed captions.jsonl --clip ViT-L-14 --pretrained weights.safetensors --out text_emb/
  fastrealign embed photos/ --model hf://google/siglip-base-patch16-224 --device cuda --precision bf16 --out img_emb/
  fastrealign embed captions.jsonl --model LLM2CLIP/ --text-model LLM/ --trust-remote-code --out text_emb/
  fastrealign align text_emb/ --target img_emb/ --out aligned/"""


_HELP = {
    "input": "a folder of images (searched through), a .tar of them (WebDataset); or captions: .txt (one a line), .jsonl, "
    ".parquet",
    "out": "an empty or new folder",
    "images": "take the images of INPUT, where it holds both",
    "text": "take the captions of INPUT, where it holds both",
    "column": "of .jsonl and .parquet: the captions (default: caption, text, ...)",
    "ids": "of .jsonl and .parquet: their ids (default: id, key, uid, ..., else numbers)",
    "bad_items": "images that cannot be read, captions that are empty or not text: stop at the first, or leave them out, list "
    "them in the manifest and exit 1",
    "clip": "of open_clip: an architecture (ViT-L-14), a JSON file that describes one, a folder that open_clip saved, or "
    "hf://ORG/NAME",
    "model": "of transformers: CLIP, SigLIP and the like, or for text a language model (LLM2Vec); a folder or hf://ORG/NAME",
    "pretrained": "with --clip: a file of weights, or one of open_clip's tags (with --hub)",
    "hub": "download what is not on this machine from the Hugging Face hub (default: only for names that begin with hf://)",
    "text_model": "with --model: the language model whose pooled states it takes (LLM2CLIP)",
    "processor": "with --model: where the tokenizer or image processor is, if not in the model's folder",
    "pooling": "of a language model's states: the mean over the caption's tokens, the last one's, or that of an end token put "
    "after it",
    "template": "what a language model reads, with {} for the caption",
    "trust_remote_code": "with --model: run code that comes with the model",
    "device": "auto, cpu, cuda or cuda:N",
    "precision": "number format that the encoder computes in",
    "batch_size": "items per batch",
    "threads": "threads that decode images (default: one per core)",
    "dtype": "element type of the embeddings written",
    "shard_rows": "items per shard, the most that a killed run loses",
}


def add(command: Command) -> None:
    """Add the subcommand."""
    embed = command(
        "embed", "images and captions to embeddings, with an encoder of open_clip or transformers", _MORE, run=run
    )
    option = partial(add_option, texts=_HELP)
    option(embed, "input", nargs="+", metavar="INPUT")
    option(embed, "--out", required=True, metavar="OUT")
    side = embed.add_mutually_exclusive_group()
    option(side, "--images", dest="side", action="store_const", const="images")
    option(side, "--text", dest="side", action="store_const", const="text")
    option(embed, "--column", metavar="NAME")
    option(embed, "--ids", metavar="NAME")
    option(embed, "--bad-items", type=small, choices=("error", "skip"), default="error")
    which = embed.add_mutually_exclusive_group(required=True)
    option(which, "--clip", metavar="NAME")
    option(which, "--model", metavar="NAME")
    option(embed, "--pretrained", metavar="WEIGHTS")
    option(embed, "--hub", action="store_true")
    option(embed, "--text-model", metavar="NAME")
    option(embed, "--processor", metavar="NAME")
    option(embed, "--pooling", type=small, choices=("mean", "last", "eos"), default="mean")
    option(embed, "--template", default="{}", metavar="TEXT")
    option(embed, "--trust-remote-code", action="store_true")
    option(embed, "--device", default="auto", metavar="NAME")
    option(embed, "--precision", type=_precision, choices=("fp32", "fp16", "bf16"), default="fp32")
    option(embed, "--batch-size", type=positive, default=64, metavar="N")
    option(embed, "--threads", type=positive, metavar="N")
    option(embed, "--dtype", type=dtype, choices=("float16", "float32"), default="float16")
    option(embed, "--shard-rows", type=positive, default=10_000, metavar="N")
    again = embed.add_mutually_exclusive_group()
    add_option(again, "--resume", action="store_true")
    add_option(again, "--overwrite", action="store_true")
    add_fsync(embed)
    add_output_options(embed)
    add_config(embed)


def _precision(text: str) -> str:
    """A precision by its name or by any name that --dtype takes."""
    return {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}.get(dtype(text), text)


def run(args: argparse.Namespace) -> int:
    """Exit code 1 if items were left out."""
    collect_as_usual()
    names = "side column ids bad_items dtype batch_size shard_rows threads resume overwrite fsync"
    options = chosen(args, *names.split())
    done = fr.embed.embed_files(args.input, args.out, _encoder(args), progress=progress_of(args), **options)
    show(args, done.to_json(), str(done))
    return 1 if done.left_out else 0


def _encoder(args: argparse.Namespace) -> EncoderChoice:
    how = chosen(args, "device", "precision", "hub")
    with_model = ("text_model", "processor", "trust_remote_code")
    if args.clip is not None:
        given = next((name for name in with_model if getattr(args, name) not in (None, False)), None)
        if given:
            raise InputError(
                f"--{given.replace('_', '-')} goes with --model (transformers), not with --clip (open_clip)"
            )
        return fr.embed.OpenClip(args.clip, args.pretrained, **how)
    if args.pretrained is not None:
        raise InputError("--pretrained goes with --clip (open_clip); --model names a model with its weights")
    own = chosen(args, "text_model", "processor", "pooling", "template", "trust_remote_code")
    return fr.embed.Transformers(args.model, **own, **how)
