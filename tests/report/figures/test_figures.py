"""Heat maps, flows and pages made from plain tables."""

import math
import re

import pytest

from headwise.report import Curves, Flow, HeatMap, Link, Page, Section, Table
from headwise.report.page.page import SHADES
from tests.report.parsed import ParsedPage


def parsed(tmp_path, *blocks):
    return ParsedPage(Page("title").add(Section("section", blocks)).write(tmp_path / "page.html"))


def shades(page):
    classes = [attributes.get("class") or "" for tag, attributes in page.tags if tag == "td"]
    return [int(m.group(1)) / SHADES for names in classes if (m := re.search(r"\bv(\d+)$", names))]


def test_heat_map_shades_by_the_logarithm(tmp_path):
    heat = HeatMap("norms", ["a"], ["x", "y", "z", "w"], [[1e-4, 1e-2, 1.0, 0.0]], unit="gradient norm", log=True)
    assert shades(parsed(tmp_path, heat)) == pytest.approx([0.08, 0.54, 1.0])


def test_heat_map_of_conflict_is_signed_without_color(tmp_path):
    heat = HeatMap("conflict", ["a", "b"], ["a", "b"], [[1, -0.8], [-0.8, 1]], diverging=True)
    page = parsed(tmp_path, heat)
    cells = [attributes for tag, attributes in page.tags if tag == "td" and "data-tip" in attributes]
    assert [c["class"].split()[0] for c in cells] == ["self", "against", "against", "self"]
    assert page.texts["td"].count("-0.80") == 2


def test_heat_map_says_what_a_missing_value_means(tmp_path):
    heat = HeatMap("t", ["a"], ["x", "y"], [[None, math.nan]], absent="share no output")
    tips = [attributes["data-tip"] for _, attributes in parsed(tmp_path, heat).tags if "data-tip" in attributes]
    assert tips == ["a · x: share no output", "a · y: NaN"]


def test_wide_heat_maps_run_down_the_page(tmp_path):
    layers = [f"backbone.layer{i}.conv.weight" for i in range(60)]
    heat = HeatMap("t", ["sin", "cos"], layers, [list(range(60)), list(range(60, 120))])
    page = parsed(tmp_path, heat)
    heads = [attributes for tag, attributes in page.tags if tag == "th" and attributes.get("scope") == "col"]
    assert len(heads) == 2 + 3  # the two terms, and the columns of the table of numbers
    assert any(attributes.get("data-tip") == "backbone.layer7.conv.weight · cos: 67" for _, attributes in page.tags)


def test_heat_map_of_another_shape_is_an_error():
    with pytest.raises(ValueError, match=r"2 rows of 1, got \[1\]"):
        HeatMap("t", ["a", "b"], ["x"], [[1.0]]).html("k")


FLOW = Flow(
    "flow",
    {"losses": ["sin", "cos"], "heads": ["geometry"], "trunk": ["stem"]},
    [Link("sin", "geometry", 3.0), Link("cos", "geometry", 1.0), Link("geometry", "stem", 2.0, term="sin")],
    unit="gradient norm",
)


def test_flow_is_as_wide_as_its_amounts():
    places = FLOW.layout()
    assert places["sin"][2] == pytest.approx(3 * places["cos"][2])
    assert places["geometry"][2] == pytest.approx(places["sin"][2] + places["cos"][2])
    assert places["sin"][0] == places["cos"][0] < places["geometry"][0] < places["stem"][0]
    assert places["cos"][1] > places["sin"][1] + places["sin"][2]


def test_a_flow_of_four_stages_stands_on_a_narrow_screen_in_parts():
    stages = {"losses": ["a", "b"], "heads": ["label", "box"], "layers": ["neck.lateral"], "trunk": ["backbone"]}
    ends = [("a", "label"), ("b", "box"), ("label", "neck.lateral"), ("box", "backbone"), ("neck.lateral", "backbone")]
    flow = Flow("f", stages, [Link(source, target, 1.0) for source, target in ends])
    slim = [part for part in flow.html("f").split("<svg") if 'class="flow slim"' in part]
    assert sum(part.count("ribbon") for part in slim) == len(ends)
    assert all(float(width) <= 344 for part in slim for width in re.findall(r'viewBox="\S+ \S+ (\S+)', part))


def test_flow_draws_every_link_and_lists_it(tmp_path):
    page = parsed(tmp_path, FLOW)
    ribbons = [a for tag, a in page.tags if tag == "path" and (a.get("class") or "").startswith("ribbon")]
    assert len(ribbons) == 2 * 3  # once for broad pages, once for slim ones
    assert {a["data-tip"] for a in ribbons} >= {"sin: geometry → stem: 2 gradient norm"}
    styles = {a["data-tip"].split(":")[0]: a["class"] for a in ribbons}
    assert styles["sin"] == styles["sin → geometry"] != styles["cos → geometry"]  # a loss keeps its color
    assert [a["data-value"] for tag, a in page.tags if tag == "td" and "data-value" in a] == ["3.0", "1.0", "2.0"]


def test_no_amount_stands_where_a_narrow_screen_would_cut_it():
    def slim(name):
        flow = Flow("flow", {"losses": [name], "outputs": ["out[:, 12]"]}, [Link(name, "out[:, 12]", 0.125)])
        drawn = next(part for part in flow.html("f").split("<svg") if 'class="flow slim"' in part)
        (width,) = re.findall(r'^[^>]* width="(\d+)"', drawn)
        return int(width), drawn.count(">  0.125<")

    width, amounts = slim("short")
    assert (width < 344, amounts) == (True, 2)
    width, amounts = slim("keypoint_heatmap.level_3")
    assert (width < 344, amounts) == (True, 0)


def test_flow_of_nothing_and_of_nan_is_drawn(tmp_path):
    stages = {"losses": ["a"], "outputs": ["x"]}
    for amount in (0.0, math.nan):
        page = parsed(tmp_path, Flow("f", stages, [Link("a", "x", amount)]))
        assert any("silent" in (a.get("class") or "") for tag, a in page.tags if tag == "path")


@pytest.mark.parametrize(
    ("link", "message"),
    [(Link("a", "y", 1.0), "a link names 'y', which is in no stage"), (Link("a", "x", -1.0), "not negative")],
)
def test_links_that_cannot_be_drawn_are_errors(link, message):
    with pytest.raises(ValueError, match=message):
        Flow("f", {"losses": ["a"], "outputs": ["x"]}, [link]).html("k")


def test_curves_of_one_step_and_of_none(tmp_path):
    page = parsed(tmp_path, Curves("one", [5], {"a": [1.0]}), Curves("none", [], {"a": []}))
    assert page.data["one"]["values"] == [[1]]
    assert page.data["none"]["steps"] == []


def test_curves_below_zero_begin_on_a_plain_axis(tmp_path):
    """On a logarithmic one a negative loss, and a total below 0, were nowhere, and nobody said so."""
    series = {"fit": [1.0, 0.5], "entropy": [-0.5, -0.6]}
    page = parsed(tmp_path, Curves("below", [1, 2], series, log=True), Curves("above", [1, 2], {"a": [1, 2]}, log=True))
    assert (page.data["below"]["log"], page.data["above"]["log"]) == (False, True)
    switches = [attributes for tag, attributes in page.tags if attributes.get("data-option") == "log"]
    assert ["checked" in attributes for attributes in switches] == [False, True]
    assert page.source.count("A log axis would hide what is not above 0.") == 1


def test_shares_of_terms_that_come_and_go_add_up_to_one():
    """Their moving means reached beyond where they were logged, and 112 % of the total was drawn."""
    early = [0.4] * 50 + [None] * 50
    late = [None] * 50 + [0.4] * 50
    share = Curves("share", range(100), {"a": [0.6] * 100, "b": early, "c": late}, stacked=True)
    assert [sum(each) for each in zip(*share.means, strict=True)] == pytest.approx([1.0] * 100)
    nothing = Curves("share", range(60), {"a": [None] * 60}, stacked=True)
    assert nothing.means == [[None] * 60]


@pytest.mark.parametrize(("steps", "change"), [([1, 2], [0.1, -0.2]), ([5], [-0.4])])
def test_shares_are_drawn_as_a_picture_above_and_below_zero(tmp_path, monkeypatch, steps, change):
    from headwise.report.figures.plots import plot_curves

    seen = []
    monkeypatch.setattr("headwise.report.figures.plots.save", lambda figure, path: seen.append(figure))
    plot_curves(Curves("share", steps, {"a": [0.6] * len(steps), "b": change}, stacked=True), tmp_path / "share.png")
    (axes,) = seen[0].axes
    extents = [each.get_datalim(axes.transData) for each in axes.collections]
    assert [each.y0 for each in extents] == pytest.approx([0.0, *[0.6] * (len(steps) > 1), min(change)])
    assert axes.get_legend_handles_labels()[1] == ["a", "b"]
    assert all(each.width > 0 for each in extents)
    assert axes.get_ylim() == pytest.approx((min(change), 1.0))


def test_tables_keep_exact_numbers_for_sorting(tmp_path):
    page = parsed(tmp_path, Table(["name", "value"], [["a", 1 / 3], ["b", None]]))
    assert [a.get("data-value") for tag, a in page.tags if tag == "td"] == [repr(1 / 3), None]


def test_a_page_that_is_not_ours_is_not_replaced(tmp_path):
    mine = tmp_path / "page.html"
    mine.write_text("<!doctype html>\n<html><head><title>mine</title></head></html>")
    with pytest.raises(ValueError, match=r"page\.html is there and is no page of Headwise: it is not replaced"):
        Page("first").write(mine)
    assert "mine" in mine.read_text()


def test_a_page_replaces_the_old_one_whole(tmp_path, monkeypatch):
    path = Page("first").write(tmp_path / "page.html")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ValueError, match="No space left on device"):
        Page("second").write(path)
    monkeypatch.undo()
    assert "first" in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
