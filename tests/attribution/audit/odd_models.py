"""More subjects in manners of their own: models that return losses, computed steps, one number, nested outputs."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.attribution.audit.odd_subjects import Heads, rows, subject


def computed(criterion, *names, **heads):
    """One step that was computed already."""
    model = Heads(**heads)
    torch.manual_seed(1)
    batch = rows()
    out = model(batch["input"])
    return model, out, criterion(out, batch)


# ---- faults


def a_step_whose_total_forgets(fixed=False):
    def criterion(out, batch):
        a, b, c = (F.cross_entropy(out[k], batch["label"]) for k in "abc")
        return {"loss_a": a, "loss_b": b, "loss_c": c, "loss": a + b + c if fixed else a + b}

    return computed(criterion, a=3, b=3, c=3)


def a_step_with_a_mean_beside(fixed=False):
    def criterion(out, batch):
        a, b = F.cross_entropy(out["a"], batch["label"]), F.l1_loss(out["b"], batch["box"])
        both = torch.stack([a, b]).mean()
        return {"loss_a": a, "loss_b": b, "loss": a + b if fixed else a + b + both}

    return computed(criterion, a=3, b=4)


class Detector(nn.Module):
    """Returns a dict of losses in training, as torchvision's do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = Heads(cls=3, box=4, obj=1)

    def forward(self, x, label, box):
        out = self.net(x)
        return {
            "loss_classifier": F.cross_entropy(out["cls"], label),
            "loss_box_reg": F.smooth_l1_loss(out["box"], box),
            "objectness": F.softplus(-out["obj"]).mean(),
        }


def summed_by_a_word_in_the_key(fixed=False):
    """Only what has `loss` in its key is added; one key has not."""

    def total(found):
        return sum(loss for key, loss in found.items() if fixed or "loss" in key)

    return subject(
        Detector(), lambda out, batch: out, forward=lambda m, b: m(b["input"], b["label"], b["box"]), total=total
    )


class Layered(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.cls = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])

    def forward(self, x):
        found = []
        for layer, head in zip(self.layers, self.cls, strict=False):
            x = layer(x).tanh()
            found.append({"logits": head(x)})
        return {**found[-1], "aux_outputs": found[:-1]}


def auxiliary_of_the_last_layer(fixed=False):
    """The auxiliary loss is computed of the last layer's output."""

    def criterion(out, batch):
        losses = {"loss_ce": F.cross_entropy(out["logits"], batch["label"])}
        for i, aux in enumerate(out["aux_outputs"]):
            losses[f"loss_ce_{i}"] = F.cross_entropy((aux if fixed else out)["logits"], batch["label"])
        return losses

    return subject(Layered(), criterion)


class Gauss(nn.Module):
    def __init__(self, cut):
        super().__init__()
        torch.manual_seed(0)
        self.cut = cut
        self.mu, self.logvar, self.decode = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x):
        mu, logvar = self.mu(x), self.logvar(x)
        std = (0.5 * (logvar.detach() if self.cut else logvar)).exp()
        return self.decode(mu + torch.randn_like(std) * std), mu, logvar


def the_spread_is_cut_off(fixed=False):
    """The divergence is taken of detached log-variances too."""

    def criterion(out, batch):
        again, mu, logvar = out
        spread = logvar if fixed else logvar.detach()
        kld = -0.5 * (1 + spread - mu.square() - spread.exp()).sum(-1).mean()
        return F.mse_loss(again, batch["input"]) + 0.1 * kld

    return subject(Gauss(not fixed), criterion)


def the_student_is_detached(fixed=False):
    """`detach` stands at the student instead of the teacher."""
    teacher = Heads(cls=3)
    with torch.no_grad():
        teacher.trunk.weight.mul_(2)

    def criterion(out, batch):
        with torch.no_grad():
            taught = teacher(batch["input"])["cls"]
        student = out["cls"] if fixed else out["cls"].detach()
        soft = F.kl_div((student / 4).log_softmax(-1), (taught / 4).softmax(-1), reduction="batchmean") * 16
        hard = F.cross_entropy(out["cls"], batch["label"])
        return {"loss_hard": hard, "loss_soft": soft}

    return subject(Heads(cls=3), criterion, total=lambda found: 0.1 * found["loss_hard"] + 0.9 * found["loss_soft"])


def a_default_for_a_misspelt_key(fixed=False):
    def criterion(out, batch):
        return {
            "loss_cls": F.cross_entropy(out["cls"], batch["label"]),
            "loss_bbox": F.l1_loss(out["box"], batch["box"]),
        }

    key = "loss_bbox" if fixed else "loss_box"
    return subject(Heads(cls=3, box=4), criterion, total=lambda found: found["loss_cls"] + 5 * found.get(key, 0.0))


def weights_that_end_too_early(fixed=False):
    """`zip` ends with the shorter: the third loss is dropped."""
    weights = [1.0, 2.0, 0.5] if fixed else [1.0, 2.0]

    def criterion(out, batch):
        return [F.cross_entropy(out[key], batch["label"]) for key in ("text", "kernel", "border")]

    def total(found):
        return sum(weight * loss for weight, loss in zip(weights, found, strict=False))

    return subject(Heads(text=3, kernel=3, border=3), criterion, total=total)


def a_hinge_of_the_wrong_sign(fixed=False):
    """`relu(-loss)` of what is never negative, in one number."""

    def criterion(out, batch):
        spread = out["box"].square().mean(1)
        hinge = F.relu(1 + spread if fixed else -1 - spread).mean()
        return F.cross_entropy(out["cls"], batch["label"]) + hinge

    return subject(Heads(cls=3, box=4), criterion)


def all_pixels_are_ignored(fixed=False):
    """The auxiliary labels are all `ignore_index`."""

    def criterion(out, batch):
        label = batch["label"] if fixed else torch.full_like(batch["label"], -100)
        aux = F.cross_entropy(out["aux"], label, reduction="sum") / 8
        return {"loss_main": F.cross_entropy(out["main"], batch["label"]), "loss_aux": aux}

    return subject(Heads(main=3, aux=3), criterion)


def a_leaf_is_made_of_the_total(fixed=False):
    """`total.detach().requires_grad_()`: backward runs, and trains nothing."""

    def criterion(out, batch):
        return {
            "loss_cls": F.cross_entropy(out["cls"], batch["label"]),
            "loss_box": F.l1_loss(out["box"], batch["box"]),
        }

    def total(found):
        loss = found["loss_cls"] + found["loss_box"]
        return loss if fixed else loss.detach().requires_grad_()

    return subject(Heads(cls=3, box=4), criterion, total=total)


def a_subtotal_beside_its_parts(fixed=False):
    def criterion(out, batch):
        rpn_cls, rpn_box = F.cross_entropy(out["cls"], batch["label"]), F.l1_loss(out["box"], batch["box"])
        rpn = rpn_cls + rpn_box
        mask = F.cross_entropy(out["mask"], batch["label"])
        total = rpn + mask if fixed else rpn + rpn_cls + rpn_box + mask
        return {"total_loss": total, "rpn_loss": rpn, "rpn_cls": rpn_cls, "rpn_box": rpn_box, "mask_loss": mask}

    return subject(Heads(cls=3, box=4, mask=3), criterion)


@dataclass
class Spoken:
    loss: torch.Tensor
    logits: torch.Tensor
    ctc: torch.Tensor
    attention: torch.Tensor
    diversity: torch.Tensor


class Speech(nn.Module):
    """Weighs its parts inside; one weight is an integer division that gives 0."""

    def __init__(self, part):
        super().__init__()
        torch.manual_seed(0)
        self.part, self.net = part, Heads(ctc=3, att=3, div=2)

    def forward(self, x, label):
        out = self.net(x)
        ctc, att = F.cross_entropy(out["ctc"], label), F.cross_entropy(out["att"], label)
        div = out["div"].softmax(-1).mean(0).square().sum()
        return Spoken(0.3 * ctc + 0.7 * att + self.part * div, out["ctc"], ctc, att, div)


def left_out_of_the_models_loss(fixed=False):
    class Forgets(Speech):
        def forward(self, x, label):
            found = super().forward(x, label)
            if not fixed:
                found.loss = 0.3 * found.ctc + 0.7 * found.attention
            return found

    return subject(Forgets(0.1), lambda out, batch: out, forward=lambda m, b: m(b["input"], b["label"]))


def detached_in_a_per_sample_dict(fixed=False):
    """Losses per sample are weighed by time; one was kept with `.data`."""

    def criterion(out, batch):
        shift = (out["shift"] - batch["box"]).square().sum(-1)
        turn = out["turn"].square().sum(-1)
        return {"shift_loss": shift, "turn_loss": turn if fixed else turn.data}

    def total(found):
        return (found["shift_loss"] + 0.5 * found["turn_loss"]).mean()

    return subject(Heads(shift=4, turn=3), criterion, total=total)


def stacked_and_picked(fixed=False):
    """Losses are stacked, handed out by index, and one index is left out of the sum."""

    def criterion(out, batch):
        losses = torch.stack([F.cross_entropy(each, batch["label"]) for each in out.values()])
        total = losses[0] + 2 * losses[1] + losses[2] if fixed else losses[0] + 2 * losses[1]
        return total, {"text": losses[0], "kernel": losses[1], "border": losses[2]}

    return subject(Heads(text=3, kernel=3, border=3), criterion)


def stacked_and_summed_twice(fixed=False):
    """The mean of the stack is added to one of its own losses."""

    def criterion(out, batch):
        losses = torch.stack([F.cross_entropy(each, batch["label"]) for each in out.values()])
        total = losses.mean() if fixed else losses.mean() + losses[0]
        return total, dict(zip(("text", "kernel", "border"), losses, strict=True))

    return subject(Heads(text=3, kernel=3, border=3), criterion)


FAULTS = {
    stacked_and_picked: (("sum-mismatch",), ("border",)),
    stacked_and_summed_twice: (("sum-mismatch",), ("text",)),
    a_step_whose_total_forgets: (("sum-mismatch",), ("loss_c",)),
    a_step_with_a_mean_beside: (("sum-mismatch",), ("loss_a", "loss_b")),
    summed_by_a_word_in_the_key: (("sum-mismatch",), ("objectness",)),
    auxiliary_of_the_last_layer: (("untrained-output",), ("aux_outputs",)),
    the_spread_is_cut_off: (("untrained-output",), ("output[2]", "[2]")),
    the_student_is_detached: (("detached-loss",), ("loss_soft",)),
    a_default_for_a_misspelt_key: (("sum-mismatch",), ("loss_bbox",)),
    weights_that_end_too_early: (("sum-mismatch",), ("2",)),
    a_hinge_of_the_wrong_sign: (("dead-loss",), ("criterion",)),
    all_pixels_are_ignored: (("dead-loss",), ("loss_aux",)),
    a_leaf_is_made_of_the_total: (("detached-loss",), ("total",)),
    a_subtotal_beside_its_parts: (("sum-mismatch",), ("rpn",)),
    left_out_of_the_models_loss: (("sum-mismatch",), ("diversity",)),
    detached_in_a_per_sample_dict: (("detached-loss",), ("turn_loss",)),
}


# ---- healthy


def a_dict_with_all_kinds_of_things():
    def criterion(out, batch):
        cls, box = F.cross_entropy(out["cls"], batch["label"]), F.l1_loss(out["box"], batch["box"])
        return {
            "loss": cls + box, "loss_cls": cls, "loss_box": box, "num_pos": torch.tensor(3), "names": ["a", "b"],
            "skip": None, "done": False, "acc": torch.tensor(0.5), "epoch": 7, "by": "someone",
        }  # fmt: skip

    return subject(Heads(cls=3, box=4), criterion)


def reduced_by_a_function():
    def criterion(out, batch):
        return {key: F.cross_entropy(each, batch["label"]) for key, each in out.items()}

    return subject(Heads(a=3, b=3, c=3), criterion, total=lambda found: functools.reduce(operator.add, found.values()))


class Vector(nn.Module):
    """Weights as a buffer that multiplies a stack."""

    task_weights: torch.Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("task_weights", torch.tensor([1.0, 0.3, 2.5]))

    def forward(self, out, batch):
        losses = torch.stack([F.cross_entropy(each, batch["label"]) for each in out.values()])
        return (self.task_weights * losses).sum(), dict(zip(out, losses, strict=False))


def a_vector_of_weights():
    return subject(Heads(a=3, b=3, c=3), Vector())


def layers_with_weights_by_prefix():
    weights = {"loss_ce": 2.0, "loss_ce_0": 0.5}

    def criterion(out, batch):
        losses = {"loss_ce": F.cross_entropy(out["logits"], batch["label"])}
        for i, aux in enumerate(out["aux_outputs"]):
            losses[f"loss_ce_{i}"] = F.cross_entropy(aux["logits"], batch["label"])
        return losses

    return subject(Layered(), criterion, total=lambda found: sum(weights[k] * found[k] for k in found))


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.drop, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3)
        self.c = nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = checkpoint(lambda y: self.drop(self.norm(self.a(y)).relu()), x, use_reentrant=False)
            return {"cls": self.b(hidden), "box": self.c(hidden)}


def half_precision_checkpoints_and_dropout():
    def criterion(out, batch):
        cls, box = out["cls"].float(), out["box"].float()
        return {"cls": F.cross_entropy(cls, batch["label"]), "box": F.l1_loss(box, batch["box"])}

    return subject(Half(), criterion, total=lambda found: found["cls"] + 2 * found["box"])


class Answers(nn.Module):
    """Returns (loss, logits), as transformers do with `return_dict=False`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = Heads(start=3, end=3)

    def forward(self, x, label):
        out = self.net(x)
        loss = (F.cross_entropy(out["start"], label) + F.cross_entropy(out["end"], label)) / 2
        return loss, out["start"], out["end"]


def loss_and_logits_in_a_tuple():
    return subject(Answers(), lambda out, batch: out[0], forward=lambda m, b: m(b["input"], b["label"]))


def one_task_a_batch():
    """Each batch is of one data set and trains one head."""

    def criterion(out, batch):
        return {f"loss_{batch['task']}": F.cross_entropy(out[batch["task"]], batch["label"])}

    made = subject(Heads(one=3, two=3, three=3), criterion)
    for batch, task in zip(made["batches"], ("one", "two", "three"), strict=False):
        batch["task"] = task
    return made


def switched_off_by_the_configuration():
    weights = {"loss_cls": 1.0, "loss_box": 0.0}

    def criterion(out, batch):
        return {
            "loss_cls": F.cross_entropy(out["cls"], batch["label"]),
            "loss_box": F.l1_loss(out["box"], batch["box"]),
        }

    return subject(Heads(cls=3, box=4), criterion, total=lambda found: sum(weights[k] * found[k] for k in found))


def a_penalty_of_the_models_weights():
    model = Heads(cls=3)

    def criterion(out, batch):
        penalty = sum(p.square().sum() for p in model.parameters())
        return {"ce": F.cross_entropy(out["cls"], batch["label"]), "l2": penalty}

    return subject(model, criterion, total=lambda found: found["ce"] + 1e-4 * found["l2"])


def the_better_of_two_orders():
    """Permutation invariant: the smaller of two losses trains."""

    def criterion(out, batch):
        one, two = batch["box"][:, :2], batch["box"][:, 2:]
        straight = (out["a"] - one).square().mean(-1) + (out["b"] - two).square().mean(-1)
        crossed = (out["a"] - two).square().mean(-1) + (out["b"] - one).square().mean(-1)
        return torch.minimum(straight, crossed).mean()

    return subject(Heads(a=2, b=2), criterion)


def guarded_against_what_is_not_finite():
    def criterion(out, batch):
        loss = F.smooth_l1_loss(out["box"], batch["box"], reduction="none").mean(-1)
        loss = torch.where(loss.isfinite(), loss, torch.zeros_like(loss))
        return {"loss_box": loss.mean(), "loss_cls": torch.nan_to_num(F.cross_entropy(out["cls"], batch["label"]))}

    return subject(Heads(cls=3, box=4), criterion)


def a_models_own_weighted_loss():
    return subject(Speech(0.1), lambda out, batch: out, forward=lambda m, b: m(b["input"], b["label"]))


def per_gpu_vectors():
    """What DataParallel gathers: a vector of losses a key, averaged by the loop."""

    def criterion(out, batch):
        halves = [slice(0, 4), slice(4, 8)]
        cls = torch.stack([F.cross_entropy(out["cls"][part], batch["label"][part]) for part in halves])
        box = torch.stack([F.l1_loss(out["box"][part], batch["box"][part]) for part in halves])
        return {"loss_cls": cls, "loss_box": box, "loss": cls + 2 * box}

    return subject(Heads(cls=3, box=4), criterion, total=lambda found: found["loss"].mean())


def one_branch_of_a_where():
    """Until a number of steps one form of a loss counts, later another; both are computed."""

    def criterion(out, batch):
        cls, box = F.cross_entropy(out["cls"], batch["label"]), F.l1_loss(out["box"], batch["box"])
        loss = cls + torch.where(torch.tensor(False), 2 * box, box)
        return {"loss": loss, "loss_cls": cls, "loss_box": box}

    return subject(Heads(cls=3, box=4), criterion)


def a_healthy_step():
    def criterion(out, batch):
        a, b = F.cross_entropy(out["a"], batch["label"]), F.l1_loss(out["b"], batch["box"])
        return {"loss_a": a, "loss_b": b, "loss": (a + 0.5 * b) / 4, "lr": 0.1}

    return computed(criterion, a=3, b=4)


HEALTHY = (
    a_dict_with_all_kinds_of_things, reduced_by_a_function, a_vector_of_weights, layers_with_weights_by_prefix,
    half_precision_checkpoints_and_dropout, loss_and_logits_in_a_tuple, one_task_a_batch,
    switched_off_by_the_configuration, a_penalty_of_the_models_weights, the_better_of_two_orders,
    guarded_against_what_is_not_finite, a_models_own_weighted_loss, per_gpu_vectors, a_healthy_step,
    one_branch_of_a_where,
)  # fmt: skip
