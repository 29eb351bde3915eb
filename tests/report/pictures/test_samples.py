"""From `runs.samples.save_sample` to the page: outlines, maps of many grids, pairs of points, label maps."""

import html
import math
import re

import numpy as np
import pytest

from headwise.report.figures.ticks import ticks
from headwise.report.page.markup import visible
from headwise.report.page.page import Page, Section
from headwise.report.pictures.instances import painted
from headwise.report.pictures.pictures import SampleFigure
from headwise.report.pictures.sample_plot import plot_sample
from headwise.report.pictures.strips import MOST_ROWS, bounds, drawn_rows
from headwise.runs.samples import Instances, PointPairs, SampleMap, Shapes, box_shapes, read_sample, save_sample
from tests.report.parsed import ParsedPage

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
BOXES = np.array([[5.0, 10, 25, 30], [30, 5, 50, 20]])


def page_of(tmp_path, **given):
    sample = read_sample(save_sample(tmp_path, 0, IMAGE, **given))
    return ParsedPage(Page("title").add(Section("section", [SampleFigure(sample)])).write(tmp_path / "page.html"))


@pytest.mark.parametrize(
    "name", ["", "shots/straße 1", "$x_$ a_b", "<script>1</script>", "bad\udcff", "a/../../b" * 60]
)
def test_a_picture_has_the_name_of_its_file(tmp_path, name):
    """As text, on the page and in the PNG for papers; files keep their numbers."""
    sample = read_sample(save_sample(tmp_path, 0, IMAGE, name=name))
    assert sample.name == "000"
    assert sample.title == (name or "000")
    text = Page("title").add(Section("section", [SampleFigure(sample)])).write(tmp_path / "page.html").read_text()
    assert "<script>1" not in text
    assert f"Picture {html.escape(visible(sample.title))[:40]}" in text
    assert plot_sample(sample, tmp_path / "sample.png").stat().st_size > 0


def tips(page):
    return [attributes["data-tip"] for _, attributes in page.tags if "data-tip" in attributes]


def test_a_sample_is_read_as_it_was_saved(tmp_path):
    sample = read_sample(
        save_sample(
            tmp_path, 3, IMAGE,
            annotated=box_shapes(BOXES, np.array([1, 0]), ["cat", "dog"], ignored=np.array([False, True])),
            found=box_shapes(BOXES[:1] + 1, np.array([1]), ["cat", "dog"], scores=np.array([0.75])),
            maps=[SampleMap("heat", np.eye(3), np.ones((3, 3)), (0, 1)),
                  SampleMap("size", np.ones((2, 5)), None, (0, 9), "viridis")],
            pairs=[PointPairs("e", [1.0, 2.0], [1.5, np.nan], ["a", "b"], ("left", "right"))],
            instances=Instances(np.eye(4, dtype=int), np.zeros((4, 4), int)),
            outline=np.eye(3) > 0,
            name="street 3.jpg",
            note="A note.",
        )
    )  # fmt: skip
    assert (sample.name, sample.title, sample.note) == ("003", "street 3.jpg", "A note.")
    assert np.array_equal(sample.image, IMAGE)
    assert [(s.label, s.ignored, math.isnan(s.score)) for s in sample.annotated] == [
        ("dog", False, True),
        ("cat", True, True),
    ]
    (found,) = sample.found
    assert found.score == 0.75
    assert found.points.tolist() == [[6, 11], [26, 11], [26, 31], [6, 31]]
    assert [(m.title, m.span, m.colors) for m in sample.maps] == [
        ("heat", (0, 1), "magma"),
        ("size", (0, 9), "viridis"),
    ]
    assert np.array_equal(sample.maps[0].values, np.eye(3))
    assert sample.maps[1].target is None
    assert sample.pairs[0].names == ("left", "right")
    assert sample.pairs[0].labels == ["a", "b"]
    assert sample.instances is not None
    assert np.array_equal(sample.instances.annotated, np.eye(4))
    assert sample.outline is not None
    assert sample.outline.sum() == 3


def test_outlines_are_named_with_their_classes_and_scores(tmp_path):
    page = page_of(
        tmp_path,
        annotated=box_shapes(BOXES, np.array([0, 1]), ["cat", "<dog>"], ignored=np.array([False, True])),
        found=box_shapes(BOXES, np.array([0, 1]), ["cat", "<dog>"], scores=np.array([0.987654, 0.5])),
    )
    assert {
        "annotated: cat",
        "annotated: <dog>, ignored",
        "found: cat, score 0.988",
        "found: <dog>, score 0.5",
    } == set(tips(page))
    assert page.texts["text"] == ["cat", "<dog>", "cat 0.99", "<dog> 0.50"]
    assert page.texts["figcaption"] == ["2 found (solid), 2 annotated (dashed), 1 of them ignored (dotted)."]
    switches = [a.get("data-layer") for tag, a in page.tags if tag == "input"]
    assert switches == ["annotated", "found", "labels"]


def test_nothing_found_is_a_picture_too(tmp_path):
    page = page_of(tmp_path, annotated=Shapes([np.array([[0, 0], [9, 0], [9, 9]])]), found=Shapes())
    assert page.texts["figcaption"] == ["0 found (solid), 1 annotated (dashed)."]
    assert "text" not in page.texts


def test_what_is_not_finite_is_told_and_not_drawn(tmp_path):
    boxes = np.array([[np.nan, 0, 5, 5], [1, 1, 5, 5]])
    page = page_of(tmp_path, found=box_shapes(boxes, np.zeros(2, int), ["cat"], scores=np.ones(2)))
    assert tips(page) == ["found: cat, score 1"]
    assert "1 with coordinates that are not finite are not drawn." in page.text
    assert (
        "nan"
        not in page.source.lower().split("<main", 1)[1].split("</main>")[0].replace("data:image", "").split("base64")[0]
    )


@pytest.mark.parametrize(("num_maps", "columns"), [(1, 3), (3, 3), (5, 5), (6, 3), (8, 4), (12, 5)])
def test_maps_stand_in_rows_that_fit_their_number(tmp_path, num_maps, columns):
    maps = [SampleMap(f"map {k}", np.full((4, 4 + k), k / 20), None, (0, 1)) for k in range(num_maps)]
    page = page_of(tmp_path, maps=maps)
    (grid,) = [a["class"] for _, a in page.tags if (a.get("class") or "").startswith("maps")]
    assert grid == f"maps columns{columns}"
    assert tips(page) == [f"map {k}: {4 + k} x 4" for k in range(num_maps)]
    assert "target below" not in page.text


def test_pictures_far_higher_than_wide_have_a_bounded_height(tmp_path):
    """One of 600 x 20 was 19,200 pixels high on the page."""

    def frames(height, width):
        values = np.zeros((height, width), np.float32)
        labels = np.zeros((height, width), np.int32)
        image = np.zeros((height, width, 3), np.uint8)
        sample = read_sample(
            save_sample(tmp_path, 0, image, maps=[SampleMap("m", values)], instances=Instances(labels, labels))
        )
        page = ParsedPage(Page("p").add(Section("s", [SampleFigure(sample)])).write(tmp_path / "page.html"))
        classes = [(attributes.get("class") or "").split() for tag, attributes in page.tags if tag == "div"]
        return [each[-1] for each in classes if each and each[0] in ("photograph", "tile")]

    assert frames(600, 20) == ["tall"] * 4
    assert "tall" not in frames(40, 60) + frames(60, 60)


def test_coarse_maps_keep_their_cells(tmp_path):
    page = page_of(tmp_path, maps=[SampleMap("a", np.eye(16)), SampleMap("b", np.eye(64))])
    assert [a["class"] for _, a in page.tags if (a.get("class") or "").startswith("tile")] == ["tile coarse", "tile"]


def test_pairs_are_joined_on_one_scale(tmp_path):
    pairs = PointPairs("embeddings", [0.0, 10.0, np.inf], [1.0, 8.0, 0.0], ["cat", "", "lost"])
    page = page_of(tmp_path, pairs=[pairs])
    assert tips(page) == ["cat: top-left 0, bottom-right 1", "object 2: top-left 10, bottom-right 8"]
    joins = [a for tag, a in page.tags if tag == "line" and (a["class"] or "").startswith("join")]
    lengths = [float(a["x2"]) - float(a["x1"]) for a in joins]
    assert lengths[1] == pytest.approx(-2 * lengths[0], abs=0.2)
    assert len({a["class"] for a in joins}) == 2, "a color per object"
    assert "1 of 3 objects are not shown." in page.text


def test_pairs_without_a_number_are_told(tmp_path):
    assert "No pair of finite numbers." in page_of(tmp_path, pairs=[PointPairs("e", [np.nan], [1.0])]).text


def test_many_pairs_are_spread_over_all():
    pairs = PointPairs("e", list(range(100)), list(range(100)))
    rows = drawn_rows(pairs)
    assert len(rows) == MOST_ROWS
    assert (rows[0][0], rows[-1][0]) == (0, 99)


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0])
def test_equal_points_have_room(value):
    low, high = bounds([(value, value, "")])
    assert low < value < high


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-2.1, 4.2, [-2, 0, 2, 4]),
        (1e-9, 1.1e-9, [1e-9, 1.02e-9, 1.04e-9, 1.06e-9, 1.08e-9, 1.1e-9]),
        (1, 1, []),
    ],
)
def test_ticks_are_round(low, high, found):
    assert ticks(low, high, 5) == pytest.approx(found, rel=1e-9)


def test_label_maps_are_painted_over_the_whole_picture():
    labels = np.array([[0, 7], [3, 3]])
    pixels = painted(np.full((8, 8, 3), 100, np.uint8), labels).astype(int)
    assert pixels.shape == (8, 8, 3)
    assert pixels[1, 1].tolist() == [80, 80, 80], "the background is the photograph, darkened"
    assert np.ptp(pixels[1, 6]) > 50, "an object has a color"
    assert pixels[6, 1].tolist() == pixels[6, 6].tolist() != pixels[1, 6].tolist(), "one number, one color"
    assert (pixels[3] == 250).all(), "a border where the number changes"


def test_label_maps_tell_how_many_objects(tmp_path):
    page = page_of(tmp_path, instances=Instances(np.array([[0, 4], [9, 9]]), np.array([[1, 0], [0, 0]])))
    assert {"1 object found", "2 objects annotated"} <= set(page.texts["p"])
    assert re.search("Each color is one object", page.text)
