"""Findings in words: each planted fault is named, and a healthy run has none."""

import pytest

from headwise.report.sections.findings import find
from headwise.runs.reading import read_run
from tests.report.builder import build_run, read_lines, write_lines


def findings(run, change, kind):
    lines = read_lines(run / "log.jsonl")
    for line in lines:
        change(line)
    write_lines(run / "log.jsonl", lines)
    return [text for found, text in find(read_run(run)) if found == kind]


def silence(name, **more):
    def change(line):
        line["terms"][name].update(grad_norm=0.0, **more)
        for books in line["terms"][name]["outputs"].values():
            books["grad_norm"] = 0.0

    return change


def test_a_healthy_run_has_none(fresh_run):
    assert [kind for kind, _ in find(read_run(fresh_run))] == ["good"]


def test_a_term_that_trains_nothing(fresh_run):
    (text,) = findings(fresh_run, silence("radius"), "problem")
    assert text.startswith("radius: gradient norm 0 at all 12 logged steps")
    assert "detached" in text


def test_a_term_of_weight_zero(fresh_run):
    (text,) = findings(fresh_run, silence("radius", weight=0.0), "problem")
    assert "Its weight is 0 throughout." in text


def test_a_term_that_is_silent_once_is_no_finding(fresh_run):
    lines = read_lines(fresh_run / "log.jsonl")
    silence("radius")(lines[0])
    write_lines(fresh_run / "log.jsonl", lines)
    assert [kind for kind, _ in find(read_run(fresh_run))] == ["good"]


def test_an_output_that_a_term_does_not_train(fresh_run):
    def change(line):
        line["terms"]["sin"]["outputs"]["trunk"] = {"grad_norm": 0.0, "finite": True}

    (text,) = findings(fresh_run, change, "note")
    held = "while it trains others: right if the loss holds that output fixed."
    assert text == f"sin: gradient norm 0 at output trunk at all 12 logged steps, {held}"
    assert not findings(fresh_run, change, "problem"), "a loss may detach one of two outputs by design"


def test_a_gradient_that_is_not_finite_behind_a_finite_value(fresh_run):
    def change(line):
        if line["step"] in (50, 60):
            line["terms"]["cos"]["finite"] = False
            line["terms"]["cos"]["outputs"]["maps[:, 4:6]"]["finite"] = False

    (text,) = findings(fresh_run, change, "problem")
    assert text == "cos: gradient at output maps[:, 4:6] not finite at 2 logged steps (first 50, last 60)."


def test_a_value_that_is_not_finite_is_not_told_of_its_gradient(fresh_run):
    def change(line):
        if line["step"] == 50:
            line["terms"]["cos"] |= {"finite": False, "value": "inf"}

    assert findings(fresh_run, change, "problem") == ["cos: value not finite at step 50."]


@pytest.mark.parametrize(("share", "found"), [(0.995, 1), (0.989, 0)])
def test_a_term_over_99_percent(fresh_run, share, found):
    texts = findings(fresh_run, lambda line: line["terms"]["radius"].update(share=share), "note")
    assert len(texts) == found
    assert not found or texts[0].startswith("radius: more than 99 % of the total at 12 logged steps")


def test_an_evaluation_that_fell(fresh_run):
    entries = read_lines(fresh_run / "evaluation.jsonl")
    entries[-1]["iou50"]["f"] = 0.1
    write_lines(fresh_run / "evaluation.jsonl", entries)
    (text,) = [text for kind, text in find(read_run(fresh_run)) if kind == "note"]
    assert text.endswith("and 0.1 at the last evaluation.")


def test_steps_logged_again_after_a_resume_count_once(tmp_path):
    run = build_run(tmp_path / "resumed", num_lines=10, samples=0)
    lines = read_lines(run / "log.jsonl")
    again = [{**line, "total": 42.0} for line in lines[6:9]]
    write_lines(run / "log.jsonl", [*lines[:9], *again])
    read = read_run(run)
    assert read.log.steps == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert read.log.column("total")[-3:] == [42.0, 42.0, 42.0]
    assert read.log.column("total")[5] == lines[5]["total"]
    assert any("3 rows of log.jsonl were logged again" in remark for remark in read.remarks)


def test_broken_lines_in_the_middle_are_counted(fresh_run):
    lines = (fresh_run / "log.jsonl").read_text().splitlines()
    lines[4] = lines[4][:30]
    lines[5] = "[1, 2]"
    (fresh_run / "log.jsonl").write_text("\n".join(lines) + "\n")
    read = read_run(fresh_run)
    assert len(read.log.steps) == 10
    assert "2 lines of log.jsonl cannot be read and were left out, line 5 first." in read.remarks


def test_a_column_that_begins_late_has_nothing_before(fresh_run):
    lines = read_lines(fresh_run / "log.jsonl")
    lines[2]["terms"]["late"] = {"value": 3.0}
    write_lines(fresh_run / "log.jsonl", lines)
    read = read_run(fresh_run)
    assert read.term("late", "value") == [None, None, 3.0, *[None] * 9]
    assert read.terms[-1] == "late"


def test_a_null_value_is_not_finite_and_a_null_cosine_is_none(fresh_run):
    lines = read_lines(fresh_run / "log.jsonl")
    lines[0]["terms"]["sin"]["value"] = None
    write_lines(fresh_run / "log.jsonl", lines)
    read = read_run(fresh_run)
    assert str(read.term("sin", "value")[0]) == "nan"
    assert read.pairs()[("text_region", "radius")] == [None] * 12
