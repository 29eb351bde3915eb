# mypy: ignore-errors
"""Whether a level, scale or slot is trained depends on the objects in the batch: four batches are no proof."""

import pytest
import torch
from torch import nn

from tests.attribution.audit.cases.said import audit, batches, told


class Pyramid(nn.Module):
    """Three levels, each with boxes and centerness; the losses read all of them, and `spare` never."""

    def __init__(self, spare=False):
        super().__init__()
        torch.manual_seed(0)
        self.levels = nn.ModuleList([nn.Conv2d(3, 5, 3, stride=s, padding=1) for s in (2, 4, 8)])
        self.spare = nn.Conv2d(3, 5, 3, stride=16, padding=1) if spare else None

    def forward(self, x):
        maps = [level(x) for level in self.levels]
        found = {"boxes": [m[:, :4] for m in maps], "centerness": [m[:, 4:] for m in maps]}
        if self.spare is not None:
            found["spare"] = self.spare(x)
        return found


def flat(maps):
    return torch.cat([m.permute(0, 2, 3, 1).reshape(-1, m.shape[1]) for m in maps])


def by_index(out, batch):
    at = batch["positive"]
    return {"box": (flat(out["boxes"])[at] - 1).abs().mean(), "center": flat(out["centerness"])[at].square().mean()}


def by_mask(out, batch):
    boxes, centerness = flat(out["boxes"]), flat(out["centerness"])
    mask = torch.zeros(len(boxes), 1).index_fill(0, batch["positive"], 1.0)
    return {
        "box": ((boxes - 1).abs() * mask).sum() / mask.sum(),
        "center": (centerness.square() * mask).sum() / mask.sum(),
    }


def small_objects():
    """All on the finest level: 2 x 64 places of 2 x (64 + 16 + 4)."""
    return batches(lambda: {"input": torch.randn(2, 3, 16, 16), "positive": torch.randint(0, 128, (6,))}, count=4)


WAYS = pytest.mark.parametrize("criterion", [by_index, by_mask], ids=["index", "mask"])


@WAYS
def test_a_level_on_which_nothing_fell_is_no_finding(criterion):
    report = audit(model=Pyramid(), batches=small_objects(), criterion=criterion)
    assert not [f for f in report.faults if f.kind == "untrained-output"], told(report)


@WAYS
def test_a_level_on_which_nothing_fell_is_told(criterion):
    """Not a finding, but the reader learns that these batches could not judge it."""
    report = audit(model=Pyramid(), batches=small_objects(), criterion=criterion)
    told_elsewhere = [f"{f.subject} {f.evidence}" for f in report.notes] + [
        f"{k} {v}" for k, v in report.unaudited.items()
    ]
    assert any("boxes[2]" in text or "boxes[1]" in text for text in told_elsewhere)


@WAYS
def test_stays_silent_on_the_parameters_of_such_a_level(criterion):
    report = audit(model=Pyramid(), batches=small_objects(), criterion=criterion)
    assert not [f for f in report.faults if f.kind == "unreached-parameter"], told(report)


@WAYS
def test_stays_found_an_output_that_nothing_reads(criterion):
    report = audit(model=Pyramid(spare=True), batches=small_objects(), criterion=criterion)
    assert any(f.kind == "untrained-output" and f.subject == "spare" for f in report.faults), told(report)


class Boxes(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.classes, self.boxes = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 4)

    def forward(self, x):
        hidden = self.trunk(x).relu()
        return {"classes": self.classes(hidden), "boxes": self.boxes(hidden)}


NOTHING = {
    "a number": lambda out: 0.0,
    "a constant": lambda out: torch.tensor(0.0),
    "a sum over nothing": lambda out: out["boxes"][:0].sum(),
    "a sum times 0": lambda out: 0 * out["boxes"].sum(),
}


def box_loss_of(objects, nothing):
    """The box loss of a batch without objects is `nothing`; `objects` says which batches have some."""

    def criterion(out, batch):
        at = batch["positive"]
        box = (out["boxes"][at] - 1).abs().mean() if len(at) else NOTHING[nothing](out)
        return {"loss_class": out["classes"].square().mean(), "loss_box": box}

    data = batches(lambda: {"input": torch.randn(6, 4)})
    for batch, some in zip(data, objects, strict=True):
        batch["positive"] = torch.arange(3 if some else 0)
    return audit(model=Boxes(), batches=data, criterion=criterion, total=lambda L: sum(L.values()))


@pytest.mark.parametrize("nothing", ["a number", "a constant"])
def test_a_branch_that_leaves_the_graph_without_objects_is_told(nothing):
    """DistributedDataParallel waits for its gradient on the ranks that had objects."""
    report = box_loss_of((True, False, True), nothing)
    assert any("boxes" in f"{f.subject} {f.evidence}" for f in report.findings), report.findings


def test_a_loss_of_objects_is_not_judged_without_objects():
    """A constant 0 in every batch is "nothing to see here", as the number 0.0 is already."""
    report = box_loss_of((False, False, False), "a constant")
    assert not [f for f in report.faults if f.kind in ("detached-loss", "dead-loss")], told(report)
    assert any("loss_box" in f"{key} {reason}" for key, reason in report.unaudited.items()) or any(
        "loss_box" in f.subject for f in report.notes
    )


def test_stays_found_a_loss_that_selects_nothing_in_any_batch():
    """From outside it is the same as a mask that selects nothing by mistake."""
    report = box_loss_of((False, False, False), "a sum over nothing")
    assert any(f.kind == "dead-loss" and f.subject == "loss_box" for f in report.faults), told(report)


@pytest.mark.parametrize("nothing", NOTHING)
def test_stays_silent_when_some_batch_has_objects(nothing):
    report = box_loss_of((False, True, False), nothing)
    assert report.faults == (), told(report)
