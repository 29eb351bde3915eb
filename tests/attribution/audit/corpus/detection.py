# mypy: ignore-errors
"""Detectors and segmenters: dicts with weights, models that return their losses, tuples, composites."""

import torch
import torch.nn.functional as F
from torch import nn


def data(make, count=3):
    torch.manual_seed(1)
    return [make() for _ in range(count)]


def seeded(model_class, *args):
    torch.manual_seed(0)
    return model_class(*args)


class Queries(nn.Module):
    """A tiny set predictor: five queries with classes, segments and actionness, and an auxiliary layer."""

    def __init__(self):
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(6, 10), nn.Linear(10, 10)])
        self.classes, self.segments, self.action = nn.Linear(10, 3), nn.Linear(10, 2), nn.Linear(10, 1)

    def forward(self, x):
        layers = []
        for layer in self.body:
            x = layer(x).tanh()
            layers.append({"logits": self.classes(x), "segments": self.segments(x).sigmoid(), "action": self.action(x)})
        return {**layers[-1], "aux_outputs": layers[:-1]}


def clips():
    return data(lambda: {
        "input": torch.randn(4, 5, 6), "labels": torch.randint(3, (4, 5)), "segments": torch.rand(4, 5, 2),
        "action": torch.rand(4, 5, 1),
    })  # fmt: skip


class SetLoss(nn.Module):
    def __init__(self, weights, action_key="loss_action"):
        super().__init__()
        self.weight_dict, self.action_key = weights, action_key

    def of_layer(self, out, batch):
        found = {"loss_ce": F.cross_entropy(out["logits"].transpose(1, 2), batch["labels"])}
        found["loss_segment"] = (out["segments"] - batch["segments"]).abs().mean()
        found["loss_length"] = (out["segments"].sum(-1) - batch["segments"].sum(-1)).square().mean()
        found[self.action_key] = (out["action"] - batch["action"]).square().mean()
        return found

    def forward(self, out, batch):
        found = self.of_layer(out, batch)
        for i, layer in enumerate(out["aux_outputs"]):
            found.update({f"{k}_{i}": v for k, v in self.of_layer(layer, batch).items()})
        return found

    def total(self, losses):
        return sum(losses[k] * self.weight_dict[k] for k in losses if k in self.weight_dict)


def with_layers(weights):
    return {**weights, **{f"{k}_0": v for k, v in weights.items()}}


def misspelt_weight(fixed=False):
    """The weights say loss_segments, the losses loss_segment: it is dropped, in every layer."""
    key = "loss_segment" if fixed else "loss_segments"
    loss = SetLoss(with_layers({"loss_ce": 2.0, key: 5.0, "loss_length": 0.5, "loss_action": 3.0}))
    return {"model": seeded(Queries), "batches": clips(), "criterion": loss, "total": loss.total}


def overwritten(fixed=False):
    """One loss is returned under another's key and replaces it; its own weight weighs nothing."""
    loss = SetLoss(
        with_layers({"loss_ce": 2.0, "loss_segment": 5.0, "loss_length": 0.5, "loss_action": 3.0}),
        "loss_action" if fixed else "loss_length",
    )
    return {"model": seeded(Queries), "batches": clips(), "criterion": loss, "total": loss.total}


def unused_weights(fixed=False):
    """The weights are declared, and the loop sums the dict."""
    loss = SetLoss(with_layers({"loss_ce": 1.0, "loss_segment": 5.0, "loss_length": 1.0, "loss_action": 2.0}))
    total = loss.total if fixed else lambda losses: sum(losses.values())
    return {"model": seeded(Queries), "batches": clips(), "criterion": loss, "total": total}


class Recognizer(nn.Module):
    """Returns its losses, main and auxiliary head, with their total."""

    def __init__(self, lost):
        super().__init__()
        self.lost = lost
        self.stem, self.neck = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head, self.aux_head = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, image, label):
        early = self.stem(image).relu()
        late = self.neck(early).relu()
        losses = {"loss_cls": F.cross_entropy(self.head(late.mean((2, 3))), label)}
        aux = {"loss_aux": 0.4 * F.cross_entropy(self.aux_head(early.mean((2, 3))), label)}
        kept = dict(losses) if self.lost else losses
        losses.update(aux)
        kept.update({} if self.lost else aux)
        return {"loss": sum(kept.values()), **losses, "top1_acc": torch.tensor(0.25), "num_samples": len(label)}


def lost_auxiliary_head(fixed=False):
    """The head's loss is put into another dict than the one that is summed."""
    return {
        "model": seeded(Recognizer, not fixed), "forward": lambda model, batch: model(batch["image"], batch["label"]),
        "batches": data(lambda: {"image": torch.randn(4, 2, 8, 8), "label": torch.randint(4, (4,))}),
        "criterion": lambda losses, batch: losses, "total": lambda losses: losses["loss"],
    }  # fmt: skip


class Prompted(nn.Module):
    """Returns (total, losses) in which the mask loss was added by the head and again by the model."""

    def __init__(self, again):
        super().__init__()
        self.again = again
        self.body, self.classes, self.masks = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 4)

    def forward(self, x, label, mask):
        hidden = self.body(x).relu()
        cls = F.cross_entropy(self.classes(hidden), label)
        prompt = F.binary_cross_entropy_with_logits(self.masks(hidden), mask)
        total = cls + prompt
        if self.again:
            total = total + prompt
        return {"total_loss": total.clone(), "cls_loss": cls.clone(), "prompt_loss": prompt.clone(), "num_prompts": 7}


def added_by_head_and_model(fixed=False):
    return {
        "model": seeded(Prompted, not fixed), "forward": lambda model, batch: model(**batch),
        "batches": data(lambda: {"x": torch.randn(8, 6), "label": torch.randint(3, (8,)), "mask": torch.rand(8, 4).round()}),  # noqa: E501
        "criterion": lambda losses, batch: losses, "total": lambda losses: losses["total_loss"],
    }  # fmt: skip


class Maps(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, channels, 1)

    def forward(self, x):
        return self.b(self.a(x).relu())


def overlap(score, label):
    chance = score.sigmoid()
    return 1 - (2 * (chance * label).sum() + 1) / (chance.sum() + label.sum() + 1)


def entropy(score, label):
    if score.shape[1] == 1:
        return F.cross_entropy(score, torch.zeros_like(label))
    return F.cross_entropy(score, label)


class OverlapAndEntropy(nn.Module):
    def forward(self, score, batch):
        return overlap(score[:, -1], batch["label"].float()) + entropy(score, batch["label"])


def one_channel(fixed=False):
    """A softmax over one channel: half of the composite is 0 for ever."""
    batches = data(lambda: {"input": torch.randn(2, 1, 8, 8), "label": torch.randint(2, (2, 8, 8))})
    return {"model": seeded(Maps, 2 if fixed else 1), "batches": batches, "criterion": OverlapAndEntropy()}


def pull(tags, mask):
    live = mask.float()
    mean = (tags * live).sum(1, keepdim=True) / live.sum(1, keepdim=True)
    return ((tags - mean).square() * live).sum() / live.sum()


def push(tags, mask):
    pairs = (mask.unsqueeze(1) + mask.unsqueeze(2)).eq(2)
    distance = (tags.unsqueeze(1) - tags.unsqueeze(2)).abs()
    return (1 - distance).relu()[pairs].sum() / pairs.numel()


def bool_pairs(fixed=False):
    """`a + b == 2` of a mask that is bool: no pair is ever pushed apart. Returned as one number with the pull."""

    def batch():
        mask = torch.zeros(2, 6, dtype=torch.uint8 if fixed else torch.bool)
        mask[:, :4] = 1
        return {"input": torch.randn(2, 1, 8, 8), "at": torch.randint(64, (2, 6)), "mask": mask}

    def criterion(out, batch):
        tags = out.flatten(1).gather(1, batch["at"])
        return pull(tags, batch["mask"]) + push(tags, batch["mask"])

    return {"model": seeded(Maps, 1), "batches": data(batch), "criterion": criterion}


class Snake(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return self.b(self.a(x).relu())


def texts():
    return data(lambda: {
        "input": torch.randn(2, 1, 8, 8), "geometry": torch.randn(2, 3, 8, 8), "text": torch.rand(2, 8, 8) < 0.5,
        "care": torch.rand(2, 8, 8) < 0.7,
    })  # fmt: skip


def masked(prediction, target, mask):
    return (F.smooth_l1_loss(prediction, target, reduction="none") * mask).sum() / mask.sum().clamp(min=1)


def rotated_names(fixed=False):
    """The criterion returns text, radius, sin, cos; the loop unpacks text, sin, cos, radius."""

    def criterion(out, batch):
        text = F.binary_cross_entropy_with_logits(out[:, 0], batch["text"].float())
        sin, cos, radius = (masked(out[:, i + 1], batch["geometry"][:, i], batch["text"]) for i in range(3))
        return (text, sin, cos, radius) if fixed else (text, radius, sin, cos)

    return {
        "model": seeded(Snake), "batches": texts(), "criterion": criterion, "total": sum,
        "reads": {"text": "output[:, 0]", "sin": "output[:, 1]", "cos": "output[:, 2]", "radius": "output[:, 3]"},
    }  # fmt: skip


def ignored_pixels(fixed=False):
    """Whether there is text is asked with the mask of ignored pixels, and the loss is taken without it."""

    def criterion(out, batch):
        text = batch["text"]
        kept = text & batch["care"]
        if not kept.any():
            return {"loss_sin": out.sum() * 0, "loss_text": out.sum() * 0}
        score = F.binary_cross_entropy_with_logits(out["text"], text.float(), reduction="none")
        geometry = masked(out["geometry"], batch["geometry"], (kept if fixed else text)[:, None].float())
        return {"loss_geometry": geometry, "loss_text": (score * batch["care"]).sum() / batch["care"].sum()}

    class Split(Snake):
        def forward(self, x):
            maps = super().forward(x)
            return {"text": maps[:, 0], "geometry": maps[:, 1:]}

    batches = texts()
    for batch in batches:
        batch["care_text"] = batch["care"] & batch["text"]
    return {
        "model": seeded(Split), "batches": batches, "criterion": criterion,
        "masks": {"geometry": "care_text", "text": "care"},
    }  # fmt: skip


# ---- healthy


class OneStage(nn.Module):
    """Weighs a part inside, writes it down again for the log, and reports a count."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        raw = self.head(self.body(x).relu())
        iou, obj, cls, l1 = (
            raw[:, 0].sub(1).square().mean(),
            raw[:, 1].abs().mean(),
            raw[:, 2].cosh().mean(),
            raw[:, 3].sub(2).square().mean(),
        )
        total = 5.0 * iou + obj + cls + l1
        return {
            "total_loss": total,
            "iou_loss": 5.0 * iou,
            "l1_loss": l1,
            "conf_loss": obj,
            "cls_loss": cls,
            "num_fg": 1.3,
        }


def parts_written_again():
    return {
        "model": seeded(OneStage), "batches": data(lambda: {"input": torch.randn(8, 6)}),
        "criterion": lambda losses, batch: losses, "total": lambda losses: losses["total_loss"],
    }  # fmt: skip


class Levels(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Conv2d(3, 5, 3, stride=s, padding=1) for s in (2, 4, 8)])

    def forward(self, x):
        maps = [head(x) for head in self.heads]
        return {"boxes": [m[:, :4] for m in maps], "objectness": [m[:, 4] for m in maps]}


def empty_levels():
    """All objects are small: the coarse levels' boxes get no gradient in these batches."""

    def criterion(out, batch):
        boxes = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, 4) for m in out["boxes"]])
        score = torch.cat([m.flatten() for m in out["objectness"]])
        label = torch.zeros_like(score).index_fill(0, batch["positive"], 1.0)
        return {
            "loss_box": (boxes[batch["positive"]] - 1).abs().mean(),
            "loss_obj": F.binary_cross_entropy_with_logits(score, label),
        }

    batches = data(lambda: {"input": torch.randn(2, 3, 16, 16), "positive": torch.randint(128, (6,))}, 4)
    return {"model": seeded(Levels), "batches": batches, "criterion": criterion}


def tuple_per_gpu():
    """(total, parts), all unsqueezed so that they can be gathered; the loop averages the total."""

    def criterion(out, batch):
        focal, near, far, offset = (
            out[:, 0].sub(1).square().mean(),
            0.1 * out[:, 0].abs().mean(),
            0.1 * out[:, 1].cosh().mean(),
            out[:, 1].sub(2).abs().mean(),
        )
        total = (focal + near + far + offset) / 2
        return (
            total.unsqueeze(0),
            (focal / 2).unsqueeze(0),
            (near / 2).unsqueeze(0),
            (far / 2).unsqueeze(0),
            (offset / 2).unsqueeze(0),
        )

    batches = data(lambda: {"input": torch.randn(2, 1, 8, 8)})
    return {
        "model": seeded(Maps, 2),
        "batches": batches,
        "criterion": criterion,
        "total": lambda losses: losses[0].mean(),
    }
