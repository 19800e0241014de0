"""Aligned text embeddings as image features in a script made for LLaVA: transformers' LlavaForConditionalGeneration.

Where LLaVA has `projector(vision_tower(images))` at its image tokens, this has `projector(align(text_embeddings))` while it
trains, and `projector(image_embeddings)` when it looks at real images: one embedding, one image token. The vision tower is
not called. A projector made for patch features of another width gets a first layer that takes embeddings.

python examples/llava_dropin.py --llava llava/ --captions c.jsonl --text text_emb/ --images img_emb/ --out proj.safetensors
"""

from __future__ import annotations

import argparse

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, LlavaForConditionalGeneration

import fastrealign as fr
from fastrealign.revision.data import IMAGE_TOKEN, Collator, open_embeddings, read_examples


def projector_of(llava: LlavaForConditionalGeneration, dim: int) -> torch.nn.Module:
    """LLaVA's own projector, for embeddings `dim` wide."""
    projector = next(m for name, m in llava.named_modules() if name.endswith("multi_modal_projector"))
    first = projector.linear_1
    if first.in_features != dim:
        projector.linear_1 = torch.nn.Linear(dim, first.out_features).to(first.weight.device, first.weight.dtype)
    return projector


def words_and_images(
    llava: LlavaForConditionalGeneration, input_ids: torch.Tensor, features: torch.Tensor
) -> torch.Tensor:
    """What LLaVA makes of input_ids and pixel_values, of embeddings (batch, dim) instead: (batch, length, width)."""
    places = input_ids == IMAGE_TOKEN
    words = llava.get_input_embeddings()(input_ids.masked_fill(places, 0))
    visual = projector_of(llava, features.shape[-1])(features.to(words.dtype))
    return words.masked_scatter(places.unsqueeze(-1), visual)


def main(argv: list[str] | None = None) -> list[float]:
    """Train the projector on text for one epoch and save it; returns the loss of every step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--llava", "--captions", "--text", "--images", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args(argv)

    llava = LlavaForConditionalGeneration.from_pretrained(args.llava, local_files_only=True)
    embeddings = open_embeddings(args.text)
    align = fr.nn.ReAlign(fr.fit(args.text, args.images))
    llava.requires_grad_(False)
    trained = list(projector_of(llava, embeddings.dim).requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(trained, 5e-4, weight_decay=0.0)

    losses = []
    collator = Collator(AutoTokenizer.from_pretrained(args.llava, local_files_only=True), embeddings, stage="stage1")
    for batch in DataLoader(read_examples(args.captions), args.batch_size, shuffle=True, collate_fn=collator):
        words = words_and_images(llava, batch["input_ids"], align(batch["embeddings"]))
        loss = llava(inputs_embeds=words, attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    print(f"{len(losses)} steps, loss {losses[0]:.4f} -> {losses[-1]:.4f}; {args.out}")
    state = projector_of(llava, embeddings.dim).state_dict()
    save_file({f"multi_modal_projector.{name}": value for name, value in state.items()}, args.out)
    return losses


if __name__ == "__main__":
    main()
