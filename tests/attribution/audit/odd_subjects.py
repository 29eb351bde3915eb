"""Subjects in manners of their own: each fault beside its repaired form, and healthy code that looks odd."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn


class Heads(nn.Module):
    """A trunk and linear heads by name."""

    def __init__(self, **heads):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(6, 10)
        self.heads = nn.ModuleDict({name: nn.Linear(10, size) for name, size in heads.items()})

    def forward(self, x):
        hidden = self.trunk(x).tanh()
        return {name: head(hidden) for name, head in self.heads.items()}


def rows():
    return {
        "input": torch.randn(8, 6), "label": torch.randint(3, (8,)), "box": torch.randn(8, 4),
        "mask": (torch.arange(8) % 2).bool(), "weight": torch.rand(8) + 0.5,
    }  # fmt: skip


def subject(model, criterion, make=rows, **more):
    torch.manual_seed(1)
    return {"model": model, "batches": [make() for _ in range(3)], "criterion": criterion, **more}


# ---- faults


def the_first_half_twice(fixed=False):
    """A symmetric loss adds one direction twice and the other never."""

    def criterion(out, batch):
        a, b = F.normalize(out["image"], dim=-1), F.normalize(out["text"], dim=-1)
        loss_i2t = F.cross_entropy(a @ b.detach().t() / 0.1, torch.arange(8))
        loss_t2i = F.cross_entropy(b @ a.detach().t() / 0.1, torch.arange(8))
        return {"loss": (loss_i2t + (loss_t2i if fixed else loss_i2t)) / 2, "loss_i2t": loss_i2t, "loss_t2i": loss_t2i}

    return subject(Heads(image=4, text=4), criterion)


class Painter(nn.Module):
    def __init__(self, cut):
        super().__init__()
        torch.manual_seed(0)
        self.cut = cut
        self.generator, self.critic = nn.Linear(6, 4), nn.Linear(4, 1)
        self.critic.requires_grad_(False)

    def forward(self, x):
        fake = self.generator(x).tanh()
        return {"fake": fake, "score": self.critic(fake.detach() if self.cut else fake)}


def the_generator_is_cut_off(fixed=False):
    """The adversarial loss scores a detached picture."""

    def criterion(out, batch):
        return {"loss_adv": -out["score"].mean(), "loss_rec": F.l1_loss(out["fake"], batch["box"].tanh())}

    return subject(Painter(not fixed), criterion, total=lambda found: found["loss_adv"] + 10 * found["loss_rec"])


def one_key_for_two_heads(fixed=False):
    """Two heads return their loss under one key; `update` keeps the second."""

    def criterion(out, batch):
        losses = {"loss_cls": F.cross_entropy(out["rpn"], batch["label"])}
        losses.update({"loss_roi_cls" if fixed else "loss_cls": F.cross_entropy(out["roi"], batch["label"])})
        losses["loss_box"] = F.smooth_l1_loss(out["box"], batch["box"])
        return losses

    return subject(Heads(rpn=3, roi=3, box=4), criterion)


def only_the_last_level(fixed=False):
    """`loss =` where `loss +=` was meant."""

    def criterion(out, batch):
        loss = torch.zeros(())
        for level in out.values():
            loss = loss + F.cross_entropy(level, batch["label"]) if fixed else F.cross_entropy(level, batch["label"])
        return loss

    return subject(Heads(p3=3, p4=3, p5=3), criterion)


def a_hard_mask_in_dice(fixed=False):
    """Dice of a thresholded prediction: no gradient."""

    def criterion(out, batch):
        chance = out["mask"][:, 0].sigmoid()
        shape = chance if fixed else (chance > 0.5).float()
        target = batch["mask"].float()
        loss_bce = F.binary_cross_entropy(chance, target)
        loss_dice = 1 - 2 * (shape * target).sum() / (shape.sum() + target.sum() + 1)
        return {"loss": loss_bce + loss_dice, "loss_bce": loss_bce, "loss_dice": loss_dice}

    return subject(Heads(mask=1), criterion)


def summed_in_a_new_tensor(fixed=False):
    """`torch.tensor([...]).sum()` of one group: the group leaves the graph."""

    def criterion(out, batch):
        loss_cls = F.cross_entropy(out["cls"], batch["label"])
        parts = [(out["box"][:, i] - batch["box"][:, i]).abs().mean() for i in range(4)]
        loss_box = torch.stack(parts).sum() if fixed else torch.tensor([float(p) for p in parts]).sum()
        return {"loss_cls": loss_cls, "loss_box": loss_box}

    return subject(Heads(cls=3, box=4), criterion, total=lambda found: found["loss_cls"] + found["loss_box"])


def values_without_a_graph(fixed=False):
    """The critic's value is detached for the advantage, and the detached one is regressed too."""

    def criterion(out, batch):
        value = out["value"][:, 0]
        log_chance = out["policy"].log_softmax(-1).gather(1, batch["label"][:, None])[:, 0]
        known = value.detach()
        policy_loss = -(log_chance * (batch["box"][:, 0] - known)).mean()
        value_loss = F.mse_loss(value if fixed else known, batch["box"][:, 0])
        entropy_loss = (out["policy"].softmax(-1) * out["policy"].log_softmax(-1)).sum(-1).mean()
        return {"policy_loss": policy_loss, "value_loss": value_loss, "entropy_loss": entropy_loss}

    def total(found):
        return found["policy_loss"] + 0.5 * found["value_loss"] + 0.01 * found["entropy_loss"]

    return subject(Heads(policy=3, value=1), criterion, total=total)


def weights_in_another_order(fixed=False):
    """Losses and weights are zipped; the dicts have different orders."""
    weights = {"loss_box": 5.0, "loss_cls": 1.0, "loss_obj": 0.5}

    def criterion(out, batch):
        return {
            "loss_cls": F.cross_entropy(out["cls"], batch["label"]),
            "loss_obj": F.softplus(out["obj"]).mean(),
            "loss_box": F.smooth_l1_loss(out["box"], batch["box"]),
        }

    def total(found):
        pairs = (
            [(weights[key], found[key]) for key in found]
            if fixed
            else zip(weights.values(), found.values(), strict=False)
        )
        return sum(weight * loss for weight, loss in pairs)

    return subject(Heads(cls=3, obj=1, box=4), criterion, total=total)


@dataclass
class Routed:
    loss: torch.Tensor | None = None
    lm_loss: torch.Tensor | None = None
    aux_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past: tuple[torch.Tensor, ...] = ()


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.router, self.experts = nn.Linear(6, 3), nn.ModuleList([nn.Linear(6, 8) for _ in range(3)])
        self.head = nn.Linear(8, 3)

    def forward(self, x, label):
        chance = self.router(x).softmax(-1)
        hidden = sum(chance[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))
        logits = self.head(hidden)
        aux = 3 * chance.mean(0).square().sum()
        lm = F.cross_entropy(logits, label)
        return Routed(lm + 0.02 * aux, lm, aux, logits)


def the_trainer_adds_the_router_again(fixed=False):
    """The model's loss holds the router's loss already."""

    def total(out):
        return out.loss if fixed else out.loss + 0.02 * out.aux_loss

    return subject(Mixture(), lambda out, batch: out, forward=lambda m, b: m(b["input"], b["label"]), total=total)


def a_copied_line(fixed=False):
    """The second auxiliary head's line was copied from the first and not changed."""

    def criterion(out, batch):
        loss = F.cross_entropy(out["main"], batch["label"])
        loss1 = F.cross_entropy(out["aux1"], batch["label"])
        loss2 = F.cross_entropy(out["aux2" if fixed else "aux1"], batch["label"])
        return loss + 0.4 * (loss1 + loss2)

    return subject(Heads(main=3, aux1=3, aux2=3), criterion)


def compares_with_255(fixed=False):
    """The mask holds 1, and 255 is asked for."""

    def criterion(out, batch):
        mask = batch["mask"].to(torch.uint8)
        chosen = mask == (1 if fixed else 255)
        distance = (out["box"] - batch["box"]).abs().sum(1)
        loss_box = distance[chosen].sum() / max(1, int(chosen.sum()))
        return {"loss_cls": F.cross_entropy(out["cls"], batch["label"]), "loss_box": loss_box}

    return subject(Heads(cls=3, box=4), criterion)


def the_other_output(fixed=False):
    """The offset's loss reads the size."""

    def criterion(out, batch):
        return {
            "loss_heat": F.cross_entropy(out["heat"], batch["label"]),
            "loss_size": F.l1_loss(out["size"], batch["box"][:, :2]),
            "loss_offset": F.l1_loss(out["offset" if fixed else "size"], batch["box"][:, 2:]),
        }

    return subject(Heads(heat=3, size=2, offset=2), criterion)


def metrics_switch_gradients_off(fixed=False):
    """A metric turns gradients off and nobody turns them on; what is computed after it has no graph."""

    def criterion(out, batch):
        loss_cls = F.cross_entropy(out["cls"], batch["label"])
        if not fixed:
            torch.set_grad_enabled(False)
        accuracy = (out["cls"].argmax(1) == batch["label"]).float().mean()
        return {"loss_cls": loss_cls, "loss_box": F.l1_loss(out["box"], batch["box"]), "accuracy": accuracy}

    return subject(Heads(cls=3, box=4), criterion, total=lambda found: found["loss_cls"] + found["loss_box"])


def the_total_is_also_logged_and_summed(fixed=False):
    """Nested groups, of which one holds its own sum."""

    def criterion(out, batch):
        det = {"cls": F.cross_entropy(out["cls"], batch["label"]), "box": F.l1_loss(out["box"], batch["box"])}
        if not fixed:
            det["det_loss"] = det["cls"] + det["box"]
        rec = {"chars": F.cross_entropy(out["chars"], batch["label"])}
        return {"det": det, "rec": rec}

    return subject(
        Heads(cls=3, box=4, chars=3), criterion, total=lambda found: sum(v for g in found.values() for v in g.values())
    )


def written_in_place_before_the_second_loss(fixed=False):
    """`sigmoid_` for the first loss; the second reads probabilities for logits."""

    def criterion(out, batch):
        target = batch["mask"].float()
        logits = out["mask"][:, 0]
        chance = logits.sigmoid() if fixed else out["mask"].sigmoid_()[:, 0]
        dice = 1 - 2 * (chance * target).sum() / (chance.sum() + target.sum() + 1)
        return {"dice": dice, "bce": F.binary_cross_entropy_with_logits(out["mask"][:, 0], target)}

    return subject(Heads(mask=1), criterion)


def a_mean_of_list_forgets(fixed=False):
    """`losses[1:]` where all were meant; the first view trains nothing."""

    def criterion(out, batch):
        losses = [F.cross_entropy(each, batch["label"]) for each in out.values()]
        loss = torch.stack(losses if fixed else losses[1:]).mean()
        return loss, losses

    return subject(Heads(view0=3, view1=3, view2=3), criterion, total=lambda found: found[0])


def subtracted_twice(fixed=False):
    """The entropy bonus is negative already, and is subtracted, beside being in the policy's loss."""

    def criterion(out, batch):
        log_chance = out["policy"].log_softmax(-1)
        entropy = -(log_chance.exp() * log_chance).sum(-1).mean()
        pg_loss = -(log_chance.gather(1, batch["label"][:, None])[:, 0] * batch["box"][:, 0]).mean()
        policy_loss = pg_loss if fixed else pg_loss - 0.01 * entropy
        v_loss = F.mse_loss(out["value"][:, 0], batch["box"][:, 1])
        return {"policy_loss": policy_loss, "v_loss": v_loss, "entropy": entropy}

    def total(found):
        return found["policy_loss"] + 0.5 * found["v_loss"] - 0.01 * found["entropy"]

    return subject(Heads(policy=3, value=1), criterion, total=total)


def samples_are_weighed_by_what_is_detached_whole(fixed=False):
    """Focal loss with `pt` of a detached cross entropy, which is also what is multiplied."""

    def criterion(out, batch):
        ce = F.cross_entropy(out["cls"], batch["label"], reduction="none")
        pt = (-ce).exp() if fixed else (-ce.detach()).exp()
        focal = ((1 - pt) ** 2 * (ce if fixed else ce.detach())).mean()
        return {"focal": focal, "box": F.l1_loss(out["box"], batch["box"])}

    return subject(Heads(cls=3, box=4), criterion, total=lambda found: found["focal"] + found["box"])


FAULTS = {
    the_first_half_twice: (("sum-mismatch",), ("loss_t2i", "loss_i2t")),
    the_generator_is_cut_off: (("detached-loss",), ("loss_adv",)),
    one_key_for_two_heads: (("untrained-output",), ("rpn",)),
    only_the_last_level: (("untrained-output",), ("p3", "p4")),
    a_hard_mask_in_dice: (("detached-loss", "dead-loss"), ("loss_dice",)),
    summed_in_a_new_tensor: (("detached-loss",), ("loss_box",)),
    values_without_a_graph: (("detached-loss",), ("value_loss",)),
    weights_in_another_order: (("sum-mismatch",), ("loss_box", "loss_cls")),
    the_trainer_adds_the_router_again: (("sum-mismatch",), ("aux_loss",)),
    a_copied_line: (("untrained-output",), ("aux2",)),
    compares_with_255: (("dead-loss",), ("loss_box",)),
    the_other_output: (("untrained-output", "rotated-names"), ("offset",)),
    metrics_switch_gradients_off: (("grad-mode", "detached-loss"), ("loss_box", "criterion")),
    the_total_is_also_logged_and_summed: (("sum-mismatch",), ("det.det_loss", "det.cls")),
    written_in_place_before_the_second_loss: (("mutated-input",), ("mask",)),
    a_mean_of_list_forgets: (("sum-mismatch",), ("0",)),
    subtracted_twice: (("sum-mismatch",), ("entropy",)),
    samples_are_weighed_by_what_is_detached_whole: (("detached-loss",), ("focal",)),
}


# ---- healthy


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -0.3 * grad


class Adversarial(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.label, self.domain = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x):
        hidden = self.trunk(x).relu()
        return {"label": self.label(hidden), "domain": self.domain(Reverse.apply(hidden))}


def reversed_gradients():
    def criterion(out, batch):
        domain = F.binary_cross_entropy_with_logits(out["domain"][:, 0], batch["mask"].float())
        return {"label": F.cross_entropy(out["label"], batch["label"]), "domain": domain}

    return subject(Adversarial(), criterion)


class Center(nn.Module):
    seen: torch.Tensor

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.centers = nn.Parameter(torch.randn(3, 4))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, out, batch):
        self.seen += 1
        xent = F.cross_entropy(out["cls"], batch["label"])
        center = (out["feature"] - self.centers[batch["label"]]).square().sum(1).mean()
        return xent + 0.01 * center, {"xent": xent.detach(), "center": center.detach(), "seen": int(self.seen)}


def centers_in_the_criterion():
    return subject(Heads(cls=3, feature=4), Center())


def divided_in_place_by_the_positives():
    def criterion(out, batch):
        count = batch["mask"].sum().clamp(min=1)
        loss_l = F.smooth_l1_loss(out["box"][batch["mask"]], batch["box"][batch["mask"]], reduction="sum")
        loss_c = F.cross_entropy(out["cls"], batch["label"], reduction="sum")
        loss_l /= count
        loss_c /= count
        return loss_l, loss_c

    return subject(Heads(cls=3, box=4), criterion, total=lambda found: found[0] + found[1])


def summed_in_place_from_the_first():
    def criterion(out, batch):
        losses = {name: F.cross_entropy(each, batch["label"]) for name, each in out.items()}
        total = losses["a"].clone()
        total += 0.5 * losses["b"]
        total += 0.25 * losses["c"]
        losses["loss"] = total
        return losses

    return subject(Heads(a=3, b=3, c=3), criterion)


Output = namedtuple("Output", "loss nll kl logits")


class Variational(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encode, self.decode = nn.Linear(6, 8), nn.Linear(4, 6)
        self.register_buffer("beta", torch.tensor(0.1))

    def forward(self, x):
        mu, logvar = self.encode(x).chunk(2, -1)
        z = mu + torch.randn_like(mu) * (logvar / 2).exp()
        logits = self.decode(z)
        nll = F.mse_loss(logits, x, reduction="none").sum(-1)
        kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(-1)
        return Output((nll + self.beta * kl).mean(), nll.mean(), kl.mean(), logits)


def a_namedtuple_of_an_autoencoder():
    return subject(Variational(), lambda out, batch: out)


def kept_for_the_log_by_name():
    """(total, log) with floats, a nested dict and texts."""

    def criterion(out, batch):
        cls, box = F.cross_entropy(out["cls"], batch["label"]), F.l1_loss(out["box"], batch["box"])
        loss = cls + 2.5 * box
        return loss, {"train/cls": cls.item(), "train/box": box.item(), "lr": 1e-3, "what": {"epoch": 3}, "by": "me"}

    return subject(Heads(cls=3, box=4), criterion)


def two_players_in_one_step():
    torch.manual_seed(0)
    model = nn.ModuleDict({"g": nn.Linear(6, 4), "d": nn.Linear(4, 1)})
    x, real = torch.randn(8, 6), torch.randn(8, 4)
    fake = model["g"](x)
    d_real, d_fake = F.softplus(-model["d"](real)).mean(), F.softplus(model["d"](fake.detach())).mean()
    g_adv, g_rec = F.softplus(-model["d"](fake)).mean(), F.l1_loss(fake, real)
    return model, {"d_real": d_real, "d_fake": d_fake, "g_adv": g_adv, "g_rec": g_rec}


class Trained(nn.Module):
    """An online and a slow network; targets are stopped, the slow one is frozen, and the features are normalized."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.online, self.predict, self.slow = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(6, 8)
        self.slow.requires_grad_(False)

    def forward(self, x):
        return {"p": self.predict(self.online(x).relu()), "z": self.slow(x).relu()}


def self_distilled_both_ways():
    def forward(model, batch):
        return model(batch["input"]), model(batch["input"] + 0.1)

    def criterion(out, batch):
        one, two = out
        left = 2 - 2 * F.cosine_similarity(one["p"], two["z"].detach()).mean()
        right = 2 - 2 * F.cosine_similarity(two["p"], one["z"].detach()).mean()
        return {"loss": 0.5 * (left + right), "left": left, "right": right, "std": one["p"].std(0).mean()}

    return subject(Trained(), criterion, forward=forward)


def only_some_batches_have_text():
    """A text spotter: a batch without words has a recognition loss of `sum() * 0`."""

    def criterion(out, batch):
        chosen = batch["words"]
        rec = F.cross_entropy(out["chars"][chosen], batch["label"][chosen]) if chosen.any() else out["chars"].sum() * 0
        return {"loss_det": F.binary_cross_entropy_with_logits(out["text"][:, 0], chosen.float()), "loss_rec": rec}

    made = subject(Heads(text=1, chars=3), criterion)
    for number, batch in enumerate(made["batches"]):
        batch["words"] = torch.full((8,), number > 0) & batch["mask"]
    return made


def deep_supervision_with_halved_weights():
    def criterion(out, batch):
        return sum(0.5**i * F.cross_entropy(each, batch["label"]) for i, each in enumerate(out.values()))

    return subject(Heads(level0=3, level1=3, level2=3), criterion)


class Precise(nn.Module):
    """Learned weights as parameters of the criterion, one per loss, in a ParameterDict."""

    def __init__(self):
        super().__init__()
        self.log_vars = nn.ParameterDict({k: nn.Parameter(torch.zeros(())) for k in ("cls", "box")})

    def forward(self, out, batch):
        losses = {"cls": F.cross_entropy(out["cls"], batch["label"]), "box": F.mse_loss(out["box"], batch["box"])}
        total = 0
        for key, loss in losses.items():
            total = total + (-self.log_vars[key]).exp() * loss + 0.5 * self.log_vars[key]
        return {"total": total, **losses, **{f"weight_{k}": (-v).exp().detach() for k, v in self.log_vars.items()}}


def learned_weights_in_a_dict():
    return subject(Heads(cls=3, box=4), Precise())


def an_aux_loss_that_is_in_the_models_own():
    return subject(Mixture(), lambda out, batch: out, forward=lambda m, b: m(b["input"], b["label"]))


def a_list_of_pairs():
    def criterion(out, batch):
        return [("cls", F.cross_entropy(out["cls"], batch["label"])), ("box", F.l1_loss(out["box"], batch["box"]))]

    return subject(Heads(cls=3, box=4), criterion, total=lambda found: sum(loss for _, loss in found))


@dataclass
class Sums:
    losses: dict[str, torch.Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=lambda: {"cls": 1.0, "box": 2.0})

    @property
    def total(self):
        return sum(self.weights[key] * loss for key, loss in self.losses.items())


def a_record_whose_total_is_a_property():
    def criterion(out, batch):
        return Sums({"cls": F.cross_entropy(out["cls"], batch["label"]), "box": F.l1_loss(out["box"], batch["box"])})

    return subject(Heads(cls=3, box=4), criterion, total=lambda found: found.total)


def samples_with_weights_and_a_mean_over_what_counts():
    def criterion(out, batch):
        ce = F.cross_entropy(out["cls"], batch["label"], reduction="none")
        box = F.smooth_l1_loss(out["box"], batch["box"], reduction="none").mean(1)
        kept = batch["mask"].float() * batch["weight"]
        return {"cls": (ce * kept).sum() / kept.sum(), "box": (box * kept).sum() / kept.sum(), "kept": kept.sum()}

    return subject(Heads(cls=3, box=4), criterion, total=lambda found: found["cls"] + 1.5 * found["box"])


def mined_and_scaled_as_a_gradient_scaler_does():
    def criterion(out, batch):
        ce = F.cross_entropy(out["cls"], batch["label"], reduction="none")
        hard = ce.topk(4).values.mean()
        return {"hard": hard, "box": F.l1_loss(out["box"], batch["box"])}

    return subject(Heads(cls=3, box=4), criterion, total=lambda found: 1024.0 * (found["hard"] + found["box"]) / 4)


HEALTHY = (
    reversed_gradients, centers_in_the_criterion, divided_in_place_by_the_positives, summed_in_place_from_the_first,
    a_namedtuple_of_an_autoencoder, kept_for_the_log_by_name, two_players_in_one_step, self_distilled_both_ways,
    only_some_batches_have_text, deep_supervision_with_halved_weights, learned_weights_in_a_dict,
    an_aux_loss_that_is_in_the_models_own, a_list_of_pairs, a_record_whose_total_is_a_property,
    samples_with_weights_and_a_mean_over_what_counts, mined_and_scaled_as_a_gradient_scaler_does,
)  # fmt: skip
