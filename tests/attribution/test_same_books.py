"""A criterion, `wrap` and `watch` on one training: the same books."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import headwise as hw
from headwise.attribution import watch, wrap

EXAMPLE = Path(__file__).parents[2] / "examples" / "books_of_three_outputs.py"
WEIGHTS = {"label": 1.0, "mask": 1.0, "depth": 0.2}


def foreign(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "label": F.cross_entropy(outputs["label"], targets["label"]),
        "mask": F.binary_cross_entropy_with_logits(outputs["mask"], targets["mask"]),
        "depth": F.l1_loss(outputs["depth"], targets["depth"]),
    }


class Returning(nn.Module):
    """A model that returns its losses."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        return foreign(self.network(image), targets)


def test_the_same_books_by_three_ways_in():
    example = runpy.run_path(str(EXAMPLE))
    torch.manual_seed(0)
    network = example["ThreeOutputs"]().double()
    criterion, wrapped, model = example["criterion"], wrap(foreign), Returning(network)
    watched = watch(model, [f"network.{name}" for name in WEIGHTS])
    with hw.Ledger(criterion) as ledger:
        for step in range(3):
            image, targets = example["batch"](step)
            image = image.double()
            targets = {name: each.double() if each.is_floating_point() else each for name, each in targets.items()}
            criterion(network(image), targets).total.backward()
            for losses in (wrapped(network(image), targets), model(image, targets)):
                sum(WEIGHTS[name] * each for name, each in losses.items()).backward()
            declared = ledger.read()
            for books in (wrapped.ledger.read(), watched.ledger.read()):
                assert set(books) == set(declared)
                assert books.balanced
                assert declared.balanced
                assert books.total == pytest.approx(declared.total, rel=1e-6)
                for name, wanted in declared.items():
                    for what in ("value", "weight", "weighted", "share", "grad_norm"):
                        assert getattr(books[name], what) == pytest.approx(getattr(wanted, what), rel=1e-6), (
                            name,
                            what,
                        )
    wrapped.ledger.close()
    watched.close()
