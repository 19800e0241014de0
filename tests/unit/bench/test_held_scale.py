"""bench.paper.held_scale on few rows and steps."""

from __future__ import annotations

import benchmarks
import numpy as np
import pytest

from fastrealign.core.errors import InputError

held_scale = benchmarks.module("paper.held_scale")
common = benchmarks.module("paper.common")


def test_a_folder_for_what_is_trained_is_asked_for():
    with pytest.raises(InputError, match="--encoders DIR"):
        held_scale.measure(common.Setting(False, None, print))


def test_the_loss_of_a_held_scale_does_not_move_it(rng):
    pytest.importorskip("open_clip")
    torch = pytest.importorskip("torch")
    model = held_scale.encoder.build(0)
    rows = [torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((6, 8))), dim=1) for _ in range(2)]
    loss = held_scale._held(60.0)(model, *rows)
    logits = 60.0 * rows[0].numpy() @ rows[1].numpy().T
    expected = [
        np.mean(np.log(np.exp(x - x.max(1, keepdims=True)).sum(1)) + x.max(1) - np.diag(x)) for x in (logits, logits.T)
    ]
    assert loss.item() == pytest.approx(np.mean(expected))
    assert not loss.requires_grad
