"""Totals by products of vectors, losses of derivatives, weights that classes hold: with a fault, and without."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from tests.attribution.audit.odd_subjects import Heads, subject


def three(out, batch):
    return {name: F.cross_entropy(each, batch["label"]) for name, each in out.items()}


def of_three(total):
    return subject(Heads(a=3, b=3, c=3), three, total=total)


def twice_in_an_einsum(fixed=False):
    def total(found):
        losses = torch.stack([*found.values(), *([] if fixed else [found["b"]])])
        return torch.einsum("i,i->", torch.ones_like(losses), losses)

    return of_three(total)


def twice_in_a_dot(fixed=False):
    def total(found):
        losses = torch.stack([*found.values(), *([] if fixed else [found["b"]])])
        return losses @ torch.ones_like(losses)

    return of_three(total)


def in_a_lerp_and_beside_it(fixed=False):
    return of_three(lambda d: torch.lerp(d["a"], d["b"], 0.3) + d["c"] + (0 if fixed else d["b"]))


def in_an_addcmul_and_beside_it(fixed=False):
    return of_three(lambda d: torch.addcmul(d["a"], d["b"], torch.tensor(0.3)) + d["c"] + (0 if fixed else d["b"]))


def made_finite_and_beside_it(fixed=False):
    return of_three(lambda d: torch.nan_to_num(d["a"] + d["b"]) + d["c"] + (0 if fixed else d["b"]))


def the_first_of_a_pair_is_dropped(fixed=False):
    """(loss, losses), and a total that takes the losses alone; the first is none of them."""

    def criterion(out, batch):
        loss = F.huber_loss(out["box"], batch["box"])
        return loss, {"ce": F.cross_entropy(out["cls"], batch["label"]), "flat": out["cls"].square().mean()}

    total = (lambda found: found[0] + sum(found[1].values())) if fixed else (lambda found: sum(found[1].values()))
    return subject(Heads(cls=3, box=4), criterion, total=total)


class Attributes(dict[str, torch.Tensor]):
    """Keys as attributes, in a line that many projects have: what is missing raises KeyError."""

    __getattr__ = dict.__getitem__


class Reader(nn.Module):
    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong
        self.body, self.ends = nn.Linear(6, 16), nn.Linear(16, 6)

    def forward(self, x, label):
        start, end = self.ends(self.body(x).tanh()).split(3, -1)
        first, last = F.cross_entropy(start, label), F.cross_entropy(end, (label + 1) % 3)
        loss = (first + (first if self.wrong else last)) / 2
        return Attributes(loss=loss, loss_start=first, loss_end=last, logits=start)


def the_end_is_forgotten(fixed=False):
    forward = lambda model, batch: model(batch["input"], batch["label"])  # noqa: E731
    return subject(Reader(not fixed), lambda found, batch: found, forward=forward)


class Several(nn.Module):
    """Weights by name, which the class holds; the total asks for them with a default."""

    weights = {"ce": 1.0, "tv": 0.01, "edges": 0.5}  # noqa: RUF012  # as such code has it

    def forward(self, out, batch):
        found = {
            "ce": F.cross_entropy(out["cls"], batch["label"]),
            "tv": (out["box"][1:] - out["box"][:-1]).abs().mean(),
            "edge": (out["box"].diff(dim=1) - batch["box"].diff(dim=1)).square().mean(),
        }
        return {**found, "loss": sum(self.weights.get(name, 0) * each for name, each in found.items())}


class Spelled(Several):
    weights = {"ce": 1.0, "tv": 0.01, "edge": 0.5}  # noqa: RUF012


def a_misspelt_weight_of_the_class(fixed=False):
    return subject(Heads(cls=3, box=4), Spelled() if fixed else Several())


class Weighs:
    """Weights that the class holds, of which two are exchanged."""

    weights = {"loss_cls": 1.0, "loss_box": 5.0}  # noqa: RUF012

    def __call__(self, out, batch):
        return {
            "loss_cls": F.cross_entropy(out["cls"], batch["label"]),
            "loss_box": F.l1_loss(out["box"], batch["box"]),
        }


def exchanged_weights_of_the_class(fixed=False):
    criterion = Weighs()
    keys = ("loss_cls", "loss_box") if fixed else ("loss_box", "loss_cls")

    def total(found):
        return sum(criterion.weights[key] * each for key, each in zip(keys, found.values(), strict=True))

    return subject(Heads(cls=3, box=4), criterion, total=total)


def a_share_in_whole_numbers(fixed=False):
    """`//` where `/` was meant: the weight of what is negative is 0, whatever the batch."""

    def criterion(out, batch):
        score, mask = out["score"][:, 0], batch["mask"].long()
        share = mask.sum() / len(mask) if fixed else mask.sum() // (len(mask) + 1)
        positive = (F.softplus(-score) * mask).mean()
        return {"loss_pos": positive, "loss_neg": share * (F.softplus(score) * (1 - mask)).mean()}

    return subject(Heads(score=1), criterion)


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.out = nn.Linear(6, 16), nn.Linear(16, 1, bias=False)  # no force depends on a bias

    def forward(self, x):
        return self.out(self.body(x).tanh())


def interpolated(model, batch):
    real, fake = batch["input"], batch["input"].flip(1)
    between = (0.3 * real + 0.7 * fake).requires_grad_(True)
    return {"real": model(real), "fake": model(fake), "between": model(between), "at": between}


def the_penalty_has_no_weight(fixed=False):
    """A penalty of gradients, by what the network was given: the criterion differentiates an output."""
    weights = {"critic": 1.0, "gp" if fixed else "gradient_penalty": 10.0}

    def criterion(out, batch):
        (grad,) = torch.autograd.grad(out["between"].sum(), out["at"], create_graph=True)
        return {"critic": out["fake"].mean() - out["real"].mean(), "gp": (grad.norm(2, 1) - 1).square().mean()}

    def total(found):
        return sum(weights[name] * each for name, each in found.items() if name in weights)

    return subject(Field(), criterion, forward=interpolated, total=total)


FAULTS = {
    twice_in_an_einsum: (("sum-mismatch",), ("b",)),
    twice_in_a_dot: (("sum-mismatch",), ("b",)),
    in_a_lerp_and_beside_it: (("sum-mismatch",), ("b",)),
    in_an_addcmul_and_beside_it: (("sum-mismatch",), ("b",)),
    made_finite_and_beside_it: (("sum-mismatch",), ("b",)),
    the_first_of_a_pair_is_dropped: (("sum-mismatch",), ("[0]",)),
    the_end_is_forgotten: (("sum-mismatch",), ("loss_end",)),
    a_misspelt_weight_of_the_class: (("sum-mismatch",), ("edges",)),
    exchanged_weights_of_the_class: (("sum-mismatch",), ("loss_box",)),
    a_share_in_whole_numbers: (("dead-loss",), ("loss_neg",)),
    the_penalty_has_no_weight: (("sum-mismatch",), ("gp",)),
}


# ---- healthy


def mixed_labels_that_are_smoothed():
    """What smoothing adds is the same for both labels."""

    def criterion(out, batch):
        smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
        return 0.35 * smooth(out["cls"], batch["label"]) + 0.65 * smooth(out["cls"], batch["label"].flip(0))

    return subject(Heads(cls=3), criterion)


def forces():
    def forward(model, batch):
        places = batch["input"].detach().requires_grad_(True)
        return {"energy": model(places), "places": places}

    def criterion(out, batch):
        (grad,) = torch.autograd.grad(out["energy"].sum(), out["places"], create_graph=True)
        return {"force_loss": F.mse_loss(-grad, batch["input"].roll(1, 1))}

    return subject(Field(), criterion, forward=forward)


def an_equation_at_points_of_the_batch():
    def criterion(out, batch):
        (grad,) = torch.autograd.grad(out.sum(), batch["input"], create_graph=True)
        return {"loss_pde": (grad[:, 0] - 0.1 * grad[:, 1]).square().mean(), "loss_edge": (out[:4] - 1).square().mean()}

    return subject(Field(), criterion, forward=lambda model, batch: model(batch["input"].requires_grad_(True)))


def the_better_of_named_orders():
    def criterion(out, batch):
        again = F.mse_loss(out["box"], batch["box"].flip(1))
        return {"loss_ab": F.mse_loss(out["box"], batch["box"]), "loss_ba": again + 3, "loss_cb": again + 5}

    def total(found):
        return torch.minimum(torch.minimum(found["loss_ab"], found["loss_ba"]), found["loss_cb"])

    return subject(Heads(box=4), criterion, total=total)


class Anything(OrderedDict[str, torch.Tensor]):
    """A dict that answers to any attribute."""

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return Anything()


def a_dict_that_answers_to_any_name():
    def criterion(out, batch):
        return Anything(
            loss_cls=F.cross_entropy(out["cls"], batch["label"]), loss_box=F.l1_loss(out["box"], batch["box"])
        )

    return subject(Heads(cls=3, box=4), criterion, total=lambda found: sum(found.values()))


HEALTHY = (
    mixed_labels_that_are_smoothed, forces, an_equation_at_points_of_the_batch, the_better_of_named_orders,
    a_dict_that_answers_to_any_name,
)  # fmt: skip
