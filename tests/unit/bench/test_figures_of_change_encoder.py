"""docs/change-encoder.md states what `python -m bench.paper.change_encoder --real DIR` printed, kept as text."""

from __future__ import annotations

from doc_figures import common, unsaid

PARTS = (common.ROOT / "bench/results/paper/change_encoder.txt").read_text().strip().split("\n\n")
TABLES = {
    title: [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    for title, table in zip(PARTS[::2], PARTS[1::2], strict=True)
}


def rows(title: str, *columns: int) -> list[list[str]]:
    """The name of each row, and these columns."""
    return [[row[0], *(row[column] for column in columns)] for row in TABLES[title][2:]]


def test_the_page_states_what_was_printed():
    counts = TABLES["procrustes, documents: long captions"][0]
    assert counts == ["change", "64", "100", "150", "300", "600", "1,165", "3,567"]
    captions = [
        [name, *(cell.split(" (")[0] for cell in means), *whole]
        for name, *means, whole in [
            [row[0], *row[1:4], row[4:]] for row in rows("procrustes, documents: long captions", 1, 3, 5, 6, 7)
        ]
    ]
    procrustes, ridge = (rows(f"{method}, documents: pictures", 6, 7) for method in ("procrustes", "ridge"))
    pictures = [[name, first, *other] for (name, first, _), (_, *other) in zip(procrustes, ridge, strict=True)]
    (index,) = [title for title in TABLES if title.startswith("One index")]
    assert len(captions) == len(pictures) == 9
    said = [*captions, *pictures, *rows(index, 2, 3, 4, 5)]
    assert not unsaid("docs/change-encoder.md", [f"| {' | '.join(row)} |" for row in said])
