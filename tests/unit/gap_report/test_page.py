"""The page: one file, whole, nothing loaded from elsewhere, colours of the page in every drawing."""

from __future__ import annotations

import json
import os
import re
import sys
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.formatting import number, percent
from fastrealign.gap_report import figures
from fastrealign.gap_report.figures import png_names
from fastrealign.gap_report.svg import COLOURS, VARIABLES
from fastrealign.gap_report.verdict import findings
from fastrealign.methods.baselines import METHODS

pytest.importorskip("matplotlib")
VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """What a page is made of; fails where an element is not closed."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.named, self.tags, self.addresses, self.text = [], [], [], [], {}
        self._open = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href"):
                self.addresses.append(value)
            self.named += re.findall(r"url\(#([^)]+)\)", value or "")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        tag = self._open[-1] if self._open else ""
        self.text[tag] = self.text.get(tag, "") + data


@pytest.fixture(scope="module")
def html(demo_report):
    return demo_report.to_html()


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_nothing_is_loaded_and_no_name_is_used_twice(page, html):
    assert not {"script", "img", "iframe", "object"} & set(page.tags)
    outside = [address for address in page.addresses if not address.startswith(("#", "data:"))]
    assert outside == [] and "http" not in html and "@import" not in html and "@font-face" not in html
    assert len(page.ids) == len(set(page.ids)) > 100
    inside = [address[1:] for address in page.addresses if address.startswith("#")] + page.named
    assert inside and set(inside) <= set(page.ids)


def test_every_figure_is_there_with_its_title_caption_n_and_seed(page, html):
    figures = re.findall(r"<figure.*?</figure>", html, re.DOTALL)
    names = [re.search(r'id="([^"]+)"', figure)[1] for figure in figures]
    assert names == ["plane", "spectra", "angles", "parts", "sizes", "domains"]
    assert [figure.count("<svg") for figure in figures] == [5, 1, 1, 1, 1, 1]
    for figure in figures:
        assert re.search(r"<h2>[^<]+\d[^<]*</h2>", figure), "a title states a number"
        reading, basis = re.search(r"<figcaption>([^<]+)<span[^>]*>([^<]+)</span>", figure).groups()
        assert reading.endswith(".") and reading.count(". ") == 0
        assert re.search(r"n = [\d,]+|all rows", basis) and "seed 0" in basis
    # Axes have a name and a unit: text stays text in the drawings.
    for words in ("eigenvalue / trace (no unit)", "density (per unit of cosine)", "gap left on all rows (0 to 2)"):
        assert f">{words}</text>" in html


def test_no_text_of_a_figure_is_cut_off(demo_report):
    """Titles, labels of axes and legends lie within their figure. Numbers of ticks beyond an axis are not drawn."""
    from matplotlib.text import Text

    checked = 0
    with figures._style():
        for drawing in figures._drawings(demo_report):
            for panel, figure in drawing.panels:
                figure.draw_without_rendering()
                for text in figure.findobj(lambda one: isinstance(one, Text) and re.search("[a-z]", one.get_text())):
                    extent = text.get_window_extent()
                    inside = (extent.min >= -1).all() and (extent.max <= figure.bbox.max + 1).all()
                    assert inside, (drawing.name, panel, text.get_text())
                    checked += 1
    assert checked > 30


def test_colours_are_the_pages_own_in_light_and_dark(html):
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert re.findall(r"#[0-9a-f]{6}\b", drawings) == []
    assert "currentColor" in drawings and "var(--realign)" in drawings
    style = files("fastrealign.gap_report").joinpath("page.css").read_text()
    light, dark = style.split("prefers-color-scheme: dark", 1)
    dark = dark[: dark.index("\n}")]
    for colour, variable in VARIABLES.items():
        if variable != "currentColor":
            name = variable[4:-1]
            assert f"{name}: {colour}" in light and f"{name}: #" in dark
    assert set(COLOURS) == set(METHODS)


def test_the_table_marks_the_best(page, html):
    table = re.search(r"<table>.*?</table>", html, re.DOTALL)[0]
    heads = re.findall(r'<th scope="col">(.*?)</th>', table)
    assert [re.sub("<[^>]+>", "", head) for head in heads[1:]] == [
        "none",
        "ReAlign",
        "ReAlign exact",
        "blockwise",
        "C3",
    ]
    gap = re.search(r'<tr><th scope="row">Gap<.*?</tr>', table)[0]
    assert "lower is better" in gap and re.findall('<td(?: class="(.*?)")?>', gap) == [
        "",
        "best",
        "best",
        "best",
        "better",
    ]
    recall = re.search(r'<tr><th scope="row">R@1<.*?</tr>', table)[0]
    assert "class=" not in recall.replace('class="mark"', ""), "no method is marked for being best among equals"
    described = table[table.index('<tbody class="described">') :]
    assert 'class="best"' not in described and "described, not judged" in described


def test_the_verdict_is_at_the_top(demo_report, html, page):
    said = re.sub("<[^>]+>", " ", html[: html.index("<table>")]).replace("\u00a0", " ")
    for text in (*findings(demo_report), demo_report.advice):
        assert text.replace("'", "&#x27;") in said
    assert "0.486" in page.text["h1"] and str(demo_report).startswith(demo_report.verdict)


def test_saved_files(tmp_path, demo_report, html, monkeypatch):
    monkeypatch.setattr(figures, "png", lambda figure: b"\x89PNG")  # `test_pngs` draws some
    files = demo_report.save(tmp_path / "new" / "report.html", png=tmp_path / "figures")
    assert files[:2] == [tmp_path / "new" / "report.html", tmp_path / "new" / "report.json"]
    assert files[0].read_text("utf-8") == html, "the same figures give the same bytes"
    assert json.loads(files[1].read_text()) == demo_report.to_json()
    assert len(files) == 2 + 10 and {path.suffix for path in files[2:]} == {".png"}
    # Of the names that a report may give, the demo's has no drawing of the drift: it is out of the expansion's range.
    assert {path.name for path in files[2:]} | {"drift.png"} == set(
        png_names(demo_report.methods, pairs=True, domains=True)
    )
    assert sorted(tmp_path.rglob("*.*")) == sorted(files), "nothing else is left"


def test_pngs(tmp_path, few, monkeypatch):
    """On paper, whatever the page's colours are, in the resolution of slides."""
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setattr(figures, "inline", lambda *_: "")  # the page of them is not read
    report = fr.report(*few(60, 8), pairs=True, methods=("none",))
    drawn = report.save(tmp_path / "report.html", png=tmp_path)[2:]
    assert {"plane.png", "spectra.png", "parts.png", "sizes.png"} <= {path.name for path in drawn}
    for path in drawn:
        picture = image.open(path)
        assert picture.format == "PNG" and picture.width > 600
        assert picture.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)


def test_numbers_as_people_write_them():
    values = (0, 0.46, 0.00911, 0.00040123, 1.5, 123.4)
    assert [number(value) for value in values] == ["0", "0.460", "0.0091", "4.0e-4", "1.50", "123"]
    assert [percent(value) for value in (0.2071, 0.0032, 0, 1)] == ["20.7 %", "0.32 %", "0.0 %", "100.0 %"]


@pytest.mark.filterwarnings("error")
def test_names_in_figures_are_text_and_leave_room(few):
    y, x = few(30, 6)
    names = (r"$\foo$", "#d9661f", 'id="a', "font: 9px b;", "<b>&", "first of " + 300 * "W" + " last")
    report = fr.report(y, x, methods=("none",), domains=dict.fromkeys(names, (y, x)))
    assert report.domains.names == ("these rows", *names)
    html = report.to_html()
    for shown in (*names[:3], "font: 9px b;", "first of…WWW last"):
        assert f">{shown}</text>" in html
    assert 20 * "W" not in html and "DejaVu" not in html
    assert "<b>" not in html and "&lt;b&gt;&amp;" in html
    Page(html)


def test_names_of_files_that_are_not_utf8(tmp_path, few):
    y, x = few(30, 6)
    name = os.fsdecode(b"bad\xff.npy")
    try:
        np.save(tmp_path / name, y)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    y[:] = y[:3].repeat(10, axis=0)
    np.save(tmp_path / name, y)
    report = fr.report(tmp_path / name, x, methods=("none", "realign"), domains={name: (tmp_path / name, x)})
    page, figures = (path.read_text("utf-8") for path in report.save(tmp_path / "report.html"))
    assert r"bad\xff.npy" in page and "udcff" not in figures
    value = json.loads(figures)
    assert value["source"]["name"].endswith(r"bad\xff.npy") and value["domains"]["names"][1] == r"bad\xff.npy"
    assert any(r"bad\xff.npy" in note for note in value["notes"])


def test_all_methods_on_one_page(few):
    y, x = few(60, 12)
    html = fr.report(y, x, methods=tuple(METHODS)).to_html()
    assert "mathdefault" not in html  # numbers on logarithmic axes are drawn, not spelled
    page = Page(html)
    assert len(page.ids) == len(set(page.ids)) and html.count("<svg") == 8 + 4
    assert 'id="parts"' not in html and 'id="domains"' not in html


def test_one_method_alone(few):
    y, x = few(60, 6)
    reports = [fr.report(y, x, methods=(method,)) for method in ("none", "realign")]
    assert [report.verdict.count(". ") for report in reports] == [1, 1]
    Page(reports[1].to_html())  # another test draws the page of none alone


def test_in_a_notebook(demo_report, html, monkeypatch):
    to_html = type(demo_report).to_html
    monkeypatch.setattr(type(demo_report), "to_html", lambda _: html)  # which it has drawn already
    shown = demo_report._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    inner = dict(_attributes(shown))["srcdoc"]
    assert inner == html
    monkeypatch.setattr(type(demo_report), "to_html", to_html)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    shown = demo_report._repr_html_()
    assert shown.startswith("<pre>The gap between") and "pip install &#x27;fastrealign[report]&#x27;" in shown


def _attributes(text):
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.extend(attributes)
    parser.feed(text)
    return found


def test_without_matplotlib_or_a_place_to_write(tmp_path, demo_report, monkeypatch):
    with pytest.raises(InputError, match="is a folder"):
        demo_report.save(tmp_path)
    with pytest.raises(InputError, match=r"report\.json: a report is a page"):
        demo_report.save(tmp_path / "report.json")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file: is a file, expected a folder"):
        demo_report.save(tmp_path / "a.html", png=tmp_path / "file")
    with pytest.raises(FastRealignError, match=r"file/a\.html: could not be written"):
        demo_report.save(tmp_path / "file" / "a.html")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'fastrealign\[report\]'"):
        demo_report.save(tmp_path / "a.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
