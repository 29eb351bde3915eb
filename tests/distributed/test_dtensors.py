"""Outputs and targets that are DTensors: exact on two ranks, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import headwise as hw
from headwise import losses
from tests.distributed.ranks import on_ranks

NUM_CLASSES = 6


def data() -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    output = torch.randn(4, NUM_CLASSES, 8, dtype=torch.float64)
    label, mask = torch.randint(0, NUM_CLASSES, (4, 8)), torch.rand(4, 8) > 0.3
    return output, {"label": label, "map": torch.randn(4, NUM_CLASSES, 8, dtype=torch.float64), "mask": mask}


def criterion() -> hw.Criterion:
    return hw.Criterion(
        [
            hw.Term("class", losses.cross_entropy, output="y", target="label", mask="mask"),
            hw.Term("map", losses.squared_error, output="y", target="map", mask="mask", weight=0.3),
        ]
    )


def whole() -> tuple[Tensor, Tensor]:
    output, targets = data()
    leaf = output.requires_grad_()
    total = criterion()({"y": leaf}, targets).total
    total.backward()
    assert leaf.grad is not None
    return total.detach(), leaf.grad


def said_by(function: Any) -> str:
    try:
        function()
    except ValueError as error:
        return str(error)
    return "nothing"


def on_a_mesh(rank: int, world: int) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (world,))
    output, targets = data()
    found: dict[str, Any] = {}
    for dim in (0, 1, 2, None):
        of = Replicate() if dim is None else Shard(dim)
        of_labels = Replicate() if dim in (1, None) else Shard(min(dim, 1))
        leaf: Any = distribute_tensor(output.detach(), mesh, [of]).requires_grad_()
        held = {
            name: distribute_tensor(each, mesh, [of if name == "map" else of_labels]) for name, each in targets.items()
        }
        total = criterion()({"y": leaf}, held).total
        total.backward()
        assert isinstance(leaf.grad, DTensor)
        found[f"shard {dim}"] = total.detach(), leaf.grad.full_tensor().clone()
    books = criterion()
    with hw.Ledger(books) as ledger:
        found["booked"] = said_by(lambda: books({"y": leaf}, held))
        books({"y": leaf.full_tensor()}, targets).total.backward()
        found["norm"] = ledger.read()["map"].grad_norm
    found["mixed"] = said_by(lambda: criterion()({"y": leaf}, targets))
    return found


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    return on_ranks(on_a_mesh)


@pytest.mark.parametrize("dim", [0, 1, 2, None])
def test_a_criterion_of_dtensors_is_that_of_the_whole(results, dim):
    total, grad = whole()
    for each in results:
        found_total, found_grad = each[f"shard {dim}"]
        torch.testing.assert_close(found_total, total, rtol=1e-12, atol=0)
        torch.testing.assert_close(found_grad, grad, rtol=1e-12, atol=1e-15)


def test_what_cannot_be_booked_or_mixed_is_refused_by_name(results):
    for each in results:
        assert each["booked"].startswith("output 'y' is a DTensor, and a ledger books the gradients of plain tensors")
        assert each["mixed"].startswith("output 'y' is a DTensor and target 'label' is none")


def test_the_books_of_the_whole_tensor_are_right(results):
    output, targets = data()
    leaf = output.requires_grad_()
    weighted = criterion()({"y": leaf}, targets)["map"].weighted
    (grad,) = torch.autograd.grad(weighted, leaf)
    for each in results:
        assert each["norm"] == pytest.approx(float(grad.norm()), rel=1e-12)
