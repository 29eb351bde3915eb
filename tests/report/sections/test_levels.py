"""What a run with levels and with COCO's numbers shows beyond that of text."""

import json
import math

import numpy as np
import pytest

import headwise as hw
from headwise.report.page.markup import NOTHING
from headwise.report.sections.evaluations import headline
from headwise.report.sections.findings import find
from headwise.report.write import report_page
from headwise.runs.reading import read_run
from tests.report.builder import build_run, read_lines, write_lines
from tests.report.parsed import ParsedPage

TERMS = ("heat", "pull", "box")
LEVELS = {"heat": ["stacks[0]", "stacks[1]"], "pull": ["stacks[0]", "stacks[1]"], "box": []}


def page_of(run):
    return ParsedPage(report_page(read_run(run)).write(run / "page.html"))


def level(share, norm):
    return {"value": 2 * share, "weighted": share, "share": share, "grad_norm": norm, "finite": True}


@pytest.fixture
def detector(tmp_path):
    """A run of three terms, two of them over two stacks, evaluated by COCO's rules."""
    run = build_run(tmp_path / "detector", num_lines=10, terms=TERMS, samples=0)
    lines = read_lines(run / "log.jsonl")
    for row, line in enumerate(lines):
        for term in TERMS:
            found = {name: level(0.1 * (k + 1) + 0.01 * row, 10.0**-k) for k, name in enumerate(LEVELS[term])}
            line["terms"][term]["levels"] = found
    write_lines(run / "log.jsonl", lines)
    write_lines(run / "evaluation.jsonl", [coco(step) for step in (50, 100)])
    return run


def coco(step):
    grown = step / 100
    return {
        "step": step,
        "coco": {"ap": 0.4 * grown, "ap50": 0.7 * grown, "ap_large": "nan", "ar1": 0.3, "ar_large": "nan"},
        "per_class": {"cat": {"ap": 0.5 * grown, "ap50": 0.9}, "dog & co": {"ap": "nan", "ap50": "nan"}},
        "num_images": 12,
    }


def test_levels_are_a_matrix_and_curves(detector):
    page = page_of(detector)
    assert "Levels" in page.texts["h2"]
    told = {attributes.get("data-tip") for _, attributes in page.tags}
    assert {"heat · stacks[0]: 1 gradient norm", "pull · stacks[1]: 0.1 gradient norm"} <= told
    assert "heat · stacks[1]: 0.245 share of the total" in told, "the median over 0.20 to 0.29"
    curves = page.data["heat: share of the total by level"]
    assert curves["names"] == LEVELS["heat"]
    np.testing.assert_allclose(curves["values"][1], [0.2 + 0.01 * row for row in range(10)], rtol=1e-6)
    assert not curves["stacked"]
    assert "pull: gradient norm by level" in page.data
    assert not [title for title in page.data if title.startswith("box:")]


def test_the_levels_of_a_lone_term_are_stacked(tmp_path):
    run = build_run(tmp_path / "lone", num_lines=4, terms=("heat",), samples=0)
    lines = read_lines(run / "log.jsonl")
    for line in lines:
        line["terms"]["heat"]["levels"] = {name: level(0.5, 1.0) for name in LEVELS["heat"]}
    write_lines(run / "log.jsonl", lines)
    page = page_of(run)
    assert page.data["heat: share of the total by level"]["stacked"]
    assert "Conflict" not in page.texts["h2"], "a lone term has no conflict"


def test_runs_without_levels_have_no_section_on_them(fresh_run):
    assert "Levels" not in page_of(fresh_run).texts["h2"]


def test_one_level_is_no_comparison(detector):
    lines = read_lines(detector / "log.jsonl")
    for line in lines:
        for term in TERMS:
            line["terms"][term]["levels"].pop("stacks[1]", None)
    write_lines(detector / "log.jsonl", lines)
    assert "Levels" not in page_of(detector).texts["h2"]


def test_cocos_numbers_are_curves_of_precision_and_of_recall(detector):
    page = page_of(detector)
    precision = page.data["Held out, COCO average precision"]
    assert dict(zip(precision["names"], precision["values"], strict=True)) == {"ap": [0.2, 0.4], "ap50": [0.35, 0.7]}
    assert page.data["Held out, COCO average recall"]["names"] == ["ar1"]
    assert "ap large: nothing to measure it on." in page.text
    assert "best AP50" in page.texts["dt"]
    assert "0.7" in page.texts["dd"]


def test_a_row_per_class_is_a_table(detector):
    page = page_of(detector)
    start = page.source.index(">Held out, per class</h3>")
    table = page.source[start : page.source.index("</table>", start)]
    assert '<th scope="row">cat</th>' in table
    assert "dog &amp; co" in table
    assert 'data-value="0.5"' in table
    assert NOTHING in table
    assert page.data["Held out, ap per class"]["names"] == ["cat"]


def test_counts_are_told_and_not_drawn(fresh_run):
    entries = read_lines(fresh_run / "evaluation.jsonl")
    touching = {"separated": 0.9, "merged": 0.1, "pairs": 23}
    write_lines(fresh_run / "evaluation.jsonl", [{**entry, "touching": touching} for entry in entries])
    page = page_of(fresh_run)
    assert page.data["Held out, pairs of objects that touch"]["names"] == ["separated", "merged"]
    assert "pairs: 23 at the last evaluation." in page.text


@pytest.mark.parametrize(
    ("scores", "name", "values"),
    [
        ([{"iou50": {"f": 0.5}, "coco": {"ap50": 0.9}}], "F at IoU 0.5", ((0.5, 1),)),
        ([{"coco": {"ap": 0.1, "ap50": math.nan}}], "ap, coco", ((0.1, 1),)),
        ([{"coco": {"ap50": 0.2}}, {"coco": {"ap50": 0.3}}], "AP50", ((0.2, 1), (0.3, 2))),
        ([{"instances": {"f": 0.9, "ap": 0.8}}], "instance AP at IoU 0.5", ((0.8, 1),)),
        ([{"depth": {"error": 3.5}}], "error, depth", ((3.5, 1),)),
    ],
)  # fmt: skip
def test_what_a_run_is_judged_by(fresh_run, scores, name, values):
    write_lines(fresh_run / "evaluation.jsonl", [{"step": k, **entry} for k, entry in enumerate(scores, start=1)])
    judged = headline(read_run(fresh_run))
    assert judged is not None
    assert (judged.name, judged.values) == (name, values)


def test_of_a_measure_of_ones_own_nobody_knows_which_way_is_better(tmp_path):
    """A held-out loss that fell from 50 to 12 was `best 50`, with a note on its decline, and had no curve."""
    with hw.Run(tmp_path / "run") as run:
        for step, (loss, elbo, accuracy) in enumerate(
            ((50.0, -500.0, 0.5), (20.0, -300.0, 0.6), (12.0, -250.0, 0.7)), 1
        ):
            run.evaluate(step, {"loss": loss, "bounds": {"elbo": elbo}, "accuracy": accuracy})
            run.evaluate(step, {"by_class": {"cat": {"error": loss}}})
    page = page_of(tmp_path / "run")
    assert "best" not in page.text
    assert "loss, scores" in page.texts["dt"]
    assert "12" in page.texts["dd"]
    assert find(run.recorded()) == [("note", "log.jsonl holds no steps.")]
    drawn = {title: (each["values"], each["bounds"]) for title, each in page.data.items()}
    assert drawn["Held out, scores: loss"] == ([[50.0, 20.0, 12.0]], None)
    assert drawn["Held out, bounds: elbo"] == ([[-500.0, -300.0, -250.0]], None)
    assert drawn["Held out, error by class"] == ([[50.0, 20.0, 12.0]], None)
    assert drawn["Held out, scores"] == ([[0.5, 0.6, 0.7]], [0.0, 1.0])


def test_nothing_evaluated_is_nothing_to_judge_by(fresh_run):
    (fresh_run / "evaluation.jsonl").write_text(json.dumps({"step": 1, "num_images": 3}) + "\n")
    assert headline(read_run(fresh_run)) is None
    assert "not evaluated" in page_of(fresh_run).text


def test_a_run_that_got_worse_is_named_by_its_measure(detector):
    write_lines(detector / "evaluation.jsonl", [coco(100), {**coco(50), "step": 200}])
    assert "AP50 was 0.7 at step 100 and 0.35 at the last evaluation." in page_of(detector).text
