"""More planted faults and healthy code: a trunk with a segmentation, a depth and a normal head; odd structures."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.attribution.audit.nets import Heads
from tests.attribution.audit.planted import healthy, planted


class Stacked(Heads):
    """The heads' outputs as one tensor."""

    def forward(self, image: Tensor) -> Any:
        return torch.cat(list(super().forward(image).values()), 1)


def data(num: int = 3, size: int = 4) -> list[dict[str, Tensor]]:
    found = []
    for index in range(num):
        draw = torch.Generator().manual_seed(index)
        found.append({
            "input": torch.randn(size, 3, 8, 8, generator=draw),
            "seg": torch.randint(0, 3, (size, 8, 8), generator=draw),
            "depth": torch.rand(size, 1, 8, 8, generator=draw) + 0.1,
            "normal": F.normalize(torch.randn(size, 3, 8, 8, generator=draw), dim=1),
            "valid": torch.rand(size, 8, 8, generator=draw) > 0.3,
        })  # fmt: skip
    return found


def dense(criterion: Any, model: type[nn.Module] = Heads, **more: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    subject: dict[str, Any] = {"model": model(seg=3, depth=1, normal=3), "batches": data(), "criterion": criterion}
    return subject | more


def three(outputs: Any, batch: Any) -> dict[str, Tensor]:
    return {
        "seg": F.cross_entropy(outputs["seg"], batch["seg"]),
        "depth": F.l1_loss(outputs["depth"], batch["depth"]),
        "normal": (1 - F.cosine_similarity(outputs["normal"], batch["normal"], dim=1)).mean(),
    }


@planted("sum-mismatch", "normal")
def loop_ends_one_too_early() -> Any:
    return dense(three, total=lambda losses: sum(list(losses.values())[:-1]))


@planted("sum-mismatch", "depth")
def twice_in_a_mean() -> Any:
    def total(losses: dict[str, Tensor]) -> Tensor:
        return torch.stack([losses["seg"], losses["depth"], losses["depth"], losses["normal"]]).mean()

    return dense(three, total=total)


@planted("sum-mismatch", "depth")
def assigned_where_added_was_meant() -> Any:
    def criterion(outputs: Any, batch: Any) -> Any:
        losses = three(outputs, batch)
        loss = losses["seg"] + losses["depth"]
        loss = losses["seg"] + losses["normal"]
        return loss, {name: value.detach() for name, value in losses.items()}

    return dense(criterion)


@planted("sum-mismatch", "1")
def weights_of_a_list_squared() -> Any:
    class Weighing:
        def __init__(self) -> None:
            self.loss_weights = [1.0, 0.3, 2.0]

        def __call__(self, outputs: Any, batch: Any) -> list[Tensor]:
            found = [w * loss for w, loss in zip(self.loss_weights, three(outputs, batch).values(), strict=True)]
            found[1] = self.loss_weights[1] * found[1]
            return found

    return dense(Weighing())


@planted("detached-loss", "loss_iou")
def counted_with_argmax() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        right = (outputs["seg"].argmax(1) == batch["seg"]).float()
        return three(outputs, batch) | {"loss_iou": 1 - right.mean()}

    return dense(criterion)


@planted("dead-loss", "depth")
def mask_compared_with_a_wrong_number() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        mask = (batch["valid"] == 2).float().unsqueeze(1)
        depth = ((outputs["depth"] - batch["depth"]).abs() * mask).sum() / (mask.sum() + 1e-6)
        return three(outputs, batch) | {"depth": depth}

    return dense(criterion)


@planted("dead-loss", "normal")
def sum_of_a_softmax() -> Any:
    """A constant up to rounding: its gradient is 1e-9, not 0."""

    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        normal = (outputs["normal"].softmax(1).sum(1) - batch["depth"][:, 0]).square().mean()
        return three(outputs, batch) | {"normal": normal}

    return dense(criterion)


@planted("untrained-output", "6")
def slice_one_too_short() -> Any:
    def criterion(maps: Tensor, batch: Any) -> dict[str, Tensor]:
        normal = F.mse_loss(maps[:, 4:6], batch["normal"][:, :2])
        return {"seg": F.cross_entropy(maps[:, :3], batch["seg"]), "depth": F.l1_loss(maps[:, 3:4], batch["depth"]),
                "normal": normal}  # fmt: skip

    return dense(criterion, Stacked)


@planted("outside-mask", "loss at depth")
def scalar_without_its_mask() -> Any:
    return dense(lambda o, b: sum(three(o, b).values()), masks={"depth": "valid"})


@planted("outside-mask", "depth")
def smoothness_across_the_border_of_a_mask() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        mask, depth = batch["valid"].unsqueeze(1), outputs["depth"]
        steps = (depth[..., 1:] - depth[..., :-1]).abs()
        gap = (depth - batch["depth"]).abs()[mask].mean()
        return three(outputs, batch) | {"depth": gap + (steps * mask[..., 1:]).mean()}

    return dense(criterion, masks={"depth": "valid"})


@planted("mutated-input", "outputs.depth")
def written_through_data() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        outputs["depth"].data.clamp_(min=0)
        return three(outputs, batch)

    return dense(criterion)


@planted("mutated-input", "batch.seg")
def ignored_labels_written_into_the_batch() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        batch["seg"][~batch["valid"]] = -100
        return three(outputs, batch)

    return dense(criterion)


@planted("grad-mode", "criterion")
def no_grad_entered_and_never_left() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        losses = three(outputs, batch)
        torch.no_grad().__enter__()
        return losses

    return dense(criterion)


@healthy
def dice_beside_cross_entropy() -> Any:
    """Its numerator and denominator share tensors, which is no double counting."""

    def criterion(outputs: Any, batch: Any) -> Tensor:
        scores, labels = outputs["seg"].softmax(1), F.one_hot(batch["seg"], 3).movedim(-1, 1)
        both = (scores * labels).sum()
        losses = three(outputs, batch)
        dice: Tensor = 1 - 2 * both / (scores.sum() + labels.sum())
        return dice + torch.stack(list(losses.values())).sum()

    return dense(criterion)


@healthy
def two_losses_on_one_output() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        gap = outputs["depth"] - batch["depth"]
        return three(outputs, batch) | {"edges": (gap[..., 1:] - gap[..., :-1]).abs().mean()}

    return dense(criterion)


@healthy
def two_hinges_of_one_slope() -> Any:
    """Unlike losses whose gradients are alike: below both targets an L1 loss has the slope -1."""

    def criterion(outputs: Any, batch: Any) -> Tensor:
        low, high = (F.l1_loss(outputs["depth"], batch["depth"] + add) for add in (9.0, 20.0))
        losses = three(outputs, batch)
        return low + high + losses["seg"] + losses["normal"]

    return dense(criterion)


@healthy
def relative_weights() -> Any:
    return dense(three, total=lambda losses: sum(loss / loss.detach() for loss in losses.values()))


@healthy
def logged_with_the_total_among_the_logs() -> Any:
    def criterion(outputs: Any, batch: Any) -> Any:
        losses = three(outputs, batch)
        total = losses["seg"] + losses["depth"] + losses["normal"]
        return total, {"loss": total.item()} | {name: value.item() for name, value in losses.items()}

    return dense(criterion)


@healthy
def regularizer_of_parameters() -> Any:
    subject = dense(None)
    weights = list(subject["model"].parameters())
    subject["criterion"] = lambda o, b: (
        three(o, b) | {"l2": 1e-4 * torch.stack([weight.square().sum() for weight in weights]).sum()}
    )
    return subject


@healthy
def checkpointed_trunk() -> Any:
    def forward(model: Any, batch: Any) -> dict[str, Tensor]:
        features = checkpoint(model.trunk, batch["input"], use_reentrant=False)
        return {name: head(features) for name, head in model.heads.items()}

    return dense(three, forward=forward)


@healthy
def autocast_to_bfloat16() -> Any:
    def forward(model: Any, batch: Any) -> dict[str, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found: dict[str, Tensor] = model(batch["input"])
        return {name: output.float() for name, output in found.items()}

    return dense(three, forward=forward)


@healthy
def a_list_of_targets_and_unread_extras() -> Any:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Conv2d(3, 8, 3, padding=1)
            self.cls, self.box = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 16, 1)

        def forward(self, image: Tensor) -> Any:
            features = self.trunk(image).relu()
            boxes = self.box(features).flatten(2).transpose(1, 2).reshape(len(image), 64, 4, 4)
            logits = self.cls(features).flatten(2).transpose(1, 2)
            return OrderedDict(logits=logits, boxes=boxes, anchors=torch.zeros(64, 4), extra=None)

    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        each = [F.cross_entropy(outputs["logits"][i], labels) for i, labels in enumerate(batch[1])]
        boxes = []
        for i, labels in enumerate(batch[1]):
            found = labels.nonzero()[:, 0]
            boxes.append(outputs["boxes"][i][found, labels[found]].abs().sum() / max(len(found), 1))
        return {"classification": torch.stack(each).mean(), "regression": torch.stack(boxes).mean()}

    def batch(seed: int) -> Any:
        draw = torch.Generator().manual_seed(seed)
        labels = [torch.randint(0, 3, (64,), generator=draw) * (torch.arange(64) % 5 == i) for i in range(2)]
        return torch.randn(2, 3, 8, 8, generator=draw), labels

    torch.manual_seed(0)
    return {"model": Detector(), "batches": [batch(i) for i in range(3)], "criterion": criterion,
            "forward": lambda model, batch: model(batch[0])}  # fmt: skip


@healthy
def tokens_with_a_sparse_embedding() -> Any:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.gru = nn.Embedding(50, 16, sparse=True), nn.GRU(16, 16, batch_first=True)
            self.tags, self.kind = nn.Linear(16, 7), nn.Linear(16, 3)

        def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
            states, _ = self.gru(self.embedding(tokens))
            return self.tags(states), self.kind(states[:, -1])

    def criterion(outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        tags = F.cross_entropy(outputs[0].flatten(0, 1), batch["tags"].flatten(), ignore_index=-1)
        return tags, F.cross_entropy(outputs[1], batch["kind"])

    def batch(seed: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        sizes = {"input": (0, 50, (4, 9)), "tags": (-1, 7, (4, 9)), "kind": (0, 3, (4,))}
        return {name: torch.randint(*bounds, generator=draw) for name, bounds in sizes.items()}

    torch.manual_seed(0)
    return {"model": Tagger(), "batches": [batch(i) for i in range(3)], "criterion": criterion}
