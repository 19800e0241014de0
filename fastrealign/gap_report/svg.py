"""A drawing inside a page: in the page's colours, light or dark, with ids that are unique on the page.

Drawings are made in the colours below. In an SVG each becomes a CSS variable of the page (page.css), and ink the colour of its
text; a PNG keeps them, on a white background.
"""

from __future__ import annotations

import io
import re
from html import escape
from typing import TYPE_CHECKING

from fastrealign.gap_report.method_style import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, PAPER = "#24292f", "#d5d9de", "#ffffff"
TARGET = "#2f6db5"
PARTS = {"bias-u": "#c44e12", "bias-v": "#f0a878", "residual-u": "#31639c", "residual-v": "#9dbfe3"}
VARIABLES = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    PAPER: "var(--paper)",
    TARGET: "var(--target)",
    **{colour: f"var(--{name})" for name, colour in (COLOURS | PARTS).items()},
}

# Text stays text: it is searchable, takes the page's font, and needs no glyphs in the file. The salt of ids is fixed, so that
# the same figures give the same bytes.
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fastrealign",
    "font.size": 10.0,
    "font.family": "sans-serif",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
}


def inline(figure: Figure, name: str, label: str) -> str:
    """The drawing as an <svg> element. name: unique on the page; label: its content, for screen readers."""
    stream = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=metadata)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", lambda found: _of_page(found[0], name), text)
    head, body = text.split(">", 1)
    box = re.findall(r'viewBox="[^"]+"', head)[0]
    width = float(box.split()[2])
    # HTML needs no namespaces, and a size in points would not shrink with the screen.
    return (
        f'<svg class="drawing" style="max-width:{1.25 * width:.0f}px" {box} role="img" aria-label="{escape(label)}">'
        + re.sub(r"\n\s*", "\n", body).strip()
    )


def _of_page(tag: str, name: str) -> str:
    """A tag with ids of this drawing, and with the font and the colours of the page. Text between tags is not touched."""
    tag = re.sub(r'\b(id="|xlink:href="#|url\(#)', lambda found: f"{found[0]}{name}-", tag)
    tag = re.sub(r"font-family: [^;\"]+", "font-family: var(--font)", tag)
    tag = re.sub(r"font: ([\d. a-z]*?[\d.]+px) [^;\"]+", r"font: \1 var(--font)", tag)
    return re.sub(r"#[0-9a-f]{6}", lambda found: VARIABLES.get(found[0], found[0]), tag)


def png(figure: Figure) -> bytes:
    """The drawing as a PNG on a white background, for slides and papers."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=200, facecolor=PAPER, metadata={"Software": None})
    return stream.getvalue()
