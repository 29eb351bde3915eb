"""Balancing where a term is silent: from the start, now and then, or not finite; and a state of another rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import headwise as hw
from headwise import losses
from headwise.runs.alerts import replay


def weights(rule: Any, goals: Sequence[tuple[float | None, float | None]]) -> list[list[float]]:
    """The weights after each step of two squared errors of an output at 0; None: nothing is counted."""
    output = {name: torch.zeros(1, requires_grad=True) for name in "ab"}
    criterion = hw.Criterion([hw.Term(n, losses.squared_error, output=n, target=f"{n}.y", mask=f"{n}.m") for n in "ab"])
    found = []
    with hw.Ledger(criterion, balance=rule, balance_every=1):
        for step in goals:
            targets = {
                name: {"y": torch.tensor([goal or 0.0]), "m": torch.tensor([goal is not None])}
                for name, goal in zip("ab", step, strict=True)
            }
            criterion(output, targets).total.backward()
            criterion.advance()
            found.append([float(each) for each in criterion.weights.values()])
    return found


def test_shares_count_a_term_s_own_steps_by_hand() -> None:
    """Before, the first steps of a late term were averaged with the 0 of its silence: four times the weight."""
    goals = [(1.0, None)] * 9 + [(1.0, 2.0), (3.0, None), (1.0, 5.0)]
    found = weights(hw.balance.Shares({"a": 3, "b": 1}, decay=0.5), goals)
    assert found[:9] == [[1.0, 1.0]] * 9  # the one that was heard has all there is; the other keeps its weight
    sums, counts = [0.0, 0.0], [0.0, 0.0]
    for number, step in enumerate(goals):
        for term, goal in enumerate(step):
            if goal is not None:
                sums[term], counts[term] = sums[term] / 2 + 2 * goal, counts[term] / 2 + 1  # the norm is 2 |goal|
        if number >= 9:
            mean = [total / count for total, count in zip(sums, counts, strict=True)]
            wanted = [share * sum(mean) / each for share, each in zip((0.75, 0.25), mean, strict=True)]
            assert found[number] == pytest.approx(wanted, rel=1e-6)


def test_shares_outlive_a_silence_of_any_length() -> None:
    found = weights(hw.balance.Shares(decay=0.0), [(1.0, 4.0), *[(1.0, None)] * 2000])
    assert found[-1] == pytest.approx([2.5, 0.625])


@pytest.mark.parametrize("rule", [hw.balance.GradNorm, hw.balance.Uncertainty])
@pytest.mark.parametrize("silent", [None, float("nan"), float("inf")])
def test_what_is_silent_at_first_begins_later(rule: Any, silent: float | None) -> None:
    """Before, a first value of 0 sent GradNorm's factor of the other term to its floor, one of NaN stopped it."""
    late = weights(rule(), [(1.0, silent)] * 3 + [(1.0, 1.0)] * 40)
    assert late[2] == [1.0, 1.0] or rule is hw.balance.Uncertainty
    assert late[2][1] == 1.0
    assert max(map(abs, (one - other for one, other in late[3:]))) < 0.05


def test_grad_norm_moves_after_a_first_value_of_0() -> None:
    goals = [(3.0, None)] * 2 + [(3.0, 1.0)] * 4
    assert weights(hw.balance.GradNorm(), goals)[2:] == weights(hw.balance.GradNorm(), goals[2:])


def test_a_factor_that_is_no_number_leaves_the_weight() -> None:
    """Before, one step whose geometric mean has no slope made the next total NaN, and so the network."""
    rule = hw.balance.Scalarizer(lambda values: values.prod().sqrt())
    found = weights(rule, [(1.0, 0.0), (1.0, 4.0)])
    assert found == [[1.0, 1.0], pytest.approx([2.0, 0.125])]


def test_a_state_of_another_rule_is_refused() -> None:
    def ledger(rule: Any) -> hw.Ledger:
        return hw.Ledger(hw.Criterion([hw.Term("a", losses.squared_error, output="a", target="a")]), balance=rule)

    state = ledger(hw.balance.Shares()).state_dict()
    for rule in (hw.balance.GradNorm(), hw.balance.Uncertainty(), hw.balance.Scalarizer(torch.sum)):
        with pytest.raises(ValueError, match=f"the state is of Shares, this ledger has {type(rule).__name__}"):
            ledger(rule).load_state_dict(state)


def test_weights_that_a_balance_sets_are_meant_to_move(tmp_path: Any) -> None:
    output = {name: torch.zeros(1, requires_grad=True) for name in "ab"}
    criterion = hw.Criterion([hw.Term(n, losses.squared_error, output=n, target=n) for n in "ab"])
    seen: list[Any] = []
    with (
        hw.Ledger(criterion, balance=hw.balance.Shares()) as ledger,
        hw.Run(tmp_path / "run", ledger, every=1, alerts=seen.append) as run,
    ):
        for step in range(1, 31):
            goals = {"a": torch.tensor([1000.0 + step % 2]), "b": torch.tensor([1.0])}
            criterion(output, goals).total.backward()
            run.log(step)
            criterion.advance()
    assert [each.kind for each in [*seen, *replay(run.recorded())] if each.kind == "drifting weight"] == []


NAN = float("nan")
RULES: Any = hw.balance


@pytest.mark.parametrize(("make", "told"), [
    (lambda: RULES.GradNorm(alpha=NAN), r"GradNorm: alpha is a finite number; found nan"),
    (lambda: RULES.GradNorm(rate="0.1"), r"GradNorm: rate is a positive number; found '0.1'"),
    (lambda: RULES.Uncertainty(rate=NAN), r"Uncertainty: rate is a positive number; found nan"),
    (lambda: RULES.Scalarizer("mean"), r"Scalarizer: a function .* found 'mean'"),
    (lambda: RULES.Scalarizer(torch.nn.Identity), r"Scalarizer: a function .* found Identity"),
    (lambda: RULES.Scalarizer(torch.sum, rate=-1), r"Scalarizer: rate is a positive number; found -1"),
    (lambda: RULES.Shares(["a"]), r"Shares: a dict of shares by term"),
    (lambda: RULES.Shares({"a": "x"}), r"the share of 'a' is a positive number; found 'x'"),
    (lambda: weights("equal", []), r"a rule, such as hw\.balance\.Shares\(\)"),
    (lambda: weights(hw.balance.Shares, []), r"the class Shares is no rule"),
    (lambda: weights(RULES.Scalarizer(lambda values: values * 2), [(1.0, 1.0)]), "returns a 0-d tensor"),
    (lambda: weights(RULES.Scalarizer(lambda values: 1.0), [(1.0, 1.0)]), "returns a 0-d tensor"),
    (lambda: weights(RULES.Scalarizer(lambda values: values.detach().sum()), [(1.0, 1.0)]), "computed from"),
])  # fmt: skip
def test_what_is_no_rule_or_number_of_one_is_refused(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


@pytest.mark.parametrize("given", [{"balance_every": "4"}, {"capacity": 1.5}, {"samples": "3"}, {"samples": 2.5}])
def test_numbers_of_a_ledger_are_whole(given: Any) -> None:
    with pytest.raises(ValueError, match="are whole numbers; found"):
        hw.Ledger(hw.Criterion([hw.Term("a", losses.squared_error, output="a", target="a")]), **given)
