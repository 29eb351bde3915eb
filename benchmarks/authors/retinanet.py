"""RetinaNet's loss in two formulations: that of kuangliu's repository, and that of torchvision's detector.

Both are written anew: the first from the description of `loss.py` in kuangliu/pytorch-retinanet at commit 2d7c6633
(one-hot labels by indexing an identity matrix, Boolean gathers), the second from `models/detection/retinanet.py` in
torchvision 0.29 (a one-hot tensor, Boolean gathers, `torchvision.ops.sigmoid_focal_loss`), with one count for the
batch. They are what `presets.retinanet` is timed against and checked to be equal to.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss


def authors_classes(logits: Tensor, label: Tensor) -> Tensor:
    """The sum over the anchors that count, of logits (N, A, C) and labels (N, A)."""
    counted = label > -1
    rows = logits[counted.unsqueeze(2).expand_as(logits)].view(-1, logits.shape[2])
    hot = torch.eye(1 + logits.shape[2])[label[counted].cpu()][:, 1:].to(logits.device)
    margin = rows * (2 * hot - 1)
    weight = 0.25 * hot + 0.75 * (1 - hot)
    return (-weight * (2 * margin + 1).sigmoid().log() / 2).sum()


def authors_loss(logits: Tensor, deltas: Tensor, label: Tensor, target: Tensor) -> Tensor:
    """The total for logits (N, A, C), deltas and their targets (N, A, 4), labels (N, A)."""
    positive = label > 0
    num_positive = positive.long().sum()
    chosen = positive.unsqueeze(2).expand_as(deltas)
    box = F.smooth_l1_loss(deltas[chosen].view(-1, 4), target[chosen].view(-1, 4), reduction="sum")
    return (box + authors_classes(logits, label)) / num_positive


def torchvision_classes(logits: Tensor, label: Tensor) -> Tensor:
    """The same sum with the paper's focal loss."""
    positive, counted = label > 0, label >= 0
    hot = torch.zeros_like(logits)
    hot[positive, label[positive] - 1] = 1.0
    return sigmoid_focal_loss(logits[counted], hot[counted], reduction="sum")


def torchvision_boxes(deltas: Tensor, label: Tensor, target: Tensor) -> Tensor:
    """The sum over the positive anchors."""
    positive = label > 0
    return F.smooth_l1_loss(deltas[positive], target[positive], reduction="sum")


def torchvision_loss(logits: Tensor, deltas: Tensor, label: Tensor, target: Tensor) -> Tensor:
    """The total with the paper's focal loss."""
    num_positive = (label > 0).sum().clamp(min=1)
    return (torchvision_classes(logits, label) + torchvision_boxes(deltas, label, target)) / num_positive
