"""`fastrealign demo search`: one index of pictures and captions, searched with titles before and after a map for each role."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import fastrealign as fr
from fastrealign.cli.demo import real_world
from fastrealign.cli.demo.real_world import RealWorld
from fastrealign.cli.demo.uses import NO_SUBJECT, TOP, Search, figures, finds, is_picture, ranked
from fastrealign.core.text import printable

QUERIES = 3
ENGLISH = ("and", "for", "from", "of", "on", "the", "with")  # words of no other language among the titles
WIDE = 44  # characters of a document on the terminal


@dataclass(frozen=True)
class Hit:
    """A document among the best: "picture" (text: its title) or "caption", and whether it is the query's own."""

    kind: str
    text: str
    own: bool

    def __str__(self) -> str:
        text = printable(self.text)
        room = WIDE - len(self.kind) - 3
        return f"{self.kind}  {text if len(text) <= room else text[: room - 1] + '…'}{' *' if self.own else ''}"


@dataclass(frozen=True)
class Query:
    """A title whose picture is in the index, and the TOP best documents, before and after."""

    title: str
    before: list[Hit]
    after: list[Hit]


@dataclass(frozen=True)
class SearchResult:
    """Result of the demo.

    Attributes
    ----------
    pictures, captions, dim
        Documents of the index, and their width.
    fitted
        Pictures that the maps were fitted on, with their titles and captions; none of them is in the index.
    method
        What `fastrealign.fit_roles` took with method="auto".
    before, after
        Figures over all titles.
    finding
        Titles of pictures that find their own picture among the TOP, before or after.
    queries
        Some titles with their best documents: the first of each of the first QUERIES categories, by name, whose picture is in
        the index and which has one of the words ENGLISH. What they find plays no part.
    seconds
        Time of fitting and mapping, without reading files and searching.
    """

    pictures: int
    captions: int
    dim: int
    fitted: int
    method: str
    before: Search
    after: Search
    finding: int
    queries: list[Query]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps."""
        return asdict(self)

    def summary(self) -> str:
        """Some fifty lines of text."""
        lines = [
            f"One index of {self.pictures:,} pictures and {self.captions:,} captions of other pictures, {self.dim} wide.",
            f"A map for each role (query, text, image), fitted on {self.fitted:,} others in {self.seconds:.1f} s; "
            f"method “auto” took “{self.method}”.",
            "",
            f"{f'All {self.pictures + self.captions:,} titles search it':40}{'before':>16}{'after':>16}",
            f"{f'own document in the top {TOP}':40}{self.before.found!s:>16}{self.after.found!s:>16}",
            f"{'  the same, where that is a picture':40}{self.before.pictures_found!s:>16}{self.after.pictures_found!s:>16}",
            f"{f'pictures among the top {TOP} (half the index)':40}{self.before.images:>16.1%}{self.after.images:>16.1%}",
            "",
            f"The {TOP} best for {len(self.queries)} titles whose own picture (*) is in the index, whatever they find: the "
            "first English title of each",
            f"category, in the order of the files. English means: has one of the words {', '.join(ENGLISH)}.",
            f"Of all {self.pictures:,} such titles {self.finding:,} find their own picture before or after.",
        ]
        for query in self.queries:
            lines += ["", f"“{printable(query.title)}”"]
            lines.append(f"      {'before':{WIDE}}  after")
            lines += [
                f"  {place:2}  {before!s:{WIDE}}  {after}"
                for place, (before, after) in enumerate(zip(query.before, query.after, strict=True), 1)
            ]
        lines += [
            "",
            "With your own embeddings (docs/search.md):",
            "    fastrealign fit --role query=… --role text=… --role image=… --anchor image --method auto --pairs … --out R",
            "    fastrealign apply R img_emb/ --role image --out to_index/img",
            "    fastrealign apply R text_emb/ --role text --out to_index/text",
            '    fr.Roles.load("R")["query"](queries)  # in Python, on the way to the index',
        ]
        return "\n".join(lines)


def run() -> SearchResult:
    """Fit a map for each role, and search one index of held-out pictures and captions before and after."""
    world = real_world.load()
    fit, test = world.part("fit"), world.part("test")
    raw = {"query": test.title, "text": test.long, "image": test.image}
    pairs = {("query", "image"): (fit.title, fit.image), ("query", "text"): (fit.title, fit.long)}
    start = time.perf_counter()
    roles = fr.fit_roles(
        {"query": fit.title, "text": fit.long, "image": fit.image}, anchor="image", method="auto", pairs=pairs
    )
    mapped = {role: roles[role](rows) for role, rows in raw.items()}
    seconds = time.perf_counter() - start
    before, after = (ranked(rows["query"], rows["text"], rows["image"]) for rows in (raw, mapped))
    pictures = is_picture(len(test.ids))
    finding = (finds(before) | finds(after)) & pictures
    return SearchResult(
        pictures=int(pictures.sum()),
        captions=int((~pictures).sum()),
        dim=roles.dim,
        fitted=len(fit.ids),
        method=roles.method,
        before=figures(before),
        after=figures(after),
        finding=int(finding.sum()),
        queries=_queries(test, before, after),
        seconds=seconds,
    )


def _queries(test: RealWorld, before: np.ndarray, after: np.ndarray) -> list[Query]:
    """The first English title of each of the first QUERIES categories that have one, of a picture in the index."""
    picture = is_picture(len(test.ids))
    english = np.array([not set(ENGLISH).isdisjoint(str(title).lower().split()) for title in test.titles])
    asked = np.flatnonzero(picture & english & ~np.isin(test.categories, NO_SUBJECT))
    _, first = np.unique(test.categories[asked], return_index=True)

    def hit(query: int, document: int) -> Hit:
        kind, texts = ("picture", test.titles) if picture[document] else ("caption", test.longs)
        return Hit(kind, str(texts[document]), document == query)

    return [
        Query(str(test.titles[i]), *([hit(i, document) for document in top[i].tolist()] for top in (before, after)))
        for i in asked[first][:QUERIES].tolist()
    ]
