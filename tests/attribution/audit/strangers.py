"""Training code in the manner of published repositories, made up: with a fault, and without."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """One trunk, convolutional heads by name."""

    def __init__(self, **heads):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Conv2d(8, size, 1) for name, size in heads.items()})

    def forward(self, x):
        features = self.trunk(x)
        return {name: head(features) for name, head in self.heads.items()}


def image():
    return {
        "input": torch.randn(4, 3, 6, 6), "label": torch.randint(3, (4, 6, 6)), "box": torch.randn(4, 2, 6, 6),
        "mask": (torch.rand(4, 1, 6, 6) > 0.5), "weight": torch.rand(4) + 0.5,
    }  # fmt: skip


def batches(make=image, number=3):
    torch.manual_seed(7)
    return [make() for _ in range(number)]


def subject(model, criterion, **more):
    return {"model": model, "batches": batches(), "criterion": criterion, **more}


def misspelt_weight_key():
    weights = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_gious": 2.0}

    def criterion(out, batch):
        return {
            "loss_ce": F.cross_entropy(out["cls"], batch["label"]),
            "loss_bbox": F.l1_loss(out["box"], batch["box"]),
            "loss_giou": (out["box"] - batch["box"]).square().mean(),
        }

    return subject(Net(cls=3, box=2), criterion, total=lambda d: sum(d[k] * weights[k] for k in d if k in weights))


def twice_through_a_mean():
    def criterion(out, batch):
        loss_cls = F.cross_entropy(out["cls"], batch["label"])
        loss_box = F.smooth_l1_loss(out["box"], batch["box"])
        loss_aux = F.cross_entropy(out["aux"], batch["label"])
        loss_levels = torch.stack([loss_cls, loss_aux]).mean()
        return {
            "loss_cls": loss_cls,
            "loss_box": loss_box,
            "loss_aux": loss_aux,
            "loss": loss_cls + loss_box + loss_levels,
        }

    return subject(Net(cls=3, box=2, aux=3), criterion)


def detached_by_numpy():
    def criterion(out, batch):
        pred = out["mask"].sigmoid()
        inter = (pred * batch["mask"]).sum()
        iou = inter.detach().cpu().numpy() / float(batch["mask"].sum())
        loss_iou = torch.as_tensor(1 - iou)
        loss_ce = F.cross_entropy(out["cls"], batch["label"])
        return loss_ce + loss_iou, {"loss_ce": loss_ce, "loss_iou": loss_iou}

    return subject(Net(cls=3, mask=1), criterion)


def dtype_dead_mask():
    def criterion(out, batch):
        boundary = batch["mask"].eq(2)[:, 0]
        per_pixel = F.cross_entropy(out["cls"], batch["label"], reduction="none")
        loss_boundary = (per_pixel * boundary).sum() / boundary.sum().clamp(min=1)
        loss_region = per_pixel.mean()
        return {"loss_region": loss_region, "loss_boundary": loss_boundary, "total_loss": loss_region + loss_boundary}

    return subject(Net(cls=3), criterion)


def wrong_label():
    def criterion(out, batch):
        heat = F.binary_cross_entropy_with_logits(out["heat"], batch["mask"].float())
        offset = F.l1_loss(out["offset"], batch["box"])
        size = F.l1_loss(out["size"], batch["box"])
        return {"heat_loss": heat, "offset_loss": size, "size_loss": offset, "loss": heat + offset + 0.1 * size}

    return subject(Net(heat=1, offset=2, size=2), criterion)


def per_sample_dropped():
    def criterion(out, batch):
        loss_cls = F.cross_entropy(out["cls"], batch["label"], reduction="none").flatten(1).mean(1)
        loss_box = (out["box"] - batch["box"]).abs().flatten(1).mean(1)
        return {"loss_cls": loss_cls, "loss_box": loss_box}

    return subject(Net(cls=3, box=2), criterion, total=lambda d: (d["loss_cls"] + 0 * len(d)).mean())


class Uncertain(nn.Module):
    def __init__(self, names, used):
        super().__init__()
        self.log_vars = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in names})
        self.used = used

    def forward(self, out, batch):
        losses = {
            "cls": F.cross_entropy(out["cls"], batch["label"]),
            "box": F.l1_loss(out["box"], batch["box"]),
            "depth": F.mse_loss(out["depth"], batch["box"][:, :1]),
        }
        total = sum(torch.exp(-self.log_vars[k]) * losses[k] + self.log_vars[k] for k in self.used)
        return total, losses


def uncertainty_forgets_a_task():
    return subject(Net(cls=3, box=2, depth=1), Uncertain(["cls", "box", "depth"], ["cls", "box"]))


@dataclass
class Output:
    loss: torch.Tensor | None = None
    loss_start: torch.Tensor | None = None
    loss_end: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class Reader(nn.Module):
    def __init__(self, whole=True):
        super().__init__()
        self.body, self.start, self.end = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(8, 5)
        self.whole = whole

    def forward(self, x, where):
        h = self.body(x).relu()
        start, end = self.start(h), self.end(h)
        loss_start, loss_end = F.cross_entropy(start, where[:, 0]), F.cross_entropy(end, where[:, 1])
        loss = (loss_start + (loss_end if self.whole else loss_start)) / 2
        return Output(loss, loss_start, loss_end, torch.stack([start, end], -1))


def words():
    return {"x": torch.randn(8, 6), "where": torch.randint(5, (8, 2))}


def hf_copy_paste():
    return {
        "model": Reader(False), "batches": batches(words), "forward": lambda m, b: m(b["x"], b["where"]),
        "criterion": lambda out, b: out,
    }  # fmt: skip


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
        self.outs = nn.ModuleList(nn.Conv2d(8, 3, 1) for _ in range(4))

    def forward(self, x):
        x, found = self.stem(x).relu(), []
        for block, out in zip(self.blocks, self.outs, strict=True):
            x = block(x).relu()
            found.append(out(x))
        return found


def deep_supervision_zip():
    weights = [0.25, 0.5, 1.0]

    def criterion(outs, batch):
        losses = [w * F.cross_entropy(o, batch["label"]) for w, o in zip(weights, outs, strict=False)]
        return sum(losses)

    return subject(Deep(), criterion)


def behind_an_if():
    def criterion(out, batch):
        losses = {"loss_cls": F.cross_entropy(out["cls"], batch["label"])}
        if "masks" in batch:
            losses["loss_mask"] = F.binary_cross_entropy_with_logits(out["mask"], batch["masks"].float())
        return losses

    return subject(Net(cls=3, mask=1), criterion)


def nested_subtotal_forgets():
    def criterion(out, batch):
        det = {"cls": F.cross_entropy(out["cls"], batch["label"]), "box": F.l1_loss(out["box"], batch["box"])}
        det["total"] = det["cls"] + 2 * det["box"]
        prob = out["mask"].sigmoid()
        dice = 1 - 2 * (prob * batch["mask"]).sum() / (prob.sum() + batch["mask"].sum())
        seg = {"bce": F.binary_cross_entropy_with_logits(out["mask"], batch["mask"].float()), "dice": dice}
        seg["total"] = seg["bce"]
        return {"det": det, "seg": seg, "total": det["total"] + seg["total"]}

    return subject(Net(cls=3, box=2, mask=1), criterion)


class Weighted(nn.Module):
    def __init__(self, again):
        super().__init__()
        self.losses = nn.ModuleDict({"cls": nn.CrossEntropyLoss(), "box": nn.L1Loss()})
        self.loss_weights = {"cls": 1.0, "box": 5.0}
        self.again = again

    def forward(self, out, batch):
        found = {
            "cls": self.losses["cls"](out["cls"], batch["label"]) * self.loss_weights["cls"],
            "box": self.losses["box"](out["box"], batch["box"]) * self.loss_weights["box"],
        }
        total = sum(found[k] * (self.loss_weights[k] if self.again else 1) for k in found)
        return {**found, "total": total}


def weight_twice_in_a_module_dict():
    return subject(Net(cls=3, box=2), Weighted(True))


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net(cls=3, box=2, mask=1)

    def forward(self, images, targets):
        out = self.net(images)
        return {
            "loss_classifier": F.cross_entropy(out["cls"], targets["label"]),
            "loss_box_reg": F.smooth_l1_loss(out["box"], targets["box"]),
            "loss_mask": F.binary_cross_entropy_with_logits(out["mask"], targets["mask"].float()),
        }


def torchvision_selected():
    keys = ["loss_classifier", "loss_box_reg", "loss_masks"]
    return {
        "model": Detector(), "batches": batches(), "forward": lambda m, b: m(b["input"], b),
        "criterion": lambda losses, b: losses,
        "total": lambda losses: sum(v for k, v in losses.items() if k in keys),
    }  # fmt: skip


class Tv:
    def __init__(self, applied):
        self.lambda_tv, self.applied = 0.1, applied

    def __call__(self, out, batch):
        l1 = F.l1_loss(out["box"], batch["box"])
        tv = (out["box"][:, :, 1:] - out["box"][:, :, :-1]).abs().mean()
        return {"l1": l1, "tv": tv, "loss": l1 + (self.lambda_tv * tv if self.applied else tv)}


def weight_never_applied():
    return subject(Net(box=2), Tv(False))


def variable_of_data():
    def criterion(out, batch):
        return {
            "loss_cls": F.cross_entropy(out["cls"], batch["label"]),
            "loss_box": F.l1_loss(out["box"], batch["box"]),
        }

    return subject(
        Net(cls=3, box=2), criterion, total=lambda d: torch.tensor(sum(d.values()).item(), requires_grad=True)
    )


def one_channel_softmax():
    def criterion(out, batch):
        seg = F.cross_entropy(out["mask"], torch.zeros_like(batch["label"]))
        reg = F.l1_loss(out["box"], batch["box"])
        return {"seg": seg, "reg": reg, "loss": seg + reg}

    return subject(Net(mask=1, box=2), criterion)


def free_bits():
    def criterion(out, batch):
        kl = (out["latent"].square().mean() - 1).clamp(min=100.0)
        recon = F.mse_loss(out["box"], batch["box"])
        return {"recon": recon, "kl": kl, "loss": recon + 0.1 * kl}

    return subject(Net(latent=2, box=2), criterion)


def importance_weighted_forgets():
    return importance_weighted() | {"total": lambda d: (torch.linspace(0.5, 1.5, len(d["cls"])) * d["cls"]).mean()}


class Probabilities(nn.Module):
    """Returns probabilities beside the loss, which it computes of logits; or a half of a map that no loss reads."""

    def __init__(self, whole):
        super().__init__()
        self.body, self.whole = nn.Conv2d(3, 5, 3, padding=1), whole

    def forward(self, x, label):
        raw = self.body(x)
        logits = raw if self.whole else raw[:, :3]
        return {"loss": F.cross_entropy(logits, label), "probs": logits.softmax(1), "offset": raw[:, 3:]}


def returned_half_without_a_loss():
    return {
        "model": Probabilities(False), "batches": batches(), "forward": lambda m, b: m(b["input"], b["label"]),
        "criterion": lambda out, b: out["loss"],
    }  # fmt: skip


def returned_probabilities():
    return returned_half_without_a_loss() | {"model": Probabilities(True)}


class TwoGroups(nn.Module):
    def forward(self, out, batch):
        det = {"cls": F.cross_entropy(out["cls"], batch["label"]), "box": F.l1_loss(out["box"], batch["box"])}
        seg = {"bce": F.binary_cross_entropy_with_logits(out["mask"], batch["mask"].float())}
        seg["dice"] = 1 - (out["mask"].sigmoid() * batch["mask"]).mean()
        return {"det": det | {"loss": sum(det.values())}, "seg": seg | {"loss": sum(seg.values())}}


def two_groups():
    return subject(Net(cls=3, box=2, mask=1), TwoGroups(), total=lambda d: d["det"]["loss"] + d["seg"]["loss"])


def two_groups_without_a_total():
    return subject(Net(cls=3, box=2, mask=1), TwoGroups())


def overwritten_key():
    def criterion(out, batch):
        losses = {}
        for head in ("cls", "aux"):
            losses["loss_cls"] = F.cross_entropy(out[head], batch["label"])
        losses["loss_box"] = F.l1_loss(out["box"], batch["box"])
        return losses

    return subject(Net(cls=3, aux=3, box=2), criterion)


def list_made_anew_in_the_loop():
    def criterion(outs, batch):
        for out in outs:
            losses = []
            losses.append(F.cross_entropy(out, batch["label"]))
        return torch.stack(losses).mean()

    return subject(Deep(), criterion)


def rounded():
    def criterion(out, batch):
        return {"cls": F.cross_entropy(out["cls"], batch["label"]), "count": (out["box"].round().sum() - 3).abs()}

    return subject(Net(cls=3, box=2), criterion)


class HalfFrozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.cls, self.depth = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.body(x).relu()
        with torch.no_grad():
            depth = self.depth(x)
        return {"cls": self.cls(x), "depth": depth}


def head_under_no_grad():
    def criterion(out, batch):
        return {
            "loss_cls": F.cross_entropy(out["cls"], batch["label"]),
            "loss_depth": F.l1_loss(out["depth"], batch["box"]),
        }

    return subject(HalfFrozen(), criterion)


class Diffusion:
    def __init__(self, whole):
        self.whole = whole

    def __call__(self, out, batch):
        terms = {"mse": (out["noise"] - batch["box"]).square().flatten(1).mean(1)}
        terms["vb"] = (out["var"].exp() - 1).abs().flatten(1).mean(1) / 1000
        terms["loss"] = terms["mse"] + terms["vb"] if self.whole else terms["mse"]
        return terms


def diffusion_forgets():
    return subject(
        Net(noise=2, var=2),
        Diffusion(False),
        total=lambda d: (d["loss"] * torch.linspace(0.5, 1.5, len(d["loss"]))).mean(),
    )


def distillation_of_itself():
    def criterion(out, batch):
        kd = F.kl_div(
            out["cls"].detach().log_softmax(1),
            batch["box"].softmax(1)[:, :1].expand(-1, 3, -1, -1),
            reduction="batchmean",
        )
        return {"ce": F.cross_entropy(out["cls"], batch["label"]), "kd": kd}

    return subject(Net(cls=3), criterion, total=lambda d: d["ce"] + 0.5 * d["kd"])


FAULTS = {
    overwritten_key: ({"untrained-output"}, {"cls"}),
    list_made_anew_in_the_loop: ({"untrained-output"}, {"[0]"}),
    rounded: ({"dead-loss"}, {"count"}),
    head_under_no_grad: ({"detached-loss"}, {"loss_depth"}),
    diffusion_forgets: ({"sum-mismatch"}, {"vb"}),
    distillation_of_itself: ({"detached-loss"}, {"kd"}),
    importance_weighted_forgets: ({"sum-mismatch"}, {"box"}),
    returned_half_without_a_loss: ({"untrained-output"}, {"offset"}),
    misspelt_weight_key: ({"sum-mismatch"}, {"loss_giou", "loss_gious"}),
    twice_through_a_mean: ({"sum-mismatch"}, {"loss_cls"}),
    detached_by_numpy: ({"detached-loss"}, {"loss_iou"}),
    dtype_dead_mask: ({"dead-loss"}, {"loss_boundary"}),
    wrong_label: ({"rotated-names"}, {"offset_loss", "size_loss"}),
    per_sample_dropped: ({"sum-mismatch"}, {"loss_box"}),
    uncertainty_forgets_a_task: ({"sum-mismatch"}, {"depth"}),
    hf_copy_paste: ({"sum-mismatch"}, {"loss_end"}),
    deep_supervision_zip: ({"untrained-output"}, {"[3]"}),
    behind_an_if: ({"untrained-output"}, {"mask"}),
    nested_subtotal_forgets: ({"sum-mismatch"}, {"seg.dice", "dice"}),
    weight_twice_in_a_module_dict: ({"sum-mismatch"}, {"box"}),
    torchvision_selected: ({"sum-mismatch"}, {"loss_mask"}),
    weight_never_applied: ({"sum-mismatch"}, {"tv"}),
    variable_of_data: ({"detached-loss"}, {"the total"}),
    one_channel_softmax: ({"dead-loss"}, {"seg"}),
    free_bits: ({"dead-loss"}, {"kl"}),
}


class Yolo:
    def __init__(self):
        self.hyp = {"box": 0.05, "obj": 1.0, "cls": 0.5, "cls_pw": 1.0, "obj_pw": 1.0, "lr0": 0.01}

    def __call__(self, out, batch):
        lcls, lbox, lobj = torch.zeros(1), torch.zeros(1), torch.zeros(1)
        lbox += (out["box"] - batch["box"]).abs().mean()
        lobj += F.binary_cross_entropy_with_logits(out["obj"], batch["mask"].float())
        lcls += F.cross_entropy(out["cls"], batch["label"])
        lbox *= self.hyp["box"]
        lobj *= self.hyp["obj"]
        lcls *= self.hyp["cls"]
        size = len(batch["box"])
        return (lbox + lobj + lcls) * size, torch.cat((lbox, lobj, lcls)).detach()


def yolo():
    return subject(Net(box=2, obj=1, cls=3), Yolo())


class Mmdet(nn.Module):
    def __init__(self):
        super().__init__()
        self.levels = nn.ModuleList(Net(cls=3, box=2) for _ in range(2))

    def forward(self, images, data):
        outs = [level(images) for level in self.levels]
        return {
            "loss_cls": [F.cross_entropy(o["cls"], data["label"]) for o in outs],
            "loss_bbox": [F.l1_loss(o["box"], data["box"]) for o in outs],
            "acc": (outs[0]["cls"].argmax(1) == data["label"]).float().mean() * 100,
        }


def parse_losses(losses):
    log_vars = OrderedDict()
    for name, value in losses.items():
        log_vars[name] = sum(each.mean() for each in value) if isinstance(value, list) else value.mean()
    loss = sum(value for key, value in log_vars.items() if "loss" in key)
    log_vars["loss"] = loss
    return loss, log_vars


def mmdet():
    return {
        "model": Mmdet(), "batches": batches(), "forward": lambda m, b: m(b["input"], b),
        "criterion": lambda losses, b: losses, "total": lambda losses: parse_losses(losses)[0],
    }  # fmt: skip


def mmdet_parsed():
    return {
        "model": Mmdet(), "batches": batches(), "forward": lambda m, b: m(b["input"], b),
        "criterion": lambda losses, b: parse_losses(losses),
    }  # fmt: skip


def hf_whole():
    return hf_copy_paste() | {"model": Reader(True)}


def torchvision_all():
    return torchvision_selected() | {"total": lambda losses: sum(loss for loss in losses.values())}


def uncertainty():
    return subject(Net(cls=3, box=2, depth=1), Uncertain(["cls", "box", "depth"], ["cls", "box", "depth"]))


def deep_supervision():
    weights = [0.1, 0.2, 0.3, 0.4]

    def criterion(outs, batch):
        losses = [w * F.cross_entropy(o, batch["label"]) for w, o in zip(weights, outs, strict=True)]
        return {"loss": sum(losses), "loss_main": losses[-1].item(), "loss_aux": float(sum(losses[:-1]))}

    return subject(Deep(), criterion)


def nested_subtotals():
    def criterion(out, batch):
        det = {"cls": F.cross_entropy(out["cls"], batch["label"]), "box": F.l1_loss(out["box"], batch["box"])}
        det["total"] = det["cls"] + 2 * det["box"]
        prob = out["mask"].sigmoid()
        dice = 1 - 2 * (prob * batch["mask"]).sum() / (prob.sum() + batch["mask"].sum())
        seg = {"bce": F.binary_cross_entropy_with_logits(out["mask"], batch["mask"].float()), "dice": dice}
        seg["total"] = (seg["bce"] + seg["dice"]) / 2
        return {"det": det, "seg": seg, "total": det["total"] + seg["total"]}

    return subject(Net(cls=3, box=2, mask=1), criterion)


def focal_with_a_count():
    def criterion(out, batch, alpha=0.25, gamma=2.0):
        target = F.one_hot(batch["label"], 3).permute(0, 3, 1, 2).float()
        prob = out["cls"].sigmoid()
        ce = F.binary_cross_entropy_with_logits(out["cls"], target, reduction="none")
        p_t = prob * target + (1 - prob) * (1 - target)
        weight = alpha * target + (1 - alpha) * (1 - target)
        positive = batch["mask"].sum().clamp(min=1)
        loss_cls = (weight * ce * (1 - p_t) ** gamma).sum() / positive
        loss_reg = ((out["box"] - batch["box"]).abs() * batch["mask"]).sum() / positive
        num = positive.item()
        return {"loss_cls": loss_cls, "loss_reg": loss_reg, "num_pos": num}

    return subject(Net(cls=3, box=2), criterion)


def module_dict_with_metric():
    def criterion(out, batch):
        found = Weighted(False)(out, batch)
        mse = (out["box"] - batch["box"]).square().mean()
        return {**found, "psnr": -10 * mse.log10(), "mae": (out["box"] - batch["box"]).abs().mean()}

    return subject(Net(cls=3, box=2), criterion)


def importance_weighted():
    def criterion(out, batch):
        cls = F.cross_entropy(out["cls"], batch["label"], reduction="none").mean((1, 2))
        box = (out["box"] - batch["box"]).abs().mean((1, 2, 3))
        return {"cls": cls, "box": box}

    subjects = subject(Net(cls=3, box=2), criterion)
    return subjects | {
        "total": lambda d: (torch.linspace(0.5, 1.5, len(d["cls"])) * (d["cls"] + 0.3 * d["box"])).mean()
    }


def warm_up():
    def criterion(out, batch, step=0):
        recon = F.mse_loss(out["box"], batch["box"])
        kl = 0.5 * (out["mu"].square() + out["logvar"].exp() - 1 - out["logvar"]).mean()
        beta = min(1.0, step / 1000)
        return {"loss": recon + beta * kl, "recon": recon, "kl": kl}

    return subject(Net(box=2, mu=2, logvar=2), criterion)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.experts, self.head = (
            nn.Linear(6, 3),
            nn.ModuleList(nn.Linear(6, 8) for _ in range(3)),
            nn.Linear(8, 5),
        )

    def forward(self, x):
        gates = self.gate(x).softmax(-1)
        mixed = sum(gates[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))
        return {"logits": self.head(mixed.relu()), "router_loss": 3 * (gates.mean(0) ** 2).sum()}


def experts():
    def criterion(out, batch):
        ce = F.cross_entropy(out["logits"], batch["where"][:, 0])
        return {"ce": ce, "router": out["router_loss"], "loss": ce + 0.01 * out["router_loss"]}

    return {
        "model": Experts(), "batches": batches(words), "forward": lambda m, b: m(b["x"]), "criterion": criterion,
    }  # fmt: skip


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.student, self.predictor = nn.Linear(6, 4), nn.Linear(4, 4)
        self.teacher = nn.Linear(6, 4).requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            target = self.teacher(x)
        return {"online": self.predictor(self.student(x).relu()), "target": target}


def byol():
    def criterion(out, batch):
        one, other = F.normalize(out["online"], dim=-1), F.normalize(out["target"], dim=-1)
        return (2 - 2 * (one * other).sum(-1)).mean()

    return {
        "model": Student(), "batches": batches(words), "forward": lambda m, b: m(b["x"]), "criterion": criterion,
    }  # fmt: skip


def hybrid_with_logs():
    def criterion(out, batch):
        ctc = F.cross_entropy(out["ctc"], batch["label"])
        att = F.cross_entropy(out["att"], batch["label"], label_smoothing=0.1)
        loss = 0.3 * ctc + (1 - 0.3) * att
        stats = {"loss": loss.detach(), "loss_ctc": ctc.detach(), "loss_att": att.detach(), "acc": 0.5, "lr": 1e-3}
        return loss, stats

    return subject(Net(ctc=3, att=3), criterion)


def divided_by_ranks():
    def criterion(out, batch):
        world = 8
        losses = {
            "loss_cls": F.cross_entropy(out["cls"], batch["label"]),
            "loss_box": F.l1_loss(out["box"], batch["box"]),
        }
        weights = {"loss_cls": 1.0, "loss_box": 5.0, "loss_cls_0": 1.0, "loss_box_0": 5.0}
        scaled = {k: v * weights[k] for k, v in losses.items()}
        return {"loss": sum(scaled.values()) / world, **{f"{k}_unscaled": v for k, v in losses.items()}, **scaled}

    return subject(Net(cls=3, box=2), criterion)


def weight_applied():
    return subject(Net(box=2), Tv(True))


def weight_once_in_a_module_dict():
    return subject(Net(cls=3, box=2), Weighted(False))


class Clip(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other, self.logit_scale = nn.Linear(6, 4), nn.Linear(6, 4), nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return {
            "image": F.normalize(self.one(x), dim=-1),
            "text": F.normalize(self.other(x), dim=-1),
            "logit_scale": self.logit_scale.exp(),
        }


def clip():
    def criterion(out, batch):
        logits = out["logit_scale"] * out["image"] @ out["text"].T
        where = torch.arange(len(logits))
        one, other = F.cross_entropy(logits, where), F.cross_entropy(logits.T, where)
        return {"loss_image": one, "loss_text": other, "loss": (one + other) / 2, "logit_scale": out["logit_scale"]}

    return {"model": Clip(), "batches": batches(words), "forward": lambda m, b: m(b["x"]), "criterion": criterion}


class Vq(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.dec, self.codes = nn.Linear(6, 4), nn.Linear(4, 6), nn.Parameter(torch.randn(8, 4))

    def forward(self, x):
        z = self.enc(x)
        index = torch.cdist(z, self.codes).argmin(1)
        q = self.codes[index]
        return {
            "recon": self.dec(z + (q - z).detach()),
            "commit": (z - q.detach()).square().mean(),
            "codebook": (z.detach() - q).square().mean(),
            "index": index,
        }


def vq():
    def criterion(out, batch):
        recon = F.mse_loss(out["recon"], batch["x"])
        return {
            "loss": recon + out["codebook"] + 0.25 * out["commit"],
            "recon": recon,
            "codebook": out["codebook"],
            "commit": out["commit"],
        }

    return {"model": Vq(), "batches": batches(words), "forward": lambda m, b: m(b["x"]), "criterion": criterion}


def diffusion():
    return subject(
        Net(noise=2, var=2),
        Diffusion(True),
        total=lambda d: (d["loss"] * torch.linspace(0.5, 1.5, len(d["loss"]))).mean(),
    )


def softmax_outputs_and_boxes_decoded():
    class Decoded(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net(cls=3, box=2)

        def forward(self, x):
            out = self.net(x)
            return out | {"scores": out["cls"].softmax(1), "corners": torch.cat([out["box"] - 1, out["box"] + 1], 1)}

    def criterion(out, batch):
        return {
            "loss_cls": F.cross_entropy(out["cls"], batch["label"]),
            "loss_corners": F.l1_loss(out["corners"], torch.cat([batch["box"], batch["box"]], 1)),
        }

    return subject(Decoded(), criterion)


def returned_hidden_states():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
            self.head = nn.Linear(6, 5)

        def forward(self, x, where):
            states = [x]
            for layer in self.layers:
                states.append(layer(states[-1]).relu())
            logits = self.head(states[-1])
            return {
                "loss": F.cross_entropy(logits, where[:, 0]),
                "logits": logits,
                "hidden_states": tuple(states),
                "pooled": states[-1].mean(0),
            }

    return {
        "model": Hidden(),
        "batches": batches(words),
        "forward": lambda m, b: m(b["x"], b["where"]),
        "criterion": lambda out, b: out,
    }


def mean_teacher_at_its_first_step():
    model = Net(cls=3)
    teacher = copy.deepcopy(model)

    def criterion(out, batch):
        with torch.no_grad():
            taught = teacher(batch["input"])["cls"].softmax(1)
        supervised = F.cross_entropy(out["cls"], batch["label"])
        return {"supervised": supervised, "consistency": F.mse_loss(out["cls"].softmax(1), taught)}

    return subject(model, criterion, total=lambda found: found["supervised"] + 0.1 * found["consistency"])


HEALTHY = [
    mean_teacher_at_its_first_step,
    clip, vq, diffusion, softmax_outputs_and_boxes_decoded, returned_hidden_states,
    returned_probabilities, two_groups, two_groups_without_a_total,
    yolo, mmdet, mmdet_parsed, hf_whole, torchvision_all, uncertainty, deep_supervision, nested_subtotals,
    focal_with_a_count, module_dict_with_metric, importance_weighted, warm_up, experts, byol, hybrid_with_logs,
    divided_by_ranks, weight_applied, weight_once_in_a_module_dict,
]  # fmt: skip
