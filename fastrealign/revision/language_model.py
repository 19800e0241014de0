"""The language model of transformers that a RevisionModel stands in front of."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import torch

from fastrealign.core.errors import InputError
from fastrealign.core.text import one_line
from fastrealign.storage import hub_models as hubs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Entries of each weight that a fingerprint samples: fine-tuning changes nearly all entries.
_SAMPLED = 64


def load_lm(source: str | os.PathLike, *, hub: bool = False) -> PreTrainedModel:
    """A causal language model of transformers, in the dtype that it is stored in.

    Parameters
    ----------
    source
        A folder; "hf://ORG/NAME", which may be downloaded; or a name on the hub, which is read from its cache.
    hub
        Whether a name that is not in the cache may be downloaded.

    Raises
    ------
    InputError
        With `source`, if it cannot be loaded or lacks weights.
    """
    import transformers

    found = hubs.find(source, f"language model {source}", hub, "allow it (hub: true, hub=True)")
    options = {"local_files_only": not found.online, hubs.dtype_option(): "auto"}
    try:
        with hubs.asked(found.online):
            lm, report = transformers.AutoModelForCausalLM.from_pretrained(
                found.name, output_loading_info=True, **options
            )
    except Exception as error:  # a damaged file of weights may raise anything
        raise InputError(f"{source}: cannot be loaded as a causal language model: {one_line(error)}") from None
    lacking = sorted(report["missing_keys"])
    if lacking:  # transformers would make them random
        raise InputError(f"{source}: its file of weights lacks {len(lacking)} of them, such as {lacking[0]}")
    return lm


def fingerprint(lm: torch.nn.Module) -> str:
    """SHA-256 (hex) of the names, the shapes and a sample of the weights; the same in float32 and bfloat16."""
    digest = hashlib.sha256()
    for name, weight in sorted(lm.named_parameters()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        flat = weight.detach().reshape(-1)
        at = torch.arange(_SAMPLED, device=flat.device) * (len(flat) - 1) // (_SAMPLED - 1)
        digest.update(flat[at].to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()
