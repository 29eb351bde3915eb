"""Alerts: planted faults are found within 50 steps of their start, healthy runs raise none, nothing is told twice."""

import json
import math
import random
import re
from typing import Any

import pytest

from headwise.attribution.gram import Gram, Where
from headwise.attribution.ledger.books import Books, LoopFactor, OutputBooks, TermBooks, Unbooked
from headwise.cli import main
from headwise.report.sections.findings import find
from headwise.runs import Run
from headwise.runs.alerts import Alert, AlertError, Watch, replay
from headwise.runs.entries import step_entry
from headwise.runs.log import RunLog
from headwise.runs.reading import read_run
from tests.report.builder import build_run, read_lines, write_lines
from tests.runs.planted import FAULTS, START, Plan, alerts_of


def test_there_are_twenty_faults_of_every_kind():
    assert len(FAULTS) >= 20
    kinds = {"not finite", "dead", "spiking", "dominating", "fighting", "drifting weight", "unbooked"}
    assert {plan.kind for plan in FAULTS.values()} == kinds


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_within_fifty_steps(name):
    plan = FAULTS[name]
    for every, found in alerts_of(plan, plan.begins + 50).items():
        named = [alert for alert in found if alert.kind == plan.kind and alert.term == (plan.term or alert.term)]
        assert named, (every, [str(alert) for alert in found])
        assert plan.begins <= named[0].since <= named[0].step <= plan.begins + 50
        assert named[0].since - plan.begins <= 25
        assert [alert for alert in found if alert.step < plan.begins] == []
        assert named[0].evidence.endswith(".")
        assert named[0].remedy.endswith(".")


@pytest.mark.parametrize("seed", range(3))
def test_healthy_runs_raise_no_alarm(seed):
    assert alerts_of(Plan(), 200, seed) == {1: [], 5: []}


def test_a_weight_that_follows_a_schedule_does_not_drift(tmp_path):
    run = build_run(tmp_path / "run", num_lines=60)
    lines = read_lines(run / "log.jsonl")
    for number, line in enumerate(lines):
        line["terms"]["sin"]["weight"] = 1.0 + number
    write_lines(run / "log.jsonl", lines)
    assert [(alert.kind, alert.term) for alert in replay(read_run(run))] == [("drifting weight", "sin")]
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "scheduled": ["sin"]}))
    assert replay(read_run(run)) == []


@pytest.mark.parametrize("factor", [30.0, 1e-4])
def test_a_gradient_that_a_weight_makes_larger_or_smaller_has_no_fault_of_its_own(factor):
    """A spike would send the reader to the batches, a death to the activations."""
    draw = random.Random(0)
    watch = Watch(["moved"])
    for step in range(1, 101):
        weights = {"moved": 1.0 if step < 50 else factor, "other": 1.0}
        terms = {
            name: {"value": 1 + 0.1 * draw.random(), "weight": weight, "grad_norm": weight * (1 + 0.1 * draw.random())}
            for name, weight in weights.items()
        }
        watch.see({"step": step, "total": math.fsum(t["weight"] * t["value"] for t in terms.values()), "terms": terms})
    assert [each.kind for each in watch.found if each.term == "moved"] == []
    terms["moved"]["grad_norm"] *= 200
    (alert,) = watch.see({"step": 101, "total": 1.0, "terms": terms})
    assert alert.kind == "spiking"
    was, now = (float(number) for number in re.findall(r"about (\S+) and is (\S+) since", alert.evidence)[0])
    assert now == pytest.approx(terms["moved"]["grad_norm"], rel=1e-2)
    assert was == pytest.approx(factor, rel=0.2)


def test_recorded_runs_that_are_healthy_raise_no_alarm(tmp_path):
    assert replay(read_run(build_run(tmp_path / "run", num_lines=600, samples=0))) == []


def test_the_command_tells_them_and_its_exit_code_says_so(tmp_path, capsys):
    run = build_run(tmp_path / "run", num_lines=60, samples=0)
    assert main(["alerts", str(run)]) == 0
    assert capsys.readouterr().out == "No alert in 60 logged steps.\n"
    lines = read_lines(run / "log.jsonl")
    for line in lines[30:]:
        line["terms"]["cos"]["grad_norm"] = 0.0
    write_lines(run / "log.jsonl", lines)
    assert main(["alerts", str(run)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("cos: dead since step 310. Its gradient norm is 0 at every logged step since;")
    assert main(["alerts", "--json", str(run)]) == 1
    assert json.loads(capsys.readouterr().out)["kind"] == "dead"


class Ready:
    """Keeps the books that it is given."""

    def __init__(self, books):
        self.books = books

    def read(self):
        return self.books


def broken_books():
    import torch

    import headwise as hw
    from tests.runs.planted import batch_of, criterion_of

    criterion = criterion_of(Plan())
    _, targets = batch_of(torch.Generator().manual_seed(0))
    targets["one"][0] = float("nan")
    with hw.Ledger(criterion) as ledger:
        outputs = {name: torch.zeros(32, 1, requires_grad=True) for name in ("one", "two", "three", "shared")}
        criterion(outputs, targets).total.backward()
        return ledger.read()


def test_while_training_they_are_printed_logged_called_back_or_raised(tmp_path, capsys):
    books = broken_books()
    told: list[Alert] = []
    reactions: tuple[Any, ...] = ("print", told.append, "raise", None)
    for number, reaction in enumerate(reactions):
        with Run(tmp_path / str(number), Ready(books), every=1, alerts=reaction) as run:
            if reaction == "raise":
                with pytest.raises(AlertError, match="one: not finite since step 1"):
                    run.log(1)
            else:
                run.log(1)
        assert len(read_lines(tmp_path / str(number) / "log.jsonl")) == 1
        logged = tmp_path / str(number) / "alerts.jsonl"
        assert logged.exists() is (reaction is not None)
        if reaction is not None:
            assert read_lines(logged)[0]["term"] == "one"
        err = capsys.readouterr().err
        assert err.startswith("headwise: alert: one: not finite since step 1.") is (reaction == "print")
    assert [alert.term for alert in told] == ["one"]
    with pytest.raises(ValueError, match="alerts is 'print', 'raise', a function or None"):
        Run(tmp_path / "other", alerts="shout")  # type: ignore[arg-type]


def test_one_kind_is_told_of_one_term_five_times_at_most():
    watch = Watch()
    term = {"value": 1.0, "weight": 1.0, "share": 1.0, "grad_norm": 1.0, "finite": True}
    for step in range(1, 100):
        value = float("nan") if step % 2 else 1.0
        watch.see({"step": step, "total": value, "terms": {"a": {**term, "value": value}}, "cosine": {}})
    assert len(watch.found) == 5


def test_faults_begin_where_the_list_says():
    assert {plan.begins for plan in FAULTS.values()} == {1, START}


def test_a_rise_of_the_total_names_the_term_that_is_most_of_it():
    """A term so noisy that its own rise is not certain."""
    watch = Watch()
    for step in range(1, 60):
        noisy = 0.001 * (100.0 if step % 2 else 1.0)
        entry = {"value": 1.0, "weight": 2.0, "share": 0.5, "grad_norm": 1.0, "finite": True}
        terms = {"calm": entry, "noisy": {**entry, "value": 500.0 if step == 50 else noisy}}
        total = sum(term["weight"] * term["value"] for term in terms.values())
        watch.see({"step": step, "total": total, "terms": terms, "cosine": {}})
    (alert,) = watch.found
    assert (alert.kind, alert.term, alert.step) == ("spiking", "total", 50)
    assert alert.evidence.endswith("times). noisy is 100% of it.")


def test_beside_a_far_larger_gradient_the_others_are_not_said_to_send_none():
    watch = Watch()
    for step in range(1, 60):
        entry = {"value": 1.0, "weight": 1.0, "share": 0.0, "grad_norm": 2.0, "finite": True}
        terms = {"small": entry, "large": {**entry, "value": 1e12, "share": 1.0, "grad_norm": 1e12}, "third": entry}
        watch.see({"step": step, "total": 1e12, "terms": terms, "cosine": {}})
    (alert,) = [alert for alert in watch.found if alert.kind == "dominating"]
    assert "3.54e+11 times that of all others together" in alert.evidence


def test_two_terms_that_quarrel_for_a_while_do_not_fight():
    """The cosines of sin and cos in a healthy run of TextSnake (seed 3, every fifth step): was an alarm."""
    cosines = [-0.02, 0.25, 0.22, 0.04, -0.53, -0.11, 0.17, -0.7, -0.73, -0.78, -0.35, -0.39, 0.04, -0.09, 0.31, -0.38]
    term = {"value": 1.0, "weight": 1.0, "share": 0.5, "grad_norm": 1.0, "finite": True}
    watch = Watch()
    for row, cosine in enumerate(cosines, start=1):
        watch.see({"step": 5 * row, "total": 2.0, "terms": {"sin": term, "cos": term}, "cosine": {"sin|cos": cosine}})
    assert [alert for alert in watch.found if alert.kind == "fighting"] == []


def unknown_books(step: int, value: float, finite: bool) -> Books:
    """Books of code that is not ours, with a summand whose value nobody held, or one that is not finite."""
    known = TermBooks(1.0, 1.0, 1.0, math.nan, 0.5, True, True, {"y": OutputBooks(0.5, True)})
    other = TermBooks(value, 1.0, value, math.nan, 0.5, finite, True, {"y": OutputBooks(0.5, True)})
    squares = {("a", "y"): 0.25, ("b", "y"): 0.25}
    gram = Gram.of_pairs(squares, {}, {"a": 1.0, "b": value}, {"a": 1.0, "b": 1.0}, Where(step=step))
    return Books(step, {"a": known, "b": other}, gram, Unbooked(0.0, {}, 0.0, 1.0), LoopFactor(1.0))


@pytest.mark.parametrize(("finite", "told"), [(True, []), (False, [("not finite", "b")])])
def test_what_nobody_knows_is_no_fault(tmp_path, finite, told):
    """Was: a value that nobody held was told as one that is not finite, and the total with it."""
    watch, log = Watch(), RunLog(tmp_path, 0, board=False)
    for step in range(1, 60):
        entry = step_entry(step, unknown_books(step, math.nan, finite), time=float(step))
        watch.see(entry)
        log.step(entry)
    log.close()
    (tmp_path / "config.json").write_text("{}")
    assert [(alert.kind, alert.term) for alert in watch.found] == told
    run = read_run(tmp_path)
    assert [(alert.kind, alert.term) for alert in replay(run)] == told
    assert any(kind == "problem" for kind, _ in find(run)) == bool(told)
