"""`fastrealign embed`: images and captions to embeddings. Heavy libraries are imported only when it runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import fastrealign as fr
from fastrealign.cli.arguments import add_fsync, add_option, add_output_options, dtype, positive, small
from fastrealign.cli.console import progress_of, show
from fastrealign.cli.parser import Command
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


def add(command: Command) -> None:
    """Add the subcommand."""
    embed = command(
        "embed", "images and captions to embeddings, with an encoder of open_clip or transformers", _MORE, run=run
    )
    embed.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help="a folder of images (searched through), a .tar of them (WebDataset); or captions: .txt (one a line), .jsonl, "
        ".parquet",
    )
    embed.add_argument("--out", required=True, metavar="OUT", help="an empty or new folder")
    side = embed.add_mutually_exclusive_group()
    for name in ("images", "text"):
        side.add_argument(
            f"--{name}",
            dest="side",
            action="store_const",
            const=name,
            help=f"take the {'captions' if name == 'text' else name} of INPUT, where it holds both",
        )
    embed.add_argument(
        "--column", metavar="NAME", help="of .jsonl and .parquet: the captions (default: caption, text, ...)"
    )
    embed.add_argument(
        "--ids", metavar="NAME", help="of .jsonl and .parquet: their ids (default: id, key, uid, ..., else numbers)"
    )
    embed.add_argument(
        "--bad-items",
        type=small,
        choices=("error", "skip"),
        default="error",
        help="images that cannot be read, captions that are empty or not text: stop at the first, or leave them out, list them "
        "in the manifest and exit 1 (default: error)",
    )
    _add_encoder(embed)
    embed.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default: auto)")
    embed.add_argument(
        "--precision",
        type=_precision,
        choices=("fp32", "fp16", "bf16"),
        default="fp32",
        help="number format that the encoder computes in (default: fp32)",
    )
    embed.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="items per batch (default: %(default)s)"
    )
    embed.add_argument(
        "--threads", type=positive, metavar="N", help="threads that decode images (default: one per core)"
    )
    embed.add_argument(
        "--dtype",
        type=dtype,
        choices=("float16", "float32"),
        default="float16",
        help="element type of the embeddings written (default: float16)",
    )
    embed.add_argument(
        "--shard-rows",
        type=positive,
        default=10_000,
        metavar="N",
        help="items per shard, the most that a killed run loses (default: %(default)s)",
    )
    again = embed.add_mutually_exclusive_group()
    add_option(again, "--resume", action="store_true")
    add_option(again, "--overwrite", action="store_true")
    add_fsync(embed)
    add_output_options(embed)


def _add_encoder(embed: argparse.ArgumentParser) -> None:
    which = embed.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--clip",
        metavar="NAME",
        help="of open_clip: an architecture (ViT-L-14), a JSON file that describes one, a folder that open_clip saved, or "
        "hf://ORG/NAME",
    )
    which.add_argument(
        "--model",
        metavar="NAME",
        help="of transformers: CLIP, SigLIP and the like, or for text a language model (LLM2Vec); a folder or hf://ORG/NAME",
    )
    embed.add_argument(
        "--pretrained",
        metavar="WEIGHTS",
        help="with --clip: a file of weights, or one of open_clip's tags (with --hub)",
    )
    embed.add_argument(
        "--hub",
        action="store_true",
        help="download what is not on this machine from the Hugging Face hub (default: only for names that begin with hf://)",
    )
    embed.add_argument(
        "--text-model", metavar="NAME", help="with --model: the language model whose pooled states it takes (LLM2CLIP)"
    )
    embed.add_argument(
        "--processor",
        metavar="NAME",
        help="with --model: where the tokenizer or image processor is, if not in the model's folder",
    )
    embed.add_argument(
        "--pooling",
        type=small,
        choices=("mean", "last", "eos"),
        default="mean",
        help="of a language model's states: the mean over the caption's tokens, the last one's, or that of an end token put "
        "after it (default: mean)",
    )
    embed.add_argument(
        "--template",
        default="{}",
        metavar="TEXT",
        help="what a language model reads, with {} for the caption (default: {})",
    )
    embed.add_argument(
        "--trust-remote-code", action="store_true", help="with --model: run code that comes with the model"
    )


def _precision(text: str) -> str:
    """A precision by its name or by any name that --dtype takes."""
    return {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}.get(dtype(text), text)


def run(args: argparse.Namespace) -> int:
    """Exit code 1 if items were left out."""
    names = "side column ids bad_items dtype batch_size shard_rows threads resume overwrite fsync"
    options = {name: getattr(args, name) for name in names.split()}
    done = fr.embed.embed_files(args.input, args.out, _encoder(args), progress=progress_of(args), **options)
    show(args, done.to_json(), str(done))
    return 1 if done.left_out else 0


def _encoder(args: argparse.Namespace) -> EncoderChoice:
    how = {"device": args.device, "precision": args.precision, "hub": args.hub}
    with_model = {
        "--text-model": args.text_model,
        "--processor": args.processor,
        "--trust-remote-code": args.trust_remote_code or None,
    }
    if args.clip is not None:
        given = next((option for option, value in with_model.items() if value is not None), None)
        if given:
            raise InputError(f"{given} goes with --model (transformers), not with --clip (open_clip)")
        return fr.embed.OpenClip(args.clip, args.pretrained, **how)
    if args.pretrained is not None:
        raise InputError("--pretrained goes with --clip (open_clip); --model names a model with its weights")
    return fr.embed.Transformers(
        args.model,
        text_model=args.text_model,
        processor=args.processor,
        pooling=args.pooling,
        template=args.template,
        trust_remote_code=args.trust_remote_code,
        **how,
    )
