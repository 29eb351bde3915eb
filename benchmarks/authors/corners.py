"""CornerNet's loss in the formulation of its authors: Boolean gathers, a map of weights a step.

Written anew from the description of `core/models/py_utils/losses.py` in princeton-vl/CornerNet-Lite
at commit 6a54505d; only the order of operations is theirs. It is what the fused losses are timed against and
checked to be equal to.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CORNERS = ("top_left", "bottom_right")


def focal_loss(probabilities: list[Tensor], target: Tensor) -> Tensor:
    """Of the clamped heat maps of all stacks; gathers positives and negatives."""
    positive, negative = target.eq(1), target.lt(1)
    weights = torch.pow(1 - target[negative], 4)
    loss = target.new_zeros(())
    for heat_map in probabilities:
        at_positive, at_negative = heat_map[positive], heat_map[negative]
        positive_sum = (torch.log(at_positive) * torch.pow(1 - at_positive, 2)).sum()
        negative_sum = (torch.log(1 - at_negative) * torch.pow(at_negative, 2) * weights).sum()
        count = positive.float().sum()
        loss = loss - negative_sum if at_positive.nelement() == 0 else loss - (positive_sum + negative_sum) / count
    return loss


def embedding_loss(first: Tensor, second: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """Pull and push of embeddings (N, K)."""
    num = objects.sum(dim=1, keepdim=True).float()
    mean = (first + second) / 2
    pull = sum((torch.pow(each - mean, 2) / (num + 1e-4))[objects].sum() for each in (first, second))
    pairs = objects.unsqueeze(1) & objects.unsqueeze(2)
    num = num.unsqueeze(2)
    apart = F.relu(1 - (mean.unsqueeze(1) - mean.unsqueeze(2)).abs())
    push = ((apart - 1 / (num + 1e-4)) / ((num - 1) * num + 1e-4))[pairs].sum()
    return torch.as_tensor(pull), push


def gather(maps: Tensor, index: Tensor) -> Tensor:
    """Values (N, K, D) of (N, D, H, W) maps."""
    rows = maps.permute(0, 2, 3, 1).contiguous().view(len(maps), -1, maps.shape[1])
    return rows.gather(1, index.unsqueeze(2).expand(-1, -1, maps.shape[1]))


def offset_loss(found: Tensor, target: Tensor, objects: Tensor) -> Tensor:
    inside = objects.unsqueeze(2).expand_as(target)
    return F.smooth_l1_loss(found[inside], target[inside], reduction="sum") / (objects.float().sum() + 1e-4)


def cornernet_loss(stacks: list[dict[str, Tensor]], targets: dict[str, Tensor]) -> Tensor:
    """The whole loss; the sigmoid makes a new tensor here, where theirs overwrites the output."""
    objects = targets["objects"]
    total = objects.new_zeros((), dtype=torch.float32)
    for corner in CORNERS:
        maps = [torch.clamp(torch.sigmoid(stack[f"{corner}_heatmap"]), 1e-4, 1 - 1e-4) for stack in stacks]
        total = total + focal_loss(maps, targets[f"{corner}_heatmap"])
    for stack in stacks:
        first, second = (gather(stack[f"{each}_embedding"], targets[f"{each}_index"]).squeeze(2) for each in CORNERS)
        pull, push = embedding_loss(first, second, objects)
        total = total + 0.1 * pull + 0.1 * push
        for corner in CORNERS:
            found = gather(stack[f"{corner}_offset"], targets[f"{corner}_index"])
            total = total + offset_loss(found, targets[f"{corner}_offset"], objects)
    return total / len(stacks)
