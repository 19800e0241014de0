"""What a search report says in sentences: which method to take and why, what a method lowers, what was found."""

from __future__ import annotations

from fastrealign.core.formatting import listed, percent
from fastrealign.retrieval.bootstrap import FEWEST, Figure
from fastrealign.retrieval.documents import IMAGE, TEXT
from fastrealign.retrieval.ranking import METRICS, MIXED, SHARE, own
from fastrealign.retrieval.search_data import CORPORA, Measured, method_name

# What a method is chosen by, in the mixed corpus if there is one.
DECIDING = "NDCG@10"


def score(value: float) -> str:
    """A metric from 0 to 1: "0.412"."""
    return f"{value:.3f}".replace("-", "−")


def interval(ends: tuple[float, float]) -> str:
    """The 95 % interval of a metric."""
    return f"{score(ends[0])} to {score(ends[1])}"


def choice_of(report: Measured) -> str | None:
    """The method to take: of those that raise the deciding metric and lower it in no corpus, the one with most; or None."""
    return _highest(report, [name for name in _raising(report) if not _lowered_corpora(report, name)])


def advice_of(report: Measured) -> str:
    """One sentence: which method to take and why, or that none helps."""
    where = f"{DECIDING} {_where(report.corpora[0])}"
    if len(report.methods) == 1:
        return "Nothing is compared with doing nothing: name methods or give roles."
    chosen = choice_of(report)
    if chosen is not None:
        why = f"{_rise(report, chosen)}{_shares(report, chosen)}"
        safe = (
            f", and it lowers {DECIDING} neither in text alone nor in images alone" if len(report.corpora) == 3 else ""
        )
        return f"Take {method_name(chosen)}: {why}{safe}."
    best = _highest(report, _raising(report))
    if best is None:
        if _too_few(report):
            return f"Too few queries differ to say ({_differing(report)}); judge more queries."
        before = score(_deciding(report)["none"].value)
        return f"Leave the embeddings as they are: no method raises {where} ({before}) by more than chance."
    falls = [
        f"from {score(of['none'].value)} to {score(of[best].value)} {_where(corpus)}"
        for corpus in _lowered_corpora(report, best)
        for of in [report.figures[corpus, DECIDING]]
    ]
    return (
        f"Take {method_name(best)} only for the mixed index: {_rise(report, best)}{_shares(report, best)}, but {DECIDING} "
        f"falls {listed(falls)}; search one modality with the embeddings as they are."
    )


def take_of(report: Measured) -> tuple[str, ...]:
    """How to take the method that the advice names, a step a line; none where it names none."""
    best = choice_of(report) or _highest(report, _raising(report))
    return () if best is None else report.take[best]


def warnings_of(report: Measured) -> list[str]:
    """For each method what it lowers by more than chance: the interval of the difference lies below zero."""
    found = []
    for name in report.methods[1:]:
        for corpus in report.corpora:
            falls = []
            for metric in (*METRICS, own(TEXT), own(IMAGE)):
                of = report.figures.get((corpus, metric))
                if of is not None and of[name].better is False:
                    change = interval(of[name].change_interval)
                    falls.append(
                        f"{metric} from {score(of['none'].value)} to {score(of[name].value)} (change {change})"
                    )
            if falls:
                found.append(f"{method_name(name)} lowers {listed(falls)} {_where(corpus)}")
    return found


def headline(report: Measured) -> str:
    """The finding in one line."""
    before = report.figures[report.corpora[0], DECIDING]["none"].value
    where = _where(report.corpora[0])
    if len(report.methods) == 1:
        return f"{DECIDING} {score(before)} {where}"
    best = choice_of(report) or _highest(report, _raising(report))
    if best is None:
        said = "too few queries to compare" if _too_few(report) else "no method raises it"
        return f"{DECIDING} {score(before)} {where}; {said}"
    after = _deciding(report)[best].value
    return f"{method_name(best)} raises {DECIDING} {where} from {score(before)} to {score(after)}"


def findings(report: Measured) -> list[str]:
    """A sentence for what users ask first: are images found, and what do the corpora alone give."""
    found = []
    share = report.figures.get((MIXED, SHARE))
    if share is not None:
        images = report.rows[IMAGE] / (report.rows[IMAGE] + report.rows[TEXT])
        after = [f"{percent(share[name].value)} with {method_name(name)}" for name in report.methods[1:]]
        more = f"; {listed(after)}" if after else ""
        found.append(
            f"Images are {percent(images)} of the documents and {percent(share['none'].value)} of the ten best without "
            f"alignment{more}."
        )
        found += [_kept(report, role) for role in (TEXT, IMAGE) if (MIXED, own(role)) in report.figures]
    return found


def _kept(report: Measured, role: str) -> str:
    """How much of the recall of a modality alone is left in the mixed corpus."""
    alone = report.figures[role, "R@10"]["none"].value
    shares = [
        f"{score(of.value)} {'without alignment' if name == 'none' else f'with {method_name(name)}'}"
        for name, of in report.figures[MIXED, own(role)].items()
    ]
    corpus = "text" if role == TEXT else "images"
    where = f"among {corpus} alone, without alignment, it is {score(alone)}"
    return f"R@10 of relevant {role}s in the mixed index is {listed(shares)}; {where}."


def _deciding(report: Measured) -> dict[str, Figure]:
    return dict(report.figures[report.corpora[0], DECIDING])


def _highest(report: Measured, names: list[str]) -> str | None:
    """Of these methods the one with the highest deciding metric; None of none."""
    return max(names, key=lambda name: _deciding(report)[name].value, default=None)


def _raising(report: Measured) -> list[str]:
    return [name for name, of in _deciding(report).items() if of.better]


def _differing(report: Measured) -> int:
    """The most queries on which a method differs from doing nothing."""
    return max(of.differ for of in _deciding(report).values())


def _too_few(report: Measured) -> bool:
    """Whether no method differs measurably from doing nothing, however it changes the queries."""
    return _differing(report) < FEWEST


def _lowered_corpora(report: Measured, method: str) -> list[str]:
    return [corpus for corpus in report.corpora if report.figures[corpus, DECIDING][method].better is False]


def _rise(report: Measured, method: str) -> str:
    of = _deciding(report)
    return (
        f"{DECIDING} {_where(report.corpora[0])} rises from {score(of['none'].value)} to {score(of[method].value)} "
        f"(change {interval(of[method].change_interval)})"
    )


def _shares(report: Measured, method: str) -> str:
    share = report.figures.get((MIXED, SHARE))
    if share is None:
        return ""
    return f", images are {percent(share[method].value)} of the ten best instead of {percent(share['none'].value)}"


def _where(corpus: str) -> str:
    return "in the mixed index" if corpus == MIXED else f"in {CORPORA[corpus]}"
