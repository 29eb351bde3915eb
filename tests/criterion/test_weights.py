"""Weights that are expressions of parameters: found wherever the function has them from."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import headwise as hw
from headwise.losses import squared_error

HELD = nn.Parameter(torch.tensor(0.5))


def of_a_global():
    return torch.exp(-HELD)


def criterion(weight):
    return hw.Criterion([hw.Term("depth", squared_error, output="y", target="t", weight=weight)])


def test_a_parameter_of_the_module_is_found():
    assert [id(each) for each in criterion(of_a_global).parameters()] == [id(HELD)]


def test_a_parameter_that_is_closed_over_is_found():
    held = nn.Parameter(torch.tensor(0.5))
    assert [id(each) for each in criterion(lambda: held * 2).parameters()] == [id(held)]


def test_a_parameter_as_default_is_found():
    held = nn.Parameter(torch.tensor(0.5))
    assert [id(each) for each in criterion(lambda s=held: s * 2).parameters()] == [id(held)]


class Held:
    def __init__(self) -> None:
        self.s = HELD

    def __call__(self) -> torch.Tensor:
        return torch.exp(-self.s)


def nested():
    inner = {"s": HELD}

    def read():
        return inner["s"]

    return lambda: torch.exp(-read())


@pytest.mark.parametrize("weight", [partial(lambda s: torch.exp(-s), HELD), Held(), Held().__call__, nested()])
def test_a_parameter_is_found_wherever_a_function_has_it_from(weight):
    """Those of a partial function, an object, a dict or an inner function trained, and no optimizer was given them."""
    assert [id(each) for each in criterion(weight).parameters()] == [id(HELD)]


class Model(nn.Module):
    def __init__(self, where: str) -> None:
        super().__init__()
        self.net, self.s = nn.Linear(2, 2), nn.Parameter(torch.tensor(0.5))
        self.criterion = criterion(self.expressions(self.s)[where])

    def expressions(self, own: nn.Parameter) -> dict[str, Any]:
        def given(s: nn.Parameter = own) -> torch.Tensor:
            return torch.exp(-s)

        return {
            "self": lambda: torch.exp(-self.s),
            "closed over": lambda: torch.exp(-own),
            "default": given,
            "inner": lambda: given() * 1,
            "method": self.weight,
            "index": lambda i=0: torch.exp(-own[None])[i],
            "partial": partial(torch.exp, own),
        }

    def weight(self) -> torch.Tensor:
        return torch.exp(-self.s)

    def step(self) -> None:
        self.criterion({"y": self.net(torch.ones(3, 2))}, {"t": torch.zeros(3, 2)}).total.backward()


@pytest.mark.parametrize("where", ["self", "closed over", "default", "inner", "method", "index", "partial"])
def test_a_copy_of_a_model_learns_its_own_weight(where):
    """The copy's pass went to the weight of the model that it was copied from."""
    model = Model(where)
    assert [id(each) for each in model.criterion.parameters()] == [id(model.s)]
    other = copy.deepcopy(model)
    other.step()
    assert model.s.grad is None
    assert other.s.grad is not None
    assert [id(each) for each in other.criterion.parameters()] == [id(other.s)]


def test_a_default_of_a_schedule_is_its_first_step():
    """What has a default and gives a number is a function of the step, as before."""
    scheduled = criterion(lambda step=5: 1.0 + step)
    scheduled.advance()
    assert scheduled.weights == {"depth": 2.0}


def test_a_schedule_that_gives_a_tensor_is_told_what_to_return():
    """It was told "a tensor weight is a 0-d float tensor; found a float32 tensor of shape ()"."""
    with pytest.raises(ValueError, match=r"'depth': its schedule returns a number; .*shape \(\)\. Return float"):
        criterion(lambda step: torch.tensor(1.0 + step))


@pytest.mark.parametrize("weight", [of_a_global, nested()])
def test_a_copied_criterion_names_the_parameters_that_it_reads(weight):
    assert [id(each) for each in copy.deepcopy(criterion(weight)).parameters()] == [id(HELD)]


def test_the_weights_of_a_network_are_no_parameters_of_a_criterion_that_reads_one_of_them():
    assert [key for key in Model("self").state_dict() if "parameters_read" in key] == [
        "criterion.term_weights.expressions.depth.parameters_read.0"
    ]


@pytest.mark.parametrize("where", ["self", "closed over"])
@pytest.mark.parametrize("assign", [True, False])
def test_a_loaded_weight_is_used(where, assign):
    """Loaded by assignment, a weight stayed as it was, and the criterion listed a parameter that nothing reads."""
    trained, model = Model(where), Model(where)
    with torch.no_grad():
        trained.s.fill_(2.0)
    model.load_state_dict(trained.state_dict(), assign=assign)
    assert torch.equal(model.criterion.weights["depth"], torch.exp(torch.tensor(-2.0)))
    model.step()
    assert [each.grad is not None for each in model.criterion.parameters()] == [True]


@pytest.mark.parametrize("names", [("a.b", "a/b"), ("type", "keys"), ("train", "forward"), ("..", "//"), ("%", "%25")])
@pytest.mark.parametrize("form", [lambda held: held, lambda held: lambda: held * 1, lambda held: Multiple(held)])
def test_terms_of_any_names_learn_a_weight_each(names, form):
    """torch refuses names with points, and those that its containers have for themselves."""
    held = [nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(3.0))]
    terms = [
        hw.Term(name, squared_error, output="y", target="t", weight=form(each))
        for name, each in zip(names, held, strict=True)
    ]
    criterion = hw.Criterion(terms)
    breakdown = criterion({"y": torch.ones(2)}, {"t": torch.zeros(2)})
    breakdown.total.backward()
    assert breakdown.total.item() == 5
    assert [each.grad for each in held] == [1.0, 1.0]
    assert {id(each) for each in criterion.parameters()} == {id(each) for each in held}
    other = hw.Criterion(
        [
            hw.Term(name, squared_error, output="y", target="t", weight=form(nn.Parameter(torch.zeros(()))))
            for name in names
        ]
    )
    other.load_state_dict(criterion.state_dict())
    assert [*other.weights.values()] == [2.0, 3.0]


class Multiple(nn.Module):
    def __init__(self, held: nn.Parameter) -> None:
        super().__init__()
        self.held = held

    def forward(self) -> torch.Tensor:
        return self.held * 1


class Buffered(nn.Module):
    """A criterion beside, before or after the module whose buffer its weight is."""

    def __init__(self, order: str = "owner first") -> None:
        super().__init__()
        owner = self if order == "owner is the parent" else nn.Module()
        owner.register_buffer("w", torch.tensor(0.5))
        if order == "owner first":
            self.owner = owner
        self.criterion = criterion(owner.w)
        if order == "owner last":
            self.owner = owner

    @property
    def buffer(self) -> Any:
        return self.get_submodule("owner").w if hasattr(self, "owner") else self.w

    def total(self) -> Any:
        dtype = self.buffer.dtype
        return self.criterion({"y": torch.full((3,), 3.0, dtype=dtype)}, {"t": torch.zeros(3, dtype=dtype)}).total


def loaded(model: Buffered) -> Buffered:
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
    return model


@pytest.mark.parametrize("order", ["owner first", "owner last", "owner is the parent"])
@pytest.mark.parametrize(
    "move",
    [
        lambda model: model.double(),
        lambda model: model.to("meta").to_empty(device="cpu"),
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        loaded,
    ],
    ids=["double", "meta", "copied", "pickled", "loaded"],
)
def test_a_buffer_as_weight_stays_one(order, move):
    """Moved or loaded by assignment, a buffer is another tensor; the criterion kept the old one, in silence."""
    model = move(Buffered(order))
    model.buffer.fill_(2.0)
    assert float(model.total()) == 18.0
    model.load_state_dict({**model.state_dict(), "criterion.term_weights.fixed.depth": torch.tensor(4.0)}, strict=False)
    assert float(model.buffer) == 4.0
