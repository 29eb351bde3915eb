# mypy: ignore-errors
"""A criterion returns one number; one of the summands inside is dead, or counted twice."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.attribution.audit.cases.said import audit, batches, told

HERE = Path(__file__).name


def network(channels=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, channels, 1))


def data(mask_dtype=torch.uint8, objects=4):
    def make():
        mask = torch.zeros(2, 6, dtype=mask_dtype)
        mask[:, :objects] = 1
        return {
            "input": torch.randn(2, 1, 8, 8),
            "label": torch.randint(0, 2, (2, 8, 8)),
            "mask": mask,
            "at": torch.randint(0, 64, (2, 6)),
        }

    return batches(make)


def overlap(score, label):
    chance = score.sigmoid()
    return 1 - 2 * (chance * label).sum() / (chance.square().sum() + label.sum())


class OverlapAndEntropy(nn.Module):
    """Cross entropy over the channels; of a single channel it is log 1."""

    def forward(self, score, label):
        inside = overlap(score[:, -1], label.float())
        entropy = F.cross_entropy(score, label if score.shape[1] > 1 else torch.zeros_like(label))
        return 0.5 * inside + entropy


def pull_and_push(out, batch):
    tags = out[:, 0].flatten(1).gather(1, batch["at"])
    mask = batch["mask"]
    live = mask.float()
    mean = (tags * live).sum(1, keepdim=True) / live.sum(1, keepdim=True)
    pull = ((tags - mean).square() * live).sum() / live.sum()
    pairs = (mask.unsqueeze(1) + mask.unsqueeze(2)).eq(2)
    distance = (tags.unsqueeze(1) - tags.unsqueeze(2)).abs()
    push = (1 - distance).relu()[pairs].sum() / 36
    return pull + push


def found(report):
    """Dead summands that the report can lead the reader to, by file and line."""
    return [
        f for f in report.findings if f.kind == "dead-loss" and f"{HERE}:" in f"{f.subject} {f.evidence} {f.remedy}"
    ]


@pytest.mark.parametrize("form", ["bare", "in a dict", "with a detached log"])
def test_cross_entropy_over_one_channel(form):
    loss = OverlapAndEntropy()

    def criterion(out, batch):
        total = loss(out, batch["label"])
        return {"bare": total, "in a dict": {"loss_seg": total}, "with a detached log": (total, total.detach())}[form]

    report = audit(model=network(1), batches=data(), criterion=criterion)
    assert len(found(report)) == 1, told(report)


def test_pairs_of_a_bool_mask():
    report = audit(model=network(1), batches=data(torch.bool), criterion=pull_and_push)
    assert len(found(report)) == 1, told(report)


def test_beside_other_losses():
    """The composite is one entry among several; its other half keeps it alive."""
    report = audit(
        model=network(), batches=data(torch.bool),
        criterion=lambda out, batch: {"seg": F.cross_entropy(out, batch["label"]), "tags": pull_and_push(out, batch)},
    )  # fmt: skip
    assert len(found(report)) == 1, told(report)


def test_the_summands_are_listed():
    """Of one number the parts are what the reader wants to see: where each is added, and its gradient."""
    report = audit(model=network(1), batches=data(), criterion=pull_and_push)
    tables = str(report).split("\n\nFINDING")[0].split("\n\nnote")[0]
    assert tables.count(f"{HERE}:") >= 2, tables


def no_dead(report):
    assert not [f for f in report.faults if f.kind in ("dead-loss", "sum-mismatch")], told(report)


def test_stays_silent_on_living_summands():
    no_dead(
        audit(model=network(2), batches=data(), criterion=lambda out, batch: OverlapAndEntropy()(out, batch["label"]))
    )
    no_dead(audit(model=network(1), batches=data(torch.uint8), criterion=pull_and_push))


def test_stays_silent_when_only_some_batches_have_pairs():
    some = data(torch.uint8, objects=1)[:2] + data(torch.uint8, objects=4)[:1]
    for batch in some[:2]:
        batch["mask"][:, :] = 0
        batch["mask"][:, 0] = 1
    no_dead(audit(model=network(), batches=some, criterion=pull_and_push))


def test_stays_silent_on_a_summand_switched_off_by_a_literal():
    no_dead(
        audit(
            model=network(),
            batches=data(),
            criterion=lambda out, batch: F.cross_entropy(out, batch["label"]) + 0.0 * out.square().mean(),
        )
    )


def test_stays_a_dead_loss_with_a_name():
    report = audit(
        model=network(1), batches=data(),
        criterion=lambda out, b: {"dice": overlap(out[:, 0], b["label"].float()), "ce": F.cross_entropy(out, b["label"] * 0)},  # noqa: E501
    )  # fmt: skip
    assert [f.subject for f in report.faults if f.kind == "dead-loss"] == ["ce"], told(report)
