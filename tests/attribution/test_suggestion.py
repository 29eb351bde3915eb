"""Suggested weights: by hand, by a second training, from a run's folder, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import headwise as hw
from headwise.attribution.ledger.weighing.suggestion import suggest
from headwise.balance.said import read_shares
from headwise.cli import main
from tests.balance.test_balance import Two, batches, two_terms

STEPS = [{"a": (2.0, 8.0), "b": (0.5, 1.0)}, {"a": (2.0, 4.0), "b": (0.5, 3.0)}]


def test_by_hand() -> None:
    found = suggest(STEPS)
    # At weight 1 the mean norms are sqrt(8) and sqrt(12); of what was sent, sqrt(32) + sqrt(3), each shall have half.
    sent = math.sqrt(32) + math.sqrt(3)
    wanted = {"a": sent / 2 / math.sqrt(8), "b": sent / 2 / math.sqrt(12)}
    assert found.weights == pytest.approx(wanted)
    assert found.terms["a"].weight == 2
    assert found.terms["a"].share == pytest.approx((8 / 9 + 4 / 7) / 2)
    then = [(wanted["a"] * a, wanted["b"] * b) for a, b in ((4, 2), (2, 6))]
    assert found.terms["a"].share_then == pytest.approx(sum(a / (a + b) for a, b in then) / 2)
    # Alone the two steps would ask an eighth and a quarter of that sum of a; tenths are interpolated.
    assert (found.terms["a"].low, found.terms["a"].high) == pytest.approx((1.1 * sent / 8, 1.9 * sent / 8))
    assert suggest(STEPS, {"a": 3, "b": 1}).weights == pytest.approx({"a": 1.5 * wanted["a"], "b": 0.5 * wanted["b"]})
    assert list(suggest(STEPS, {"a": 1}).weights) == ["a"]
    silent = suggest([{**step, "c": (1.0, 0.0), "d": (1.0, math.nan)} for step in STEPS])
    assert silent.silent == ("c", "d")
    assert silent.weights == pytest.approx(found.weights)
    assert "c        sent nothing" in str(silent)


def test_a_weight_below_0_stays_below_0() -> None:
    """What is to grow (a bonus) would be made to fall by the weight of the other sign."""
    bonus = [{"a": step["a"], "b": (-step["b"][0], step["b"][1])} for step in STEPS]
    found, plain = suggest(bonus), suggest(STEPS)
    assert found.terms["a"] == plain.terms["a"]
    was, now = plain.terms["b"], found.terms["b"]
    assert (now.weight, now.suggested) == (-was.weight, -was.suggested)
    assert (now.low, now.high) == pytest.approx((-was.high, -was.low))
    assert (now.share, now.share_then) == (was.share, was.share_then)
    with pytest.raises(ValueError, match=r"'b' was above 0 in some steps and below 0 in others"):
        suggest([bonus[0], STEPS[1]])
    assert list(suggest([bonus[0], STEPS[1]], {"a": 1}).weights) == ["a"]


def test_steps_that_do_not_know_all_norms_say_nothing_of_shares() -> None:
    """They would be told as shares of 0: of a term that came late, or whose gradient was not finite for a while."""
    plain = suggest(STEPS)
    for unknown in (
        {"a": (2.0, 8.0)},
        {"a": (2.0, 8.0), "b": (0.5, math.nan)},
        {"a": (2.0, 8.0), "b": (0.5, math.inf)},
    ):
        found = suggest([unknown, *STEPS])
        assert found.terms["b"].share == plain.terms["b"].share
        assert sum(each.share_then for each in found.terms.values()) == pytest.approx(1)
    silent = suggest([{"a": (2.0, 8.0), "b": (0.5, 0.0)}, *STEPS])
    assert silent.terms["b"].share == pytest.approx(plain.terms["b"].share * 2 / 3)
    apart = suggest([{"a": (1.0, 2.0)}, {"b": (1.0, 3.0)}])
    assert math.isnan(apart.terms["a"].share)
    assert apart.as_dict()["terms"]["a"]["share"] is None
    assert str(apart).splitlines()[2].split()[-2:] == ["-", "-"]


def test_a_few_steps_of_another_size_do_not_decide() -> None:
    steady = [{"a": (1.0, 1.0), "b": (1.0, 2.0)}] * 97
    found = suggest([{"a": (1.0, 1.0), "b": (1.0, 2000.0)}] * 3 + steady)
    assert found.weights["a"] / found.weights["b"] == pytest.approx(2, rel=0.25)
    assert found.terms["a"].share_then == pytest.approx(0.5, abs=0.06)


def train(steps: int, weights: dict[str, float], folder: Path | None = None) -> hw.Ledger:
    network, criterion = Two(), two_terms()
    for name, weight in weights.items():
        criterion.set_weight(name, weight)
    optimizer = adam(network)
    ledger = hw.Ledger(criterion, network, optimizer=optimizer)
    run = None if folder is None else hw.Run(folder, ledger, every=1)
    for step, (x, targets) in enumerate(batches(steps), start=1):
        optimizer.zero_grad()
        criterion(network(x), targets).total.backward()
        optimizer.step()
        if run is not None:
            run.log(step)
    if run is not None:
        run.close()
    ledger.close()
    return ledger


def adam(network: Two) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=1e-2)


@pytest.mark.parametrize("at", ["outputs", "trunk"])
def test_a_training_with_the_suggestion_has_equal_norms(at: str) -> None:
    ledger = train(200, {"near": 100.0})
    ledger = train(200, ledger.suggest(at=at, last=120).weights)
    history = ledger.history()[-120:]
    if at == "outputs":
        norms = [sum(books[name].grad_norm for books in history) for name in ("near", "far")]
    else:
        norms = [sum(books.features[at].grad_norm[name] for books in history) for name in ("near", "far")]
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


def test_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = train(6, {"near": 100.0}, tmp_path / "run")
    wanted = ledger.suggest()
    assert main(["suggest", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "suggested weights, from 6 steps at outputs"
    assert main(["suggest", str(tmp_path / "run"), "--target", "near=1,far=3", "--last", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    exact = ledger.suggest(target={"near": 1, "far": 3}, last=4).as_dict()
    assert found["num_steps"] == 4
    for name, each in exact["terms"].items():
        assert found["terms"][name] == pytest.approx(each, rel=1e-4)
    assert wanted.num_steps == 6
    assert main(["suggest", str(tmp_path / "run"), "--target", "near"]) == 2
    assert "NAME=NUMBER" in capsys.readouterr().err
    assert read_shares("x=y=2, z=1") == {"x=y": 2.0, "z": 1.0}
    with pytest.raises(
        ValueError, match=r"shares are equal, or .*found 'a'\. Where a name holds a comma, give shares in Python"
    ):
        read_shares("a,b=2")
    assert main(["suggest", str(tmp_path / "run"), "--target", "near=1,near=2"]) == 2
    assert "'near' is given twice" in capsys.readouterr().err
    assert main(["suggest", str(tmp_path / "run"), "--target", "nose=1"]) == 2
    assert "no term 'nose' was booked" in capsys.readouterr().err


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="no step to learn from"):
        suggest([])
    with pytest.raises(ValueError, match="sent nothing that was seen in any of 1 steps"):
        suggest([{"a": (1.0, 0.0)}])
    with pytest.raises(ValueError, match="positive number"):
        suggest(STEPS, {"a": -1})
    with pytest.raises(ValueError, match="'equal' or shares"):
        suggest(STEPS, "same")  # type: ignore[arg-type]
    ledger = train(2, {})
    with pytest.raises(ValueError, match="no junction 'neck' was booked, only outputs, trunk"):
        ledger.suggest(at="neck")


@pytest.mark.parametrize("last", [0, -3, 1.5, True, "2"])
def test_the_last_steps_are_a_number_of_steps(last: object) -> None:
    with hw.Ledger(two_terms()) as ledger, pytest.raises(ValueError, match="last is a number of steps"):
        ledger.suggest(last=last)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [None, {}, 3, "all"])
def test_shares_are_asked_of_terms(target: object) -> None:
    with pytest.raises(ValueError, match="target is 'equal' or shares by term"):
        suggest(STEPS, target)  # type: ignore[arg-type]
