"""Torch's modules taken apart: sum over count is torch's own mean, masked or not."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headwise import losses, normalizers

WEIGHTS = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
ELEMENTWISE: list[nn.Module] = [
    nn.MSELoss(),
    nn.L1Loss(),
    nn.SmoothL1Loss(beta=0.3),
    nn.HuberLoss(delta=0.4),
    nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)),
]
LABELED: list[nn.Module] = [
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(weight=WEIGHTS, ignore_index=1, label_smoothing=0.1),
    nn.NLLLoss(weight=WEIGHTS),
    nn.NLLLoss(ignore_index=2),
]


def inputs(labeled):
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64).log_softmax(1)
    if labeled:
        return output, torch.randint(0, 3, (2, 5), generator=generator)
    return output, torch.rand(2, 3, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("module", ELEMENTWISE + LABELED, ids=lambda m: type(m).__name__)
def test_equals_torchs_own_mean_and_sum(module):
    output, target = inputs(module in LABELED)
    loss, normalizer = losses.from_torch(module)
    torch.testing.assert_close(loss(output, target) / normalizer(target), module(output, target))
    total = copy.deepcopy(module)
    total.__dict__["reduction"] = "sum"
    loss, normalizer = losses.from_torch(total)
    torch.testing.assert_close(loss(output, target) / normalizer(target), total(output, target))


@pytest.mark.parametrize("module", ELEMENTWISE + LABELED, ids=lambda m: type(m).__name__)
def test_mask_leaves_out(module):
    output, target = inputs(module in LABELED)
    keep = torch.tensor([[True, False, True, True, False], [True, True, False, True, True]])
    rows = output.transpose(1, 2)[keep]
    expected = module(rows, target[keep] if module in LABELED else target.transpose(1, 2)[keep])
    poisoned = output.masked_fill(~keep.unsqueeze(1), torch.nan).requires_grad_()
    loss, normalizer = losses.from_torch(module)
    value = loss(poisoned, target, keep) / normalizer(target, keep)
    torch.testing.assert_close(value, expected)
    assert torch.autograd.grad(value, poisoned)[0].isfinite().all()


@pytest.mark.parametrize("loss", [nn.KLDivLoss(reduction="batchmean"), partial(F.kl_div, reduction="batchmean")])
def test_a_mean_over_the_batch(loss):
    output, target = inputs(labeled=False)
    total, normalizer = losses.from_torch(loss)
    torch.testing.assert_close(total(output, target) / normalizer(target), loss(output, target))
    assert normalizer is normalizers.images
    with pytest.raises(ValueError, match="has reduction='batchmean'"):
        losses.from_torch(nn.MSELoss(reduction="batchmean"))


@pytest.mark.parametrize(
    ("module", "words"),
    [(nn.TripletMarginLoss(), "no count is known for TripletMarginLoss"), (nn.MSELoss(reduction="none"), "'none'")],
)
def test_refuses_what_it_cannot_count(module, words):
    with pytest.raises(ValueError, match=words):
        losses.from_torch(module)


def test_refuses_what_does_not_fit():
    loss, normalizer = losses.from_torch(nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="labels must be integer"):
        normalizer(torch.zeros(2))
    with pytest.raises(ValueError, match="labels must be integer"):
        loss(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="one shape"):
        losses.from_torch(nn.MSELoss())[0](torch.zeros(2, 1), torch.zeros(2))
