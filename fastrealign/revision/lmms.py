"""A trained model for lmms-eval, which finds it by name once both are installed:

    lmms-eval --model fastrealign --model_args model=runs/stage2,clip=ViT-L-14,pretrained=openai,hub=true --tasks pope

`clip` (and `pretrained`) or `encoder` (of transformers) name the encoder whose image embeddings the model was trained on;
hub=true allows a download. One image per question, as in training. Only lmms-eval imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

try:
    from lmms_eval.api.model import lmms
except ImportError as missing:
    raise ImportError(f"fastrealign.revision.lmms is for lmms-eval, which is not installed: {missing}") from missing

from fastrealign.core.errors import InputError
from fastrealign.embed.encoders import device_of
from fastrealign.embed.hf import Transformers
from fastrealign.embed.openclip import OpenClip
from fastrealign.embed.pictures import upright_rgb
from fastrealign.revision.conversations import IMAGE
from fastrealign.revision.evaluate import generated
from fastrealign.revision.templates import Template

if TYPE_CHECKING:
    from lmms_eval.api.instance import Instance
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """For the entry point "lmms_eval.models" of lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="fastrealign", simple_class_path="fastrealign.revision.lmms.Revision")


class Revision(lmms):
    """A model of lmms-eval.

    Parameters
    ----------
    model
        Folder of a trained model.
    clip, pretrained, encoder
        Its encoder: of open_clip, or of transformers.
    batch_size
        Questions at a time.
    hub
        Whether what is not on this machine may be downloaded.
    """

    is_simple = True

    def __init__(
        self,
        model: str,
        clip: str | None = None,
        pretrained: str | None = None,
        encoder: str | None = None,
        batch_size: int | str = 16,
        device: str = "auto",
        hub: bool | str = False,
        **_: Any,  # lmms-eval also passes its own settings
    ) -> None:
        super().__init__()
        from transformers import AutoTokenizer

        from fastrealign.revision.model import RevisionModel

        if bool(clip) == bool(encoder):
            raise InputError(
                "model_args: expected clip=... or encoder=..., the encoder that the model was trained with"
            )
        hub = str(hub).lower() in ("1", "true")
        choice = (
            OpenClip(clip, pretrained, device, hub=hub) if clip else Transformers(str(encoder), device=device, hub=hub)
        )
        self.encoder = choice.load("images")
        self.model = RevisionModel.from_pretrained(model, hub=hub).to(device_of(device)).eval()
        if self.encoder.dim != self.model.dim:
            raise InputError(f"{self.encoder.name} gives rows {self.encoder.dim} wide, {model} takes {self.model.dim}")
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        self.template = Template(tokenizer, "stage2", self.model.tokens)
        self.batch_size = int(batch_size)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """A text for each request: (question, settings, its images, document, task, split)."""
        given: list[str] = []
        for lo in range(0, len(requests), self.batch_size):
            asked = [request.args for request in requests[lo : lo + self.batch_size]]
            pictures = [self._picture(*args[2:6]) for args in asked]
            longest = max(int(args[1].get("max_new_tokens", 128)) for args in asked)
            texts = self._answers([args[0] for args in asked], pictures, longest)
            for text, args in zip(texts, asked, strict=True):
                until = args[1].get("until") or []
                for stop in [until] if isinstance(until, str) else until:
                    text = text.split(stop)[0] if stop else text
                given.append(text.strip())
        return given

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("fastrealign generates answers; use the generating form of the task")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("fastrealign answers one question per image")

    def _picture(self, doc_to_visual: Any, number: int, task: str, split: str) -> Any:
        pictures = doc_to_visual(self.task_dict[task][split][number])
        if len(pictures) != 1:
            raise InputError(
                f"{task}, {split} {number}: has {len(pictures)} images, the model was trained on one per question"
            )
        try:
            return upright_rgb(pictures[0])
        except InputError as error:
            raise InputError(f"{task}, {split} {number}: the image {error}") from None

    def _answers(self, questions: Sequence[str], pictures: Sequence[Any], longest: int) -> list[str]:
        turns = [[(f"{IMAGE}\n{question.replace(IMAGE, '').strip()}", None)] for question in questions]
        rows = self.encoder.encode([self.encoder.prepare(picture) for picture in pictures])
        return generated(self.model, self.template, self.template.prompts(turns), rows, longest)
