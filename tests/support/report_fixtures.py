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
