"""TextSnake's loss in the formulation of its authors: Boolean gathers, a top-k per call, host
synchronizations.

Written anew from the description of `network/loss.py` in princewang1994/TextSnake.pytorch at commit
b4ee996d; only the order of operations is theirs. It is what the fused losses are timed against and checked
to be equal to.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def mined_cross_entropy(logits: Tensor, text: Tensor, valid: Tensor) -> Tensor:
    """Mean cross entropy over all text pixels and the hardest three times as many others; logits (M, 2)."""
    positive = text & valid
    negative = ~text & valid
    num_positive = int(positive.sum().item())
    if num_positive > 0:
        positive_sum = F.cross_entropy(logits[positive], text[positive].long(), reduction="sum")
        every_negative = F.cross_entropy(logits[negative], text[negative].long(), reduction="none")
        num_negative = min(int(negative.sum().item()), int(3.0 * num_positive))
    else:
        positive_sum = logits.new_zeros(())
        every_negative = F.cross_entropy(logits[negative], text[negative].long(), reduction="none")
        num_negative = 100
    hardest, _ = torch.topk(every_negative, num_negative)
    return (positive_sum + hardest.sum()) / (num_positive + num_negative)


def textsnake_loss(maps: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor | float, ...]:
    """The losses of (N, 7, H, W) maps, in the authors' order: text region, center line, radius, sin, cos."""
    rows = maps.permute(0, 2, 3, 1)
    region_logits = rows[..., :2].contiguous().view(-1, 2)
    line_logits = rows[..., 2:4].contiguous().view(-1, 2)
    sin = rows[..., 4].contiguous().view(-1)
    cos = rows[..., 5].contiguous().view(-1)
    scale = torch.sqrt(1.0 / (sin**2 + cos**2))
    sin, cos = sin * scale, cos * scale
    radius = rows[..., 6].contiguous().view(-1)

    text = targets["text_region"].view(-1)
    line = targets["center_line"].view(-1)
    valid = targets["valid"].view(-1)
    region_loss = mined_cross_entropy(region_logits, text, valid)
    line_loss: Tensor | float = 0.0
    inside = valid & text
    if inside.sum().item() > 0:
        line_loss = F.cross_entropy(line_logits[inside], line[inside].long())
    geometry: list[Tensor | float] = [0.0, 0.0, 0.0]
    if (valid & line).sum().item() > 0:
        target_radius = targets["radius"].view(-1)[line]
        ones = radius.new_ones(target_radius.size())
        geometry = [
            F.smooth_l1_loss(radius[line] / target_radius, ones),
            F.smooth_l1_loss(sin[line], targets["sin"].view(-1)[line]),
            F.smooth_l1_loss(cos[line], targets["cos"].view(-1)[line]),
        ]
    return region_loss, line_loss, *geometry
