"""The page in a real browser, where there is one: nothing fails in it, nothing is fetched, it fits a phone and prints."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from browser import CHROMIUM, Browser

import fastrealign as fr
from fastrealign.methods.baselines import METHODS

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="install chromium")


@pytest.fixture(scope="module")
def saved(tmp_path_factory, demo_report):
    path = tmp_path_factory.mktemp("page") / "report.html"
    demo_report.save(path)
    return path


@pytest.fixture
def few_sides(rng):
    """A report of all methods."""
    y, x = rng.standard_normal((2, 200, 8))
    return fr.report(y + 2 * np.eye(8)[0], x + 2 * np.eye(8)[7], methods=METHODS)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A page of `report --search` in one index and one of images alone, by name."""
    things = np.random.default_rng(0).standard_normal((60, 8))
    text = things + 2 + np.random.default_rng(1).standard_normal(things.shape)
    given = {"images": things - 2, "pairs": True, "methods": ["realign", "centred", "bca"]}
    pages = {name: tmp_path_factory.mktemp("searched") / f"{name}.html" for name in ("mixed", "images")}
    fr.retrieval.evaluate(things + 2, text=text, **given).save(pages["mixed"])
    fr.retrieval.evaluate(things + 2, **given).save(pages["images"])
    return pages


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_opens_without_a_fault_and_fits(browser, saved, width, dark):
    browser.said.clear()
    browser.asked.clear()
    browser.open(saved, width, dark=dark)
    assert browser.said == [] and set(browser.asked) <= {saved.as_uri(), "data:,"}
    assert browser.value("document.compatMode") == "CSS1Compat"
    assert browser.value("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.value("window.innerWidth") == width
    wide = (
        "[...document.querySelectorAll('figure, svg, h1, p')].filter(e => e.getBoundingClientRect().right > innerWidth)"
    )
    assert browser.value(f"{wide}.length") == 0
    drawn = "[...document.querySelectorAll('svg.drawing')].map(e => e.getBBox()).filter(b => b.width > 100 && b.height > 100)"
    assert browser.value(f"{drawn}.length") == browser.value("document.querySelectorAll('svg.drawing').length") == 10


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["mixed", "images"])
def test_a_page_of_search_fits_and_can_be_read(browser, searched, name, width, dark):
    browser.said.clear()
    browser.asked.clear()
    browser.open(searched[name], width, dark=dark)
    assert browser.said == [] and set(browser.asked) <= {searched[name].as_uri(), "data:,"}
    assert browser.value("document.documentElement.scrollWidth <= innerWidth") and browser.value("innerWidth") == width
    beyond = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)"
    assert browser.value(f"{beyond}.map(e => e.outerHTML.slice(0, 80))") == []
    assert browser.value("[...document.querySelectorAll('td, th')].every(e => e.scrollWidth <= e.clientWidth + 1)")
    assert browser.value("document.querySelectorAll('svg.drawing').length") == 8
    smallest = "Math.min(...[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height))"
    assert browser.value(smallest) >= 7
    lefts = "[...document.querySelectorAll('#scores svg')].map(e => Math.round(e.getBoundingClientRect().left))"
    assert len(set(browser.value(lefts))) == (1 if width == 400 else 2)  # four panels: two rows of two
    for selector in (
        ".advice",
        ".verdict li, header .basis",
        "td small",
        ".basis",
        "figcaption",
        "td.better .mark",
        "h1",
    ):
        assert _contrast(*(colours := _colours(browser, selector))) > 4.5, (selector, colours)
    commands = "[...document.querySelectorAll('.take code')]"
    assert browser.value(f"{commands}.every(e => e.scrollWidth <= e.clientWidth)")
    assert (
        browser.value(f"{commands}.map(e => e.innerText)")
        == json.loads(searched[name].with_suffix(".json").read_text())["take"]
    )
    text = browser.value("document.body.innerText")
    assert ("text" in text.split("Measured and drawn")[0].split("Cosines between documents")[1]) == (name == "mixed")


def test_text_is_large_enough_to_read_on_a_phone(browser, saved):
    browser.open(saved, 400)
    smallest = "Math.min(...[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height))"
    assert browser.value(smallest) >= 7


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_and_lines_stand_out_from_the_card(browser, saved, dark):
    browser.open(saved, 1200, dark=dark)
    luminance = (
        "(c => { const [r, g, b] = c.match(/\\d+/g).slice(0, 3)"
        ".map(v => (v /= 255, v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));"
        " return 0.2126 * r + 0.7152 * g + 0.0722 * b })"
    )

    def of(selector, style):
        return browser.value(f"{luminance}(getComputedStyle(document.querySelector(`{selector}`)).{style})")

    def contrast(a, b):
        return (max(a, b) + 0.05) / (min(a, b) + 0.05)

    card = of(".card", "backgroundColor")
    assert contrast(of("figure svg text", "fill"), card) > 7
    assert contrast(of("figcaption .basis", "color"), card) > 4.5
    for name in ("target", "none", "c3", "bca", "realign"):
        assert contrast(of(f'#angles path[style*="stroke: var(--{name})"]', "stroke"), card) > 3


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_marks_and_notes_stand_out(browser, saved, dark):
    browser.open(saved, 400, dark=dark)
    for selector in ("td.best .mark", "td.better .mark", ".key.worse", ".advice"):
        assert _contrast(*(colours := _colours(browser, selector))) > 4.5, (selector, colours)


def _colours(browser, selector):
    """Of an element's text, and of what is behind it."""
    return browser.value(
        f"(e => [getComputedStyle(e).color, (function up(e) {{ const c = getComputedStyle(e).backgroundColor;"
        f" return /, 0\\)$/.test(c) ? up(e.parentElement) : c }})(e)])(document.querySelector(`{selector}`))"
    )


def _contrast(one, other):
    def luminance(colour):
        parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_phone_shows_every_method_without_scrolling_sideways(browser, saved):
    """All figures are within the window, the advice is on the first screen, and what is judged is above the drawings."""
    browser.open(saved, 400)
    assert browser.value(
        "[...document.querySelectorAll('td, thead th')].every(e => e.getBoundingClientRect().right <= 400)"
    )
    assert browser.value("[...document.querySelectorAll('td')].every(e => e.scrollWidth <= e.clientWidth + 1)")
    assert browser.value("document.querySelector('.advice').getBoundingClientRect().top < 400")
    top = "document.querySelector('{}').getBoundingClientRect().top"
    assert browser.value(
        f"{top.format('td')} < {top.format('.described')} && {top.format('.described')} < {top.format('svg')}"
    )


def test_eight_methods_fit(browser, tmp_path, few_sides):
    path = tmp_path / "all.html"
    few_sides.save(path)
    for width in (400, 1200):
        browser.open(path, width)
        assert browser.value("document.documentElement.scrollWidth <= window.innerWidth"), width
        assert browser.value("[...document.querySelectorAll('td')].every(e => e.scrollWidth <= e.clientWidth + 1)"), (
            width
        )


def test_prints(browser, saved):
    browser.open(saved, 1200, dark=True)
    assert browser.pdf().startswith(b"%PDF")
