"""Turns to token ids, the same for training and for generation.

    stage 1   [begin] V...V text [end]; loss on the text and its end
    stage 2   [begin] "USER: " V...V "\\nquestion ASSISTANT:" " answer" [end] "USER: next ASSISTANT:" " answer" [end] ...
              as in LLaVA 1.5 (arXiv 2310.03744; without its system prompt, as in its Hugging Face form), or the tokenizer's own
              chat template, if it has one; loss on the answers and their ends

V is IMAGE_TOKEN, the place of a visual token. [begin] is there if the tokenizer adds one; [end] is its eos_token, or what its
chat template puts after an answer. An answer is tokenized together with the prompt before it, unless that changes the tokens of
the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fastrealign.core.checks import whole
from fastrealign.core.errors import InputError
from fastrealign.core.libraries import torch
from fastrealign.revision.conversations import IMAGE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# LLaVA's placeholder id.
IMAGE_TOKEN = -200
# Label that the losses of transformers ignore.
NO_LOSS = -100
STAGES = ("stage1", "stage2")
FORMS = ("llava", "chat")

Turns = Sequence[tuple[str, "str | None"]]


class _Piece(NamedTuple):
    """A prompt, from the end of the previous answer on, and its answer, which is None if it is to be generated."""

    prompt: str
    between: str  # white space from one to the other
    answer: str | None


class Template:
    """Turns to token ids.

    Parameters
    ----------
    tokenizer
        Of transformers; it needs an eos_token.
    stage
        "stage1" or "stage2".
    tokens
        Visual tokens per image; 0 omits the image, for a blind baseline.
    form
        Of stage 2: "llava" or "chat"; default "chat" if the tokenizer has a chat template.

    Attributes
    ----------
    end : int
        Token id after a text or an answer, at which generation stops.

    Raises
    ------
    InputError
        For a tokenizer without an eos_token, and for a chat template whose training text does not continue its generation
        prompt.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stage: str, tokens: int = 1, form: str | None = None
    ) -> None:
        if stage not in STAGES:
            raise InputError(f"stage={stage!r}: expected {' or '.join(STAGES)}")
        if form not in (None, *FORMS):
            raise InputError(f"form={form!r}: expected {' or '.join(FORMS)}")
        tokens = whole("tokens", tokens, 0, why="visual tokens")
        chat_template = getattr(tokenizer, "chat_template", None)
        if form == "chat" and not chat_template:
            raise InputError(f"{_name(tokenizer)} has no chat template; leave form='chat' out, or set one")
        self.tokenizer, self.stage, self.tokens = tokenizer, stage, tokens
        self._chat = stage == "stage2" and bool(chat_template) and form != "llava"
        if tokenizer.eos_token_id is None:
            raise InputError(
                f"{_name(tokenizer)} has no end token, which every text needs; set its eos_token to one that the model knows"
            )
        self.end: int = tokenizer.eos_token_id
        begin = tokenizer.bos_token_id
        # A chat template has it as text.
        begins = not self._chat and begin is not None and self._tokenized(["a"], special=True)["a"][:1] == [begin]
        self._begin = [begin] if begins else []
        self._end_text = ""
        if self._chat:
            self.end, self._end_text = self._chat_end()

    def prompts(self, turns: Iterable[Turns]) -> list[list[int]]:
        """Token ids of each, up to its last response, which is to be generated: None or ignored."""
        if self.stage == "stage1":
            return [self._begin + [IMAGE_TOKEN] * self.tokens for _ in turns]
        return [ids for ids, _ in self._encoded([[*these[:-1], (these[-1][0], None)] for these in turns])]

    def examples(self, turns: Iterable[Turns]) -> list[tuple[list[int], list[int]]]:
        """(token ids, labels) of each, of equal length; labels are NO_LOSS where there is no loss."""
        if self.stage == "stage2":
            return self._encoded(turns)
        texts = [_only_text(these) for these in turns]
        tokenized = self._tokenized(texts)
        head = self._begin + [IMAGE_TOKEN] * self.tokens
        learned = [[*tokenized[text], self.end] for text in texts]
        return [(head + ids, [NO_LOSS] * len(head) + ids) for ids in learned]

    def _encoded(self, turns: Iterable[Turns]) -> list[tuple[list[int], list[int]]]:
        pieces = [list(self._chat_pieces(these)) if self._chat else _llava_pieces(these) for these in turns]
        texts: dict[str, None] = {}
        for piece in (piece for these in pieces for piece in these):
            *before, last = piece.prompt.split(IMAGE)
            texts.update(dict.fromkeys([*before, last]))
            if piece.answer is not None:
                texts[last + piece.between + piece.answer] = None
                texts[piece.between + piece.answer] = None
        tokenized = self._tokenized(list(texts))
        return [self._joined(these, tokenized) for these in pieces]

    def _joined(self, pieces: list[_Piece], tokenized: dict[str, list[int]]) -> tuple[list[int], list[int]]:
        ids = list(self._begin)
        labels = [NO_LOSS] * len(ids)
        for prompt, between, answer in pieces:
            *before, last = prompt.split(IMAGE)
            for part in before:
                ids += tokenized[part] + [IMAGE_TOKEN] * self.tokens
            ids += tokenized[last]
            labels += [NO_LOSS] * (len(ids) - len(labels))
            if answer is not None:
                before_it, both = tokenized[last], tokenized[last + between + answer]
                continues = both[: len(before_it)] == before_it and len(both) > len(before_it)
                learned = both[len(before_it) :] if continues else tokenized[between + answer]
                ids += [*learned, self.end]
                labels += [*learned, self.end]
        return ids, labels

    def _tokenized(self, texts: list[str], special: bool = False) -> dict[str, list[int]]:
        if not texts:
            return {}
        found = self.tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)
        return dict(zip(texts, found["input_ids"], strict=True))

    def _chat_pieces(self, turns: Turns) -> Iterator[_Piece]:
        messages: list[dict[str, str]] = []
        done = ""
        for prompt, answer in turns:
            messages.append({"role": "user", "content": prompt})
            asked = self._rendered(messages, True)
            if not asked.startswith(done):
                raise self._unsteady("it changes earlier turns when later ones follow")
            if answer is None:
                yield _Piece(asked[len(done) :], "", None)
                return
            messages.append({"role": "assistant", "content": answer})
            whole = self._rendered(messages, False)
            between, found, rest = whole[len(asked) :].partition(answer)
            if not whole.startswith(asked) or not found or between.strip():
                raise self._unsteady("an answer does not stand where its generation prompt ends")
            if not rest.startswith(self._end_text):
                raise self._unsteady(f"it ends some answers with {self._end_text!r} and some without")
            yield _Piece(asked[len(done) :], between, answer)
            done = asked + between + found + self._end_text

    def _chat_end(self) -> tuple[int, str]:
        """The token that the chat template puts after an answer, and its text; eos_token and "" if it puts nothing."""
        asked = [{"role": "user", "content": "a question"}]
        whole = self._rendered([*asked, {"role": "assistant", "content": "an answer"}], False)
        rest = whole.rpartition("an answer")[2]
        after = rest.lstrip()
        if not after:
            return self.end, ""
        first = self._tokenized([after])[after][0]
        text = self.tokenizer.convert_ids_to_tokens(first)
        special = {*self.tokenizer.all_special_ids, *getattr(self.tokenizer, "added_tokens_decoder", {})}
        if first not in special or not after.startswith(text):
            raise self._unsteady(f"an answer ends with {rest!r}, which begins with no special token")
        # White space before the end (Llama 2) is not learned: generation stops at the end with or without it.
        return first, rest[: len(rest) - len(after)] + text

    def _rendered(self, messages: list[dict[str, str]], generation: bool) -> str:
        # Turns off reasoning before an answer, in templates that know it.
        options: dict[str, Any] = {"add_generation_prompt": generation, "enable_thinking": False}
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, **options)
        except Exception as error:  # a template may raise anything
            raise self._unsteady(f"it fails: {' '.join(str(error).split())}") from error

    def _unsteady(self, why: str) -> InputError:
        return InputError(f"the chat template of {_name(self.tokenizer)} cannot be used: {why}; set form to llava")


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, turns: Turns, tokens: int = 1, *, stage: str = "stage2", form: str | None = None
) -> list[int]:
    """Token ids to generate from; the last response of `turns` is None or ignored.

    They are what stage 2 trains on up to that response, token for token; in stage 1, the visual tokens alone. `tokens=0` omits
    the image. For many prompts, `Template.prompts` is faster.
    """
    return Template(tokenizer, stage, tokens, form).prompts([turns])[0]


def left_padded(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Prompts as a batch for generation: "input_ids" and "attention_mask", int64 (B, L), padded on the left."""
    import torch

    length = max(map(len, prompts))
    pad = pad_token(tokenizer)
    ids = torch.tensor([[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return {"input_ids": ids, "attention_mask": mask}


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Token id of padding: pad_token, else eos_token, which attention masks and labels hide."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _llava_pieces(turns: Turns) -> list[_Piece]:
    return [_Piece(f"USER: {prompt} ASSISTANT:", " ", answer) for prompt, answer in turns]


def _only_text(turns: Turns) -> str:
    if len(turns) != 1:
        raise InputError(f"stage 1 takes one text per image, got {len(turns)} turns; use captions, or train stage 2")
    return turns[0][1] or ""


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"the tokenizer {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__}"
