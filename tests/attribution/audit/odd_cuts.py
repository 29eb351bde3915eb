"""Parts of one number that left the graph, and channels that stand last: with a fault, and without."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.attribution.audit.odd_steps import heads, three
from tests.attribution.audit.odd_subjects import Heads, subject

# ---- faults


def overlap(chance, label):
    wanted = F.one_hot(label, chance.shape[1]).float()
    return 1 - 2 * (chance * wanted).sum() / (chance.sum() + wanted.sum())


def hard(chance):
    return F.one_hot(chance.argmax(1), chance.shape[1]).float()


def an_overlap_of_what_was_decided(fixed=False):
    """Dice of the argmax, beside cross entropy, in one number."""

    def criterion(out, batch):
        chance = out["cls"].softmax(1)
        dice = overlap(chance if fixed else hard(chance), batch["label"])
        return F.cross_entropy(out["cls"], batch["label"]) + 0.5 * dice

    return subject(Heads(cls=3), criterion)


def a_plain_number_in_one_number(fixed=False):
    def criterion(out, batch):
        found = three(out, batch)
        # The trunk and the head are trained by the other losses too: nothing but the number itself shows it.
        box = F.smooth_l1_loss(out["box"], batch["box"])
        return sum(found.values()) + 0.2 * (box if fixed else box.item())

    return subject(heads(), criterion)


@torch.no_grad()
def spread(out):
    return out.std(0).mean()


def a_helper_without_a_graph(fixed=False):
    """A decorator that was meant for the metric above it."""

    def criterion(out, batch):
        loss = F.mse_loss(out["box"], batch["box"])
        loss -= 0.1 * (out["box"].std(0).mean() if fixed else spread(out["box"]))
        return loss

    return subject(Heads(box=4), criterion)


def a_part_of_each_sample(fixed=False):
    def criterion(out, batch):
        error, size = (out["box"] - batch["box"]).square().mean(1), out["box"].abs().mean(1)
        return (error + 0.3 * (size if fixed else size.data)).mean()

    return subject(Heads(box=4), criterion)


def stacked_with_a_part_that_is_cut(fixed=False):
    def criterion(out, batch):
        found = three(out, batch)
        found["size"] = out["box"].norm() if fixed else out["box"].detach().norm()
        return torch.stack(list(found.values())).sum()

    return subject(heads(), criterion)


def the_penalty_of_data(fixed=False):
    """Weight decay by hand, of `.data`."""
    model = heads()

    def criterion(out, batch):
        penalty = sum((p if fixed else p.data).square().sum() for p in model.parameters())
        return sum(three(out, batch).values()) + 1e-3 * penalty

    return subject(model, criterion)


def cut_under_a_name_that_is_no_losses(fixed=False):
    """Losses of samples, which the loop averages; one of them left the graph."""

    def criterion(out, batch):
        size = out["box"].abs().mean(1)
        return {"error": (out["box"] - batch["box"]).square().mean(1), "size": size if fixed else size.detach()}

    return subject(Heads(box=4), criterion, total=lambda found: found["error"].mean() + found["size"].mean())


def of_samples(out, batch):
    return {
        "cls": F.cross_entropy(out["cls"], batch["label"], reduction="none"),
        "box": F.l1_loss(out["box"], batch["box"], reduction="none").mean(1),
        "reach": (out["reach"][:, 0] - batch["weight"]).square(),
    }


def the_hardest_samples_of_two_losses_out_of_three(fixed=False):
    def total(found):
        return sum(loss.topk(4)[0].mean() for name, loss in found.items() if fixed or name != "reach")

    return subject(heads(), of_samples, total=total)


def averaged_twice_but_for_what_is_no_number(fixed=False):
    def total(found):
        return sum(loss.nanmean() for loss in found.values()) + (0 if fixed else found["box"].nanmean())

    return subject(heads(), of_samples, total=total)


def a_slice_of_a_stack(fixed=False):
    """The criterion returns its losses in one tensor; the loop takes two of three."""

    def total(losses):
        return losses.sum() if fixed else losses[:2].sum()

    return subject(heads(), lambda out, batch: torch.stack(list(three(out, batch).values())), total=total)


class Anchors(nn.Module):
    """Maps as one-stage detectors hand them on: picture, anchor, row, column, numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 2 * 8, 1)

    def forward(self, x):
        found = self.head(x)
        return [found.view(len(x), 2, 8, *x.shape[2:]).permute(0, 1, 3, 4, 2).contiguous()]


def pictures():
    at = torch.randint(2, (6,)), torch.randint(2, (6,)), torch.randint(5, (6,)), torch.randint(5, (6,))
    return {"input": torch.randn(2, 3, 5, 5), "at": at, "label": torch.randint(3, (6,))}


def the_classes_of_anchors_are_not_added(fixed=False):
    def criterion(maps, batch):
        (found,) = maps
        chosen = found[batch["at"]]
        box, score = (chosen[:, :4].sigmoid() - 0.5).abs().mean(), F.softplus(found[..., 4]).mean()
        cls = F.cross_entropy(chosen[:, 5:], batch["label"])
        return (0.05 * box + score + (0.5 * cls if fixed else 0)) * 2, torch.stack((box, score, cls)).detach()

    return subject(Anchors(), criterion, pictures)


FAULTS = {
    an_overlap_of_what_was_decided: (("detached-loss",), ("summand of odd_cuts.py:",)),
    a_plain_number_in_one_number: (("detached-loss",), ("summand of odd_cuts.py:",)),
    a_helper_without_a_graph: (("detached-loss",), ("summand of odd_cuts.py:",)),
    a_part_of_each_sample: (("detached-loss",), ("summand of odd_cuts.py:",)),
    stacked_with_a_part_that_is_cut: (("detached-loss",), ("summand of odd_cuts.py:",)),
    the_penalty_of_data: (("detached-loss",), ("summand of odd_cuts.py:",)),
    the_classes_of_anchors_are_not_added: (("untrained-output",), ("[0][..., 5:8]",)),
    cut_under_a_name_that_is_no_losses: (("detached-loss",), ("summand of odd_cuts.py:",)),
    the_hardest_samples_of_two_losses_out_of_three: (("sum-mismatch",), ("reach",)),
    averaged_twice_but_for_what_is_no_number: (("sum-mismatch",), ("box",)),
    a_slice_of_a_stack: (("sum-mismatch",), ("loss[2]",)),
}

# ---- healthy


def the_largest_is_taken_out_of_an_exponential():
    """log of a sum of exponentials of losses, by hand."""

    def criterion(out, batch):
        found = torch.stack(list(three(out, batch).values()))
        most = found.max().detach()
        return most + (found - most).exp().sum().log()

    return subject(heads(), criterion)


def the_value_of_one_and_the_slope_of_the_other():
    def criterion(out, batch):
        shown = (out["box"].sign() - batch["box"]).abs().mean()
        smooth = F.mse_loss(out["box"], batch["box"])
        return smooth + (shown - smooth).detach()

    return subject(Heads(box=4), criterion)


def the_largest_of_the_samples_is_taken_out_as_a_number():
    def criterion(out, batch):
        score = out["reach"][:, 0]
        most = score.max().item()
        partition = most + (score - most).exp().mean().log()
        return sum(three(out, batch).values()) + 0.1 * partition

    return subject(heads(), criterion)


def the_larger_of_two_losses_of_a_sample_is_taken_out():
    def criterion(out, batch):
        first, second = out["box"].abs().mean(1), (out["box"] - batch["box"]).square().mean(1)
        most = torch.maximum(first, second).detach()
        return (most + ((first - most).exp() + (second - most).exp()).log()).mean()

    return subject(Heads(box=4), criterion)


def the_value_is_swapped_in_two_steps():
    def criterion(out, batch):
        soft = 1 - out["cls"].softmax(1).gather(1, batch["label"][:, None]).mean()
        wrong = (out["cls"].argmax(1) != batch["label"]).float().mean()
        return wrong + soft - soft.detach() + F.mse_loss(out["box"], batch["box"])

    return subject(Heads(cls=3, box=4), criterion)


def a_divergence_from_what_was_stopped():
    """Cross entropy less an entropy that is constant: the divergence by hand."""

    def criterion(out, batch):
        first, second = out["a"].log_softmax(1), out["b"].log_softmax(1)
        wanted = first.detach().exp()
        divergence = (wanted * wanted.log()).sum() - (wanted * second).sum()
        return F.cross_entropy(out["a"], batch["label"]) + 0.1 * divergence

    return subject(Heads(a=3, b=3), criterion)


class Pursued(nn.Module):
    """Less the running mean of itself, which is kept as a number."""

    def __init__(self):
        super().__init__()
        self.mean = 0.0

    def forward(self, out, batch):
        loss = F.cross_entropy(out["cls"], batch["label"])
        self.mean = 0.9 * self.mean + 0.1 * loss.item()
        return loss + 0.5 - 0.25


def a_number_that_is_read_beside_numbers_that_are_added():
    return subject(Heads(cls=3), Pursued())


def only_the_log_is_cut():
    def criterion(out, batch):
        found = three(out, batch)
        log = {name: loss.detach() for name, loss in found.items()}
        log["all"] = (sum(log.values()) + out["box"].mean()).item()
        return sum(found.values()), log

    return subject(heads(), criterion)


def all_numbers_of_an_anchor_count():
    return the_classes_of_anchors_are_not_added(fixed=True)


def samples_that_are_padded_do_not_count():
    """Losses of samples, by a loop, of which the last is padded in every batch."""

    def criterion(out, batch):
        return torch.stack([F.cross_entropy(row, label) for row, label in zip(out["cls"], batch["label"], strict=True)])

    return subject(Heads(cls=3), criterion, total=lambda losses: losses[:-1].mean())


class Last(nn.Module):
    """Rows and columns before channels, as window transformers do; a border is cut off before the loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return {"nchw": self.head(x), "nhwc": self.head(x).permute(0, 2, 3, 1)}


def borders_are_cut_off():
    def criterion(out, batch):
        return out["nchw"][:, :, 1:-1, 1:-1].square().mean() + out["nhwc"][:, 1:-1, 1:-1].abs().mean()

    return subject(Last(), criterion, pictures)


class Levels(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.near, self.far = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 3, 4, 1)

    def forward(self, x):
        return {"near": self.near(x), "far": self.far(x)}


def a_corner_of_a_level_is_read():
    """The first places of each map, whose windows reach over its border: not all weights have a gradient there."""

    def criterion(out, batch):
        return sum((each.flatten(2)[..., :2] - 1).abs().mean() for each in out.values())

    return subject(Levels(), criterion, lambda: {"input": torch.randn(2, 3, 16, 16)})


HEALTHY = (
    a_corner_of_a_level_is_read, the_largest_of_the_samples_is_taken_out_as_a_number,
    the_larger_of_two_losses_of_a_sample_is_taken_out, the_value_is_swapped_in_two_steps,
    the_largest_is_taken_out_of_an_exponential, the_value_of_one_and_the_slope_of_the_other,
    a_divergence_from_what_was_stopped, a_number_that_is_read_beside_numbers_that_are_added, only_the_log_is_cut,
    all_numbers_of_an_anchor_count, samples_that_are_padded_do_not_count, borders_are_cut_off,
)  # fmt: skip
