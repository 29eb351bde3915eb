# mypy: ignore-errors
"""Losses in groups: parts are returned beside their subtotals."""

import pytest
import torch
from torch import nn

from tests.attribution.audit.cases.said import accused, audit, batches, told

DET, SEG = ("cls", "box", "loss_det"), ("dice", "bce", "loss_seg")


class Two(nn.Module):
    def __init__(self, packed):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.det, self.seg, self.packed = nn.Linear(5, 8), nn.Linear(8, 2), nn.Linear(8, 2), packed

    def forward(self, x):
        hidden = self.trunk(x).relu()
        det, seg = self.det(hidden), self.seg(hidden)
        return torch.cat([det, seg], 1) if self.packed else {"det": det, "seg": seg}


def criterion(out, batch):
    det, seg = (out[:, :2], out[:, 2:]) if torch.is_tensor(out) else (out["det"], out["seg"])
    cls, box, dice, bce = (
        det[:, 0].square().mean(),
        det[:, 1].abs().mean(),
        seg[:, 0].sub(1).square().mean(),
        seg[:, 1].cosh().mean(),
    )
    return {"cls": cls, "box": box, "loss_det": cls + box, "dice": dice, "bce": bce, "loss_seg": dice + bce}


def nested(out, batch):
    flat = criterion(out, batch)
    return {"det": {k: flat[k] for k in ("cls", "box")}, "seg": {k: flat[k] for k in ("dice", "bce")}}


def run(total, packed=False, of=criterion):
    data = batches(lambda: {"input": torch.randn(8, 5)})
    return audit(model=Two(packed), batches=data, criterion=of, **({"total": total} if total else {}))


BOTH = pytest.mark.parametrize("packed", [False, True], ids=["two outputs", "one packed output"])


@BOTH
def test_a_forgotten_group_is_named_by_part_or_subtotal(packed):
    report = run(lambda L: L["loss_det"], packed)
    found = accused(report, DET + SEG)
    assert found and found <= set(SEG), told(report)  # noqa: PT018


@BOTH
def test_stays_found_a_part_added_to_its_subtotal(packed):
    report = run(lambda L: L["loss_det"] + L["loss_seg"] + L["box"], packed)
    assert accused(report, DET + SEG) == {"box"}, told(report)


@BOTH
def test_everything_twice_by_summing_the_dict(packed):
    report = run(lambda L: sum(L.values()), packed)
    found = accused(report, DET + SEG)
    assert found & set(DET) and found & set(SEG), told(report)  # noqa: PT018


def test_the_users_total_stands_above_a_guess():
    """`loss_det` is a subtotal, not "the total", when the user says what the total is."""
    report = run(lambda L: L["loss_det"] + L["loss_seg"])
    assert {"loss_det", "loss_seg"} <= set(report.losses) or "loss_det" in str(report)


@BOTH
def test_a_generator_logged_with_its_parts(packed):
    """{total, gen, mel, l0, l1} with gen = l0 + l1, and `mel` missing in the total."""

    def gan(out, batch):
        L = criterion(out, batch)
        return {"total": L["loss_det"], "gen": L["loss_det"], "mel": L["dice"], "l0": L["cls"], "l1": L["box"]}

    report = run(None, packed, gan)
    assert accused(report, ("gen", "mel", "l0", "l1")) == {"mel"}, told(report)


@BOTH
def test_stays_silent_on_the_right_total(packed):
    report = run(lambda L: L["loss_det"] + L["loss_seg"], packed)
    assert report.faults == (), told(report)


def test_stays_nested_groups_without_subtotals():
    right = run(lambda L: sum(v for group in L.values() for v in group.values()), of=nested)
    assert right.faults == (), told(right)
    wrong = run(lambda L: sum(L["det"].values()), of=nested)
    assert accused(wrong, ("det.cls", "det.box", "seg.dice", "seg.bce")) == {"seg.dice", "seg.bce"}, told(wrong)
