"""Training runs: what they learn and leave, killed and resumed, a full disk, alignment on the way, bad input."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import runs  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny import build_lm  # noqa: E402

import fastrealign as fr  # noqa: E402
from fastrealign import FastRealignError, InputError  # noqa: E402
from fastrealign.cli.main import main  # noqa: E402
from fastrealign.methods import baselines  # noqa: E402
from fastrealign.revision import checkpoints  # noqa: E402
from fastrealign.revision.config import Lora, TrainConfig  # noqa: E402
from fastrealign.revision.model import RevisionModel, load_lm  # noqa: E402
from fastrealign.revision.record import TrainFolder  # noqa: E402
from fastrealign.revision.train import train  # noqa: E402


@pytest.fixture
def world(tmp_path, rng):
    runs.write_world(tmp_path, rng)
    return tmp_path


@pytest.fixture
def config(world, tiny_lm):
    def config(stage="stage1", out="run", **options):
        given = {
            "model": str(tiny_lm),
            "data": str(world / ("captions.jsonl" if stage == "stage1" else "chats.json")),
            "embeddings": str(world / ("text.npy" if stage == "stage1" else "image.npy")),
            "out": str(world / out),
            "stage": stage,
            "batch_size": 4,
            "device": "cpu",
        }
        return TrainConfig(**{**given, **options})

    return config


def weights(module):
    return {name: p.detach().clone() for name, p in module.state_dict().items()}


def same(one, two):
    return set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)


def test_stage_1_learns_and_leaves_the_language_model_as_it_was(config, tiny_lm):
    before = weights(load_lm(tiny_lm))
    done = train(config(epochs=6, learning_rate=5e-2))
    assert (done.steps, done.samples, len(done.losses)) == (36, 144, 36)
    assert done.loss < done.loss_first - 0.02 and done.loss_first == done.losses[0]
    out = Path(done.out)
    assert {p.name for p in out.iterdir()} >= {"adapter.safetensors", "revision.json", "run.json", "tokenizer.json"}
    assert not list(out.glob("checkpoint-*")) and not (out / "lm").exists()
    assert same(before, weights(RevisionModel.from_pretrained(out).lm)) and same(before, weights(load_lm(tiny_lm)))


def test_the_first_loss_is_the_language_models_own_and_the_schedule_is_the_papers(config, world):
    from transformers import TrainerCallback

    rates = []

    class Rates(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
            rates.append(optimizer.param_groups[0]["lr"])

    done = train(config(epochs=10, learning_rate=1e-2, batch_size=24), callbacks=[Rates()])
    steps = np.arange(10)
    cosine = 1e-2 * 0.5 * (1 + np.cos(np.pi * (steps - 1) / 9))
    np.testing.assert_allclose(rates, np.where(steps < 1, 0, cosine), atol=1e-9)
    assert done.losses[0] == pytest.approx(done.losses[1], rel=1e-5)  # the first step has a rate of 0


def test_stage_2_continues_from_stage_1_and_trains_both(config, tiny_lm):
    one = train(config())
    two = train(config("stage2", "two", adapter=one.out, epochs=4, learning_rate=1e-2))
    assert two.loss < two.loss_first - 0.5
    model = RevisionModel.from_pretrained(two.out)
    assert not same(weights(model.lm), weights(load_lm(tiny_lm)))
    assert not same(weights(model.adapter), weights(RevisionModel.from_pretrained(one.out).adapter))
    assert (Path(two.out) / "lm" / "model.safetensors").is_file()


def test_stage_2_begins_with_the_weights_of_stage_1(config):
    one = train(config())
    two = train(config("stage2", "two", adapter=one.out, learning_rate=1e-30))
    assert same(
        weights(RevisionModel.from_pretrained(two.out).adapter), weights(RevisionModel.from_pretrained(one.out).adapter)
    )


def test_lora_in_stage_2(config, tiny_lm):
    pytest.importorskip("peft")
    two = train(config("stage2", lora=Lora(r=2), epochs=4, learning_rate=2e-2))
    assert two.loss < two.loss_first and not (Path(two.out) / "lm").exists()
    base = RevisionModel.from_pretrained(two.out).lm.get_base_model()
    assert torch.equal(base.lm_head.weight, load_lm(tiny_lm).lm_head.weight)


def test_accumulated_gradients_are_those_of_one_batch(config):
    one = train(config(out="one", batch_size=8, learning_rate=1e-3, precision="fp32"))
    two = train(config(out="two", batch_size=2, gradient_accumulation=4, learning_rate=1e-3, precision="fp32"))
    assert one.steps == two.steps == 3
    np.testing.assert_allclose(one.losses, two.losses, rtol=1e-4)


def test_bf16_keeps_float32_weights_of_what_trains(config, tiny_lm):
    two = train(config("stage2", precision="bf16", epochs=3, learning_rate=1e-2))
    assert two.loss < two.loss_first
    assert RevisionModel.from_pretrained(two.out).lm.dtype == load_lm(tiny_lm).dtype == torch.float32


@pytest.mark.parametrize("method", ["realign", "c3"])
def test_alignment_on_the_way_is_alignment_beforehand(config, world, method):
    """The same rows reach the adapter, so it ends in the same weights; C3's noise depends on the call, so it is left out."""
    options = {"sigma": 0.0} if method == "c3" else {}
    fitted = baselines.fit_baseline(method, world / "text.npy", world / "image.npy", **options)
    fitted.save(world / "fitted.safetensors")
    np.save(world / "aligned.npy", fitted(np.load(world / "text.npy")))
    on_the_way = train(config(out="one", alignment=str(world / "fitted.safetensors"), precision="fp32"))
    beforehand = train(config(out="two", embeddings=str(world / "aligned.npy"), precision="fp32"))
    np.testing.assert_allclose(on_the_way.losses, beforehand.losses, rtol=1e-5)
    assert 0 < on_the_way.align_share < 1 and beforehand.align_share == 0
    assert "of it aligning" in str(on_the_way) and "aligning" not in str(beforehand)


def test_noise_on_the_way_is_noise_beforehand(config, world):
    fitted = baselines.fit_baseline("realign", world / "text.npy", world / "image.npy")
    fitted.save(world / "fitted.safetensors")
    np.save(world / "noisy.npy", fitted(np.load(world / "text.npy"), noise=0.8, seed=3))
    options = {"precision": "fp32", "seed": 3}
    on_the_way = train(config(out="one", alignment=str(world / "fitted.safetensors"), noise=0.8, **options))
    beforehand = train(config(out="two", embeddings=str(world / "noisy.npy"), **options))
    np.testing.assert_allclose(on_the_way.losses, beforehand.losses, rtol=1e-5)
    noted = json.loads((Path(on_the_way.out) / "run.json").read_text())["config"]
    assert (noted["noise"], noted["seed"]) == (0.8, 3)
    with pytest.raises(InputError, match=r"another configuration \(noise 0.8, now 0.5\)"):
        train(config(out="one", alignment=str(world / "fitted.safetensors"), noise=0.5, **options), resume=True)


def test_runs_that_are_killed_and_runs_on_two_ranks(config, world, tiny_tokenizer, rng):
    """Killed at any step and resumed, a run ends in the same losses and the same bits: the order of examples, the schedule and
    every random state come back (two epochs, accumulated batches, in stage 2 dropout). Two ranks share what one would do."""
    model = build_lm(len(tiny_tokenizer))
    model.config.attention_dropout = 0.2
    model.save_pretrained(world / "lm")
    tiny_tokenizer.save_pretrained(world / "lm")
    runs_given = []
    for stage in ("stage1", "stage2"):
        options = {"epochs": 2, "save_steps": 2, "learning_rate": 1e-3, "gradient_accumulation": 2}
        given = config(stage, model=str(world / "lm"), **options).to_json()
        del given["out"]
        kills = 2 if stage == "stage1" else 1
        steps = sorted(int(step) for step in rng.choice(np.arange(1, 6), size=kills, replace=False))  # of 6
        runs_given.append(["killed_and_resumed", stage, given, steps])
    runs_given.append(["on_two", "two", {**runs_given[0][2], "batch_size": 2}])
    script, package = Path(runs.__file__), Path(fr.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, world, json.dumps(runs_given)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]

    def result(name):
        return json.loads((world / name / "run.json").read_text())["result"]

    for stage, files in (
        ("stage1", ["adapter.safetensors"]),
        ("stage2", ["adapter.safetensors", "lm/model.safetensors"]),
    ):
        one, two = result(f"{stage}-whole"), result(f"{stage}-killed")
        assert one["losses"] == two["losses"] and one["steps"] == two["steps"] == len(one["losses"]) == 6
        # Killed before step 2 was saved, and again while that was saved, it restarts.
        assert one["resumed_from"] == 0 and two["resumed_from"] in (0, 2, 4)
        for file in files:
            assert same(load_file(world / f"{stage}-whole" / file), load_file(world / f"{stage}-killed" / file)), file
        names = [{p.name for p in (world / f"{stage}-{how}").iterdir()} for how in ("whole", "killed")]
        assert names[0] == names[1]
    two = result("two")
    assert two["steps"] == 6
    np.testing.assert_allclose(two["losses"], result("stage1-whole")["losses"], rtol=1e-4)


@pytest.mark.slow
def test_runs_that_are_killed_at_random_moments_and_two_at_once(config, world, rng):
    """Wherever it was: while it loads, trains, writes a checkpoint or the model."""
    runs_given = []
    for stage in ("stage1", "stage2"):
        given = config(stage, epochs=4, save_steps=1, learning_rate=1e-3).to_json()
        del given["out"]
        runs_given.append(["killed_at_random", stage, given, int(rng.integers(1 << 30)), 15])
    runs_given.append(["two_at_once", "twice", runs_given[0][2]])
    environment = {**os.environ, "PYTHONPATH": str(Path(fr.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, Path(runs.__file__), world, json.dumps(runs_given)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    for stage, files in (
        ("stage1", ["adapter.safetensors"]),
        ("stage2", ["adapter.safetensors", "lm/model.safetensors"]),
    ):
        for file in files:
            assert same(load_file(world / f"{stage}-whole" / file), load_file(world / f"{stage}-killed" / file)), file
        names = [{p.name for p in (world / f"{stage}-{how}").iterdir()} for how in ("whole", "killed")]
        assert names[0] == names[1]
    assert same(load_file(world / "twice" / files[0]), load_file(world / "stage1-whole" / files[0]))


def test_a_full_disk_leaves_the_last_good_checkpoint(config, world, monkeypatch):
    whole = train(config(out="whole", save_steps=2))
    write, left = torch.save, [4]

    def full(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments, **options)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(FastRealignError) as caught:
        train(config(save_steps=2))
    said = str(caught.value)
    assert "checkpoint-4: could not be written: No space left on device" in said
    assert "checkpoint-2 stays; free some space, then continue with resume=True" in said and "\n" not in said
    assert [p.name for p in (world / "run").glob("*check*")] == ["checkpoint-2"] and not (
        world / "run" / ".saving"
    ).exists()
    monkeypatch.undo()
    done = train(config(save_steps=3), resume=True)
    assert done.resumed_from == 2 and done.losses == whole.losses


def test_a_checkpoint_holds_what_trains_and_one_is_kept(config, world, monkeypatch):
    held = []
    publish = checkpoints.publish

    def watched(hidden, final):
        held.append((sorted(load_file(hidden / "trained.safetensors")), len(list(final.parent.glob("check*")))))
        publish(hidden, final)

    monkeypatch.setattr(checkpoints, "publish", watched)
    train(config(save_steps=2))
    adapter = ["adapter.0.bias", "adapter.0.weight", "adapter.2.bias", "adapter.2.weight"]
    assert held == [(adapter, 0), (adapter, 1), (adapter, 1)]


def test_a_run_that_ended_is_not_run_again(config):
    done = train(config())
    left = Path(done.out) / "checkpoint-6"  # as by a kill at the very end
    left.mkdir()
    assert train(config(save_steps=7), resume=True) == done and not left.exists()
    with pytest.raises(InputError, match=r"run: is not empty; resume the run in it with resume=True, or choose"):
        train(config())
    with pytest.raises(InputError, match=r"run: the run in it has another configuration \(seed 0, now 5\)"):
        train(config(seed=5), resume=True)


def test_resume_of_nothing_begins(config, world):
    assert train(config(), resume=True).resumed_from == 0
    (world / "notes").mkdir()
    (world / "notes" / "a.txt").touch()
    with pytest.raises(InputError, match=r"notes: has no run.json, so there is no run to resume"):
        train(config(out="notes"), resume=True)
    with pytest.raises(InputError, match="notes: is not empty; choose another out"):
        train(config(out="notes"))
    with pytest.raises(InputError, match=r"a.txt: is a file, expected a new folder"):
        train(config(out="notes/a.txt"))


def test_a_checkpoint_of_another_model_is_not_loaded(config, world, monkeypatch):
    monkeypatch.setattr(RevisionModel, "save_pretrained", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(config())
    monkeypatch.undo()
    file = world / "run" / "checkpoint-6" / "trained.safetensors"
    from safetensors.torch import save_file

    save_file({"adapter.0.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(InputError, match=r"trained.safetensors: a checkpoint of another model"):
        train(config(), resume=True)


def test_what_cannot_run_is_reported_before_anything_is_written(config, world, tmp_path, tiny_lm):
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="device: cuda, but torch finds no GPU here"):
            train(config(device="cuda"))
    with pytest.raises(InputError, match="precision: fp16 needs a GPU"):
        train(config(precision="fp16"))
    with pytest.raises(InputError, match=r"^model: .*nothing: no such file or folder$"):
        train(config(model=str(tmp_path / "nothing")))
    wide = fr.fit(np.eye(5, dtype=np.float32), np.eye(5, dtype=np.float32)[::-1] + 0.5)
    wide.save(world / "wide.safetensors")
    with pytest.raises(
        InputError, match=rf"wide.safetensors: was fitted on rows 5 wide, the embeddings are {runs.DIM} wide"
    ):
        train(config(alignment=str(world / "wide.safetensors")))
    RevisionModel(load_lm(tiny_lm), 5).export_adapter(world / "mm_projector.bin")
    with pytest.raises(InputError, match=rf"its adapter has dim=5, expected dim={runs.DIM}"):
        train(config("stage2", adapter=str(world / "mm_projector.bin")))
    with pytest.raises(InputError, match="max_length: 65, the language model takes 64"):
        train(config(max_length=65))
    assert not (world / "run").exists()


def refused(match, *arguments, kind=InputError, **options):
    with pytest.raises(kind, match=match) as caught:
        train(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_a_run_that_diverges_ends_with_the_last_good_checkpoint(config, world):
    from transformers import TrainerCallback

    class Overflow(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            model.adapter[0].weight.data[0, 0] = torch.inf

    refused(
        r"step 3: the loss is nan; .*checkpoint-2 stays; lower learning_rate, or look for NaN",
        config(learning_rate=1e30, save_steps=1),
        kind=FastRealignError,
    )
    refused(
        r"step 1: adapter.0.weight holds NaN or Inf",
        config(out="two", save_steps=1),
        callbacks=[Overflow()],
        kind=FastRealignError,
    )
    assert not list(world.glob("*/adapter.safetensors"))


@pytest.fixture
def unfinished(config):
    """A run in `run` that was cut off in its fifth step of six, one after a checkpoint."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 5:
                raise ZeroDivisionError

    def unfinished(**options):
        with pytest.raises(ZeroDivisionError):
            train(config(save_steps=4, **options), callbacks=[Stop()])

    return unfinished


def test_a_run_resumes_with_what_it_began_with_alone(config, world, unfinished, tiny_lm):
    shutil.copytree(tiny_lm, world / "lm")
    options = {"model": str(world / "lm")}
    unfinished(**options)
    said = (world / "captions.jsonl").read_text()
    (world / "captions.jsonl").write_text(said.replace("left", "right"))
    refused(r"run: the run in it cannot be resumed: .*captions.jsonl has changed", config(**options), resume=True)
    (world / "captions.jsonl").write_text(said)
    os.utime(world / "captions.jsonl", ns=(0, 0))
    refused("captions.jsonl has changed", config(**options), resume=True)


def test_a_run_resumes_with_its_own_language_model(config, world, unfinished, tiny_lm, tiny_tokenizer):
    shutil.copytree(tiny_lm, world / "lm")
    unfinished(model=str(world / "lm"))
    build_lm(len(tiny_tokenizer)).save_pretrained(world / "lm")
    refused("the language model has changed since it began", config(model=str(world / "lm")), resume=True)


def test_one_run_at_a_time(config, world, unfinished):
    from fastrealign.storage.append_log import open_append_log

    unfinished()
    lock = open_append_log(world / "run" / ".fastrealign-train", fsync=False)
    refused("run: another fastrealign is writing there", config(), resume=True)
    lock.close()
    assert train(config(), resume=True).resumed_from == 4
    assert ".fastrealign-train" not in os.listdir(world / "run")


def test_a_run_that_another_one_finished_meanwhile(config, world):
    done = train(config())
    kept = (world / "run" / "run.json").read_bytes()
    with (
        pytest.raises(InputError, match="run: another fastrealign has just finished there"),
        TrainFolder(config(), {}, resume=True),
    ):
        raise AssertionError("not to be reached")
    assert (world / "run" / "run.json").read_bytes() == kept and train(config(), resume=True) == done
    (world / "run" / "run.json").write_bytes(kept[:50])
    refused(r"run.json: not readable; the file is damaged", config(), resume=True)


def test_a_damaged_checkpoint_is_named(config, world, unfinished):
    unfinished()
    for name in ("trained.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"):
        file = world / "run" / "checkpoint-4" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:100])
        named = r"checkpoint-4.*: cannot be read, the checkpoint is damaged .*; remove .*checkpoint-4 to"
        refused(named, config(), resume=True)
        file.unlink()  # transformers would go on, with a new optimizer or new random states
        refused(rf"the checkpoint is damaged \(it has no {name}\)", config(), resume=True)
        file.write_bytes(whole)
    assert train(config(), resume=True).resumed_from == 4


def test_a_record_of_another_step_is_a_damaged_checkpoint(config, world, unfinished):
    unfinished()
    file = world / "run" / "checkpoint-4" / "trainer_state.json"
    state = json.loads(file.read_text())
    for spoiled in ([], {}, {**state, "global_step": 600}, {**state, "log_history": 5}, {**state, "log_history": [3]}):
        file.write_text(json.dumps(spoiled))
        refused(r"checkpoint-4: cannot be read, the checkpoint is damaged .*; remove", config(), resume=True)
    refused(r"\(its trainer_state.json does not have one loss for each step\)", config(), resume=True)
    file.write_text(json.dumps(state))
    (world / "run" / "checkpoint-4" / "rng_state.pth").write_bytes(b"no torch file")
    refused(r"the checkpoint is damaged \(a file of it is no torch file\); remove", config(), resume=True)


def test_a_run_resumes_with_as_many_processes_and_a_whole_record(config, world, unfinished, monkeypatch):
    unfinished()
    file = world / "run" / "run.json"
    run = json.loads(file.read_text())
    inputs = run["inputs"]
    for spoiled in (
        {**run, "inputs": {**inputs, "files": None}},
        {**run, "inputs": {"files": {}}},
        {**run, "inputs": {**inputs, "files": {"a": {"x": 1}}}},
        {**run, "result": [1]},
        {**run, "result": {"losses": [1.0]}},
    ):
        file.write_text(json.dumps(spoiled))
        refused(r"run.json: not readable; the file is damaged, choose another out", config(), resume=True)
    file.write_text(json.dumps({**run, "inputs": {**inputs, "processes": 2}}))
    refused(r"cannot be resumed by 1 process: it began with 2, .*--nproc-per-node 2", config(), resume=True)
    for value in ("", "two", "0"):
        with monkeypatch.context() as patch:
            patch.setenv("WORLD_SIZE", value)
            refused(rf"^WORLD_SIZE='{value}': expected a number of processes", config(), resume=True)
    del inputs["processes"]  # as an older version wrote it
    file.write_text(json.dumps(run))
    shutil.copytree(world / "run", world / "other")
    (world / "other" / "run.json").write_text(
        json.dumps(
            {**run, "config": {**run["config"], "out": str(world / "other")}, "inputs": {**inputs, "processes": None}}
        )
    )
    assert train(config(), resume=True).resumed_from == 4
    assert train(config(out=str(world / "other")), resume=True).resumed_from == 4


def test_a_full_disk_at_the_end_leaves_the_last_checkpoint(config, world, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(RevisionModel, "save_pretrained", full)
        refused(
            r"run: the model could not be written: .*No space left.*, resume=True continues",
            config(),
            kind=FastRealignError,
        )
    assert train(config(), resume=True).resumed_from == 6


def test_faults_at_the_end_of_the_data_are_reported_at_the_beginning(config, world, tiny_tokenizer):
    with (world / "captions.jsonl").open("a") as file:
        file.write((json.dumps({"id": "0", **json.loads((world / "chats.json").read_text())[0]})) + "\n")
    refused("example '0': stage 1 takes one text per image, got 2 turns", config())
    rows = np.load(world / "image.npy")
    rows[-1] = np.nan
    np.save(world / "image.npy", rows)
    refused(r"image.npy: row 23 \(id '23'\) holds NaN", config("stage2"))
    tiny_tokenizer.save_pretrained(world / "lm")
    build_lm(9).save_pretrained(world / "lm")
    refused(
        "the language model knows 9; use the tokenizer",
        config("stage2", model=str(world / "lm"), embeddings=str(world / "text.npy")),
    )
    assert not (world / "run").exists()


def test_trackers_and_folders_that_are_none(config, world):
    for trackers in ("wandbb", ["none", "wandbb"], ["wandbb", "none"]):
        refused(r"report_to: .* is not supported", config(report_to=trackers))
    refused("out: .*captions.jsonl/x: .*captions.jsonl is a file, expected a folder", config(out="captions.jsonl/x"))


def test_examples_without_a_response_within_max_length_are_left_out(config, world):
    chats = json.loads((world / "chats.json").read_text())
    chats[3]["conversations"][0]["value"] += " what" * 40
    chats[5]["conversations"][3]["value"] += " blue" * 40
    (world / "chats.json").write_text(json.dumps(chats))
    refused("example '3': its first response begins beyond max_length", config("stage2", max_length=40))
    with pytest.warns(UserWarning, match="example '5' is cut to max_length"):
        done = train(config("stage2", max_length=40, unanswered="skip", epochs=2.5))
    assert (done.unanswered, done.truncated, done.skipped) == (1, 1, 0)
    assert done.steps == 15 and done.samples == 2 * 23 + 12
    assert "1 example with no response within max_length left out\n1 example cut" in str(done)


def test_records_that_are_not_about_one_image_are_left_out_and_counted(config, world):
    good = json.loads((world / "chats.json").read_text())
    joke = [{"from": "human", "value": "Tell a joke."}, {"from": "gpt", "value": "No."}]
    late = {**good[0], "conversations": [{"from": "gpt", "value": "Hello"}, *good[0]["conversations"]]}
    other = [{"id": "none", "conversations": joke}, {**good[1], "image": ["a", "b"]}, {"id": 7, "conversations": joke}]
    (world / "chats.json").write_text(json.dumps([other[0], late, *good[1:], *other[1:]]))
    refused("example 'none': is text only: .*; unusable", config("stage2", unusable="error"))
    with pytest.warns(UserWarning, match="3 of 27 examples are left out: 2 text only"):
        done = train(config("stage2", out="mixed"))
    assert (done.unusable, done.first_dropped) == ({"text_only": 2, "several_images": 1}, 1)
    assert done.to_json()["unusable"] == json.loads((world / "mixed/run.json").read_text())["result"]["unusable"]
    assert "2 examples text only left out" in str(done) and "1 example without the first message" in str(done)
    refused("unusable 'skip', now 'error'", config("stage2", out="mixed", unusable="error"), resume=True)
    assert train(config("stage2", out="mixed"), resume=True).unusable == done.unusable
    (world / "chats.json").write_text(json.dumps(good))
    clean = train(config("stage2", out="clean"))
    assert clean.losses == done.losses and clean.unusable == {}


def test_embeddings_are_found_by_the_paths_of_images_as_by_ids(config, world):
    """The same losses, to the bit: by numbers as ids, and by paths of which the rows have a tail."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    chats, rows = json.loads((world / "chats.json").read_text()), np.load(world / "image.npy")
    by_id = train(config("stage2", out="by_id"))
    for one in chats:
        one |= {"id": f"q{one['id']}", "image": f"coco/train/{int(one['id']):09d}.jpg"}
    (world / "chats.json").write_text(json.dumps(chats))
    paths = [f"train/{i:09d}.jpg" for i in range(len(rows))]
    pq.write_table(pa.table({"id": paths, "embedding": list(rows)}), world / "image.parquet")
    by_path = train(config("stage2", out="by_path", embeddings=str(world / "image.parquet")))
    assert by_path.losses == by_id.losses and by_path.skipped == 0


def test_a_model_trained_in_llavas_form_is_asked_in_it(config, world, tiny_lm):
    from transformers import AutoTokenizer

    shutil.copytree(tiny_lm, world / "lm")
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} . {% endfor %}"
    tokenizer.save_pretrained(world / "lm")
    refused("chat template .* set form to llava", config("stage2", model=str(world / "lm")))
    done = train(config("stage2", model=str(world / "lm"), form="llava"))
    assert AutoTokenizer.from_pretrained(done.out).chat_template is None
    assert AutoTokenizer.from_pretrained(world / "lm").chat_template is not None


def test_a_tracker_gets_the_losses_and_log_json_the_steps(config, monkeypatch, capfd):
    """report_to is the Trainer's, in place of whose trackers (W&B, TensorBoard) one that records stands here."""
    import transformers
    from transformers.integrations import integration_utils

    seen = []

    class Tracker(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            seen.append((state.global_step, logs.get("loss")))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "recorder", Tracker)
    wanted = config(report_to="recorder")
    given = {key: value for key, value in wanted.to_json().items() if key not in ("stage", "lora")}
    path = Path(wanted.out).with_name("run.yaml")
    path.write_text(json.dumps(given))
    assert main(["train", "stage1", str(path), "--log-json"]) == 0
    records = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    steps = [record for record in records if record.get("unit") == "steps"]
    assert [record["event"] for record in (steps[0], steps[-1])] == ["start", "end"]
    assert steps[0]["done"] == 0 and steps[-1]["done"] == steps[-1]["total"] > 0
    losses = [step for step, loss in seen if loss is not None]
    assert losses == list(range(1, steps[-1]["total"] + 1))
