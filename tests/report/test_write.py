"""The page on a run: whole, self-contained, and saying what the log says."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from headwise.report import write_report
from headwise.report.write import report_page
from headwise.runs.reading import LOOP, read_run
from tests.report import builder
from tests.report.builder import TERMS, build_run, read_lines, write_lines
from tests.report.parsed import ParsedPage

FIGURES = [
    "Value of each term",
    "Weighted value of each term, and the total",
    "Share of the total",
    "Gradient norm of each term",
    "From losses to outputs",
    "Which term trains which output",
    "Conflict over time",
    "Cosine between the terms' gradients",
    "Held out, IoU at least 0.5",
    "Held out, DetEval",
    "Throughput",
    "Learning rate",
    "Picture 000",
    "Picture 001",
]


def page_of(run):
    """The page alone; drawing the PNG files as well takes most of a report's time."""
    return ParsedPage(report_page(read_run(run)).write(run / "page.html"))


def test_every_figure_is_on_the_page(finished_run):
    page = ParsedPage(finished_run / "report" / "index.html")
    assert [title for title in FIGURES if title not in page.texts["h3"]] == []
    assert sum(tag == "figure" for tag, _ in page.tags) == len(FIGURES)
    assert all(caption.strip() for caption in page.texts["figcaption"])
    assert len(page.texts["figcaption"]) == len(FIGURES)


def test_page_needs_no_network(finished_run):
    page = ParsedPage(finished_run / "report" / "index.html")
    addresses = page.addresses()
    assert len(addresses) > 30  # navigation, pictures and patterns: the check below looks at something
    assert [a for a in addresses if not a.startswith(("#", "data:image/"))] == []
    assert any("default-src 'none'" in (attributes.get("content") or "") for _, attributes in page.tags)
    assert not [attributes for tag, attributes in page.tags if tag == "link"]


def test_identifiers_are_unique(finished_run):
    page = ParsedPage(finished_run / "report" / "index.html")
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))


def test_curves_hold_the_numbers_of_the_log(finished_run):
    page = ParsedPage(finished_run / "report" / "index.html")
    lines = read_lines(finished_run / "log.jsonl")
    quantities = {
        "Value of each term": "value",
        "Share of the total": "share",
        "Gradient norm of each term": "grad_norm",
    }
    for title, quantity in quantities.items():
        chart = page.data[title]
        assert chart["steps"] == [line["step"] for line in lines]
        for name, values in zip(chart["names"], chart["values"], strict=True):
            logged = [line["terms"][name][quantity] for line in lines]
            np.testing.assert_allclose(values, logged, rtol=5e-7)
    weighted = page.data["Weighted value of each term, and the total"]
    assert weighted["names"] == [*TERMS, "total"]
    np.testing.assert_allclose(weighted["values"][-1], [line["total"] for line in lines], rtol=5e-7)
    conflict = page.data["Conflict over time"]
    assert conflict["names"] == ["sin | cos"]
    np.testing.assert_allclose(conflict["values"][0], [line["cosine"]["sin|cos"] for line in lines], rtol=5e-7)


def test_tables_hold_the_numbers_of_the_log(finished_run):
    page = ParsedPage(finished_run / "report" / "index.html")
    last = read_lines(finished_run / "log.jsonl")[-1]
    told = {attributes["data-value"] for tag, attributes in page.tags if "data-value" in attributes}
    for entry in last["terms"].values():
        assert repr(entry["value"]) in told
        assert repr(entry["grad_norm"]) in told
        assert f"{entry['share']:.1%}" in page.text
    norms = [line["terms"]["radius"]["grad_norm"] for line in read_lines(finished_run / "log.jsonl")]
    assert f"{np.median(norms):.4g}" in page.text


def test_card_configuration_and_scores_are_told(finished_run):
    page = ParsedPage(finished_run / "report" / "index.html")
    assert builder.CARD in page.texts["pre"]
    assert "arguments.backbone" in page.text
    assert "resnet18" in page.text
    best = max(entry["iou50"]["f"] for entry in read_lines(finished_run / "evaluation.jsonl"))
    assert f"{best:.4g}" in page.texts["dd"]
    tips = [attributes.get("data-tip") for _, attributes in page.tags]
    assert {"found, score 0.93", "annotated: harbour", "annotated: café, ignored"} <= set(tips)


def test_png_files_are_pictures(finished_run):
    files = sorted((finished_run / "report").glob("*.png"))
    assert {
        "value-of-each-term.png",
        "share-of-the-total.png",
        "gradient-norm-of-each-term.png",
        "cosine-between-the-terms-gradients.png",
        "sample-000.png",
    } <= {file.name for file in files}
    for file in files:
        with Image.open(file) as picture:
            assert min(picture.size) > 250
            assert np.asarray(picture.convert("L")).std() > 5  # something is drawn
    assert not list((finished_run / "report").glob(".*"))


def test_the_page_can_be_written_alone(fresh_run):
    assert write_report(fresh_run, png=False).is_file()
    assert [each.name for each in (fresh_run / "report").iterdir()] == ["index.html"]


def test_long_runs_stay_small_and_keep_their_extremes(tmp_path):
    run = build_run(tmp_path / "long", num_lines=8_000, every=1, samples=1)
    lines = read_lines(run / "log.jsonl")
    lines[7_777]["terms"]["sin"]["value"] = 123.5
    lines[7_778]["terms"]["sin"]["value"] = math.nan
    write_lines(run / "log.jsonl", lines)
    page = page_of(run)
    chart = page.data["Value of each term"]
    sin = chart["values"][chart["names"].index("sin")]
    assert len(page.source) < 5_000_000
    assert len(chart["steps"]) < 3_000
    assert chart["steps"][0] == 1
    assert chart["steps"][-1] == 8_000
    assert sin[chart["steps"].index(7_778)] == 123.5
    assert sin[chart["steps"].index(7_779)] == "NaN"
    assert "of 8,000 logged steps are drawn" in page.text


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_do_not_break_the_page(fresh_run, bad):
    lines = read_lines(fresh_run / "log.jsonl")
    lines[3]["terms"]["cos"].update(value=bad, weighted=bad, share=bad, grad_norm=bad, finite=False)
    lines[3]["terms"]["cos"]["outputs"]["maps[:, 4:6]"] = {"grad_norm": bad, "finite": False}
    lines[3]["total"] = bad
    write_lines(fresh_run / "log.jsonl", lines)
    page = page_of(fresh_run)
    assert isinstance(page.data["Value of each term"]["values"][4][3], str)
    assert "Crosses at the top: values that are not finite." in page.text
    assert "cos: value not finite at step 40." in page.text
    assert "cos: gradient at output maps[:, 4:6] not finite at step 40." in page.text


def test_a_run_of_nothing_but_nan_has_a_page(fresh_run):
    text = re.sub(r"-?\d+\.\d+(e-?\d+)?", "NaN", (fresh_run / "log.jsonl").read_text())
    (fresh_run / "log.jsonl").write_text(text)
    page = ParsedPage(write_report(fresh_run))  # the PNG files are drawn too
    assert "not finite at 12 logged steps" in page.text


@pytest.mark.parametrize("keep", [0, 1])
def test_an_empty_log_or_one_line(fresh_run, keep):
    write_lines(fresh_run / "log.jsonl", read_lines(fresh_run / "log.jsonl")[:keep])
    page = page_of(fresh_run)
    assert ("log.jsonl holds no steps." in page.text) == (keep == 0)
    assert ("Value of each term" in page.data) == (keep == 1)
    assert "Picture 000" in page.texts["h3"]


def test_a_killed_run_says_that_its_last_line_is_cut_off(fresh_run):
    log = fresh_run / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-200])
    page = page_of(fresh_run)
    assert len(page.data["Value of each term"]["steps"]) == 11
    assert "The last line of log.jsonl is cut off" in page.text


def test_missing_parts_are_named(fresh_run):
    for path in [*(fresh_run / "samples").iterdir(), fresh_run / "evaluation.jsonl", fresh_run / "log.jsonl"]:
        path.unlink()
    page = page_of(fresh_run)
    for sentence in ("log.jsonl is missing.", "evaluation.jsonl is missing.", "No held-out pictures"):
        assert sentence in page.text


def test_a_loop_of_ones_own_need_not_evaluate_nor_show_pictures(fresh_run):
    config = json.loads((fresh_run / "config.json").read_text())
    (fresh_run / "config.json").write_text(json.dumps(config | {"loop": LOOP, "preset": ""}))
    for path in [*(fresh_run / "samples").iterdir(), fresh_run / "evaluation.jsonl"]:
        path.unlink()
    log = fresh_run / "log.jsonl"
    write_lines(log, [{k: v for k, v in line.items() if k != "images_per_second"} for line in read_lines(log)])
    text = page_of(fresh_run).text
    assert "last step" in text
    for absent in ("evaluation.jsonl", "held-out", "No held-out pictures", "throughput", "images per second"):
        assert absent not in text


def test_a_broken_sample_is_named_and_the_rest_is_shown(fresh_run):
    good = (fresh_run / "samples" / "000.npz").read_bytes()
    (fresh_run / "samples" / "001.npz").write_bytes(good[: len(good) // 2])
    page = page_of(fresh_run)
    assert "001.npz cannot be shown" in page.text
    assert "Picture 000" in page.texts["h3"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"annotated_lengths": np.array([3])}, "annotated_lengths add up to 3"),
        ({"annotated_ignored": np.zeros(5, bool)}, "annotated_ignored has 5 entries for 2 outlines"),
        ({"map_1_target": np.zeros((5, 8, 8), np.float16)}, "map_1_target has shape (5, 8, 8), not (H, W)"),
        (
            {"map_titles": np.array(["a"] * 6), "map_spans": np.zeros((6, 2)), "map_colors": np.array(["magma"] * 6)},
            "there is no 'map_5_values'",
        ),
        (
            {
                "pairs_titles": np.array(["e"]),
                "pairs_names": np.array([["a", "b"]]),
                "pairs_0_first": np.zeros(2),
                "pairs_0_second": np.zeros(1),
                "pairs_0_labels": np.array(["x", "y"]),
            },
            "pairs 'e' are 2 and 1 points",
        ),
        ({"image": np.zeros((8, 8), np.uint8)}, "not uint8 (H, W, 3)"),
    ],
)
def test_samples_that_do_not_fit_are_named(fresh_run, changes, reason):
    path = fresh_run / "samples" / "000.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **{**arrays, **changes})
    assert reason in page_of(fresh_run).text


def test_any_measure_of_an_evaluation_is_drawn(fresh_run):
    entries = read_lines(fresh_run / "evaluation.jsonl")
    write_lines(fresh_run / "evaluation.jsonl", [{**entry, "deteval_published": entry["deteval"]} for entry in entries])
    page = page_of(fresh_run)
    published = page.data["Held out, DetEval as published"]
    assert published["values"] == page.data["Held out, DetEval"]["values"]


def test_terms_that_share_no_output_have_no_curve_of_conflict(fresh_run):
    lines = read_lines(fresh_run / "log.jsonl")
    write_lines(fresh_run / "log.jsonl", [{**line, "cosine": {}} for line in lines])
    page = page_of(fresh_run)
    assert "Conflict over time" not in page.data
    assert "sin · cos: share no output" in [attributes.get("data-tip") for _, attributes in page.tags]


def test_names_are_escaped_everywhere(tmp_path):
    wild = ("<script>alert(1)</script>", 'a"b&c', "$x_{", "_hidden", "sin|cos", "</style>")
    run = build_run(tmp_path / "<b>wild&run", num_lines=6, terms=wild, samples=0)
    page = page_of(run)
    assert page.data["Value of each term"]["names"] == list(wild)
    assert sum(tag == "script" and "type" not in attributes for tag, attributes in page.tags) == 3
    assert not [tag for tag, _ in page.tags if tag == "b"]
    assert wild[0] in page.texts["th"]


def test_many_terms_fit(tmp_path):
    run = build_run(tmp_path / "many", num_lines=40, terms=tuple(f"level_{i}.box" for i in range(30)), samples=0)
    page = page_of(run)
    assert len(page.source) < 5_000_000
    assert len(page.data["Value of each term"]["names"]) == 30


@pytest.mark.parametrize("kind", ["missing", "empty", "broken", "list"])
def test_what_is_not_a_run_is_an_error_of_one_line(tmp_path, kind):
    run = tmp_path / "run"
    if kind != "missing":
        run.mkdir()
    if kind in ("broken", "list"):
        (run / "config.json").write_text("[]" if kind == "list" else '{"recipe": ')
    with pytest.raises(ValueError, match="headwise train") as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
    assert str(run) in str(caught.value)
    assert not (run / "report").exists()


def test_a_report_that_cannot_be_written_is_an_error_of_one_line(fresh_run):
    (fresh_run / "report").write_text("a file where the folder should be")
    with pytest.raises(ValueError, match="cannot write") as caught:
        write_report(fresh_run)
    assert "\n" not in str(caught.value)


def test_without_the_extra_the_error_names_it(fresh_run, monkeypatch):
    monkeypatch.setattr("headwise.require.find_spec", lambda name: None if name == "matplotlib" else name)
    with pytest.raises(ImportError, match=r"needs matplotlib\. Install with: pip install 'headwise\[report\]'"):
        write_report(fresh_run)


def test_terminal_tables_and_pages_need_no_extra():
    code = """
import sys
for name in ("matplotlib", "PIL", "rich"):
    sys.modules[name] = None  # importing it fails
from headwise.report import Curves, Flow, HeatMap, Link, Page, Section, render_table
curves = Curves("c", [1, 2], {"a": [1.0, 2.0]})
flow = Flow("f", {"losses": ["a"], "outputs": ["x"]}, [Link("a", "x", 1.0)])
assert "<svg" in Page("p").add(Section("s", [curves, flow, HeatMap("h", ["a"], ["x"], [[1.0]])])).html()
assert render_table(["a"], [[1]])
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_writing_again_replaces_the_page(fresh_run, monkeypatch):
    monkeypatch.setattr("headwise.report.write._save", lambda *_: None)
    first = write_report(fresh_run).read_text()
    config = json.loads((fresh_run / "config.json").read_text())
    (fresh_run / "config.json").write_text(json.dumps({**config, "recipe": "other"}))
    assert "textsnake ·" in first
    assert "other ·" in write_report(fresh_run).read_text()


def test_a_run_of_a_loop_of_ones_own_is_called_by_its_folder(tmp_path):
    folder = build_run(tmp_path / "mine", num_lines=20, samples=0)
    held = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**held, "recipe": "mine", "preset": ""}))
    page = report_page(read_run(folder))
    assert page.title == "mine"
    assert page.subtitle.startswith("seed 7 ")


def test_a_picture_of_the_users_is_not_replaced(fresh_run):
    folder = fresh_run / "report"
    folder.mkdir()
    theirs = folder / "share-of-the-total.png"
    Image.new("RGB", (3, 3)).save(theirs)
    before = theirs.read_bytes()
    for _ in range(2):  # ours are replaced by ours
        write_report(fresh_run)
        assert theirs.read_bytes() == before
        assert sorted(each.name for each in folder.glob("share-of*")) == [
            "share-of-the-total-2.png",
            "share-of-the-total.png",
        ]
