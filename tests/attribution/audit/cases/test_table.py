# mypy: ignore-errors
"""What the report shows of each loss: value, factor in the total, and gradient at the outputs, bare or weighed."""

import json

import torch
from torch import nn

from tests.attribution.audit.cases.said import audit, batches, numbers_of
from tests.forked import python

WEIGHTS = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.logits, self.boxes = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 4)

    def forward(self, x):
        hidden = self.trunk(x).relu()
        return {"logits": self.logits(hidden), "boxes": self.boxes(hidden)}


def criterion(out, batch):
    return {
        "loss_ce": out["logits"].square().mean(), "loss_bbox": (out["boxes"] - 1).abs().mean(),
        "loss_giou": (out["boxes"][:, 0] - 2).square().mean(),
    }  # fmt: skip


def total(losses):
    return sum(WEIGHTS[name] * value for name, value in losses.items())


def subject():
    return {
        "model": Decoder(),
        "batches": batches(lambda: {"input": torch.randn(8, 6)}),
        "criterion": criterion,
        "total": total,
    }


def by_hand():
    """Medians over the batches: values, shares of the total, and bare and weighed gradient norms at the boxes."""
    model, values, norms = Decoder(), [], []
    for batch in batches(lambda: {"input": torch.randn(8, 6)}):
        out = model(batch["input"])
        found = criterion(out, batch)
        values.append({k: float(v.detach()) for k, v in found.items()})
        grads = {
            k: torch.autograd.grad(v, out["boxes"], retain_graph=True, allow_unused=True)[0] for k, v in found.items()
        }
        norms.append({k: float(g.norm()) for k, g in grads.items() if g is not None})

    def middle(rows):
        return {k: sorted(r[k] for r in rows)[len(rows) // 2] for k in rows[0]}

    return middle(values), middle(norms)


def test_the_factor_of_each_loss_in_the_total():
    assert numbers_of(audit(**subject()), WEIGHTS, tolerance=1e-3)


def test_the_value_of_each_loss():
    assert numbers_of(audit(**subject()), by_hand()[0], tolerance=0.2)


def test_factors_and_values_are_printed():
    text = str(audit(**subject()))
    value = by_hand()[0]["loss_giou"]
    assert f"{value:.2f}" in text or f"{value:.3g}" in text
    rows = [line.split() for line in text.splitlines()]
    assert any("5" in row and "2" in row for row in rows) or any(
        row[:1] == ["loss_bbox"] and "5" in row for row in rows
    )


def test_the_table_says_whether_it_is_weighed():
    head = str(audit(**subject())).split("FINDING")[0].lower()
    assert "weight" in head


def test_the_count_of_parameters_is_that_of_numbers():
    count = sum(p.numel() for p in Decoder().parameters())
    text = str(audit(**subject()))
    assert str(count) in text or f"{count:,}" in text


def test_singular_and_plural():
    report = audit(
        model=Decoder(), batches=batches(lambda: {"input": torch.randn(8, 6)}, 1),
        criterion=lambda out, batch: {"ce": out["logits"].square().mean()},
    )  # fmt: skip
    text = " ".join(str(report).split())
    assert "any of 1 losses" not in text
    assert "all of 1 batches" not in text
    assert "in 1 batches" not in text


def test_one_text_for_one_fact():
    """Nine losses that all divide by the objects of a batch: one note that names nine, not nine notes."""

    def many(out, batch):
        mask = batch["objects"]
        return {f"loss_{i}": ((out["boxes"][:, i % 4] - i).abs() * mask).sum() / mask.sum() for i in range(9)}

    data = batches(lambda: {"input": torch.randn(8, 6), "objects": (torch.rand(8) < 0.6).float()})
    report = audit(model=Decoder(), batches=data, criterion=many)
    remedies = [f.remedy for f in report.notes if f.kind == "split-variant"]
    assert remedies
    assert str(report).count("note  split-variant") <= 2


def test_stays_bare_gradient_norms_in_the_data():
    report = audit(**subject())
    for name, norm in by_hand()[1].items():
        assert abs(report.at_outputs[name]["boxes"] - norm) < 1e-5 * norm


def test_stays_json_of_the_command(tmp_path):
    (tmp_path / "train.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def subject():\n    m = nn.Linear(6, 2)\n"
        "    return dict(model=m, batches=[{'input': torch.randn(8, 6)}], criterion=lambda o, b: {'a': o.square().mean()})\n"  # noqa: E501
    )
    assert python(tmp_path, "-m", "headwise", "audit", "train.py:subject", "--json", "out.json").returncode == 0
    assert "a" in json.loads((tmp_path / "out.json").read_text())["losses"]
