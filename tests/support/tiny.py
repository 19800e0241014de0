"""A random Llama of two layers and a tokenizer of words."""

from __future__ import annotations

HIDDEN = 32
CONTEXT = 64
WORDS = """
a an the of in on to is there no yes and or picture i see what which how many colour shape size kind answer describe image
user assistant human gpt one two three four five left right above below red green blue yellow black white small large
circle square star triangle cross background . , ? : ! ' < > -
"""


def build_tokenizer():
    """Words and single marks, `<s>` in front of what is asked to have special tokens, as Llama's."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", "<pad>"]
    vocabulary = {word: at for at, word in enumerate([*special, *dict.fromkeys(WORDS.split())])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=CONTEXT,
    )


def build_lm(vocabulary: int, hidden: int = HIDDEN):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    return LlamaForCausalLM(config)
