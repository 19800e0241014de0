"""Stage 1 as a plain PyTorch loop: captions and their embeddings, aligned batch by batch, train an adapter.

python examples/plain_loop.py --lm lm/ --captions captions.jsonl --text text_emb/ --images img_emb/ --out mm_projector.bin
"""

from __future__ import annotations

import argparse

import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, get_cosine_schedule_with_warmup

import fastrealign as fr
from fastrealign.revision.data import Collator, open_embeddings, read_examples
from fastrealign.revision.model import RevisionModel, load_lm


def main(argv: list[str] | None = None) -> list[float]:
    """Train for one epoch and export the adapter; returns the loss of every step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--lm", "--captions", "--text", "--images", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    args = parser.parse_args(argv)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    examples, embeddings = read_examples(args.captions), open_embeddings(args.text)
    collator = Collator(AutoTokenizer.from_pretrained(args.lm, local_files_only=True), embeddings, stage="stage1")
    loader = DataLoader(examples, args.batch_size, shuffle=True, collate_fn=collator)

    align = fr.nn.ReAlign(fr.fit(args.text, args.images)).to(device)  # text embeddings to where images lie
    model = RevisionModel(load_lm(args.lm), embeddings.dim).to(device).set_stage("stage1").train()
    optimizer = torch.optim.AdamW(model.adapter.parameters(), args.learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(0.03 * len(loader)), len(loader))

    losses = []
    for batch in loader:
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        batch["embeddings"] = align(batch["embeddings"])
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.adapter.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    print(f"{len(losses)} steps, loss {losses[0]:.4f} -> {losses[-1]:.4f}; {args.out}")
    model.export_adapter(args.out)
    return losses


if __name__ == "__main__":
    main()
