# mypy: ignore-errors
"""What `audit` and `wrap` accept as losses, `trace`, `jacobian` and `check_sum` accept too, under the same names."""

import pytest
import torch
from torch import nn

import headwise as hw


class Attributes(dict):
    """Keys as attributes; what is missing raises KeyError."""

    __getattr__ = dict.__getitem__


FORMS = {
    "dict with attributes": lambda a, b: Attributes(a=a, b=b),
    "dict with a text": lambda a, b: {"a": a, "b": b, "stage": "warm-up"},
    "dict with a flag": lambda a, b: {"a": a, "b": b, "is_first": True},
    "total and dict": lambda a, b: (a + b, {"a": a, "b": b}),
    "dict and total": lambda a, b: ({"a": a, "b": b}, a + b),
    "nested dict": lambda a, b: {"x": {"a": a}, "b": b},
    "list in a dict": lambda a, b: {"a": [a, b], "b": b * 2},
    "dict with a total": lambda a, b: {"a": a, "b": b, "loss": a + b},
    "total and tuple": lambda a, b: (a + b, (a, b)),
    "dict with a metric": lambda a, b: {"a": a, "b": b, "accuracy": 0.5},
    "dict with None": lambda a, b: {"a": a, "b": b, "mask": None},
    "shape (1,)": lambda a, b: {"a": a.unsqueeze(0), "b": b},
}
PLAIN = {"dict": lambda a, b: {"a": a, "b": b}, "tuple": lambda a, b: (a, b), "one": lambda a, b: a + b}


def per_sample(out):
    return {"a": out[:, 0].square(), "b": out[:, 1].sub(1).abs()}


def network():
    torch.manual_seed(0)
    return nn.Linear(4, 2)


def both(out):
    return out[:, 0].square().mean(), out[:, 1].sub(1).abs().mean()


def audited(form):
    data = [{"input": torch.ones(8, 4) * i} for i in (1, 2, 3)]
    return hw.attribution.audit({"model": network(), "batches": data, "criterion": lambda out, batch: form(out)}).losses


def traced(form):
    model = network()
    return tuple(row.name for row in hw.attribution.trace(form(model(torch.ones(8, 4))), model).losses)


def expanded(form):
    model = network()
    table = hw.attribution.jacobian(form(model(torch.ones(8, 4))), model)
    return tuple(table.losses)


def checked(form):
    model = network()
    check = hw.attribution.check_sum(lambda: form(model(torch.ones(8, 4))), model)
    assert check.passed, str(check)
    return check.losses


TOOLS = pytest.mark.parametrize("tool", [traced, expanded, checked], ids=["trace", "jacobian", "check_sum"])


@TOOLS
@pytest.mark.parametrize("form", FORMS)
def test_same_losses_as_the_audit(form, tool):
    def returned(out):
        return FORMS[form](*both(out))

    assert set(tool(returned)) == set(audited(returned))


@TOOLS
def test_same_losses_per_sample(tool):
    assert set(tool(per_sample)) == set(audited(per_sample)) == {"a", "b"}


def booked(form):
    wrapped = hw.attribution.wrap(lambda out, batch: form(out))
    found = wrapped(network()(torch.ones(8, 4)), None)
    tensors, todo = [], [found]
    while todo:
        node = todo.pop()
        todo += node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
        tensors += [node.mean()] if torch.is_tensor(node) else []
    sum(tensors).backward()
    return tuple(wrapped.ledger.read())


@pytest.mark.parametrize("form", FORMS)
def test_stays_the_same_losses_in_wrap(form):
    def returned(out):
        return FORMS[form](*both(out))

    assert set(booked(returned)) == set(audited(returned))


@TOOLS
@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_stays_the_plain_forms(form, tool):
    def returned(out):
        return PLAIN[form](*both(out))

    assert set(tool(returned)) == set(audited(returned))
