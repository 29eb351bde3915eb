"""The books of a foreign criterion against one `autograd.grad` per loss."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headwise.attribution import wrap
from tests.attribution.audit.nets import Heads, Maps, batches
from tests.attribution.audit.planted import REGIONS, cls_loss, reg_loss, snake_terms


def as_dict(maps: Tensor, batch: Any) -> dict[str, Tensor]:
    return dict(zip(REGIONS, snake_terms(maps, batch), strict=True))


def step(weights: dict[str, float], scale: float = 1.0, **more: Any) -> tuple[Any, dict[str, Tensor], Maps]:
    torch.manual_seed(0)
    model, batch = Maps(), batches()[0]
    wrapped = wrap(as_dict, **more)
    maps = model(batch["input"])
    losses = wrapped(maps, batch)
    total = torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
    (scale * total).backward(retain_graph=True)
    books = wrapped.ledger.read()
    expected = {n: torch.autograd.grad(loss, maps, retain_graph=True)[0].double() for n, loss in losses.items()}
    return books, expected, model


def test_books_are_those_of_one_gradient_per_loss():
    weights = {"sin": 0.5, "radii": 3.0}
    books, expected, _ = step(weights)
    assert books.names == tuple(REGIONS)
    for name, grad in expected.items():
        weight = weights.get(name, 1.0)
        assert books[name].weight == pytest.approx(weight)
        assert books[name].weighted == pytest.approx(weight * books[name].value)
        assert books[name].grad_norm == pytest.approx(weight * float(grad.norm()), rel=1e-6)
        assert books[name].outputs["output"].grad_norm == pytest.approx(books[name].grad_norm)
        assert books[name].finite
        assert books[name].trained
    assert sum(each.share for each in books.values()) == pytest.approx(1)
    sin, cos = expected["sin"].flatten(), expected["cos"].flatten()
    assert books.cosine("sin", "cos") == pytest.approx(float(sin @ cos / sin.norm() / cos.norm()), rel=1e-6)
    assert books.inner("cos", "sin") == pytest.approx(0.5 * float(sin @ cos), rel=1e-6)
    assert books.cosine("tr", "tcl") == pytest.approx(0)


def test_gradients_are_those_without_books():
    torch.manual_seed(0)
    plain, batch = Maps(), batches()[0]
    torch.stack(list(as_dict(plain(batch["input"]), batch).values())).sum().backward()
    _, _, booked = step({})
    for left, right in zip(plain.parameters(), booked.parameters(), strict=True):
        assert left.grad is not None
        assert right.grad is not None
        assert torch.equal(left.grad, right.grad)


def test_shares_do_not_depend_on_a_loss_scale():
    plain, scaled = step({"sin": 0.5})[0], step({"sin": 0.5}, scale=1024.0)[0]
    for name in plain:
        assert scaled[name].share == pytest.approx(plain[name].share)
        assert scaled[name].weight == pytest.approx(1024 * plain[name].weight)


def test_reads_limit_what_is_booked():
    books, expected, _ = step({}, reads={"sin": "output[:, 4]", "cos": ["output[:, 4]", "output[:, 5]"]})
    assert books["sin"].grad_norm == pytest.approx(float(expected["sin"][:, 4].norm()))
    assert books["cos"].grad_norm == pytest.approx(float(expected["cos"].norm()))
    assert books["tr"].grad_norm == pytest.approx(float(expected["tr"].norm()))


def test_tuples_are_named_and_a_total_is_no_term():
    model, batch = Heads(cls=2, reg=1), batches()[0]
    wrapped = wrap(lambda o, b: (cls_loss(o, b), 2 * reg_loss(o, b)), names=["cls", "reg"])
    sum(wrapped(model(batch["input"]), batch)).backward()
    assert wrapped.ledger.read().names == ("cls", "reg")
    assert wrapped.ledger.read().cosine("cls", "reg") is None

    def with_total(outputs: Any, batch: Any) -> dict[str, Tensor]:
        cls, reg = cls_loss(outputs, batch), reg_loss(outputs, batch)
        return {"loss": cls + 0.25 * reg, "cls": cls, "reg": reg}

    wrapped = wrap(with_total)
    wrapped(model(batch["input"]), batch)["loss"].backward()
    books = wrapped.ledger.read()
    assert {name: each.weight for name, each in books.items()} == {"cls": 1.0, "reg": 0.25}


def test_outputs_written_in_place_are_booked_as_the_network_returned_them():
    model, batch = Heads(cls=2, reg=1), batches()[0]
    wrapped = wrap(lambda o, b: {"cls": o["cls"].sigmoid_().square().mean()})
    outputs = model(batch["input"])
    before = outputs["cls"].detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(before.sigmoid().square().mean(), before)
    wrapped(outputs, batch)["cls"].backward()
    assert wrapped.ledger.read()["cls"].outputs["cls"].grad_norm == pytest.approx(float(expected.norm()))


def test_history_skips_calls_without_a_backward_pass():
    model, batch = Heads(cls=2, reg=1), batches()[0]
    wrapped = wrap(lambda o, b: [cls_loss(o, b), reg_loss(o, b)], capacity=2)
    with pytest.raises(RuntimeError, match="empty"):
        wrapped.ledger.read()
    for index in range(4):
        losses = wrapped(model(batch["input"]), batch)
        if index != 2:
            sum(losses).backward()
    assert [books.step for books in wrapped.ledger.history()] == [3]
    with torch.no_grad():
        wrapped(model(batch["input"]), batch)
    assert wrapped.ledger.read().step == 3
    wrapped.ledger.close()
    sum(wrapped(model(batch["input"]), batch)).backward()
    assert wrapped.ledger.read().step == 3
    assert "cls" not in wrapped.ledger.table()


def test_a_gradient_that_is_not_finite_is_named():
    model, batch = Heads(cls=2, reg=1), batches()[0]

    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        return {"cls": cls_loss(outputs, batch), "reg": ((outputs["reg"] * 0) ** 2).sum().sqrt()}

    wrapped = wrap(criterion)
    sum(wrapped(model(batch["input"]), batch).values()).backward()
    books = wrapped.ledger.read()
    assert books["cls"].finite
    assert not books["reg"].finite
    assert not books["reg"].outputs["reg"].finite
    assert math.isnan(books.total) or books["reg"].value == 0


def test_a_copy_of_a_model_with_a_wrapped_criterion_keeps_its_own_books():
    class Held(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.loss = torch.nn.Linear(3, 2), wrap(_two_losses, capacity=7)

        def forward(self, x):
            return sum(self.loss(self.head(x)).values())

    model, x = Held(), torch.randn(4, 3)
    model(x).backward()
    for other in (copy.deepcopy(model), copy.deepcopy(copy.deepcopy(model))):
        other(x).backward()
        other(x).backward()
        assert [books.step for books in other.loss.ledger.history()] == [0, 1]
        assert other.loss.ledger.read().balanced
    assert len(model.loss.ledger.history()) == 1


def _two_losses(output):
    return {"near": output.square().mean(), "far": output.abs().mean()}


def test_a_summand_of_one_number_is_called_by_the_output_that_it_reads_and_not_by_all():
    torch.manual_seed(0)
    model = nn.ModuleDict({"kind": nn.Linear(4, 3), "size": nn.Linear(4, 2)})
    x = torch.randn(5, 4)

    def criterion(outputs):
        kind = F.cross_entropy(outputs["kind"], torch.arange(5) % 3)
        return torch.stack([kind, F.l1_loss(outputs["size"], x[:, :2])]).mean()

    wrapped = wrap(criterion)
    wrapped({name: head(x) for name, head in model.items()}).backward()
    assert {name: row.weight for name, row in wrapped.ledger.read().items()} == {
        "cross_entropy(kind)": 0.5,
        "abs(size)": 0.5,
    }


@pytest.mark.parametrize("elements", [lambda s: s, lambda s: [s[0], s[-1]]], ids=["iterated", "by index"])
def test_penalties_of_weights_that_are_learned_in_one_vector_have_their_values(elements):
    torch.manual_seed(0)
    heads, x = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 2)]), torch.ones(5, 4)
    s = nn.Parameter(torch.tensor([0.1, -0.2]))

    def criterion(outputs):
        return sum((-each).exp() * out.square().mean() + each for each, out in zip(elements(s), outputs, strict=True))

    wrapped = wrap(criterion)
    wrapped([head(x) for head in heads]).backward()
    rows = wrapped.ledger.read()
    penalties = [row.value for name, row in rows.items() if name.startswith("parameter")]
    assert sorted(penalties) == pytest.approx([-0.2, 0.1])
    weights = [row.weight for name, row in rows.items() if not name.startswith("parameter")]
    assert sorted(weights) == pytest.approx([math.exp(-0.1), math.exp(0.2)])


@pytest.mark.parametrize(
    ("names", "reads", "returned"),
    [
        (["a"], None, lambda a, b: (a, b)),
        (["a", "b", "c"], None, lambda a, b: (a, b)),
        (["a", "b"], None, lambda a, b: {"x": a, "y": b}),
        (None, {"z": "out"}, lambda a, b: {"x": a, "y": b}),
    ],
)
def test_names_that_belong_to_nothing_are_told_once(names, reads, returned):
    """They were passed over: the books had 0 and 1, or the dict's keys."""
    wrapped = wrap(lambda out: returned(out["out"].square().mean(), out["out"].abs().mean()), names, reads)
    out = {"out": torch.ones(2, 3, requires_grad=True)}
    with pytest.warns(UserWarning, match="in names or reads is nothing that the criterion returned"):
        wrapped(out)
    wrapped(out)


def test_where_a_loss_is_not_a_number_its_gradient_is_none_either_and_nothing_is_said_to_be_unbooked():
    model = nn.Linear(3, 2)
    wrapped = wrap(lambda out: {"a": out[:, 0].square().mean(), "b": out[:, 1].square().mean() * math.nan})
    sum(wrapped(model(torch.randn(4, 3))).values()).backward()
    books = wrapped.ledger.read()
    assert set(books) == {"a", "b"}
    assert math.isnan(books["b"].grad_norm)
    assert not books["b"].finite
    assert books["a"].finite
    assert books.balanced


@pytest.mark.filterwarnings("error")
def test_complex_outputs_have_the_norms_of_their_gradients():
    weight = torch.randn(6, 8, dtype=torch.cfloat, requires_grad=True)
    wrapped = wrap(lambda out: {"size": (out.abs() - 1).square().mean(), "real": out.real.square().mean()})
    out = torch.randn(4, 6, dtype=torch.cfloat) @ weight
    losses = wrapped(out)
    (losses["size"] + 0.5 * losses["real"]).backward(retain_graph=True)
    books = wrapped.ledger.read()
    sent = {name: torch.autograd.grad(loss, out, retain_graph=True)[0] for name, loss in losses.items()}
    assert books["size"].grad_norm == pytest.approx(float(sent["size"].norm()), rel=1e-5)
    assert books["real"].grad_norm == pytest.approx(0.5 * float(sent["real"].norm()), rel=1e-5)
    product = float((sent["size"] * sent["real"].conj()).real.sum())
    assert books.inner("size", "real") == pytest.approx(0.5 * product, rel=1e-4)
    assert books.balanced


def test_a_loss_that_is_called_as_the_row_of_what_is_unbooked_keeps_a_row_of_its_own():
    model = nn.Linear(3, 2)
    wrapped = wrap(lambda out: {"unbooked": out[:, 0].square().mean(), "b": out[:, 1].square().mean()})
    losses = wrapped(model(torch.randn(4, 3)))
    (2 * losses["unbooked"] + losses["b"] + model.weight.square().sum()).backward()
    books = wrapped.ledger.read()
    assert set(books) == {"unbooked (2)", "b", "unbooked"}
    assert books["unbooked (2)"].weight == 2
    assert books["unbooked"].value == pytest.approx(float(model.weight.detach().square().sum()), rel=1e-5)
