"""Nested containers are bound by key."""

import enum

import pytest
import torch
from torch import nn

import headwise as hw
from headwise.losses import squared_error
from tests.criterion.told import near, right_or_told


def over_heads(**options):
    return hw.Criterion([hw.Term("heads", squared_error, output="heads[*]", target="heads[*]", **options)])


def test_targets_in_another_order():
    outputs = {"depth": torch.full((3,), 1.0), "normal": torch.full((3,), 5.0)}
    targets = {"normal": torch.full((3,), 5.0), "depth": torch.full((3,), 1.0)}
    with right_or_told("heads"):
        near(over_heads()({"heads": outputs}, {"heads": targets}).total, 0.0)


def test_targets_of_other_keys_are_refused():
    outputs = {"depth": torch.full((3,), 1.0), "normal": torch.full((3,), 5.0)}
    targets = {"depht": torch.full((3,), 1.0), "albedo": torch.full((3,), 5.0)}
    with pytest.raises(ValueError, match="heads"):
        over_heads()({"heads": outputs}, {"heads": targets})


def test_a_mask_in_another_order():
    outputs = {"depth": torch.ones(2), "normal": torch.ones(2)}
    targets = {"depth": torch.zeros(2), "normal": torch.full((2,), 9.0)}
    mask = {"normal": torch.zeros(2, dtype=torch.bool), "depth": torch.ones(2, dtype=torch.bool)}
    with right_or_told("heads"):
        total = over_heads(mask="mask[*]")({"heads": outputs}, {"heads": targets, "mask": mask}).total
        near(total, 1.0)


def test_two_outputs_in_different_orders():
    def difference(left, right):
        return (left - right).square().sum()

    left = {"p3": torch.full((2,), 1.0), "p4": torch.full((2,), 5.0)}
    right = {"p4": torch.full((2,), 5.0), "p3": torch.full((2,), 1.0)}
    with right_or_told("agree"):
        criterion = hw.Criterion([hw.Term("agree", difference, 1.0, output=("left[*]", "right[*]"))])
        near(criterion({"left": left, "right": right}, {}).total, 0.0)


class Head(enum.Enum):
    HEIGHT = 1


@pytest.mark.parametrize("key", [Head.HEIGHT, ("HEIGHT", 0)], ids=["enum", "tuple"])
def test_keys_that_are_no_text(key):
    criterion = hw.Criterion([hw.Term("depth", squared_error, output="y", target="t")])
    with right_or_told("HEIGHT"):
        near(criterion({key: torch.ones(3), "y": torch.ones(3)}, {"t": torch.zeros(3)}).total, 1.0)


def test_one_place_has_one_spelling():
    outputs = {"odd key": torch.ones(1, 2, requires_grad=True) * 1}
    trace = hw.attribution.trace({"depth": outputs["odd key"].sum()}, nn.Linear(1, 1), outputs)
    traced = [each.name for each in trace.outputs]
    criterion = hw.Criterion([hw.Term("depth", squared_error, output="['odd key']", target="t")])
    with hw.Ledger(criterion) as ledger:
        criterion(outputs, {"t": torch.zeros(1, 2)}).total.backward()
        assert list(ledger.read()["depth"].outputs) == traced


def test_dicts_of_one_order_and_lists():
    outputs, targets = {"depth": torch.full((3,), 1.0), "normal": torch.full((3,), 5.0)}, {}
    for name, each in outputs.items():
        targets[name] = each + 1
    near(over_heads()({"heads": outputs}, {"heads": targets}).total, 2.0)
    in_lists = {"heads": list(outputs.values())}, {"heads": list(targets.values())}
    near(over_heads()(*in_lists).total, 2.0)
