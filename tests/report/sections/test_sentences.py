"""The sentences that a page begins with: their numbers are the log's, their links lead to figures of the page."""

import re

import pytest

from headwise.report.page.blocks import anchor
from headwise.report.sections.sentences import repeated, sentences
from headwise.report.write import report_page
from headwise.runs.alerts import Alert
from headwise.runs.reading import read_run
from tests.report.builder import TERMS, build_run, config, read_lines, write_lines

VALUES = {"text_region": 1.0, "center_line": 1.0, "radius": 2.0, "sin": 0.16, "cos": 0.16}


def run_of(tmp_path, change):
    """A run whose numbers are round: each value as above, each norm 0.1; changed per row."""
    run = build_run(tmp_path / "run", num_lines=100, samples=0)
    lines = read_lines(run / "log.jsonl")
    for row, line in enumerate(lines):
        for name, term in line["terms"].items():
            term |= {"value": VALUES[name], "grad_norm": 0.1, "share": VALUES[name] / sum(VALUES.values())}
        line["cosine"]["sin|cos"] = 0.5
        change(row, line)
    write_lines(run / "log.jsonl", lines)
    return read_run(run)


def said(run, start):
    return [each for each in sentences(run) if each.text.startswith(start)]


def test_the_hardest_pull_is_told_beside_the_largest_share(tmp_path):
    run = run_of(tmp_path, lambda row, line: line["terms"]["sin"].update(grad_norm=1.6))
    (found,) = said(run, "sin is")
    assert found.text == "sin is 4 % of the loss and sends 16 times the gradient of radius, which is 46 % of it."
    assert found.figure == "Gradient norm of each term"
    (weights,) = said(run, "For equal gradients")
    assert (
        "the weights would be text_region 4 (was 1), center_line 4 (was 1), radius 4 (was 1), by the second half"
        in weights.text
    )


def test_a_term_that_is_no_longer_logged_has_no_part_of_the_loss(tmp_path):
    """Its share was that of long ago, beside which another was all of the loss."""

    def change(row, line):
        line["terms"]["sin"].update(grad_norm=1.6)
        if row >= 50:
            del line["terms"]["radius"]

    (found,) = said(run_of(tmp_path, change), "sin is")
    assert "times the gradient of text_region" in found.text


def test_a_term_that_stops_and_one_that_falls(tmp_path):
    def change(row, line):
        line["terms"]["cos"]["value"] = 1.0 - min(row, 20) * 0.04
        line["terms"]["sin"]["value"] = 1.0 - row * 0.009

    found = said(run_of(tmp_path, change), "Stopped moving: ")
    assert re.fullmatch(r"Stopped moving: cos at step (190|200|210|220) \(0\.2\)\.", found[0].text)
    (fell,) = said(run_of(tmp_path / "again", change), "sin fell most")
    assert fell.text.startswith("sin fell most, from 0.99")


def test_quarrels_scores_and_what_is_unbooked(tmp_path):
    def change(row, line):
        line["cosine"]["sin|cos"] = -0.3 if row % 2 else 0.1
        line["unbooked"] = {"value": 0.5, "share": 0.12, "grad_norm": 0.1}

    run = run_of(tmp_path, change)
    assert "at 50 % of the logged steps (median cosine -0.1)" in said(run, "sin and cos ask for opposite")[0].text
    assert said(run, "12 % of the loss is booked to no term")
    assert said(run, "F at IoU 0.5 is 0.814")[0].text.endswith("its best.")


def test_noise_to_both_sides_and_few_steps_are_no_quarrel(tmp_path):
    """Half of the cosines of independent gradients are below 0, and two of five say nothing."""
    noise = run_of(tmp_path, lambda row, line: line["cosine"].update({"sin|cos": 0.6 * (-1) ** row}))
    assert not said(noise, "sin and cos ask for opposite")
    few = build_run(tmp_path / "few", num_lines=5, samples=0)
    write_lines(few / "log.jsonl", [line | {"cosine": {"sin|cos": -0.6}} for line in read_lines(few / "log.jsonl")])
    assert not said(read_run(few), "sin and cos ask for opposite")


def test_the_only_evaluation_is_not_called_the_best(tmp_path):
    run = build_run(tmp_path / "run", num_lines=10, samples=0)
    write_lines(run / "evaluation.jsonl", read_lines(run / "evaluation.jsonl")[:1])
    (found,) = said(read_run(run), "F at IoU 0.5 is ")
    assert re.fullmatch(r"F at IoU 0\.5 is [0-9.]+ at step \d+\.", found.text)


def test_a_measure_of_ones_own_has_no_best(tmp_path):
    run = build_run(tmp_path / "run", num_lines=10, samples=0)
    errors = [{"step": step, "depth": {"error": error}} for step, error in ((5, 3.5), (10, 2.0))]
    write_lines(run / "evaluation.jsonl", errors)
    (found,) = said(read_run(run), "error, depth")
    assert found.text == "error, depth is 2 at step 10, from 3.5 at step 5."


def test_links_lead_to_figures_of_the_page(tmp_path):
    run = run_of(tmp_path, lambda row, line: line["terms"]["sin"].update(grad_norm=1.6))
    html = report_page(run).html()
    links = re.findall(r'<a href="#(figure-[^"]+)">', html)
    assert anchor("Gradient norm of each term") in links
    for link in links:
        assert html.count(f'id="{link}"') == 1


def test_a_run_without_steps_says_nothing(tmp_path):
    run = build_run(tmp_path / "run", num_lines=1, samples=0)
    (run / "log.jsonl").write_text("")
    assert sentences(read_run(run)) == []


@pytest.mark.parametrize("terms", [("only",), TERMS[:2]])
def test_few_terms_and_few_lines_have_sentences_too(tmp_path, terms):
    run = build_run(tmp_path / "run", num_lines=2, samples=0, terms=terms)
    assert config(terms)["terms"] == list(terms)
    assert all(each.text.endswith(".") for each in sentences(read_run(run)))


def test_an_alert_that_comes_again_is_told_once():
    def alert(since):
        return Alert("spiking", "a", since, since, "Up.", "Look.")

    assert repeated([alert(3)]) == "a: spiking since step 3. Up. Look."
    assert repeated([alert(3), alert(9)]).endswith("Look. It came once more, at step 9.")
    assert repeated([alert(3), alert(9), alert(1200)]).endswith("Look. It came 2 times more, last at step 1,200.")
