# mypy: ignore-errors
"""Numbers that are reported, not trained on, in whatever path they stand."""

import pytest
import torch
from torch import nn

import headwise as hw
from tests.attribution.audit.cases.said import accused, audit, batches, told


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))


def losses(out):
    return {"loss_ce": out[:, 0].square().mean(), "loss_bbox": out[:, 1:].sub(1).abs().mean()}


METRICS = {
    "class_error": lambda out: (out[:, 0] > 0).float().mean() * 100,
    "cardinality_error": lambda out: torch.tensor(2.5),
    "cardinality_error_0": lambda out: torch.tensor(3.5),
    "accuracy": lambda out: 0.25,
    "grad_scale": lambda out: torch.tensor(128.0),
}


def run(criterion, **more):
    return audit(model=network(), batches=batches(lambda: {"input": torch.randn(8, 6)}), criterion=criterion, **more)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("group", ["loss_dict", "losses", "aux_loss"])
def test_a_metric_under_a_path_with_loss_in_it(group, metric):
    def criterion(out, batch):
        found = losses(out)
        return {"loss": found["loss_ce"] + 5 * found["loss_bbox"], group: {**found, metric: METRICS[metric](out)}}

    report = run(criterion)
    assert report.faults == (), told(report)
    assert {f"{group}.loss_ce", f"{group}.loss_bbox"} <= set(report.losses)


@pytest.mark.parametrize("metric", METRICS)
def test_check_sum_leaves_metrics_out(metric):
    model, x = network(), torch.randn(8, 6)

    def closure():
        out = model(x)
        return {**losses(out), metric: METRICS[metric](out)}

    check = hw.attribution.check_sum(closure, model)
    assert check.passed, [(c.kind, c.subject, c.evidence) for c in check.causes]


def test_what_is_not_in_the_total_is_not_said_to_show_in_it():
    def criterion(out, batch):
        found = losses(out)
        return {"loss": found["loss_ce"], **found, "loss_aux": out.square().mean().detach()}

    report = run(criterion)
    aux = [f.evidence for f in report.faults if f.subject == "loss_aux"]
    assert all("shows in the total" not in evidence for evidence in aux), aux


@pytest.mark.parametrize("group", ["loss_dict", "losses"])
def test_stays_found_a_detached_loss_under_the_same_path(group):
    def criterion(out, batch):
        found = losses(out)
        found["loss_bbox"] = found["loss_bbox"].detach()
        return {"loss": found["loss_ce"] + 5 * found["loss_bbox"], group: found}

    report = run(criterion)
    assert accused(report, (f"{group}.loss_ce", f"{group}.loss_bbox")) == {f"{group}.loss_bbox"}, told(report)


def test_stays_silent_on_metrics_in_a_flat_dict():
    def criterion(out, batch):
        found = losses(out)
        return {"loss": sum(found.values()), **found, **{name: metric(out) for name, metric in METRICS.items()}}

    report = run(criterion)
    assert report.faults == (), told(report)


@pytest.mark.parametrize("metric", [False, True], ids=["stays silent", "beside a metric with a graph"])
def test_detached_logs_beside_a_live_total(metric):
    """(total, log): the parts are detached for the log, and one entry of it still has a graph."""

    def criterion(out, batch):
        found = losses(out)
        log = {name: value.detach() for name, value in found.items()}
        return found["loss_ce"] + 5 * found["loss_bbox"], {**log, **({"approx_kl": out.mean()} if metric else {})}

    report = run(criterion)
    assert report.faults == (), told(report)
