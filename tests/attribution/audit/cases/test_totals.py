# mypy: ignore-errors
"""The total is what backward is called on, through whatever it was passed on the way."""

import pytest
import torch
from torch import nn

from tests.attribution.audit.cases.said import accused, audit, batches, told

PARTS = ("heat", "offset", "size")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def parts_of(out):
    return out[:, 0].sub(1).square().mean(), out[:, 1].abs().mean(), out[:, 2].add(1).square().mean()


PASSED = {
    "clone": lambda total: total.clone(),
    "mean": lambda total: total.mean(),
    "unsqueeze": lambda total: total.unsqueeze(0),
    "divided": lambda total: total / 3,
    "scaled": lambda total: total * 1024.0,
    "double": lambda total: total.double(),
    "stacked": lambda total: torch.stack([total]).sum(),
}


def tuple_criterion(forget, passed, again):
    """(total, *parts); each part leaves through the same operation, or is computed a second time for the log."""

    def criterion(out, batch):
        parts = parts_of(out)
        total = sum(p for name, p in zip(PARTS, parts, strict=True) if name != forget)
        shown = parts_of(out) if again else parts
        return passed(total), *(passed(p) for p in shown)

    return criterion


def run(criterion, **more):
    data = batches(lambda: {"input": torch.randn(8, 6)})
    return audit(model=network(), batches=data, criterion=criterion, **more)


@pytest.mark.parametrize("given", [False, True], ids=["default", "total"])
@pytest.mark.parametrize("how", PASSED)
def test_dropped_behind_an_operation(how, given):
    more = {"total": lambda losses: losses[0].mean()} if given else {}
    report = run(tuple_criterion("size", PASSED[how], again=False), **more)
    assert accused(report, ("0", "1", "2", "3")) == {"3"}, (report.losses, told(report))


@pytest.mark.parametrize("how", PASSED)
def test_dropped_when_the_parts_are_computed_again_for_the_log(how):
    report = run(tuple_criterion("size", PASSED[how], again=True))
    assert accused(report, ("0", "1", "2", "3")) == {"3"}, (report.losses, told(report))


@pytest.mark.parametrize("again", [False, True], ids=["shared", "computed again"])
@pytest.mark.parametrize("how", PASSED)
def test_stays_silent_when_nothing_is_wrong(how, again):
    report = run(tuple_criterion(None, PASSED[how], again))
    assert report.faults == (), told(report)


def test_stays_silent_on_a_weighted_part_computed_again():
    """`5 * iou` stands in the total and again in what is returned."""

    def criterion(out, batch):
        iou, obj, cls = parts_of(out)
        return {
            "total_loss": 5 * iou + obj + cls,
            "iou_loss": 5 * iou,
            "obj_loss": obj,
            "cls_loss": cls,
            "num_fg": 1.17,
        }

    report = run(criterion)
    assert report.faults == (), told(report)
    assert set(report.losses) == {"iou_loss", "obj_loss", "cls_loss"}


def test_a_metric_that_has_a_graph_is_no_loss():
    def criterion(out, batch):
        p = out.softmax(-1).mean(0)
        perplexity = (-(p * p.log()).sum()).exp()
        contrast, diversity = out.square().mean(), (3 - perplexity) / 3
        return {
            "loss": contrast + 0.1 * diversity, "codevector_perplexity": perplexity, "contrastive_loss": contrast,
            "diversity_loss": diversity,
        }  # fmt: skip

    report = run(criterion)
    assert report.faults == (), told(report)
    assert "codevector_perplexity" not in report.losses


def test_the_report_says_what_it_took_for_the_total():
    def criterion(out, batch):
        a, b, c = parts_of(out)
        return {"a": a, "b": b, "c": c, "everything": a + b + c}

    assert "everything" in str(run(criterion))


def test_no_dominance_over_a_loss_that_was_dropped():
    """Both read the whole output: the dropped one's factor is 1e-16, not 0."""
    report = run(lambda out, batch: {"a": out.square().mean(), "b": (out - 1).abs().mean()}, total=lambda L: 2 * L["a"])
    assert accused(report, ("a", "b")) == {"b"}, told(report)
    assert "dominance" not in {f.kind for f in report.findings}


def test_stays_a_total_given_as_a_function():
    names = dict.fromkeys(PARTS)
    report = run(lambda out, batch: dict(zip(names, parts_of(out), strict=True)), total=lambda L: L["heat"] + L["size"])
    assert accused(report, PARTS) == {"offset"}, told(report)
