# mypy: ignore-errors
"""Weights and losses are matched by key: what is declared must be used, in both directions."""

import pytest
import torch
from torch import nn

from tests.attribution.audit.cases.said import accused, audit, batches, mentions, told


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(6, 8)
        self.logits, self.boxes, self.action = nn.Linear(8, 3), nn.Linear(8, 4), nn.Linear(8, 1)

    def forward(self, x):
        hidden = self.trunk(x).relu()
        return {"logits": self.logits(hidden), "boxes": self.boxes(hidden), "action": self.action(hidden)}


class SetLoss(nn.Module):
    """A dict of losses, and a dict of weights beside it."""

    def __init__(self, weights, overwrite=False):
        super().__init__()
        self.weight_dict, self.overwrite = weights, overwrite

    def forward(self, out, batch):
        found = {"loss_ce": out["logits"].square().mean(), "loss_iou": (out["boxes"] - 1).abs().mean()}
        found["loss_iou" if self.overwrite else "loss_action"] = (out["action"] - 1).square().mean()
        return found


def run(loss, total):
    data = batches(lambda: {"input": torch.randn(8, 6)})
    return audit(model=Heads(), batches=data, criterion=loss, total=total)


def known_keys(loss):
    return lambda L: sum(L[k] * loss.weight_dict[k] for k in L if k in loss.weight_dict)


def with_default(loss):
    return lambda L: sum(v * loss.weight_dict.get(k, 1.0) for k, v in L.items())


def named(report, key):
    return [f for f in report.findings if mentions(f"{f.subject} {f.evidence}", key)]


def test_a_weight_whose_loss_was_overwritten():
    """A loss is returned under another's key: its own weight weighs nothing."""
    loss = SetLoss({"loss_ce": 2.0, "loss_iou": 2.0, "loss_action": 4.0}, overwrite=True)
    assert named(run(loss, known_keys(loss)), "loss_action")


@pytest.mark.parametrize("total_of", [known_keys, with_default], ids=["dropped", "weighed 1"])
def test_a_misspelt_key_is_named_as_it_is_written(total_of):
    loss = SetLoss({"loss_ce": 2.0, "loss_iuo": 5.0, "loss_action": 4.0})
    report = run(loss, total_of(loss))
    assert named(report, "loss_iuo"), told(report)


def test_stays_found_a_misspelt_key_that_leaves_the_weight_at_one():
    loss = SetLoss({"loss_ce": 2.0, "loss_iuo": 5.0, "loss_action": 4.0})
    assert run(loss, with_default(loss)).exit_code == 1


def test_a_weight_for_a_loss_that_nothing_computes():
    loss = SetLoss({"loss_ce": 2.0, "loss_iou": 5.0, "loss_action": 4.0, "loss_segments": 3.0})
    assert named(run(loss, known_keys(loss)), "loss_segments")


@pytest.mark.parametrize("total_of", [known_keys, with_default], ids=["known", "default"])
def test_stays_silent_when_keys_agree(total_of):
    loss = SetLoss({"loss_ce": 2.0, "loss_iou": 5.0, "loss_action": 4.0})
    report = run(loss, total_of(loss))
    assert report.faults == (), told(report)


def test_stays_silent_on_the_weights_of_auxiliary_layers():
    """Weights are declared for each decoder layer, as DETR-like criteria do."""
    base = {"loss_ce": 1.0, "loss_iou": 5.0, "loss_action": 2.0}
    loss = SetLoss({**base, **{f"{k}_{i}": v for i in range(2) for k, v in base.items()}})
    plain = loss.forward
    loss.forward = lambda out, batch: {
        **plain(out, batch), **{f"{k}_{i}": v * (1 + 0.1 * i) for i in range(2) for k, v in plain(out, batch).items()}
    }  # fmt: skip
    report = run(loss, known_keys(loss))
    assert report.faults == (), told(report)


def test_stays_found_a_loss_whose_weight_is_missing():
    loss = SetLoss({"loss_ce": 2.0, "loss_action": 4.0})
    assert accused(run(loss, known_keys(loss)), ("loss_ce", "loss_iou", "loss_action")) == {"loss_iou"}
