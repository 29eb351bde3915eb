"""Sequences, quantizers, stacks of layers, states that are carried on: with a fault, and without."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from tests.attribution.audit.odd_subjects import Heads, subject


def three(out, batch):
    return {
        "cls": F.cross_entropy(out["cls"], batch["label"]),
        "box": F.l1_loss(out["box"], batch["box"]),
        "reach": F.mse_loss(out["reach"], batch["weight"][:, None]),
    }


def heads():
    return Heads(cls=3, box=4, reach=1)


# ---- faults


class Quantizer(nn.Module):
    def __init__(self, passes_on):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder, self.passes_on = nn.Linear(6, 4), nn.Linear(4, 6), passes_on

    def forward(self, x):
        code = self.encoder(x).sigmoid() * 7
        found = code + (code.round() - code).detach() if self.passes_on else code.round()
        return {"code": code, "again": self.decoder(found)}


def rounded_without_a_way_around(fixed=False):
    return subject(Quantizer(fixed), lambda out, batch: F.mse_loss(out["again"], batch["input"]))


def a_list_that_is_never_emptied(fixed=False):
    kept: list[torch.Tensor] = []

    def criterion(out, batch):
        if fixed:
            kept.clear()
        kept.extend(three(out, batch).values())
        return torch.stack(kept).mean()

    return subject(heads(), criterion)


class Recurrent(nn.Module):
    def __init__(self, cuts):
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.head, self.state, self.cuts = nn.GRUCell(6, 8), nn.Linear(8, 3), None, cuts

    def forward(self, x):
        state = self.cell(x, self.state)
        self.state = state.detach() if self.cuts else state
        return self.head(state)


def a_state_that_is_carried_whole(fixed=False):
    return subject(Recurrent(fixed), lambda out, batch: F.cross_entropy(out, batch["label"]))


def left_out_of_a_mean_and_logged(fixed=False):
    """The log has the numbers of all three, the mean two of them."""

    def criterion(out, batch):
        found = three(out, batch)
        kept = list(found.values())[: None if fixed else 2]
        return torch.stack(kept).mean(), {name: loss.item() for name, loss in found.items()}

    return subject(heads(), criterion)


@dataclass
class Routed:
    loss: torch.Tensor
    task: torch.Tensor
    balance: torch.Tensor


def nothing_is_added_yet(fixed=False):
    """The total is a loss and a number where the second loss should be."""

    def criterion(out, batch):
        task, balance = F.cross_entropy(out["cls"], batch["label"]), out["gate"].softmax(1).mean(0).square().sum()
        return Routed(task + (0.01 * balance if fixed else 0.0), task, balance)

    return subject(Heads(cls=3, gate=4), criterion)


class Layers(nn.Module):
    """One head on a stack of all layers, of which the last is the prediction."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.cls = nn.ModuleList(nn.Linear(6, 6) for _ in range(3)), nn.Linear(6, 3)

    def forward(self, x):
        states = []
        for layer in self.layers:
            states.append(x := layer(x).tanh())
        found = self.cls(torch.stack(states))
        return {"logits": found[-1], "aux": list(found[:-1])}


def each_layer_reads_the_last_one(fixed=False):
    def criterion(out, batch):
        found = {"ce": F.cross_entropy(out["logits"], batch["label"])}
        for number, layer in enumerate(out["aux"]):
            found[f"ce_{number}"] = F.cross_entropy(layer if fixed else out["logits"], batch["label"])
        return found

    return subject(Layers(), criterion)


FAULTS = {
    rounded_without_a_way_around: (("unreached-parameter",), ("encoder.weight",)),
    a_list_that_is_never_emptied: (("sum-mismatch",), ("loss",)),
    a_state_that_is_carried_whole: (("sum-mismatch",), ("loss",)),
    left_out_of_a_mean_and_logged: (("sum-mismatch",), ("reach",)),
    nothing_is_added_yet: (("sum-mismatch",), ("balance",)),
    each_layer_reads_the_last_one: (("untrained-output",), ("aux[1]",)),
}


# ---- healthy


class Tokens(nn.Module):
    """A causal language model with learned positions, of more words than places."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places, self.head = nn.Embedding(20, 8), nn.Embedding(7, 8), nn.Linear(8, 20)
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(7)
        logits = self.head(self.mix(self.words(x) + self.places.weight, mask, is_causal=True))
        return {"logits": logits, "probs": logits.softmax(-1)}


def the_last_word_has_no_next():
    def criterion(out, batch):
        return F.cross_entropy(out["logits"][:, :-1].flatten(0, 1), batch["input"][:, 1:].flatten())

    return subject(Tokens(), criterion, lambda: {"input": torch.randint(20, (4, 7))})


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 9)

    def forward(self, x):
        states = self.body(x)[0]
        return {"states": states, "steps": self.head(states)}


def only_the_last_step_is_judged():
    def make():
        return {"input": torch.randn(4, 5, 6), "label": torch.randint(9, (4,))}

    return subject(Sequence(), lambda out, batch: F.cross_entropy(out["steps"][:, -1], batch["label"]), make)


def the_worst_counts_more():
    def criterion(out, batch):
        found = three(out, batch)
        return {**found, "loss": torch.stack(list(found.values())).max() + 0.1 * sum(found.values())}

    return subject(heads(), criterion)


class ViewMadeOnce(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 6))
        self.turned = [self.weight.t()]

    def forward(self, x):
        return x @ self.turned[0]


def a_view_made_once():
    return subject(ViewMadeOnce(), lambda out, batch: F.cross_entropy(out, batch["label"]))


HEALTHY = (the_last_word_has_no_next, only_the_last_step_is_judged, the_worst_counts_more, a_view_made_once)
