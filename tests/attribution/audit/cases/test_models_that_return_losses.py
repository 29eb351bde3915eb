# mypy: ignore-errors
"""A model that returns its own losses is audited with the identity as criterion: what a user writes first."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from tests.attribution.audit.cases.said import accused, audit, batches, told

LOSSES = ("box_loss", "obj_loss", "cls_loss")


class Detector(nn.Module):
    """Returns {total, parts}, as one-stage detectors do in training mode."""

    def __init__(self, forget=None, metric=False, weights=(1.0, 1.0, 1.0), total="loss"):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.forget, self.metric, self.weights, self.total = forget, metric, weights, total

    def forward(self, x):
        raw = self.head(self.trunk(x).relu())
        parts = dict(zip(LOSSES, (raw[:, i].sub(i).square().mean() for i in range(3)), strict=True))
        found = dict(parts)
        if self.total:
            kept = [w * parts[k] for k, w in zip(LOSSES, self.weights, strict=True) if k != self.forget]
            found = {self.total: sum(kept), **parts}
        if self.metric:
            found["num_foreground"] = 1.17
        return found


def inputs():
    return batches(lambda: {"input": torch.randn(8, 6)})


def identity(model, **more):
    return audit(model=model, batches=inputs(), criterion=lambda losses, batch: losses, **more)


@pytest.mark.parametrize("total", [None, lambda found: found["loss"]], ids=["default", "given"])
def test_a_metric_beside_the_losses_accuses_nobody(total):
    report = identity(Detector(metric=True), **({"total": total} if total else {}))
    assert report.faults == (), told(report)


@pytest.mark.parametrize("total", [None, lambda found: found["loss"]], ids=["default", "given"])
def test_weights_inside_the_model_accuse_nobody(total):
    report = identity(Detector(weights=(5.0, 1.0, 0.5)), **({"total": total} if total else {}))
    assert report.faults == (), told(report)


@pytest.mark.parametrize("metric", [False, True], ids=["plain", "metric"])
@pytest.mark.parametrize("total", [None, lambda found: found["loss"]], ids=["default", "given"])
def test_the_forgotten_loss_alone_is_named(total, metric):
    report = identity(Detector(forget="cls_loss", metric=metric), **({"total": total} if total else {}))
    assert accused(report, LOSSES) == {"cls_loss"}, told(report)


@pytest.mark.parametrize("metric", [False, True], ids=["plain", "metric"])
def test_losses_are_not_outputs_of_the_network(metric):
    report = identity(Detector(metric=metric), total=lambda found: found["loss"])
    assert not {"loss", *LOSSES} & set(report.outputs), report.outputs


@dataclass
class Output:
    loss: torch.Tensor
    logits: torch.Tensor
    boxes: torch.Tensor
    loss_dict: dict


class Transformer(nn.Module):
    """Returns a record with a weighted loss, its outputs, and the parts, as hubs of pretrained models do."""

    def __init__(self, forget=False):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.classes, self.boxes, self.forget = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 4), forget

    def forward(self, x, y):
        hidden = self.body(x).tanh()
        logits, boxes = self.classes(hidden), self.boxes(hidden).sigmoid()
        parts = {"loss_ce": nn.functional.cross_entropy(logits, y), "loss_bbox": (boxes - 0.3).abs().mean()}
        loss = parts["loss_ce"] + (0 if self.forget else 5 * parts["loss_bbox"])
        return Output(loss, logits, boxes, {**parts, "cardinality_error": torch.tensor(2.5)})


def hub(forget):
    data = batches(lambda: {"x": torch.randn(8, 6), "y": torch.randint(4, (8,))})
    return audit(
        model=Transformer(forget), batches=data, forward=lambda model, batch: model(**batch),
        criterion=lambda output, batch: output, total=lambda output: output.loss,
    )  # fmt: skip


def test_a_record_with_its_loss_accuses_nobody():
    report = hub(forget=False)
    assert report.faults == (), told(report)


def test_in_a_record_the_forgotten_loss_is_named():
    report = hub(forget=True)
    found = accused(report, ("loss_dict.loss_ce", "loss_dict.loss_bbox", "loss_ce", "loss_bbox"))
    assert {name.rpartition(".")[2] for name in found} == {"loss_bbox"}, told(report)


def test_of_a_record_the_real_outputs_are_audited():
    assert {"logits", "boxes"} <= set(hub(forget=False).outputs)
    assert "loss" not in hub(forget=False).outputs


def test_stays_a_dict_of_parts_without_a_total_is_silent():
    report = identity(Detector(total=None))
    assert report.faults == (), told(report)


def test_stays_one_computed_step_with_a_forgotten_loss():
    model = Detector(forget="cls_loss")
    import headwise as hw

    report = hw.attribution.audit((model, model(torch.randn(8, 6))))
    assert accused(report, LOSSES) == {"cls_loss"}, told(report)
