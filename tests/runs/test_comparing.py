"""Two runs compared: the term that was changed is named first, by what was changed in it."""

import json
import math

import pytest
import torch
from torch import nn

import headwise as hw
from headwise.cli import main
from headwise.losses import absolute_error, squared_error
from headwise.runs import Run
from headwise.runs.comparing import compare
from headwise.runs.reading import read_run
from tests.report.builder import build_run, read_lines, write_lines

TERMS = [f"term{number}" for number in range(9)]


def trained(folder, changed="", change=""):
    """Six steps of nine terms on nine channels, one of them with another weight, mask or loss."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 9))
    terms = []
    for number, name in enumerate(TERMS):
        own = change if name == changed else ""
        terms.append(
            hw.Term(
                name,
                absolute_error if own == "loss" else squared_error,
                output=f"y[:, {number}:{number + 1}]",
                target=name,
                weight=1.2 if own == "weight" else 1.0,
                mask="other" if own == "mask" else "valid",
            )
        )
    criterion = hw.Criterion(terms, unread=["other"] if change != "mask" else [])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    draw = torch.Generator().manual_seed(1)
    with hw.Ledger(criterion, optimizer=optimizer) as ledger, Run(folder, ledger, every=1, alerts=None) as run:
        for step in range(1, 7):
            x = torch.randn(16, 4, generator=draw)
            targets = {name: x[:, :1] * (1 + number) for number, name in enumerate(TERMS)}
            targets |= {"valid": torch.ones(16, 1, dtype=torch.bool), "other": (torch.arange(16) < 11)[:, None]}
            total = criterion({"y": network(x)}, targets).total
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            run.log(step)
    return read_run(folder)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "usual")


@pytest.mark.parametrize("change", ["weight", "mask", "loss"])
def test_the_term_that_was_changed_is_named_first(tmp_path, usual, change):
    for name in TERMS:
        found = compare([usual, trained(tmp_path / name, name, change)])
        assert found.departures[0].term == name
        assert found.departures[0].step == 1
        assert found.departures[0].quantity == {"weight": "weight", "mask": "count"}.get(change, "value")
        assert found.verdict.startswith(f"{name} departs first, by its ")
        first = found.first(name, "grad_norm")
        assert first is not None
        assert first.step == 1
        assert found.first(name, "weight") is None or change == "weight"
        others = [each for each in found.departures if each.term != name]
        assert all(each.step > 1 for each in others)


def test_equal_runs_never_depart(tmp_path, usual):
    found = compare([usual, trained(tmp_path / "again")])
    assert found.departures == ()
    assert found.verdict == "No term departs in the 6 logged steps that the runs have in common."
    runs = [read_run(build_run(tmp_path / name, num_lines=1, samples=0)) for name in ("one", "other")]
    assert compare(runs).verdict == "No term departs in the one logged step that the runs have in common."


def test_steps_that_one_run_lacks_are_passed_over_and_gaps_are_by_hand(tmp_path):
    one, other = (build_run(tmp_path / name, num_lines=6, samples=0) for name in ("one", "other"))
    lines = read_lines(other / "log.jsonl")
    lines[3]["terms"]["sin"]["value"] *= 1.5
    lines[4]["terms"]["cos"]["grad_norm"] = math.nan
    write_lines(other / "log.jsonl", [line for line in lines if line["step"] != 20])
    found = compare([read_run(one), read_run(other)])
    assert found.steps == 5
    assert [(each.term, each.quantity, each.step) for each in found.departures] == [
        ("sin", "value", 40),
        ("cos", "grad_norm", 50),
    ]
    assert found.departures[0].gap == pytest.approx(1 / 3)
    assert found.departures[1].gap == math.inf
    assert compare([read_run(one), read_run(other)], tolerance=0.5).departures[0].term == "cos"


def test_a_term_that_one_run_lacks_departs_at_once(tmp_path):
    one, other = (build_run(tmp_path / name, num_lines=3, samples=0) for name in ("one", "other"))
    lines = read_lines(other / "log.jsonl")
    for line in lines:
        del line["terms"]["radius"]
    write_lines(other / "log.jsonl", lines)
    first = compare([read_run(one), read_run(other)]).departures[0]
    assert (first.term, first.step, first.numbers[1]) == ("radius", 10, None)


def test_runs_of_two_seeds_are_known_for_it(tmp_path):
    one, other = (build_run(tmp_path / name, num_lines=3, samples=0) for name in ("one", "other"))
    lines = read_lines(other / "log.jsonl")
    for line in lines:
        for number, term in enumerate(line["terms"].values()):
            term["value"] *= 1.1 + 0.1 * number
    write_lines(other / "log.jsonl", lines)
    found = compare([read_run(one), read_run(other)])
    assert found.verdict.startswith("All 5 terms differ at the first step at which any does (10): another seed")
    assert found.departures[0].term == "cos"


def test_other_weights_of_all_terms_are_no_other_seed(tmp_path):
    one, other = (build_run(tmp_path / name, num_lines=3, samples=0) for name in ("one", "other"))
    lines = read_lines(other / "log.jsonl")
    for line in lines:
        for term in line["terms"].values():
            term["weight"] *= 2
    write_lines(other / "log.jsonl", lines)
    verdict = compare([read_run(one), read_run(other)]).verdict
    assert " departs first, by its weight at step 10: " in verdict
    assert "seed" not in verdict


def test_the_command_prints_and_writes_the_page(tmp_path, capsys):
    one, other = (build_run(tmp_path / name, num_lines=12, samples=0) for name in ("one", "other"))
    lines = read_lines(other / "log.jsonl")
    for line in lines[5:]:
        line["terms"]["sin"]["weight"] = 2.0
    write_lines(other / "log.jsonl", lines)
    config = json.loads((other / "config.json").read_text())
    config["arguments"]["batch_size"] = 8
    (other / "config.json").write_text(json.dumps(config))
    assert main(["compare", str(one), str(other)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("sin departs first, by its weight at step 60: 1 in one, 2 in other. No other terms follow.")
    assert "arguments.batch_size" in out
    assert str(one / "report" / "compare.html") in out
    page = (one / "report" / "compare.html").read_text()
    assert "sin departs first" in page
    assert "10 other settings are the same" in page
    script = tmp_path / "script.py"
    script.write_text("print()")
    assert main(["compare", str(one), str(other), "--out", str(script)]) == 2
    assert main(["compare", str(one)]) == 2
    assert "1 run given. Give two or more" in capsys.readouterr().err
