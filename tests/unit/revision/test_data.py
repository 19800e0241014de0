"""Batches: what is learned, where the visual tokens are, padding and truncation, the alignment on the way, bad input."""

from __future__ import annotations

import pickle
import warnings

import corpus
import numpy as np
import pytest
from tiny import WORDS, build_tokenizer

import fastrealign as fr
from fastrealign.core.errors import InputError
from fastrealign.methods.baselines import METHODS, Mapped, fit_baseline
from fastrealign.revision.data import (
    IMAGE,
    IMAGE_TOKEN,
    NO_LOSS,
    Collator,
    Example,
    Template,
    available,
    left_padded,
    open_embeddings,
    prompt_ids,
    read_examples,
)

pytest.importorskip("transformers")

DIM = 8
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Llama 3's: it writes the begin token out.
HEADERS = (
    "<s>{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
# As Mistral's: a space in front of the answer, the end token after it.
INSTRUCT = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
# As Llama 2's: a space on either side of the answer.
SPACED = INSTRUCT.replace("{{ m.content }}</s>", "{{ m.content }} </s>")
# As Qwen 3's: what could hold a train of thought is written in front of an answer, and without one left empty.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
CHATS = {"chatml": CHATML, "headers": HEADERS, "instruct": INSTRUCT, "spaced": SPACED, "thinking": THINKING}


def build_bytes(template=None, begins=True):
    """A tokenizer of bytes as GPT-2 and Llama 3 write them, with some merges: a word takes the space before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(":", "Ġ"), ("Ġ", "a"), ("Ġ", "r"), ("Ġr", "e"), ("Ġre", "d"), ("c", "a")]
    vocabulary = {token: at for at, token in enumerate([*letters, *(a + b for a, b in merges), "<s>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    fast.chat_template = template
    return fast


def build_pieces():
    """A tokenizer as SentencePiece makes it for Llama 2: a space in front of every text, spaces as ▁."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["the", "red", "cat", "is", "on", "a", "mat", "what", "USER:", "ASSISTANT:"]
    pieces = [("<unk>", 0.0), *((f"▁{word}", -2.0) for word in words), ("▁", -3.0)]
    pieces += [(chr(code), -9.0) for code in (10, *range(33, 127))] + [(character, -9.0) for character in "éß猫🙂"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


TOKENIZERS = {"bytes": build_bytes, "bytes without begin": lambda: build_bytes(begins=False), "pieces": build_pieces}
PLAIN = {**TOKENIZERS, "words": build_tokenizer}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.fixture
def dialogues(rng):
    """dialogues(n, turns): examples with ids 0 to n - 1, of up to so many turns."""
    words = [
        "the",
        "red",
        "cat",
        "is",
        "on",
        "a",
        "mat",
        "what",
        "猫",
        "ß",
        "café",
        ":",
        "!",
        "x\ny",
        "ASSISTANT:",
        "🙂",
    ]

    def text():
        return " ".join(words[i] for i in rng.integers(0, len(words), rng.integers(1, 9)))

    def dialogues(n, turns=4):
        return [
            Example(
                str(i),
                tuple((f"{IMAGE}\n{text()}" if k == 0 else text(), text()) for k in range(rng.integers(1, turns + 1))),
            )
            for i in range(n)
        ]

    return dialogues


@pytest.fixture
def store(tmp_path, rng):
    """store(n): n rows in two shards, and them."""

    def store(n):
        rows = rng.standard_normal((n, DIM)).astype(np.float32)
        corpus.npy_folder(tmp_path / "store", np.split(rows, [n // 3]))
        return open_embeddings(tmp_path / "store"), rows

    return store


def learned(tokenizer, labels):
    return tokenizer.decode([label for label in labels.tolist() if label != NO_LOSS])


@pytest.mark.parametrize(
    ("tokenizer", "form"),
    [(name, form) for form in ("llava", *CHATS) for name in TOKENIZERS if form == "llava" or name != "pieces"],
    indirect=["tokenizer"],
)  # pieces have no tokens of a chat
def test_stage_2_learns_the_responses_and_their_ends(tokenizer, dialogues, store, form, rng):
    if form != "llava":
        tokenizer.chat_template = CHATS[form]
    examples, tokens = dialogues(12), int(rng.integers(1, 5))
    embeddings, rows = store(12)
    batch = Collator(tokenizer, embeddings, stage="stage2", tokens=tokens)(examples)
    end = "<|im_end|>" if form in ("chatml", "headers", "thinking") else "</s>"
    gap = (
        " " if (form in ("llava", "instruct", "spaced") and tokenizer.unk_token is None) else ""
    )  # bytes keep the space
    for i, example in enumerate(examples):
        said = learned(tokenizer, batch["labels"][i])
        answers = [answer for _, answer in example.turns]
        expected = "".join(f"{gap}{answer}{end}" for answer in answers)
        assert said.replace(f"{end} ", end) == expected.replace(f"{end} ", end)  # some decoders put a space there
        ids = batch["input_ids"][i]
        here = (ids == IMAGE_TOKEN).nonzero().flatten().tolist()
        assert len(here) == tokens and here == list(range(here[0], here[0] + tokens))
        assert ids[batch["attention_mask"][i] == 0].eq(tokenizer.eos_token_id).all()
        with_loss = batch["labels"][i] != NO_LOSS
        assert (batch["labels"][i][with_loss] == ids[with_loss]).all()
        assert not with_loss[batch["attention_mask"][i] == 0].any()
    assert np.array_equal(batch["embeddings"].numpy(), rows)


@pytest.mark.parametrize("name", PLAIN)
def test_stage_1_learns_the_text_and_its_end(name, dialogues, store):
    tokenizer = PLAIN[name]()
    examples = [Example(one.id, ((IMAGE, one.turns[0][1]),)) for one in dialogues(9)]
    if name == "words":
        examples = [Example(one.id, ((IMAGE, " ".join(WORDS.split()[i : i + 3])),)) for i, one in enumerate(examples)]
    embeddings, _ = store(9)
    batch = Collator(tokenizer, embeddings, stage="stage1", tokens=3)(examples)
    begins = name in ("bytes", "words")
    for i, example in enumerate(examples):
        ids, labels = batch["input_ids"][i].tolist(), batch["labels"][i].tolist()
        head = [tokenizer.bos_token_id] * begins + [IMAGE_TOKEN] * 3
        assert ids[: len(head)] == head and labels[: len(head)] == [NO_LOSS] * len(head)
        length = int(batch["attention_mask"][i].sum())
        assert labels[len(head) : length] == ids[len(head) : length] and ids[length - 1] == tokenizer.eos_token_id
        text = tokenizer.decode(ids[len(head) : length - 1])
        assert text == example.turns[0][1]


def test_the_llava_form_word_for_word():
    tokenizer = build_bytes()
    turns = [(f"{IMAGE}\nwhat is it?", "a red cat"), ("sure?", "yes")]
    (ids, _), *_ = Template(tokenizer, "stage2", tokens=2).examples([turns])
    assert ids.count(IMAGE_TOKEN) == 2
    at = ids.index(IMAGE_TOKEN)
    assert tokenizer.decode(ids[:at]) == "<s>USER: "
    assert tokenizer.decode(ids[at + 2 :]) == "\nwhat is it? ASSISTANT: a red cat</s>USER: sure? ASSISTANT: yes</s>"


@pytest.mark.parametrize("form", ["llava", *CHATS])
def test_generation_begins_where_training_continues(dialogues, form):
    """The prompt of each turn is what comes before its response in training, token for token."""
    tokenizer = build_bytes(CHATS.get(form))
    template = Template(tokenizer, "stage2", tokens=2)
    for example, (ids, labels) in zip(made := dialogues(10), template.examples(one.turns for one in made), strict=True):
        starts = [i for i in range(1, len(ids)) if labels[i] != NO_LOSS and labels[i - 1] == NO_LOSS]
        assert len(starts) == len(example.turns)
        for k, start in enumerate(starts):
            so_far = [*example.turns[:k], (example.turns[k][0], None)]
            assert prompt_ids(tokenizer, so_far, 2) == ids[:start]
            assert prompt_ids(tokenizer, example.turns[: k + 1], 2) == ids[:start]
            assert prompt_ids(tokenizer, so_far, 0) == [id for id in ids[:start] if id != IMAGE_TOKEN]
        assert ids[labels.index(template.end)] == template.end
    assert prompt_ids(tokenizer, [(IMAGE, None)], 2, stage="stage1")[-2:] == [IMAGE_TOKEN] * 2
    assert prompt_ids(tokenizer, [(f"{IMAGE}\nx", None)], form="llava")[:1] == [tokenizer.bos_token_id]


def test_what_merges_across_the_border_stays_apart():
    """':' and the space after it are one token here; the prompt keeps the ':' it has when it stands alone."""
    from tokenizers import pre_tokenizers

    tokenizer = build_bytes()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    turns = [(f"{IMAGE}\nx", "a cat")]
    (ids, labels), *_ = Template(tokenizer, "stage2").examples([turns])
    assert ids[: len(prompt_ids(tokenizer, turns))] == prompt_ids(tokenizer, turns)
    assert tokenizer.decode([label for label in labels if label != NO_LOSS]) == " a cat</s>"


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_order_and_company_change_nothing(tokenizer, dialogues, store, stage, rng):
    examples = dialogues(8, turns=1 if stage == "stage1" else 4)
    embeddings, _ = store(8)
    target = rng.standard_normal((50, DIM))
    alignments = [
        None,
        fr.fit(embeddings.at(np.arange(8)), target),
        fit_baseline("c3", embeddings.at(np.arange(8)), target),
    ]
    for alignment in alignments:
        collator = Collator(tokenizer, embeddings, stage=stage, tokens=2, alignment=alignment)
        together = collator(examples)
        order = rng.permutation(8)
        permuted = collator([examples[i] for i in order])
        for name, values in together.items():
            assert values[order].equal(permuted[name]), name
        for i, example in enumerate(examples):
            alone = collator([example])
            length = alone["input_ids"].shape[1]
            assert alone["attention_mask"].all() and not together["attention_mask"][i, length:].any()
            assert (together["labels"][i, length:] == NO_LOSS).all()
            for name in ("input_ids", "labels", "attention_mask"):
                assert alone[name][0].equal(together[name][i, :length])
            assert alone["embeddings"][0].equal(together["embeddings"][i])


@pytest.mark.parametrize("method", METHODS)
def test_aligned_on_the_way_as_in_files(method, store, rng):
    """The same rows as those of the whole source mapped at once, noise included."""
    embeddings, _ = store(40)
    path = embeddings.name
    fitted = fit_baseline(method, path, rng.standard_normal((60, DIM)) + 1.0)
    expected = np.concatenate([block.copy() for block in Mapped(fitted, path)])
    collator = Collator(build_bytes(), embeddings, stage="stage1", alignment=fitted)
    wanted = rng.permutation(40)[:17]
    batch = collator([Example(str(i), ((IMAGE, "a cat"),)) for i in wanted])
    np.testing.assert_allclose(batch["embeddings"].numpy(), expected[wanted], atol=3e-7)
    assert collator.align_seconds > 0
    assert Collator(build_bytes(), embeddings, stage="stage1").align_seconds == 0


@pytest.mark.parametrize("method", [None, *METHODS])
def test_noise_on_the_way_as_in_files(method, store, rng):
    """Each row has the noise of its number in the whole source, in any order; raw rows get it as unit rows."""
    embeddings, rows = store(40)
    target = rng.standard_normal((60, DIM)) + 1.0
    fitted = fit_baseline(method or "none", rows, target)
    expected = fitted(rows.astype(np.float32), noise=0.8, seed=4)
    how = {"stage": "stage1", "alignment": fitted if method else None, "noise": 0.8, "seed": 4}
    collator = Collator(build_bytes(), embeddings, **how)
    wanted = rng.permutation(40)[:17]
    examples = [Example(str(i), ((IMAGE, "a cat"),)) for i in wanted]
    for _ in range(2):
        np.testing.assert_allclose(collator(examples)["embeddings"].numpy(), expected[wanted], atol=3e-7)
    assert collator.align_seconds > 0
    alone = collator(examples[3:4])["embeddings"]
    np.testing.assert_allclose(alone.numpy(), expected[wanted[3:4]], atol=3e-7)


def test_noise_after_a_module_and_of_one(store, rng):
    embeddings, rows = store(30)
    rows = rows.astype(np.float32)
    alignment = fr.fit(rows, rng.standard_normal((60, DIM)) + 1.0)
    wanted = rng.permutation(30)[:9]
    examples = [Example(str(i), ((IMAGE, "a cat"),)) for i in wanted]
    expected = alignment(rows, noise=0.6, seed=2)[wanted]
    for layer, noise in ((fr.nn.ReAlign(alignment), 0.6), (fr.nn.ReAlign(alignment, noise=0.6, seed=2), 0.0)):
        collator = Collator(build_bytes(), embeddings, stage="stage1", alignment=layer, noise=noise, seed=2)
        np.testing.assert_allclose(collator(examples)["embeddings"].numpy(), expected, atol=3e-7)
    with pytest.raises(InputError, match="noise=-1: expected a number from 0"):
        Collator(build_bytes(), embeddings, stage="stage1", noise=-1)


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_a_misfit_is_seen_before_noise(store, rng, noise):
    embeddings, rows = store(600)
    fits = fr.fit(rows, rng.standard_normal((600, DIM)) + 1.0)
    misfit = fr.fit(rows + 5.0, rng.standard_normal((600, DIM)) + 1.0)
    examples = [Example(str(i), ((IMAGE, "a cat"),)) for i in range(600)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", fr.FitWarning)
        Collator(build_bytes(), embeddings, stage="stage1", alignment=fits, noise=noise)(examples)
    with pytest.warns(fr.FitWarning, match="the alignment leaves a gap"):
        Collator(build_bytes(), embeddings, stage="stage1", alignment=misfit, noise=noise)(examples)


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("checked", [True, False])
def test_each_row_is_mapped_once_in_every_batch(store, rng, monkeypatch, noise, checked):
    """With noise, the first 512 examples that were not checked are also mapped without it, to see whether the map fits."""
    embeddings, rows = store(900)
    alignment = fr.fit(rows, rng.standard_normal((900, DIM)) + 1.0)
    examples = [Example(str(i), ((IMAGE, "a cat"),)) for i in range(900)]
    collator = Collator(build_bytes(), embeddings, stage="stage1", alignment=alignment, noise=noise)
    if checked:
        collator.check(examples, 1 << 20)
    mapped, of_batches = [], []
    apply = fr.Alignment.apply
    monkeypatch.setattr(
        fr.Alignment, "apply", lambda self, x, *a, **k: mapped.append(len(x)) or apply(self, x, *a, **k)
    )
    for lo in range(0, 900, 150):
        collator(examples[lo : lo + 150])
        of_batches.append(sum(mapped) // 150)
        mapped.clear()
    assert of_batches == ([1] * 6 if checked or not noise else [2, 2, 2, 2, 1, 1])


def test_the_module_aligns_as_the_alignment_does(store, rng):
    embeddings, rows = store(30)
    alignment = fr.fit(rows, rng.standard_normal((60, DIM)) + 1.0)
    examples = [Example(str(i), ((IMAGE, "a cat"),)) for i in rng.permutation(30)[:9]]
    by_call, by_module = (
        Collator(build_bytes(), embeddings, stage="stage1", alignment=one)(examples)["embeddings"]
        for one in (alignment, fr.nn.ReAlign(alignment))
    )
    assert by_call.equal(by_module) and not by_module.requires_grad


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers(dialogues, store, rng, context):
    """The same batches from other processes, and their counts known here."""
    from torch.utils.data import DataLoader

    examples = dialogues(12)
    embeddings, rows = store(10)
    options = {"stage": "stage2", "alignment": fr.fit(rows, rng.standard_normal((60, DIM))), "missing": "skip"}
    here, there = (Collator(build_bytes(), embeddings, **options) for _ in range(2))
    loader = DataLoader(examples, 4, collate_fn=there, num_workers=1, multiprocessing_context=context)
    for batch, expected in zip(loader, DataLoader(examples, 4, collate_fn=here), strict=True):
        assert all(batch[name].equal(expected[name]) for name in expected)
    assert there.skipped == here.skipped == {"missing": 2, "unanswered": 0}
    assert there.align_seconds > 0
    again, expected = pickle.loads(pickle.dumps(here))(examples), here(examples)
    assert all(again[name].equal(expected[name]) for name in expected)


def test_truncation_says_so_once_and_counts(dialogues, store, rng):
    tokenizer = build_bytes()
    examples, (embeddings, _) = dialogues(20, turns=1), store(20)
    whole = Collator(tokenizer, embeddings, stage="stage2", tokens=2)(examples)
    lengths = whole["attention_mask"].sum(1)
    starts = [int((labels != NO_LOSS).nonzero()[0]) for labels in whole["labels"]]
    limit = max(max(starts) + 1, int(lengths.min()))
    collator = Collator(tokenizer, embeddings, stage="stage2", tokens=2, max_length=limit)
    with pytest.warns(UserWarning, match=f"is cut to max_length: .* tokens to {limit}") as seen:
        cut = collator(examples)
        collator(examples)
    assert len([one for one in seen if "max_length" in str(one.message)]) == 1
    assert collator.truncated == 2 * int((lengths > limit).sum())
    for name in ("input_ids", "labels", "attention_mask"):
        assert cut[name].equal(whole[name][:, :limit])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Collator(tokenizer, embeddings, stage="stage2", tokens=2, max_length=int(lengths.max()))(examples)


def test_responses_that_are_cut_off_entirely(store):
    tokenizer, (embeddings, _) = build_bytes(), store(3)
    long = Example("0", ((f"{IMAGE}\n{'x' * 99}", "a cat"),))
    short = Example("1", ((f"{IMAGE}\nx", "a cat"),))
    options = {"stage": "stage2", "max_length": 40}
    refused(
        r"example '0': its first response begins beyond max_length, 40",
        Collator(tokenizer, embeddings, **options),
        [long],
    )
    collator = Collator(tokenizer, embeddings, unanswered="skip", **options)
    assert len(collator([long, short])["input_ids"]) == 1
    assert collator.skipped == {"missing": 0, "unanswered": 1} and collator.truncated == 0
    refused("nothing is left of a batch, whose first example is '0'", collator, [long])
    narrow = Collator(tokenizer, embeddings, stage="stage1", tokens=9, max_length=5)
    refused("visual tokens end at token 10, max_length is 5", narrow, [Example("0", ((IMAGE, "a"),))])
    tokenizer.model_max_length = 50
    refused(
        "takes [0-9]+ tokens, the context of the tokenizer is 50",
        Collator(tokenizer, embeddings, stage="stage2"),
        [long],
    )


def test_arguments_and_batches_of_another_kind(store, rng):
    tokenizer, (embeddings, rows) = build_bytes(), store(9)
    fitted = fr.fit(rows, -rows, method="c3")
    for wrong, said in (
        ({"tokenizer": None}, "tokenizer is None, expected a tokenizer"),
        ({"embeddings": rows}, "embeddings is an ndarray, expected what open_embeddings returns"),
        ({"alignment": "a.safetensors"}, "alignment is a str, expected a fitted method"),
        (
            {"alignment": fr.nn.as_module(fitted)},
            r"alignment is a Steps, expected a fitted method, .*, or an nn\.ReAlign",
        ),
    ):
        with pytest.raises(InputError, match=said):
            Collator(**{"tokenizer": tokenizer, "embeddings": embeddings, "stage": "stage1", **wrong})
    collator = Collator(tokenizer, embeddings, stage="stage1", alignment=fitted)
    refused("an empty batch, expected examples", collator, [])
    refused("a dict in a batch, expected an Example", collator, [Example("0", ((IMAGE, "a"),)), {"id": "1"}])
    refused("None in a batch, expected an Example", collator, [Example("0", ((IMAGE, "a"),)), None])
    with pytest.raises(InputError, match=r"store: the id 3 is an int, expected text"):
        embeddings.rows([3])
    with pytest.raises(InputError, match=r"store: the id None is None, expected text"):
        embeddings.find([None])
    with pytest.raises(InputError, match=r"store: ids='3': expected a list of ids; for one, pass \[id\]"):
        embeddings.rows("3")
    assert "3" in embeddings and 3 not in embeddings
    for call in (open_embeddings, read_examples):
        for path in (None, 3, rows, "", [3]):
            with pytest.raises(InputError, match=r"^the .* is .*, expected a path$"):
                call(path)


def test_all_is_checked_before_a_training(store):
    """What a batch would find is found at once, whichever examples it is in; nothing is counted for it."""
    tokenizer, (embeddings, _) = build_bytes(), store(40)
    long, short = Example("7", ((f"{IMAGE}\n{'what ' * 30}", "y"),)), Example("8", ((f"{IMAGE}\nx", "y" * 200),))
    examples = [Example(str(i % 40), ((f"{IMAGE}\nx", "y"),)) for i in range(1500)]
    examples[1200], examples[1300] = long, short
    options = {"stage": "stage2", "max_length": 60}
    refused(
        "example '7': its first response begins beyond", Collator(tokenizer, embeddings, **options).check, examples, 999
    )
    collator = Collator(tokenizer, embeddings, **options, unanswered="skip")
    with pytest.warns(UserWarning, match="example '8' is cut to max_length"):
        found = collator.check(examples, len(tokenizer))
    assert found.truncated == 1 and np.flatnonzero(~found.answered).tolist() == [1200]
    assert collator.truncated == 0 and collator.skipped == {"missing": 0, "unanswered": 0}
    collator([short])  # said already
    assert collator.truncated == 1
    known = tokenizer.eos_token_id
    refused(
        f"example '0': its token ids go up to .*, the language model knows {known}", collator.check, examples[:9], known
    )


def test_ids_without_an_embedding(store, dialogues):
    tokenizer, (embeddings, rows) = build_bytes(), store(6)
    examples = dialogues(9)
    refused(
        r"store: 3 of 9 ids are not there, the first is '6'", Collator(tokenizer, embeddings, stage="stage2"), examples
    )
    collator = Collator(tokenizer, embeddings, stage="stage2", missing="skip")
    assert np.array_equal(collator(examples)["embeddings"].numpy(), rows) and collator.skipped["missing"] == 3
    refused("2 of 2 ids", collator, examples[7:])
    refused("3 of 9 ids", available, examples, embeddings)
    chosen = available(examples[::-1], embeddings, missing="skip")
    assert list(chosen) == examples[5::-1] and chosen.left_out == 3 and chosen[1:3] == examples[4:2:-1]
    assert list(pickle.loads(pickle.dumps(chosen))) == list(chosen)
    assert available(examples[:6], embeddings).left_out == 0
    refused("3 of 3 ids", available, examples[6:], embeddings, missing="skip")


def test_prompts_are_padded_on_the_left():
    tokenizer = build_tokenizer()
    prompts = [
        prompt_ids(tokenizer, [(f"{IMAGE}\n{text}", None)], 2) for text in ("what colour ?", "is there a cat ?", "x")
    ]
    batch = left_padded(tokenizer, prompts)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, max(map(len, prompts)))
    for ids, mask, prompt in zip(batch["input_ids"], batch["attention_mask"], prompts, strict=True):
        assert ids.tolist() == [tokenizer.pad_token_id] * (len(ids) - len(prompt)) + prompt
        assert mask.tolist() == [0] * (len(ids) - len(prompt)) + [1] * len(prompt)


def test_files_to_batches_to_the_model(tiny_lm, tmp_path, rng):
    """A file of captions, embeddings in parquet under unicode ids, a batch, and the loss of a model by hand."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = [f"猫 {i}" for i in range(6)]
    rows = rng.standard_normal((6, DIM)).astype(np.float32)
    path = corpus.parquet_file(tmp_path / "text.parquet", rows, key=ids)
    lines = [f'{{"id": "{id}", "caption": "a red circle ."}}' for id in ids[::-1]]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines), "utf-8")
    examples = available(read_examples(tmp_path / "captions.jsonl"), open_embeddings(path, dim=DIM))
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    batch = Collator(tokenizer, open_embeddings(path), stage="stage1")(list(examples))
    assert np.array_equal(batch["embeddings"].numpy(), rows[::-1])
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    words = batch["input_ids"].clamp(min=0)
    loss = model(input_ids=words, attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
    said = [*tokenizer("a red circle .", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    log = model(input_ids=words[:1]).logits.log_softmax(-1)[0, -1 - len(said) : -1]
    assert torch.isclose(loss, -log[range(len(said)), said].mean(), atol=1e-4)


def refused(match, call, *arguments, **options):
    with pytest.raises(InputError, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_bad_input(store, rng):
    tokenizer, (embeddings, _) = build_bytes(), store(6)
    two = Example("3", ((f"{IMAGE}\nx", "y"), ("x", "y")))
    refused(
        "example '3': stage 1 takes one text per image, got 2 turns",
        Collator(tokenizer, embeddings, stage="stage1"),
        [two],
    )
    refused("stage='stage3': expected stage1 or stage2", Collator, tokenizer, embeddings, stage="stage3")
    refused("tokens=0", Collator, tokenizer, embeddings, stage="stage1", tokens=0)
    refused("max_length=0", Collator, tokenizer, embeddings, stage="stage1", max_length=0)
    refused(
        "missing='drop': expected one of error, skip", Collator, tokenizer, embeddings, stage="stage1", missing="drop"
    )
    refused("form='vicuna'", Collator, tokenizer, embeddings, stage="stage2", form="vicuna")
    refused("no chat template", Collator, tokenizer, embeddings, stage="stage2", form="chat")
    other = fr.fit(rng.standard_normal((9, DIM + 1)), rng.standard_normal((9, DIM + 1)))
    refused(
        "are 8 wide, the alignment was fitted on 9", Collator, tokenizer, embeddings, stage="stage1", alignment=other
    )
    tokenizer.eos_token = None
    refused(
        "TokenizersBackend|PreTrainedTokenizerFast has no end token", Collator, tokenizer, embeddings, stage="stage1"
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML.replace("<|im_end|>", " END"), "begins with no special token"),
        (
            CHATML.replace("<|im_start|>assistant\n{% endif", "Answer:{% endif"),
            "does not stand where its generation prompt",
        ),
        (
            CHATML.replace("{{ m.content }}", "{{ m.content if loop.last or m.role == 'user' else 'x' }}"),
            "changes earlier turns when later ones follow",
        ),
        ("{{ raise_exception('no images') }}", "it fails: no images"),
    ],
)
def test_chat_templates_of_no_use(template, expected):
    turns = [(f"{IMAGE}\nx", "y"), ("x", "y")]
    refused(
        f"chat template .*{expected}.*set form to llava",
        lambda: Template(build_bytes(template), "stage2").examples([turns]),
    )
    assert Template(build_bytes(template), "stage2", form="llava").examples([turns])


def test_embeddings_that_the_alignment_does_not_fit(tmp_path, rng, tokenizer):
    """Of examples in order: check looks at some from all over."""
    centre = rng.standard_normal(DIM)
    centre *= 2.0 / np.linalg.norm(centre)
    text, image = (rng.standard_normal((1200, DIM)) + side * centre for side in (1.0, -0.8))
    alignment = fr.fit(text, image)
    examples = [Example(str(i), ((IMAGE, "a cat"),)) for i in range(1200)]
    for rows, count in ((text[np.argsort(text[:, 0])], 0), (image, 1)):
        np.save(tmp_path / "rows.npy", rows.astype(np.float32))
        made = {"stage": "stage1", "alignment": alignment}
        for use in (
            lambda collator: collator.check(examples, 1 << 20),
            lambda collator: [
                collator([examples[int(i)] for i in part]) for part in rng.permutation(1200).reshape(-1, 100)
            ],
        ):
            collator = Collator(tokenizer, open_embeddings(tmp_path / "rows.npy"), **made)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", fr.FitWarning)
                use(collator)
            expected = [str(one.message) for one in said if issubclass(one.category, fr.FitWarning)]
            assert len(expected) == count and all("rows.npy" in one and "fastrealign check" in one for one in expected)
