"""torch's default dtype is the user's; no value, gradient or booked number of ours depends on it."""

from typing import Any

import pytest
import torch

import headwise as hw
from headwise import losses
from tests.criterion import told as kit

DEFAULTS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
EXACT = 1e-12


@pytest.fixture(autouse=True)
def ordinary_default_dtype():
    """Whatever a test sets, the next one begins in float32 and with the same numbers."""
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def near(found, wanted, what, tolerance=EXACT):
    found, wanted = torch.as_tensor(found, dtype=torch.float64), torch.as_tensor(wanted, dtype=torch.float64)
    error = float((found - wanted).abs().max() / wanted.abs().max())
    assert error <= tolerance, f"{what} is off by {error:.1e}"


CASES: dict[str, tuple[dict[str, Any], Any, tuple[Any, ...]]] = {
    "a constant": ({}, lambda s: s / 1000.3, (1000.3,)),
    "a constant of a tenth": ({}, lambda s: s / 0.1, (0.1,)),
    "a count that is a number": ({}, lambda s: s / 481.5, (lambda target, mask=None: 481.5,)),
    "a weight": ({"weight": 0.3}, lambda s: s / 12, ()),
    "a schedule": ({"weight": lambda step: 0.7 / (1 + step)}, lambda s: s / 12, ()),
    "a weight that is large and odd": ({"weight": 16777217.0}, lambda s: s / 12, ()),
}
WEIGHTS = {"a weight": 0.3, "a schedule": 0.7, "a weight that is large and odd": 16777217.0}


@pytest.mark.parametrize("default", DEFAULTS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_float64_outputs(default, case):
    """Exact to 1e-12 under every default."""
    options, value, normalizer = CASES[case]
    x = kit.number((4, 3), torch.float64)
    torch.set_default_dtype(default)
    target = torch.zeros(4, 3, dtype=torch.float64)
    breakdown, books = kit.call(
        {"x": x}, {"y": target}, kit.term("alpha", losses.squared_error, *normalizer, **options)
    )
    wanted, weight = value((x.detach() ** 2).sum()), WEIGHTS.get(case, 1.0)
    near(breakdown["alpha"].value.detach(), wanted, "the value")
    near(breakdown.total.detach(), weight * wanted, "the total")
    near(x.grad, weight * 2 * value(x.detach()), "the gradient")
    near(books["alpha"].weight, weight, "the booked weight")
    near(books["alpha"].value, wanted, "the booked value")
    near(books["alpha"].weighted, weight * wanted, "the booked weighted value")
    near(books.total, weight * wanted, "the booked total")
    near(books["alpha"].grad_norm, x.grad.norm(), "the booked norm")


@pytest.mark.parametrize("default", DEFAULTS, ids=str)
def test_levels(default):
    """Weights of levels and of a pooled count."""
    x = [kit.number((4, 3), torch.float64) for _ in range(2)]
    torch.set_default_dtype(default)
    target = [torch.zeros(4, 3, dtype=torch.float64) for _ in range(2)]
    levels = hw.Levels([0.3, 0.1], normalize=True)
    breakdown, _ = kit.call({"x": x}, {"y": target}, kit.term(output="x[*]", target="y[*]", levels=levels))
    wanted = sum(w * (each.detach() ** 2).sum() / 12 for w, each in zip((0.75, 0.25), x, strict=True))
    near(breakdown["alpha"].value.detach(), wanted, "the value")
    near(x[1].grad, 0.25 * x[1].detach() / 6, "the gradient")


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_bits(default, dtype):
    """Outputs of float32 and bfloat16: the same numbers under every default."""
    x, y = kit.number((4, 3), dtype), torch.randn(4, 3, dtype=torch.float32)
    terms = (
        kit.term("alpha", losses.squared_error, 1000.3, weight=0.3),
        kit.term("beta", losses.absolute_error, lambda target, mask=None: target.numel() + 0.5, weight=0.7),
    )
    found = []
    for each in (torch.float32, default):
        torch.set_default_dtype(each)
        x.grad = None
        breakdown, books = kit.call({"x": x}, {"y": y}, *terms)
        found.append(
            (
                float(breakdown.total.detach()),
                x.grad.clone(),
                books["alpha"].weight,
                books.total,
                books["beta"].grad_norm,
            )
        )
    assert torch.equal(found[0][1], found[1][1]), "the gradient depends on the default dtype"
    assert found[0][0] == found[1][0], f"the total depends on it: {found[0][0]} and {found[1][0]}"
    for one, other, what in zip(found[0][2:], found[1][2:], ("weight", "total", "norm"), strict=True):
        near(other, one, f"the booked {what}", 1e-7)


def test_float64_under_float64_is_exact():
    torch.set_default_dtype(torch.float64)
    x = kit.number((4, 3), torch.float64)
    breakdown, books = kit.call(
        {"x": x}, {"y": torch.zeros(4, 3)}, kit.term("alpha", losses.squared_error, 0.1, weight=0.3)
    )
    near(books["alpha"].weight, 0.3, "the booked weight")
    near(breakdown["alpha"].value.detach(), (x.detach() ** 2).sum() / 0.1, "the value")
