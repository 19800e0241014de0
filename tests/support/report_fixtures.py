"""A report to look at: one of the shipped embeddings, with all that a report can have."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def demo_report():
    """Of all shipped embeddings, with held-out pairs and a second domain."""
    pytest.importorskip("matplotlib")
    import fastrealign as fr
    from fastrealign.cli.demo import samples

    text, image, pairs_text, pairs_image = map(samples.load, ("text", "image", "pairs_text", "pairs_image"))
    domains = {"held out": (pairs_text, pairs_image)}
    return fr.report(text, image, pairs=(pairs_text, pairs_image), domains=domains)


@pytest.fixture
def undrawn(monkeypatch):
    """Pages and PNGs whose figures are laid out and not rendered, which takes longer than all else that a report does."""
    pytest.importorskip("matplotlib")
    for module in ("gap_report.figures", "retrieval.search_charts"):
        monkeypatch.setattr(f"fastrealign.{module}.inline", lambda figure, name, label: f'<svg id="{name}"></svg>')
    monkeypatch.setattr("fastrealign.gap_report.figures.png", lambda figure: b"\x89PNG")
