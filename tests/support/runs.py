"""Small training runs: captions, conversations and embeddings for them; runs that are killed, and on two ranks."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
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


class Runs:
    """Training runs in processes of their own, forked so that torch and transformers are imported once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def killed_and_resumed(self, name: str, options: dict, steps: list[int]) -> None:
        """One run to its end in NAME-whole; one in NAME-killed, killed after each of `steps` and resumed; then killed
        while it writes a checkpoint (where one is left to write); then resumed to its end."""
        self._run(f"{name}-whole", options)
        killed = self.folder / f"{name}-killed"
        for number, step in enumerate(steps):
            self._run(killed.name, options, resume=number > 0, kill_at=step)
        self._run(killed.name, options, resume=True, kill_in_a_save=True)
        assert list((killed / ".saving").rglob("trained.safetensors"))
        self._run(killed.name, options, resume=True)

    def killed_at_random(self, name: str, options: dict, seed: int, kills: int) -> None:
        """Killed at so many random moments, by SIGKILL and SIGTERM in turn, and resumed; then to its end."""
        rng = np.random.default_rng(seed)
        begun = time.monotonic()
        self._run(f"{name}-whole", options)
        took = time.monotonic() - begun
        done = 0
        while done < kills:
            pid = self._start(f"{name}-killed", options, resume=True)
            time.sleep(float(rng.uniform(0, took)))
            os.kill(pid, (signal.SIGKILL, signal.SIGTERM)[done % 2])
            if os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
                done += 1
            else:  # it was quicker
                shutil.rmtree(self.folder / f"{name}-killed")
        self._run(f"{name}-killed", options, resume=True)

    def two_at_once(self, name: str, options: dict) -> None:
        """Two processes that know nothing of each other: one trains, the other one is refused."""
        pids = [self._start(name, options) for _ in range(2)]
        statuses = sorted(os.waitpid(pid, 0)[1] for pid in pids)
        assert statuses == [0, 1 << 8], statuses

    def on_two(self, name: str, options: dict) -> None:
        """On two ranks, as torchrun starts them."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        ranks = [
            self._start(name, options, environment={**where, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in (0, 1)
        ]
        for rank in ranks:
            self._ended(name, rank, 0)

    def _run(self, name: str, options: dict, **how) -> None:
        killed = how.get("kill_at") is not None or how.get("kill_in_a_save")
        self._ended(name, self._start(name, options, **how), signal.SIGKILL if killed else 0)

    def _start(self, name, options, resume=False, kill_at=None, kill_in_a_save=False, environment=None) -> int:
        from transformers import TrainerCallback

        import fastrealign.revision.checkpoints as checkpoints
        from fastrealign.revision.config import TrainConfig
        from fastrealign.revision.train import train

        class Kill(TrainerCallback):
            def on_step_end(self, args, state, control, **_):
                if state.global_step == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        pid = os.fork()
        if pid:
            return pid
        try:
            os.environ.update(environment or {})
            if kill_in_a_save:
                checkpoints.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            train(TrainConfig(out=str(self.folder / name), **options), resume=resume, callbacks=[Kill()])
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _ended(self, name: str, pid: int, wanted: int) -> None:
        status = os.waitpid(pid, 0)[1]
        assert status == wanted, f"{name}: ended with {status}, expected {wanted}"


if __name__ == "__main__":
    import fastrealign.revision.train  # noqa: F401

    gc.freeze()  # or each run would go through all that was imported
    runs = Runs(Path(sys.argv[1]))
    for what, *arguments in json.loads(sys.argv[2]):
        getattr(runs, what)(*arguments)
