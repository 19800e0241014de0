"""Search over one index that holds several modalities: scores, evaluation, and where vectors live."""

from __future__ import annotations

__all__: list[str] = []
