"""What `train demo` starts from: a dual encoder and a language model, shipped because their training is long and not its point.

    data/encoder.safetensors    the encoder (encoder.py)
    data/backbone.safetensors   the language model (backbone.py)
    data/models.json            how they were made: command, seed, steps, date, versions, licence

Weights are float16. `python -m bench.paper.world.models`, in a checkout of the repository, makes all three again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastrealign.cli.demo import backbone as language
from fastrealign.cli.demo import encoder as dual
from fastrealign.cli.demo.shipped import DATA, readable
from fastrealign.storage.atomic import save_bytes

if TYPE_CHECKING:
    import open_clip
    import torch
    from transformers import Lfm2ForCausalLM

ENCODER, BACKBONE, RECORD = DATA / "encoder.safetensors", DATA / "backbone.safetensors", DATA / "models.json"


def save(model: torch.nn.Module, path: Path) -> None:
    """Write weights in float16, counters as they are."""
    from safetensors.torch import save as packed

    state = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    save_bytes(path, packed({name: v.half() if v.is_floating_point() else v for name, v in state.items()}))


def load_encoder(path: Path = ENCODER) -> open_clip.CLIP:
    """The encoder in a file, float32 and in eval mode."""
    return _loaded(dual.build(), path)


def load_backbone(path: Path = BACKBONE) -> Lfm2ForCausalLM:
    """The language model in a file, float32 and in eval mode."""
    return _loaded(language.build(), path)


def _loaded(model: torch.nn.Module, path: Path) -> torch.nn.Module:
    from safetensors.torch import load_file

    with readable(path):
        model.load_state_dict(load_file(path))  # copies into float32
    return model.eval()
