"""The adapter in front of a language model: its arithmetic, what trains, generation, files in every layout, bad input."""

from __future__ import annotations

import json
import shutil

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny import HIDDEN, build_lm  # noqa: E402

from fastrealign import FastRealignError, InputError  # noqa: E402
from fastrealign.revision import adapter as adapters  # noqa: E402
from fastrealign.revision.adapter import Adapter  # noqa: E402
from fastrealign.revision.config import Lora  # noqa: E402
from fastrealign.revision.model import IMAGE_TOKEN, RevisionModel, fingerprint, load_lm  # noqa: E402

DIM = 12
WORDS = 40


@pytest.fixture
def generator(rng):
    return torch.Generator().manual_seed(int(rng.integers(2**31)))


@pytest.fixture
def draw(generator):
    def draw(*shape):
        return torch.randn(shape, generator=generator)

    return draw


@pytest.fixture
def ids(generator):
    """ids(n, *, at, tokens): a row of n random words with image tokens from position `at` on; None: without."""

    def ids(n, at=None, tokens=1):
        row = torch.randint(4, WORDS, (n,), generator=generator)
        if at is not None:
            row[at : at + tokens] = IMAGE_TOKEN
        return row

    return ids


@pytest.fixture
def model(tiny_lm):
    return RevisionModel(load_lm(tiny_lm), DIM).eval()


def test_the_adapter_is_llavas_projector_and_tokens_are_parts_of_its_output(draw):
    adapter = Adapter(DIM, HIDDEN, 3)
    x = draw(5, DIM)
    w0, b0, w2, b2 = (p.detach().double() for p in adapter.parameters())
    hidden = x.double() @ w0.T + b0
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    expected = hidden @ w2.T + b2
    out = adapter(x)
    assert out.shape == (5, 3, HIDDEN)
    for token in range(3):
        part = expected[:, token * HIDDEN : (token + 1) * HIDDEN]
        torch.testing.assert_close(out[:, token].double(), part, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [1, 3])
def test_the_adapters_output_takes_the_places_of_image_tokens(tiny_lm, ids, draw, tokens):
    model = RevisionModel(load_lm(tiny_lm), DIM, tokens=tokens).eval()
    input_ids = torch.stack([ids(9, at=0, tokens=tokens), ids(9, at=4, tokens=tokens), ids(9)])
    embeddings = draw(3, DIM)
    seen = {}
    model.lm.model.layers[0].register_forward_pre_hook(lambda _, args: seen.update(words=args[0].detach().clone()))
    model(input_ids, embeddings=embeddings)
    table = model.lm.get_input_embeddings().weight
    visual = model.adapter(embeddings)
    for row, at in ((0, 0), (1, 4), (2, None)):
        expected = [table[i] for i in input_ids[row].clamp(min=0)]
        if at is not None:
            expected[at : at + tokens] = list(visual[row])
        assert torch.equal(seen["words"][row], torch.stack(expected))


def test_rows_without_an_image_are_the_language_models_own(model, ids, draw):
    input_ids = torch.stack([ids(7), ids(7)])
    expected = model.lm(input_ids, labels=input_ids)
    torch.testing.assert_close(model(input_ids, labels=input_ids).loss, expected.loss)
    among_images = model(input_ids, embeddings=draw(2, DIM))
    assert torch.equal(among_images.logits, expected.logits)


def test_a_batch_without_images_leaves_the_adapter_a_gradient_of_zeros(model, ids, draw):
    """Otherwise DDP would wait for a gradient that never comes."""
    input_ids = torch.stack([ids(7), ids(7)])
    model.set_stage("stage2")
    model(input_ids, labels=input_ids, embeddings=draw(2, DIM)).loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.adapter.parameters())


def test_the_loss_is_of_the_labels_alone(model, ids, draw):
    input_ids = torch.stack([ids(8, at=1), ids(8, at=1)])
    labels = torch.full_like(input_ids, -100)
    labels[:, 5:] = input_ids[:, 5:]
    embeddings = draw(2, DIM)
    out = model(input_ids, labels=labels, embeddings=embeddings)
    logp = out.logits.double().log_softmax(-1)
    picked = [logp[row, at - 1, input_ids[row, at]] for row in range(2) for at in range(5, 8)]
    assert out.loss.item() == pytest.approx(-torch.stack(picked).mean().item(), rel=1e-5)
    assert model(input_ids, labels=labels, embeddings=embeddings, num_items_in_batch=3).loss.item() == pytest.approx(
        2 * out.loss.item(), rel=1e-5
    )


def test_stage_1_trains_the_adapter_alone_and_stage_2_both(model):
    lm = {f"lm.{name}" for name, _ in model.lm.named_parameters()}
    adapter = {f"adapter.{name}" for name, _ in model.adapter.named_parameters()}

    def training():
        return {name for name, p in model.named_parameters() if p.requires_grad}

    model.set_stage("stage1").train()
    assert training() == adapter
    assert model.adapter.training and not any(m.training for m in model.lm.modules())
    model.set_stage("stage2")
    assert training() == adapter | lm
    assert all(m.training for m in model.modules())
    with pytest.raises(InputError, match="stage='stage3': expected one of stage1, stage2"):
        model.set_stage("stage3")


def test_padding_on_either_side_gives_what_none_gives(model, ids, draw):
    rows = [ids(9, at=1), ids(5, at=0), ids(6)]
    embeddings = draw(3, DIM)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    alone = [model.generate(row[None], embeddings=e[None], **options) for row, e in zip(rows, embeddings, strict=True)]
    for side in ("left", "right"):
        input_ids = torch.full((3, 9), 3)
        mask = torch.zeros((3, 9), dtype=torch.int64)
        for i, row in enumerate(rows):
            at = slice(9 - len(row), 9) if side == "left" else slice(0, len(row))
            input_ids[i, at], mask[i, at] = row, 1
        out = model.generate(input_ids, mask, embeddings, **options)
        assert out.shape == (3, 4) and torch.equal(out, torch.cat(alone))


def test_generation_is_greedy_over_forward(model, ids, draw):
    row, embeddings = ids(6, at=2)[None], draw(1, DIM)
    said = model.generate(row, embeddings=embeddings, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    for word in said[0]:
        logits = model(row, embeddings=embeddings).logits[0, -1]
        logits[model.lm.generation_config.eos_token_id] = -torch.inf
        assert logits.argmax() == word
        row = torch.cat([row, word.view(1, 1)], 1)


@pytest.mark.parametrize("layout", ["reference", "hf-llava"])
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize("tokens", [1, 2])
def test_layouts_keep_the_weights(tiny_lm, tmp_path, layout, suffix, tokens):
    one, two = (RevisionModel(load_lm(tiny_lm), DIM, tokens=tokens) for _ in range(2))
    file = tmp_path / f"mm_projector.{suffix}"
    one.export_adapter(file, layout)
    held = torch.load(file, weights_only=True) if suffix == "bin" else load_file(file)
    first = {"reference": "model.mm_projector.0.weight", "hf-llava": "multi_modal_projector.linear_1.weight"}[layout]
    last = {"reference": "model.mm_projector.2.bias", "hf-llava": "multi_modal_projector.linear_2.bias"}[layout]
    assert len(held) == 4
    assert torch.equal(held[first], one.adapter[0].weight) and torch.equal(held[last], one.adapter[2].bias)
    two.load_adapter(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(one.adapter.parameters(), two.adapter.parameters(), strict=True))


def test_an_adapter_is_found_in_the_weights_of_a_whole_llava(tiny_lm, tmp_path, model):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=DIM,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            image_size=16,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            hidden_size=HIDDEN, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=WORDS
        ),
    )
    llava = LlavaForConditionalGeneration(config)
    llava.save_pretrained(tmp_path)
    model.load_adapter(tmp_path / "model.safetensors")
    projector = next(m for name, m in llava.named_modules() if name.endswith("multi_modal_projector"))
    assert torch.equal(model.adapter[0].weight, projector.linear_1.weight)
    assert torch.equal(model.adapter[2].bias, projector.linear_2.bias)


def same(one, two, ids, draw):
    input_ids, embeddings = torch.stack([ids(6, at=1)]), draw(1, DIM)
    return torch.equal(
        one.eval()(input_ids, embeddings=embeddings).logits, two.eval()(input_ids, embeddings=embeddings).logits
    )


def test_a_frozen_language_model_is_saved_by_reference_and_a_trained_one_whole(tiny_lm, tmp_path, ids, draw):
    model = RevisionModel(load_lm(tiny_lm), DIM).set_stage("stage1")
    model.save_pretrained(tmp_path / "one")
    assert {p.name for p in (tmp_path / "one").iterdir()} == {"adapter.safetensors", "revision.json"}
    back = RevisionModel.from_pretrained(tmp_path / "one")
    assert same(model, back, ids, draw) and not back.training
    model.set_stage("stage2")
    with torch.no_grad():
        for p in model.lm.parameters():
            p.add_(draw(*p.shape) * 0.01)
    model.save_pretrained(tmp_path / "two")
    assert (tmp_path / "two" / "lm" / "model.safetensors").is_file()
    back = RevisionModel.from_pretrained(tmp_path / "two")
    assert same(model, back, ids, draw)
    back.save_pretrained(tmp_path / "three")  # loaded from a trained one, it is kept whole again
    shutil.rmtree(tmp_path / "two")
    assert same(model, RevisionModel.from_pretrained(tmp_path / "three"), ids, draw)


def test_a_language_model_without_a_folder_is_saved_whole(tmp_path, ids, draw):
    model = RevisionModel(build_lm(WORDS), DIM)
    model.save_pretrained(tmp_path)
    assert same(model, RevisionModel.from_pretrained(tmp_path), ids, draw)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_lora_trains_its_own_weights_and_is_saved_beside_the_adapter(tiny_lm, tmp_path, ids, draw, monkeypatch):
    peft = pytest.importorskip("peft")
    model = RevisionModel(load_lm(tiny_lm), DIM).set_stage("stage2", Lora(r=2, alpha=4.0, targets=["q_proj", "v_proj"]))
    trains = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {name.split(".")[0] for name in trains} == {"adapter", "lm"}
    assert all("lora_" in name for name in trains if name.startswith("lm."))
    assert sum(name.startswith("lm.") for name in trains) == 2 * 2 * 2
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(draw(*p.shape))
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "lm").exists()
    back = RevisionModel.from_pretrained(tmp_path)
    assert same(model, back, ids, draw)
    plain = RevisionModel(load_lm(tiny_lm), DIM)
    plain.load_adapter(tmp_path)
    assert not same(plain, back, ids, draw)
    row = ids(5, at=0)[None]
    assert back.generate(row, embeddings=draw(1, DIM), max_new_tokens=2, min_new_tokens=2).shape == (1, 2)

    def short(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(peft.PeftModel, "from_pretrained", short)
        with pytest.raises(FastRealignError, match="lora: cannot be read: not enough memory") as caught:
            RevisionModel.from_pretrained(tmp_path)
        assert not isinstance(caught.value, InputError)
    (tmp_path / "lora" / "adapter_config.json").unlink()
    with pytest.raises(
        InputError, match=r"lora: cannot be loaded as updates by LoRA: .*; copy or save the model again"
    ):
        RevisionModel.from_pretrained(tmp_path)


def test_lora_that_finds_no_layer_says_so(model):
    pytest.importorskip("peft")
    with pytest.raises(InputError, match=r"lora.targets: .*c_attn"):
        model.set_stage("stage2", Lora(targets=["c_attn"]))


def test_a_half_precision_language_model_keeps_a_float32_adapter(tiny_lm, ids, draw):
    model = RevisionModel(load_lm(tiny_lm).to(torch.bfloat16), DIM).eval()
    assert model.adapter[0].weight.dtype == torch.float32
    assert model(ids(5, at=1)[None], embeddings=draw(1, DIM)).logits.dtype == torch.bfloat16


def test_a_fingerprint_outlives_a_cast_and_notices_training(tiny_lm):
    lm = load_lm(tiny_lm)
    before = fingerprint(lm)
    assert fingerprint(load_lm(tiny_lm).to(torch.bfloat16)) == before
    with torch.no_grad():
        lm.model.layers[1].mlp.up_proj.weight.mul_(1.01)
    assert fingerprint(lm) != before


# Bad input


def test_image_tokens_that_do_not_fit_are_named(model, ids, draw):
    good, twice = ids(6, at=1), ids(6, at=1, tokens=2)
    with pytest.raises(InputError, match=r"row 1 of input_ids has 2 image tokens \(-200\), expected 1"):
        model(torch.stack([good, twice]), embeddings=draw(2, DIM))
    with pytest.raises(InputError, match="there are no embeddings"):
        model(good[None])
    with pytest.raises(InputError, match=rf"embeddings are \(1, 5\), expected \(1, {DIM}\)"):
        model(good[None], embeddings=draw(1, 5))
    with pytest.raises(InputError, match=rf"embeddings are \(2, {DIM}\), expected \(1, {DIM}\)"):
        model.generate(good[None], embeddings=draw(2, DIM))


def test_an_adapter_of_other_widths_is_named(tiny_lm, tmp_path, model):
    RevisionModel(build_lm(WORDS, hidden=16), DIM).export_adapter(tmp_path / "narrow.bin")
    with pytest.raises(InputError, match=rf"narrow.bin: its adapter makes tokens of width 16, .* takes {HIDDEN}"):
        model.load_adapter(tmp_path / "narrow.bin")
    RevisionModel(load_lm(tiny_lm), DIM + 1, tokens=2).export_adapter(tmp_path / "wide.bin")
    with pytest.raises(InputError, match=rf"wide.bin: its adapter has dim={DIM + 1}, expected dim={DIM}"):
        model.load_adapter(tmp_path / "wide.bin")


def test_another_language_model_is_not_taken_for_the_one_that_was_trained_with(tiny_lm, tmp_path, model):
    model.set_stage("stage1").save_pretrained(tmp_path / "one")
    other = build_lm(model.lm.config.vocab_size)
    with pytest.raises(InputError, match="one: was trained with another language model"):
        RevisionModel.from_pretrained(tmp_path / "one", lm=other)
    with pytest.raises(InputError, match="was trained with another language model"):
        RevisionModel(other, DIM).load_adapter(tmp_path / "one")
    record = json.loads((tmp_path / "one" / "revision.json").read_text())
    (tmp_path / "one" / "revision.json").write_text(json.dumps({**record, "lm": str(tmp_path / "moved")}))
    with pytest.raises(InputError, match=r"one: its language model .*moved: no such file or folder$"):
        RevisionModel.from_pretrained(tmp_path / "one")
    assert RevisionModel.from_pretrained(tmp_path / "one", lm=str(tiny_lm)).dim == DIM


def test_files_that_are_no_adapter(tmp_path, model):
    torch.save({"model.mm_projector.0.weight": torch.zeros(HIDDEN, DIM)}, tmp_path / "mm_projector.bin")
    with pytest.raises(InputError, match=r"mm_projector.bin: has no adapter: lacks 0.bias, 2.weight, 2.bias"):
        model.load_adapter(tmp_path)
    torch.save([1, 2], tmp_path / "list.bin")
    with pytest.raises(InputError, match=r"list.bin: holds a list, expected a dict of tensors"):
        model.load_adapter(tmp_path / "list.bin")
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    with pytest.raises(InputError, match=r"cut.safetensors: cannot be read as the weights of an adapter"):
        model.load_adapter(tmp_path / "cut.safetensors")
    (tmp_path / "run.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match=r"run.bin: cannot be read as the weights of an adapter"):
        model.load_adapter(tmp_path / "run.bin")
    with pytest.raises(InputError, match=r"none.bin: no such file"):
        model.load_adapter(tmp_path / "none.bin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: has no adapter; expected one of adapter.safetensors"):
        model.load_adapter(tmp_path / "empty")
    good = {key: value.clone() for key, value in model.adapter.state_dict().items()}
    save_file(
        {f"mm_projector.{k}": v[:-1] if k == "2.weight" else v for k, v in good.items()}, tmp_path / "odd.safetensors"
    )
    with pytest.raises(InputError, match=r"odd.safetensors: weights of .* are not those of Linear\(d, h\), GELU"):
        adapters.load(tmp_path / "odd.safetensors")
    named = {f"mm_projector.{k}": v for k, v in good.items()}
    save_file({**named, "mm_projector.4.weight": torch.zeros(2, 2)}, tmp_path / "deep.safetensors")
    with pytest.raises(
        InputError, match=r"deep.safetensors: its projector also has 4.weight; an adapter is Linear, GELU"
    ):
        adapters.load(tmp_path / "deep.safetensors")
    named["mm_projector.2.bias"] = torch.full_like(good["2.bias"], torch.nan)
    save_file(named, tmp_path / "nan.safetensors")
    with pytest.raises(InputError, match=r"nan.safetensors: 2.bias holds NaN or Inf; its training diverged"):
        adapters.load(tmp_path / "nan.safetensors")


def test_a_language_model_that_is_not_all_there(tiny_lm, tmp_path):
    folder = tmp_path / "lm"
    shutil.copytree(tiny_lm, folder)
    file = folder / "model.safetensors"
    whole = {name: w.clone() for name, w in load_file(file).items()}  # not in a map of the file, which is cut off
    cut = file.read_bytes()[:2000]
    save_file({name: w for name, w in whole.items() if "layers.1." not in name}, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"lm: its file of weights lacks \d+ of them, such as model.layers.1"):
        load_lm(folder)
    for damaged in (cut, b""):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"lm: cannot be loaded as a causal language model") as caught:
            load_lm(folder)
        assert "\n" not in str(caught.value)
    wrong = {name: w[:-1].clone() if name.endswith("norm.weight") else w for name, w in whole.items()}
    save_file(wrong, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"lm: cannot be loaded as a causal language model"):
        load_lm(folder)


def test_folders_that_are_no_model(tmp_path, model):
    with pytest.raises(
        InputError, match=r"has no revision.json; expected a folder that training or save_pretrained wrote"
    ):
        RevisionModel.from_pretrained(tmp_path)
    (tmp_path / "revision.json").write_text("{")
    with pytest.raises(InputError, match=r"revision.json: not readable as JSON"):
        RevisionModel.from_pretrained(tmp_path)
    whole = {"dim": 3, "tokens": 1, "lm": "lm", "lm_fingerprint": "", "lora": False}
    for spoiled in ({"dim": "3"}, {"tokens": 0}, {"lm": None}, {"lm_fingerprint": 3}, {"lora": "no"}):
        (tmp_path / "revision.json").write_text(json.dumps({**whole, **spoiled}))
        with pytest.raises(InputError, match=rf"revision.json: '{next(iter(spoiled))}' is .*; the file is damaged"):
            RevisionModel.from_pretrained(tmp_path)
    (tmp_path / "revision.json").write_text('{"dim": 3}')
    with pytest.raises(InputError, match=r"revision.json: lacks lm, lm_fingerprint, lora, tokens"):
        RevisionModel.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"language model .*nothing: no such file or folder"):
        load_lm(tmp_path / "nothing")
    with pytest.raises(InputError, match="layout='onnx': expected one of reference, hf-llava"):
        model.export_adapter(tmp_path / "x.bin", "onnx")
