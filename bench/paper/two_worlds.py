"""Both worlds of the open questions: the shipped embeddings of rendered scenes, and those of real pictures."""

from __future__ import annotations

from bench.paper.common import Setting, Sides, shipped


def worlds(setting: Setting) -> dict[str, Sides]:
    """Sides to fit on and held-out pairs, by the name of the world."""
    return {"rendered": shipped(250 if setting.quick else None)}
