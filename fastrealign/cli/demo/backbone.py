"""The demo's language model: a small LFM2, which ships trained on captions, notes and dialogues about scenes, without images.

It takes the place of ReVision's pretrained language model (arXiv 2602.07026, section 5): it writes the captions' English, and
answers questions about a scene that is described in words. Its training is in bench/paper/world/language.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastrealign.cli.demo import captions, questions

if TYPE_CHECKING:
    from transformers import Lfm2ForCausalLM, PreTrainedTokenizerFast

DESCRIBE = "describe the picture ."
CONTEXT = 192
WIDTH = 64
# A convolution shows each noun the words before it, such as its colour; attention alone learned this more slowly.
LAYERS = ("conv", "full_attention", "conv", "full_attention")
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, for all words of captions, questions and prompts."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = dict.fromkeys([*_SPECIAL, "USER", "ASSISTANT", ":", *captions.WORDS, *questions.WORDS, "describe"])
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    made.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def build(seed: int = 0, words: PreTrainedTokenizerFast | None = None) -> Lfm2ForCausalLM:
    """A new language model, with the same weights for the same seed; of another tokenizer's words, if one is given."""
    import torch
    from transformers import Lfm2Config, Lfm2ForCausalLM

    words = words or tokenizer()
    torch.manual_seed(seed)
    return Lfm2ForCausalLM(
        Lfm2Config(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            block_auto_adjust_ff_dim=False,
            num_hidden_layers=len(LAYERS),
            layer_types=list(LAYERS),
            conv_L_cache=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            # transformers' 0.02 is for wide models: attention would start almost uniform.
            initializer_range=WIDTH**-0.5,
            pad_token_id=words.pad_token_id,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
        )
    )


def save(model: Lfm2ForCausalLM, folder: Path, words: PreTrainedTokenizerFast | None = None) -> None:
    """The model and its tokenizer in one folder, as transformers saves them."""
    model.save_pretrained(folder)
    (words or tokenizer()).save_pretrained(folder)
