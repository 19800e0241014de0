"""docs/scores.md states what `python -m bench.paper.scores` printed of the head that ships: bench/results/paper/scores.txt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from doc_figures import common, unsaid

BLOCKS = (common.ROOT / "bench/results/paper/scores.txt").read_text().split("\n\n")


def table(block: str, keys: int) -> dict[tuple[str, ...], list[str]]:
    """The rows of a table by their first cells."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()[2:] if line.startswith("|")]
    return {tuple(row[:keys]): row[keys:] for row in rows}


INDEX, DOCUMENTS, THRESHOLDS = (table(block, keys) for block, keys in zip(BLOCKS[1:4], (2, 3, 3), strict=True))
# Of each kind of head, after its line: one index, then thresholds.
OF_HEADS = {"MLP": table(BLOCKS[6], 3), "linear": table(BLOCKS[9], 3), "MLP, scale 60": table(BLOCKS[12], 3)}


def short(figure: str, digits: int = 3) -> str:
    """
    >>> short("0.064 ± 0.010"), short("0.144", 2)
    ('.064 ± .010', '.14')
    """
    return " ± ".join(f"{float(part):.{digits}f}".removeprefix("0") for part in figure.split(" ± "))


def of_one_index() -> Iterator[str]:
    shown = [("none", "cosine"), ("none", "z-score"), ("none", "quantile"), ("none", "logistic"), ("realign", "cosine")]
    for key in [*shown, ("realign", "z-score"), ("centred", "cosine"), ("centred", "quantile")]:
        found, picture, caption, _, _, first = (cell.split(" ± ")[0] for cell in INDEX[key])
        figure = short(INDEX[key][0])
        assert figure.startswith(short(found))
        yield f"| {key[0]} | {key[1]} | {figure} | {short(picture)} | {short(caption)} | {short(first, 2)} |"
    *_, pictures, captions, _ = (cell.split(" ± ")[0] for cell in INDEX["none", "cosine"])
    yield f"| pictures or captions alone | cosine | | {short(pictures)} | {short(captions)} |"


def threshold_row(found: list[str], of: str, precision: str) -> str:
    _, held, width, within, *recalls = found
    recall = short(recalls[of == "captions"], 2)
    return f"| {of} | {precision.removeprefix('0')} | {short(held)} | {short(width)} | {within} | {recall} |"


def of_thresholds() -> Iterator[str]:
    asked = [("pictures", one) for one in ("0.05", "0.1", "0.2")] + [
        ("captions", one) for one in ("0.3", "0.5", "0.7", "0.9")
    ]
    for key in asked:
        yield threshold_row(THRESHOLDS[("cosine", *key)], *key)
    for head, rows in OF_HEADS.items():
        yield f"| {head} {threshold_row(rows['cosine', 'pictures', '0.1'], 'pictures', '0.1')}"
        for precision in ("0.5", "0.9"):
            yield threshold_row(rows["cosine", "captions", precision], "captions", precision)
    _, held, width, within, picture, caption = THRESHOLDS["z-score", "both", "0.3"]
    recall = f"{short(picture, 2)} and {short(caption, 2)}"
    yield f"| both, z-score | .3 | {short(held)} | {short(width)} | {within} | {recall} |"
    picture, caption = THRESHOLDS["z-score", "both", "0.1"][-2:]
    assert THRESHOLDS["cosine", "both", "0.1"][-2] == "0.000"
    yield f"z-scores keep {100 * float(picture):.0f} % of the relevant pictures and {100 * float(caption):.0f} % of"


def of_documents() -> Iterator[str]:
    titles = {
        ("none", "picture alone"): "picture alone",
        ("none", "caption alone"): "caption alone",
        ("none", "one fused row"): "one fused row, raw",
        ("centred", "one fused row"): "one fused row, centred",
        ("none", "the better score"): "the better z-score",
        ("none", "mean of scores"): "mean of z-scores",
    }
    for key, title in titles.items():
        every, half = (DOCUMENTS[(share, *key)] for share in ("100%", "50%"))
        lacking = short(half[2]).removesuffix(" ± .000")
        yield f"| {title} | {short(every[1])} | {short(half[1])} | {lacking} |"


@pytest.mark.parametrize("of", [of_one_index, of_thresholds, of_documents])
def test_the_page_states_what_was_printed(of):
    assert not unsaid("docs/scores.md", of())
