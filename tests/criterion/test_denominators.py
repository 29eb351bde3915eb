"""What divides a loss is one real number from 0 for each value (0: nothing to learn); anything else is refused."""

import math
from typing import Any

import pytest
import torch

import headwise as hw
from headwise import losses, normalizers
from tests import expect as kit

x, y = kit.number(), torch.randn(2, 3, 4, 4)
SUM = (x.detach() - y).square().sum()


def given(what, levels=0):
    """A criterion's value with denominators from outside."""
    outputs, targets = ({"x": [x] * levels}, {"y": [y] * levels}) if levels else ({"x": x}, {"y": y})
    star = "[*]" if levels else ""
    term = kit.term(output="x" + star, target="y" + star)
    return hw.Criterion([term])(outputs, targets, {"alpha": what})["alpha"].value


@pytest.mark.parametrize("shape", [(7,), (3,), (2, 2), (1, 1), (0,)], ids=str)
@pytest.mark.parametrize("levels", [0, 2])
def test_of_another_shape(shape, levels):
    """Once: the first elements are taken, or IndexError."""
    with kit.refused("alpha"):
        given(torch.ones(shape), levels)


@pytest.mark.parametrize("number", [-3.0, -1e-9, -math.inf])
def test_negative(number):
    """Refused, warned of, or NaN; never a negative loss in silence."""
    with kit.refused("alpha"):
        assert math.isnan(float(given(torch.tensor(number)).detach())), f"divided by {number}"


WRONG = {
    "complex": torch.tensor(2 + 5j), "a bool": torch.tensor(True), "a text": "7", "a list": [7.0], "complex number": 2j,
    "a set": {7.0}, "a negative number": -3.0, "not a number": math.nan,
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_of_another_kind(what):
    with kit.refused("alpha"):
        given(WRONG[what])


@pytest.mark.parametrize("number", [2.0, 7, torch.tensor(2.0), torch.tensor(7), torch.tensor(2.0).double()], ids=repr)
def test_a_number(number):
    """A tensor or a Python number."""
    assert torch.isclose(given(number).double(), (SUM / float(number)).double(), rtol=1e-5)


def test_one_a_level():
    """Always right."""
    assert torch.isclose(given(torch.tensor([2.0, 4.0]), 2), SUM * 0.75)


def test_zero_is_nothing_to_learn():
    """Always right."""
    assert float(given(torch.tensor(0.0)).detach()) == 0


NUMBERS = {"negative": -3.0, "not a number": math.nan, "infinite": math.inf, "a bool": True, "complex": 2 + 5j}


@pytest.mark.parametrize("what", NUMBERS)
def test_a_normalizer_that_returns_a_number(what):
    """A number costs nothing to look at; once: divided by it."""
    with kit.refused("alpha"):
        kit.call({"x": x}, {"y": y}, kit.term("alpha", losses.squared_error, lambda target, mask=None: NUMBERS[what]))


@pytest.mark.parametrize("found", [torch.tensor(2 + 5j), torch.tensor(True), torch.ones(2), torch.ones(1, 1)], ids=repr)
def test_a_normalizer_that_returns_a_tensor_of_another_kind(found):
    """Once: the imaginary part is dropped, and True is 1."""
    with kit.refused("alpha"):
        kit.call({"x": x}, {"y": y}, kit.term("alpha", losses.squared_error, lambda target, mask=None: found))


@pytest.mark.parametrize("number", [-3.0, -0.5])
def test_a_normalizer_that_returns_a_negative_tensor(number):
    with kit.refused("alpha"):
        found, _ = kit.call(
            {"x": x}, {"y": y}, kit.term("alpha", losses.squared_error, lambda target, mask=None: torch.tensor(number))
        )
        assert math.isnan(float(found.total.detach())), f"divided by {number}"


@pytest.mark.parametrize("found", [True, 3.0, None, torch.tensor(True), torch.tensor(1j), torch.ones(2)], ids=repr)
def test_a_loss_that_returns_no_sum(found):
    """Of True: once 1 / count. A number may stand for a constant loss."""
    criterion = hw.Criterion([kit.term("alpha", lambda output, target: found)])
    if isinstance(found, float):
        assert math.isclose(float(criterion({"x": x}, {"y": y}).total.detach()), 3 / 96, rel_tol=1e-6)
        return
    with kit.refused("alpha"):
        criterion({"x": x}, {"y": y})


@pytest.mark.parametrize("loss", [losses.squared_error, losses.absolute_error, losses.smooth_l1])
def test_a_complex_target(loss):
    """Once: its imaginary part is lost."""
    with kit.refused("alpha"):
        kit.call({"x": x}, {"y": y + 2j}, kit.term("alpha", loss))


@pytest.mark.parametrize("smooth", [-1.0, math.nan])
def test_a_ratio(smooth):
    """A ratio's own numbers are looked at as well."""

    def loss(output, target):
        return hw.Ratio((output - target).square().sum(), torch.tensor(0.25), smooth)

    with kit.refused("alpha"):
        found, _ = kit.call({"x": x}, {"y": y}, kit.term("alpha", loss, kind=hw.RatioTerm))
        assert math.isnan(float(found.total.detach())), f"smoothed by {smooth}"


@pytest.mark.parametrize("normalizer", [normalizers.count, normalizers.elements, normalizers.images, 0.25, 3])
def test_right_ones(normalizer):
    """Always right."""
    breakdown, _ = kit.call({"x": x}, {"y": y}, kit.term("alpha", losses.squared_error, normalizer))
    wanted = {normalizers.count: 96, normalizers.elements: 96, normalizers.images: 2}.get(normalizer, normalizer)
    assert torch.isclose(breakdown.total.detach(), SUM / wanted)


UNSAID: dict[str, Any] = {
    "of 400 digits": 10**400,
    "sparse": torch.tensor(2.0).to_sparse(),
    "of one element": torch.ones(1, 1),
}


@pytest.mark.parametrize("what", UNSAID)
@pytest.mark.parametrize("who", ["a denominator", "a normalizer", "a ratio"])
def test_what_is_no_number_is_told_whoever_gives_it(what, who):
    term: Any = {
        "a denominator": lambda: hw.Term("alpha", losses.squared_error, output="x", target="y"),
        "a normalizer": lambda: hw.Term(
            "alpha", losses.squared_error, lambda target, mask=None: UNSAID[what], output="x", target="y"
        ),
        "a ratio": lambda: hw.RatioTerm(
            "alpha", lambda output, target: hw.Ratio(output.sum(), UNSAID[what]), output="x", target="y"
        ),
    }[who]()
    x, y = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    with pytest.raises(ValueError, match=r"term 'alpha'.*(what divides a loss|its denominator) is .*; found"):
        hw.Criterion([term])({"x": x}, {"y": y}, {"alpha": UNSAID[what]} if who == "a denominator" else None)


def ratio_of(denominator):
    term = hw.RatioTerm("alpha", lambda output, target: hw.Ratio(output.sum(), denominator), output="x", target="y")
    return hw.Criterion([term])({"x": torch.randn(2, 3, requires_grad=True)}, {"y": torch.randn(2, 3)}).total


@pytest.mark.parametrize("denominator", [torch.tensor(-2.0), torch.tensor(True), torch.tensor(2j), torch.ones(2)])
def test_a_ratio_is_not_divided_by_what_is_no_number_from_0(denominator):
    with pytest.raises(ValueError, match=r"term 'alpha': what divides a loss is"):
        ratio_of(denominator)


def test_a_ratio_of_nan_is_for_the_books_to_tell():
    """Its denominator comes of the prediction: a network that has diverged is no mistake of the declaration."""
    assert ratio_of(torch.tensor(float("nan"))).isnan()


def test_denominators_of_names_that_are_no_text_are_told():
    x, y = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    for name in (3, None):
        with pytest.raises(ValueError, match=f"exactly the terms alpha; found {name}"):
            hw.Criterion([hw.Term("alpha", losses.squared_error, output="x", target="y")])(
                {"x": x}, {"y": y}, {name: torch.ones(())}
            )


class Mute:
    """A thing that cannot be shown."""

    def __repr__(self):
        raise RuntimeError("not to be shown")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_cannot_be_described_does_not_hide_what_is_wrong():
    x = torch.randn(2, 3, requires_grad=True)
    criterion = hw.Criterion([hw.Term("alpha", losses.squared_error, output="x", target="y")])
    for target, told in (
        (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "a nested float32"),
        (Mute(), "Mute"),
    ):
        with pytest.raises(ValueError, match=rf"term 'alpha'.*{told}"):
            criterion({"x": x}, {"y": target})
