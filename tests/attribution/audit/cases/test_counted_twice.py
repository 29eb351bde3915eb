# mypy: ignore-errors
"""A loss that enters the total twice because a sum that holds it is added beside it."""

import pytest
import torch
from torch import nn

from tests.attribution.audit.cases.said import accused, audit, batches, told

PARTS = ("trans", "rot", "aux", "se3")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def run(criterion, total, **more):
    data = batches(lambda: {"input": torch.randn(8, 6)})
    return audit(model=network(), batches=data, criterion=criterion, total=total, **more)


def step(reduce, wrong, all_parts):
    """se3 += aux inside, and the loop adds aux again; each loss leaves as a scalar or is averaged on return."""

    def criterion(out, batch):
        trans, rot, aux = out[:, 0].square(), out[:, 1].sub(1).square(), out[:, 2].abs()
        if reduce == "early":
            trans, rot, aux = trans.mean(), rot.mean(), aux.mean()
        se3 = trans + rot + (aux if wrong else 0)
        found = {"trans": trans, "rot": rot, "aux": aux, "se3": se3} if all_parts else {"aux": aux, "se3": se3}
        return {k: v.mean() if reduce == "late" else v for k, v in found.items()}

    return criterion


HOW = pytest.mark.parametrize("reduce", ["early", "late", "never"])
ALL = pytest.mark.parametrize("all_parts", [False, True], ids=["two returned", "all returned"])


def total_of(losses):
    return losses["se3"].mean() + losses["aux"].mean()


@HOW
@ALL
def test_added_to_a_group_and_beside_it(reduce, all_parts):
    report = run(step(reduce, True, all_parts), total_of)
    assert accused(report, PARTS) == {"aux"}, (report.losses, told(report))
    assert any("twice" in f.evidence for f in report.faults)


@HOW
@ALL
def test_stays_silent_when_added_once(reduce, all_parts):
    report = run(step(reduce, False, all_parts), total_of)
    assert report.faults == (), told(report)


def test_stays_found_a_total_added_to_itself():
    """The dict is summed after its own total was put into it."""

    def criterion(out, batch):
        found = {"a": out[:, 0].square().mean(), "b": out[:, 1].abs().mean(), "c": out[:, 2].sub(2).square().mean()}
        found["total_loss"] = sum(found.values())
        return found

    wrong = run(criterion, lambda L: sum(L.values()))
    assert any(f.kind == "sum-mismatch" and ("twice" in f.evidence or "2 times" in f.evidence) for f in wrong.faults), (
        told(wrong)
    )


def test_stays_added_by_a_loop_and_by_a_line():
    def criterion(out, batch):
        return {"a": out[:, 0].square().mean(), "b": out[:, 1].abs().mean()}

    report = run(criterion, lambda L: sum(L.values()) + L["b"])
    assert accused(report, ("a", "b")) == {"b"}, told(report)
