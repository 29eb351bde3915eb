"""An error says which term it is of, in one line, whoever raised it and whatever class it is of."""

import enum
import functools
import math
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

import headwise as hw
from headwise import losses, normalizers
from tests.criterion import told as kit

Criterion: Any = hw.Criterion  # given what no type checker would let pass
Levels: Any = hw.Levels
schedules: Any = hw.schedules
x, y = kit.number(), torch.randn(2, 3, 4, 4)
ERRORS = [
    KeyError("k"), ZeroDivisionError("division by zero"), AttributeError("no attribute 'shape'"), ValueError("boom"),
    AssertionError("boom"), OverflowError("boom"), NotImplementedError("boom"), IndexError("boom"),
    RuntimeError("boom\nand a second line"), StopIteration("boom"),
]  # fmt: skip


def raising(error):
    def function(*arguments, **options):
        raise error

    return function


@contextmanager
def named(name):
    """A ValueError whose line holds the name, or the error as it was, with a note that does."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - of which class is checked below
        yield
    found = raised.value
    if not any(name in note for note in getattr(found, "__notes__", ())):
        assert isinstance(found, ValueError), f"{type(found).__name__}, and no note: {str(found)[:100]!r}"
        kit.check_line(found, name)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("who", ["loss", "normalizer", "ratio", "weight"])
def test_a_user_s_function_raises(who, error):
    fails = raising(error)

    def later(step):
        return fails() if step > 4 else 1.0

    with named("alpha"):
        if who == "weight":
            criterion = Criterion([kit.term("alpha", weight=later)])
            criterion.advance(5)
            criterion({"x": x}, {"y": y})
        else:
            term = {
                "loss": lambda: kit.term("alpha", fails),
                "normalizer": lambda: kit.term("alpha", losses.squared_error, fails),
                "ratio": lambda: kit.term("alpha", fails, kind=hw.RatioTerm),
            }[who]()
            Criterion([term])({"x": x}, {"y": y})


def calling(*terms, targets=None, **options):
    return lambda: Criterion(terms, **options)({"x": x}, {"y": y, **(targets or {})})


MASKS = {"m": torch.ones(2, 4, 4), "n": torch.ones(2, 1, 4, 4)}
CALLS = {
    "masks of two shapes": calling(kit.term("alpha", mask="m & n"), targets=MASKS),
    "masks of two shapes, or": calling(kit.term("alpha", mask="~m | n"), targets=MASKS),
    "a mask of another size for positive": calling(
        kit.term("alpha", losses.squared_error, normalizers.positive, mask="m"), targets={"m": torch.ones(3, 7)}
    ),
    "no target to count": lambda: Criterion([hw.Term("alpha", lambda out: out.sum(), output="x")])({"x": x}, {}),
    "a list as target": calling(kit.term("alpha"), targets={"y": y.tolist()}),
    "an array as target": calling(kit.term("alpha"), targets={"y": y.numpy()}),
    "an array as output": lambda: Criterion([kit.term("alpha")])({"x": x.detach().numpy()}, {"y": y}),
    "a target on another device": calling(kit.term("alpha"), targets={"y": y.to("meta")}),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_call(case):
    with kit.refused("alpha"):
        CALLS[case]()


class Color(enum.Enum):
    RED = 1


BUILT = {
    "a mask that is a list": lambda: kit.term("alpha", mask=[]),
    "a mask that is a set": lambda: kit.term("alpha", mask={"m"}),
    "a thousand parentheses": lambda: kit.term("alpha", mask="(" * 1000 + "m" + ")" * 1000),
    "a thousand negations": lambda: kit.term("alpha", mask="~" * 2000 + "m"),
    "an index that int cannot read": lambda: kit.term("alpha", output="x['²']").reads,
    "a weight of 400 digits": lambda: kit.term("alpha", weight=10**400),
    "a weight that needs two arguments": lambda: kit.term("alpha", weight=lambda step, epoch: 1.0),
    "a weight that divides by 0": lambda: kit.term("alpha", weight=lambda step: 1 / step),
    "levels that are a list": lambda: kit.term("alpha", levels=[1.0]),
    "a path that is a number": lambda: kit.term("alpha", output=3),
    "a path that is a list of numbers": lambda: kit.term("alpha", target=(3, 4)),
    "a path that is an Enum": lambda: kit.term("alpha", output=Color.RED),
    "a dict of paths with a number": lambda: kit.term("alpha", output={"o": 3}),
    "a keyword that is no text": lambda: Criterion([kit.term("alpha", output={3: "x"})])({"x": x}, {"y": y}),
}


@pytest.mark.parametrize("case", BUILT)
def test_a_declaration(case):
    """A thing that can be taken (``x['²']`` for the key ²) may be."""
    if case == "an index that int cannot read":
        with kit.right_or_told("alpha"):
            BUILT[case]()
        return
    with kit.refused("alpha"):
        BUILT[case]()


PARTS = {
    "levels of text": (lambda: Levels(["a"]), "evels"),
    "levels of nothing": (lambda: Levels([None]), "evels"),
    "strides of text": (lambda: Levels(strides=["a"]), "stride"),
    "weights that are a number": (lambda: Criterion([kit.term("alpha")], weights=3), "weights"),
    "weights that are a list": (lambda: Criterion([kit.term("alpha")], weights=[1.0]), "weights"),
    "unread that is a number": (lambda: Criterion([kit.term("alpha")], unread=3), "unread"),
    "unread of numbers": (lambda: Criterion([kit.term("alpha")], unread=[3])({"x": x}, {"y": y}), "unread"),
    "terms that are none": (lambda: Criterion(3), ("term", "Term")),
    "denominators that are a list": (
        lambda: Criterion([kit.term("alpha")])({"x": x}, {"y": y}, [torch.ones(())]), "denominators",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_what_belongs_to_no_term(case):
    make, word = PARTS[case]
    with kit.refused(word):
        make()


SCHEDULES = {
    "StepDecay every 0": lambda: schedules.StepDecay(every=0),
    "StepDecay every 0.0": lambda: schedules.StepDecay(every=0.0),
    "Linear over no steps": lambda: schedules.Linear(0.0, 1.0, 0),
    "Cosine over no steps": lambda: schedules.Cosine(1.0, 0.1, 0),
    "Linear from text": lambda: schedules.Linear("a", 1.0, 5),
    "Piecewise of numbers": lambda: schedules.Piecewise(3, 4),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_a_schedule_that_cannot_be(case):
    """Refused where it is made, or by the term; or it has a weight at every step (a ramp of no steps: its end)."""
    name = case.split()[0]
    with kit.right_or_told(("alpha", name, "schedule", "every", "steps")):
        criterion = Criterion([kit.term("alpha", weight=SCHEDULES[case]())])
        for _ in range(4):
            assert math.isfinite(criterion.weights["alpha"])
            criterion.advance()


def test_outputs_that_hold_themselves():
    outputs = {"x": x}
    outputs["again"] = outputs
    with kit.refused(("again", "cycl", "itself", "nest", "deep")):
        Criterion([kit.term("alpha")], unread=["again"])(outputs, {"y": y})


@pytest.mark.parametrize("state", [{}, 3, {"names": 3, "step": 0, "weights": {}}, {"step": 0}], ids=repr)
def test_a_state_of_something_else(state):
    """A ValueError or torch's RuntimeError, in words."""
    with pytest.raises((ValueError, RuntimeError), match=r"state|term|alpha"):
        Criterion([kit.term("alpha")]).load_state_dict({"_extra_state": state})


def test_float_weights_of_numpy():
    """Both or neither."""
    taken: list[float | None] = []
    for number in (np.float32(2), np.float64(2), np.float16(2), np.int64(2)):
        try:
            taken.append(float(Criterion([kit.term("alpha", weight=number)]).weights["alpha"]))
        except ValueError as error:
            kit.check_line(error, "alpha")
            taken.append(None)
    assert taken in ([2.0] * 4, [None] * 4), taken


def test_what_is_named():
    for make in (
        lambda: kit.term("alpha", weight=float("nan")),
        lambda: kit.term("alpha", mask="m &"),
        lambda: kit.term("alpha", output="x["),
        lambda: Criterion([kit.term("alpha", output="z")])({"x": x}, {"y": y}),
        lambda: Criterion([kit.term("alpha", functools.partial(losses.smooth_l1, beta=-1))])({"x": x}, {"y": y}),
    ):
        with kit.refused("alpha"):
            make()
