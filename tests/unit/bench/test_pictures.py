"""The README's pictures: drawn again from what is committed, and the README's numbers are those of the results."""

from __future__ import annotations

import json
import re
import statistics

import benchmarks
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pictures, picture_of_use, drawing, scale = map(benchmarks.module, ("pictures", "picture_of_use", "drawing", "scale"))
README = drawing.ROOT / "README.md"


def texts(figure):
    """Every text that a figure shows."""
    from matplotlib.text import Text

    return [found.get_text() for found in figure.findobj(Text) if found.get_visible() and found.get_text()]


def committed(name):
    return json.loads((drawing.ROOT / f"bench/results/{name}.json").read_text())


def percents(*values):
    return [100 * statistics.mean(of) for of in values]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(folder, figures by name): everything that the command writes, each laid out once, and one of them as a file."""
    import matplotlib

    if matplotlib.__version__.startswith("3.7."):
        pytest.skip("matplotlib 3.7 lays text out otherwise than the releases that draw the pictures")
    folder, figures = tmp_path_factory.mktemp("drawn"), {}
    (folder / "README.md").write_text(README.read_text())

    def save(draw, path):
        with matplotlib.rc_context(drawing.LOOK):
            figures[path.relative_to(folder / "docs").with_suffix("").as_posix()] = figure = draw()
            figure.draw_without_rendering()
        if path == folder / "docs/speed.png":
            drawing.save(draw, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "save", save)
        assert pictures.main(["--into", str(folder)]) == 0
    return folder, figures


def test_one_command_writes_all_pictures_and_the_text(written):
    folder, figures = written
    for page in (
        "README.md",
        *(f"docs/{path.name}" for path in (drawing.ROOT / "docs").glob("*.md")),
        "docs/paper/figure1.md",
    ):
        shown = re.findall(r"\]\(([\w/]+)\.png\)", (drawing.ROOT / page).read_text())
        for name in shown:
            inside = ((drawing.ROOT / page).parent / name).relative_to(drawing.ROOT / "docs").as_posix()
            assert inside in figures or inside == "train_demo", f"{page}: add {inside} to bench.pictures"
    assert (folder / "README.md").read_text() == README.read_text(), "run python -m bench.pictures"
    drawing.save(pictures.draw_speed, folder / "again.png")
    assert (folder / "again.png").read_bytes() == (folder / "docs/speed.png").read_bytes()
    pillow = pytest.importorskip("PIL.Image")
    image = pillow.open(folder / "docs/speed.png")
    assert np.asarray(image.convert("RGBA"))[..., 3].min() == 255  # opaque: it reads on dark pages
    for name, figure in figures.items():
        size, drawn = figure.get_size_inches() * drawing.DPI, pillow.open(drawing.ROOT / f"docs/{name}.png").size
        assert round(size[0]) == round(drawing.WIDTH * drawing.DPI)
        assert np.abs(size - drawn).max() < 1, "run python -m bench.pictures"
    assert image.size == pillow.open(drawing.ROOT / "docs/speed.png").size


def faults(figure):
    """What cannot be read in a figure: small text, text that leaves it, and text over text."""
    from matplotlib.text import Text

    renderer, found, boxes, hidden = figure.canvas.get_renderer(), [], [], not_drawn(figure)
    for text in figure.findobj(Text):
        if not text.get_text().strip() or not text.get_visible() or id(text) in hidden:
            continue
        if text.get_fontsize() < drawing.SMALLEST:
            found.append(f"{text.get_text()!r} has {text.get_fontsize()} points")
        box = text.get_window_extent(renderer)
        if box.x0 < -1 or box.x1 > figure.bbox.x1 + 1 or box.y0 < -1 or box.y1 > figure.bbox.y1 + 1:
            found.append(f"{text.get_text()!r} leaves the picture")
        boxes.append((text.get_text(), box.expanded(0.96, 0.8)))
    for i, (one, box) in enumerate(boxes):
        found += [f"{one!r} covers {other!r}" for other, second in boxes[:i] if box.overlaps(second)]
    return found


def test_text_can_be_read_and_does_not_overlap(written):
    """At 400 pixels a picture, 9 points are 8 pixels. Titles, labels, ticks and legends do not cover each other."""
    found = [f"{name}: {fault}" for name, figure in written[1].items() for fault in faults(figure)]
    assert not found, "\n".join(found)


def test_faults_of_a_picture_are_found():
    def draw():
        figure = drawing.canvas(2.0)
        axes = figure.subplots()
        for at, text, size in ((0.5, "one", 10), (0.5, "two", 10), (0.1, "small", 6)):
            axes.text(at, 0.1 if size == 6 else 0.5, text, fontsize=size)
        figure.text(0.9, 0.9, "a long one at the edge")
        axes.set_xticks([0, 0.5, 0.51, 1], ["0", "near", "nearer", "1"])
        return figure

    found = faults(drawing.drawn(draw))
    assert sorted(fault.split(" ")[-1] for fault in found) == ["'near'", "'one'", "picture", "points"]


def not_drawn(figure):
    """Ids of texts that a figure holds and does not draw: ticks outside the limits of their axis, axes that are off."""
    found = set()
    for axes in figure.axes:
        off = not (axes.get_visible() and axes.axison)
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            slack = 1e-6 * (high - low)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if off or not low - slack <= tick.get_loc() <= high + slack:
                    found |= {id(tick.label1), id(tick.label2)}
            if off:
                found |= {id(axis.label), id(axis.offsetText)}
        if not axes.get_visible():
            found.add(id(axes.title))
    return found


def test_speeds_are_those_of_the_newest_results_of_the_class():
    of = pictures.newest()
    dates = {
        one["machine"]["date"]: one
        for path in (drawing.ROOT / "bench/results").glob("cpu-*.json")
        if (one := json.loads(path.read_text()))["machine"]["isa"] == "avx512"
    }
    assert of == dates[max(dates)]
    shown = texts(drawing.drawn(pictures.draw_speed))
    head = next(text for text in shown if "threads" in text)
    assert of["machine"]["cpu"] in head and of["machine"]["date"][:10] in head
    for case in of["cases"]:
        if (case["op"], case["variant"]) not in pictures.OPERATIONS or (case["d"], case["dtype"]) != (768, "fp32"):
            continue
        for peer in ("NumPy", "torch eager", "torch.compile", "FAISS", "scikit-learn"):
            ratio = case["peers"][peer]["ours_is"]["median"]
            assert f"{ratio:.1f}x" in shown or f"{ratio:.0f}x" in shown
    readme = README.read_text()
    alt = re.search(r"!\[(.*?)\]\(docs/speed.png\)", readme)[1]
    ratios = [case["peers"]["NumPy"]["ours_is"]["median"] for case in map(pictures._cases(of).get, pictures.OPERATIONS)]
    said = re.search(r"NumPy ([^;]*);", alt)[1].split(", ")
    assert [float(number) for number in said] == pytest.approx(ratios, rel=0.02)


def test_the_table_of_machines_has_every_committed_one():
    for path in (drawing.ROOT / "bench/results").glob("cpu-*.json"):
        of = json.loads(path.read_text())
        family = re.search(r"\(family.*?\)", of["machine"]["cpu"])[0]
        found = {
            (case["op"], case["variant"], case["dtype"]): case["peers"] for case in of["cases"] if case["d"] == 768
        }
        plain = found["apply", "plain", "fp32"]
        compared = [plain[peer] for peer in ("NumPy", "torch eager", "torch.compile", "fast-math loop")]
        compared += [found["reduce", "moments", dtype]["fast-math loop"] for dtype in ("fp32", "bf16")]
        row = next(line for line in README.read_text().splitlines() if line.startswith("| ") and family in line)
        assert [float(cell) for cell in row.strip("| ").split(" | ")[1:]] == pytest.approx(
            [one["ours_is"]["median"] for one in compared], rel=0.05
        )


def test_the_newest_results_are_chosen_by_date_among_complete_ones_of_a_quiet_machine(tmp_path):
    whole = pictures.newest()

    def keep(name, cases, **machine):
        (tmp_path / f"cpu-{name}.json").write_text(
            json.dumps({**whole, "cases": cases, "machine": whole["machine"] | machine})
        )

    with pytest.raises(FileNotFoundError, match="no complete results of a quiet machine with avx512"):
        pictures.newest(tmp_path)
    keep("b", whole["cases"], date="2026-01-01T00:00:00+00:00", cpu="older")
    keep("a", whole["cases"], date="2026-01-02T00:00:00+00:00", cpu="newer")
    keep("c", whole["cases"], date="2026-01-03T00:00:00+00:00", cpu="busy", others_cores=0.6)
    keep("d", whole["cases"], date="2026-01-04T00:00:00+00:00", cpu="other", isa="avx2")
    keep("e", whole["cases"][:1], date="2026-01-05T00:00:00+00:00", cpu="part")
    assert pictures.newest(tmp_path)["machine"]["cpu"] == "newer"
    assert pictures.newest(tmp_path, "avx2")["machine"]["cpu"] == "other"


def test_uses_are_those_of_the_results():
    noise, of_uses, revision, real, roles = (
        committed(f"paper/{name}") for name in ("noise", "uses", "revision", "real_revision", "roles")
    )
    splits = next(one for one in roles["searches"] if one["query"] == "title")["methods"]
    seeds = of_uses["heads"]["C"]["seeds"]
    answers, named = revision["runs"]["text"], real["arms"]["C"]
    expected = [
        percents(*([split[1] for split in splits[name]["splits"]] for name in ("none", "realign", "auto"))),
        percents(*([seed["methods"][name]["R@1"] for seed in seeds] for name in ("none", "realign"))),
        *(
            percents(*(noise["worlds"][world]["curves"][name]["0"] for name in ("none", "realign")))
            for world in ("real, MLP, scale 60", "rendered")
        ),
        percents(*([run["scores"]["vqa"] for run in answers[name].values()] for name in ("none", "ReAlign"))),
        percents(*([score["caption/category/f1"] for score in named[name]] for name in ("raw text", "ReAlign"))),
    ]
    alt = re.search(r"!\[(.*?)\]\(docs/use.png\)", README.read_text())[1]
    said = [[float(x) for x in re.findall(r"[\d.]+", part)] for part in re.findall(r"[\d.]+(?: → [\d.]+)+ %", alt)]
    assert len(said) == len(expected)
    for one, other in zip(said, expected, strict=True):
        assert one == pytest.approx(other, abs=0.5)
    shown = texts(drawing.drawn(picture_of_use.draw))
    assert all(f"{use.said()} %" in shown and use.name in shown for use in picture_of_use.uses())


def test_the_gap_shown_is_that_of_the_pairs():
    shown = " ".join(texts(drawing.drawn(pictures.draw_gap)))
    alt = re.search(r"!\[(.*?)\]\(docs/gap.png\)", README.read_text())[1]
    gaps = re.findall(r"0\.\d{3}", alt)
    assert len(gaps) == 2 and all(f"gap {gap}" in shown for gap in gaps)
    test, aligned, _ = pictures._held_out()
    for rows, said in zip((test.title, aligned), gaps, strict=True):
        unit = [
            of.astype(np.float64) / np.linalg.norm(of.astype(np.float64), axis=1)[:, None] for of in (rows, test.image)
        ]
        assert np.linalg.norm(unit[0].mean(0) - unit[1].mean(0)) == pytest.approx(float(said), abs=6e-4)


def test_the_page_says_of_scale_what_the_results_do():
    found = committed("scale")
    page = " ".join((drawing.ROOT / "docs/performance.md").read_text().split())
    assert found["machine"]["others_cores"] <= scale.BUSY
    assert found["machine"]["cpu"].split(" (")[0] in page
    for series in found["series"]:
        peak = max(point["peak_bytes"] for point in series["points"][1:]) / 1e6
        assert re.search(rf"\b{peak:.0f} MB", page)
        assert f"{100 * (series['wall']['largest_over_smallest'] - 1):.0f} %" in page
        assert scale.power(series["points"][-1]["rows"]) in page
