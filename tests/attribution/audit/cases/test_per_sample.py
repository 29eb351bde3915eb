# mypy: ignore-errors
"""Losses that leave the criterion per sample or unreduced; the loop takes the mean, the sum, or a weighted one."""

import pytest
import torch
from torch import nn

from tests.attribution.audit.cases.said import accused, audit, batches, told


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def per_sample(out, batch):
    return {"pose": out[:, 0].sub(1).square(), "shape": out[:, 1].abs(), "texture": out[:, 2].cosh()}


def unreduced(out, batch):
    return {k: v[:, None].expand(-1, 4).clone() for k, v in per_sample(out, batch).items()}


def mixed(out, batch):
    found = per_sample(out, batch)
    return {"pose": found["pose"], "shape": found["shape"], "texture": found["texture"].mean()}


NAMES = ("pose", "shape", "texture")
FORMS = pytest.mark.parametrize("criterion", [per_sample, unreduced, mixed], ids=["per sample", "unreduced", "mixed"])
REDUCE = pytest.mark.parametrize("reduce", [torch.mean, torch.sum], ids=["mean", "sum"])


def run(criterion, total=None, **more):
    data = batches(lambda: {"input": torch.randn(8, 6), "sample_weight": torch.rand(8)})
    return audit(model=network(), batches=data, criterion=criterion, **({"total": total} if total else {}), **more)


@FORMS
def test_nothing_is_left_unaudited_for_want_of_a_loss(criterion):
    report = run(criterion, lambda L: sum(v.mean() for v in L.values()))
    assert not [reason for reason in report.unaudited.values() if "no loss" in reason], report.unaudited


@FORMS
@REDUCE
def test_all_of_them_are_losses(criterion, reduce):
    report = run(criterion, lambda L: sum(reduce(v) for v in L.values()))
    assert set(report.losses) == set(NAMES), report.losses
    assert report.faults == (), told(report)


@FORMS
@REDUCE
def test_the_dropped_one_is_named(criterion, reduce):
    report = run(criterion, lambda L: reduce(L["pose"]) + reduce(L["texture"]))
    assert accused(report, NAMES) == {"shape"}, (report.losses, told(report))


@FORMS
@REDUCE
def test_the_one_added_twice_is_named(criterion, reduce):
    report = run(criterion, lambda L: sum(reduce(v) for v in L.values()) + reduce(L["shape"]))
    assert accused(report, NAMES) == {"shape"}, (report.losses, told(report))


@pytest.mark.parametrize("criterion", [per_sample, mixed], ids=["per sample", "mixed"])
def test_weights_of_samples_are_no_fault(criterion):
    """Each sample has its own weight: no single factor describes it, and none is wrong."""

    def weighed(out, batch):
        return {k: v * batch["sample_weight"] if v.ndim else v for k, v in criterion(out, batch).items()}

    report = run(weighed, lambda L: sum(v.mean() for v in L.values()))
    assert report.faults == () and set(report.losses) == set(NAMES), (report.losses, told(report))  # noqa: PT018


@pytest.mark.parametrize("given", [1.0, 0.2], ids=["never applied", "applied"])
def test_a_declared_weight_of_a_per_sample_loss_beside_a_scalar(given):
    report = run(
        mixed, lambda L: L["pose"].mean() + given * L["shape"].mean() + L["texture"],
        weights={"pose": 1.0, "shape": 0.2, "texture": 1.0},
    )  # fmt: skip
    assert accused(report, NAMES) == ({"shape"} if given == 1.0 else set()), told(report)
    assert "weights['shape']" not in report.unaudited


def test_one_unreduced_tensor():
    report = run(lambda out, batch: out.square(), lambda L: L.mean())
    assert report.faults == () and not [r for r in report.unaudited.values() if "no loss" in r], report.unaudited  # noqa: PT018
