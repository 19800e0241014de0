"""Small training runs: captions, conversations and embeddings for them, and one that is killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

DIM = 12
COLOURS = ("red", "green", "blue", "black")
SHAPES = ("circle", "square", "star")


def write_world(folder: Path, rng: np.random.Generator, count: int = 24) -> None:
    """captions.jsonl and chats.json about `count` things, their embeddings text.npy and (moved by a gap) image.npy."""
    kinds = [(COLOURS[i % 4], SHAPES[i % 3]) for i in rng.integers(12, size=count)]
    directions = {word: rng.standard_normal(DIM) for word in (*COLOURS, *SHAPES)}
    rows = np.array([directions[c] + directions[s] for c, s in kinds]) + 0.1 * rng.standard_normal((count, DIM))
    np.save(folder / "text.npy", rows.astype(np.float32))
    np.save(folder / "image.npy", (rows + 2 * rng.standard_normal(DIM)).astype(np.float32))
    captions = [{"id": str(i), "caption": f"a {c} {s} on the left ."} for i, (c, s) in enumerate(kinds)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in captions))
    chats = [
        {
            "id": str(i),
            "conversations": [
                {"from": "human", "value": "<image>\nwhat colour is the shape ?"},
                {"from": "gpt", "value": c},
                {"from": "human", "value": "which shape is it ?"},
                {"from": "gpt", "value": s},
            ],
        }
        for i, (c, s) in enumerate(kinds)
    ]
    (folder / "chats.json").write_text(json.dumps(chats))


def killed_and_resumed(folder: Path, options: dict, steps: list[int], in_a_save: bool) -> None:
    """In a process of its own each: a run to its end in folder/whole; one in folder/killed, killed after each of `steps`
    (and once in the middle of writing a checkpoint), gone on with, to its end."""
    from transformers import TrainerCallback

    import fastrealign.revision.checkpoints as checkpoints
    from fastrealign.revision.config import TrainConfig
    from fastrealign.revision.train import train

    class Kill(TrainerCallback):
        def __init__(self, step):
            self.step = step

        def on_step_end(self, args, state, control, **_):
            if state.global_step == self.step:
                os.kill(os.getpid(), signal.SIGKILL)

    def run(out, resume, step=None, saving=False):
        pid = os.fork()
        if pid == 0:
            if saving:
                checkpoints.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            train(TrainConfig(out=str(folder / out), **options), resume=resume, callbacks=[Kill(step)])
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        wanted = 0 if step is None and not saving else signal.SIGKILL
        assert status == wanted, f"{out}: ended with {status}, expected {wanted}"

    run("whole", False)
    for number, step in enumerate(steps):
        run("killed", number > 0, step)
    if in_a_save:
        run("killed", True, saving=True)
        assert list((folder / "killed" / ".saving").rglob("trained.safetensors"))
    run("killed", True)


if __name__ == "__main__":
    killed_and_resumed(Path(sys.argv[1]), *json.loads(sys.argv[2]))
