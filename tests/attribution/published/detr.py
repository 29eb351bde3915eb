"""In the manner of published code, unchanged for `headwise run`."""

import torch
import torch.nn.functional as F
from torch import nn


class DETR(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(6, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.class_embed, self.bbox_embed = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        hs, h = [], self.query(x)
        for layer in self.layers:
            h = layer(h).relu()
            hs.append(h)
        hs = torch.stack(hs)
        outputs_class, outputs_coord = self.class_embed(hs), self.bbox_embed(hs).sigmoid()
        out = {"pred_logits": outputs_class[-1], "pred_boxes": outputs_coord[-1]}
        out["aux_outputs"] = [
            {"pred_logits": a, "pred_boxes": b} for a, b in zip(outputs_class[:-1], outputs_coord[:-1], strict=True)
        ]
        return out


class SetCriterion(nn.Module):
    def __init__(self, weight_dict):
        super().__init__()
        self.weight_dict = weight_dict

    def loss_labels(self, outputs, targets):
        return {"loss_ce": F.cross_entropy(outputs["pred_logits"].flatten(0, 1), targets["labels"].flatten())}

    def loss_boxes(self, outputs, targets):
        losses = {"loss_bbox": F.l1_loss(outputs["pred_boxes"], targets["boxes"], reduction="none").sum() / 6}
        area = (outputs["pred_boxes"][..., 2:] - targets["boxes"][..., 2:]).abs().prod(-1)
        losses["loss_giou"] = (1 - (-area).exp()).sum() / 6
        return losses

    @torch.no_grad()
    def loss_cardinality(self, outputs, targets):
        return {"cardinality_error": (outputs["pred_logits"].argmax(-1) != 3).sum().float()}

    def forward(self, outputs, targets):
        losses = {}
        for loss in (self.loss_labels, self.loss_cardinality, self.loss_boxes):
            losses.update(loss(outputs, targets))
        for i, aux in enumerate(outputs["aux_outputs"]):
            for loss in (self.loss_labels, self.loss_boxes):
                losses.update({k + f"_{i}": v for k, v in loss(aux, targets).items()})
        return losses


torch.manual_seed(0)
model = DETR()
weight_dict = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2}
weight_dict.update({k + "_0": v for k, v in weight_dict.items()})
criterion = SetCriterion(weight_dict)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
for _ in range(3):
    targets = {"labels": torch.randint(4, (2, 3)), "boxes": torch.rand(2, 3, 4)}
    outputs = model(torch.randn(2, 3, 6))
    loss_dict = criterion(outputs, targets)
    weight_dict = criterion.weight_dict
    losses = sum(loss_dict[k] * weight_dict[k] for k in loss_dict if k in weight_dict)
    loss_value = losses.item()
    optimizer.zero_grad()
    losses.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
torch.save(model.state_dict(), "weights.pt")
