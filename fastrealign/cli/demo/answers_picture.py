"""The picture of `train demo`: what the model says of the same pictures before stage 1, after it, and after stage 2.

One column of cards, in type that can be read where the sheet is 400 pixels wide. Needs matplotlib.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastrealign.cli.demo import statements
from fastrealign.cli.demo.picture_style import INK, PAPER, save
from fastrealign.cli.demo.scenes import Scene, render, scene
from fastrealign.revision.answers import Answer

PICTURES = 6
STAGES = {"before": "before stage 1", "stage1": "after stage 1: text alone", "stage2": "after stage 2: {}"}
RIGHT, WRONG = "#1a7f37", "#cf222e"
_QUIET = "#57606a"
_DPI = 150
# In pixels of the sheet.
_WIDTH, _EDGE, _IMAGE, _LINE, _CHARACTER = 900, 20, 240, 31, 13.2
_POINTS = 10.5  # 13.2 pixels a character at this resolution
_COLUMNS = int((_WIDTH - 3 * _EDGE - _IMAGE) / _CHARACTER)
_LINES = 3  # of a description

Words = list[tuple[str, str]]  # text, colour


@dataclass(frozen=True)
class Card:
    """A picture and the lines beside it."""

    scene: Scene
    lines: list[Words]

    @property
    def height(self) -> int:
        return max(_IMAGE, len(self.lines) * _LINE) + 2 * _EDGE


def draw_answers(path: str | Path, answers: Mapping[str, Sequence[Answer]], family: str, tuned_on: str) -> None:
    """Write a PNG of the first PICTURES held-out scenes.

    Parameters
    ----------
    answers
        By key of STAGES.
    tuned_on
        What stage 2 saw, such as "real images".
    """
    from matplotlib.figure import Figure

    ids = list(dict.fromkeys(a.item.id for a in answers["stage2"]))[:PICTURES]
    cards = [_card(scene(int(id), family), answers, tuned_on) for id in ids]
    head = [
        [("What text alone taught: the same pictures, never seen in training", INK)],
        [("green", RIGHT), ("words are true of the picture,", INK), ("red underlined", WRONG), ("ones are not", INK)],
    ]
    height = sum(card.height for card in cards) + len(head) * _LINE + 2 * _EDGE
    figure = Figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()

    def write(lines: Sequence[Words], left: float, top: float) -> None:
        for number, words in enumerate(lines):
            at = left
            for text, colour in words:
                middle = top + (number + 0.5) * _LINE
                if colour == WRONG:  # not by hue alone
                    axes.plot([at, at + len(text) * _CHARACTER], [middle + 12] * 2, color=WRONG, linewidth=1.2)
                axes.text(at, middle, text, color=colour, fontsize=_POINTS, family="monospace", va="center")
                at += (len(text) + 1) * _CHARACTER

    write(head, _EDGE, _EDGE)
    top = len(head) * _LINE + 2 * _EDGE
    for card in cards:
        axes.plot([_EDGE, _WIDTH - _EDGE], [top, top], color="#d0d7de", linewidth=1)
        box = (_EDGE, _EDGE + _IMAGE, top + _EDGE + _IMAGE, top + _EDGE)
        axes.imshow(render(card.scene), extent=box, interpolation="nearest", aspect="auto")
        write(card.lines, 2 * _EDGE + _IMAGE, top + _EDGE)
        top += card.height
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(height, 0)
    save(figure, path, dpi=_DPI)


def _card(of: Scene, answers: Mapping[str, Sequence[Answer]], tuned_on: str) -> Card:
    lines: list[Words] = []
    for name, title in STAGES.items():
        about = [a for a in answers[name] if a.item.id == str(of.seed) and not a.blind]
        lines.append([(title.format(tuned_on), _QUIET)])
        for a in about:
            if a.item.task == "caption":
                lines += _described(a, of.background)
    lines += [_answered(a) for a in about if a.item.task == "vqa"]  # of the last model
    return Card(of, lines)


def _described(answer: Answer, background: str) -> list[Words]:
    """The description in lines, what it says of things and of the background green or red (statements.judged)."""
    true = {name: {tuple(fact) for fact in facts} for name, facts in answer.item.facts.items()}
    lines = textwrap.wrap(answer.given, _COLUMNS) or ["(nothing)"]
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], textwrap.shorten(" ".join(lines[_LINES - 1 :]), _COLUMNS, placeholder=" ...")]
    coloured = []
    words = [word for line in lines for word in line.split()]
    judged = statements.judged(words, true, background)
    for line in lines:
        number = len(line.split())
        coloured.append(
            [
                (word, INK if ok is None else RIGHT if ok else WRONG)
                for word, ok in zip(words[:number], judged[:number], strict=True)
            ]
        )
        words, judged = words[number:], judged[number:]
    return coloured


def _answered(answer: Answer) -> Words:
    """A question and its answer, with the right one where it is another."""
    given = answer.given.split()[:1]
    right = given == [answer.item.answer]
    rest = [] if right else [(f"({answer.item.answer})", INK)]
    return [(answer.item.prompt, INK), (" ".join(given) or "(nothing)", RIGHT if right else WRONG), *rest]
