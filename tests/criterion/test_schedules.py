"""Weights by step, each by hand; what is wrong with a schedule's fields is in test_error_places."""

import math

import pytest

import headwise as hw
from headwise import schedules
from tests.criterion.samples import squared

BY_HAND = [
    (schedules.StepDecay(1.0, 0.5, every=3), {0: 1.0, 2: 1.0, 3: 0.5, 5: 0.5, 6: 0.25}),
    (schedules.StepDecay(1.0, 0.5, every=1, negligible=0.25), {2: 0.25, 3: 0.0}),
    (schedules.StepDecay(-1.0, 0.5, every=1, negligible=0.25), {0: -1.0, 1: -0.5, 3: 0.0}),
    (schedules.Linear(1.0, 3.0, steps=4), {0: 1.0, 1: 1.5, 3: 2.5, 4: 3.0, 100: 3.0}),
    (schedules.Linear(0.0, 0.3, steps=3, delay=2), {0: 0.0, 2: 0.0, 3: 0.1, 5: 0.3, 6: 0.3}),
    (schedules.Cosine(1.0, 0.0, steps=6), {0: 1.0, 2: 0.75, 3: 0.5, 4: 0.25, 6: 0.0, 9: 0.0}),
    (schedules.Exponential(2.0, 0.5), {0: 2.0, 1: 1.0, 3: 0.25}),
    (schedules.Piecewise((2, 4), (1.0, 0.5, 0.1)), {0: 1.0, 1: 1.0, 2: 0.5, 3: 0.5, 4: 0.1, 9: 0.1}),
]


@pytest.mark.parametrize(("schedule", "weights"), BY_HAND)
def test_by_hand(schedule, weights):
    assert {step: schedule(step) for step in weights} == pytest.approx(weights, abs=1e-15)


@pytest.mark.parametrize("schedule", [schedules.Exponential(1.0, 10.0), schedules.StepDecay(1.0, 10.0, every=1)])
def test_a_weight_that_grows_beyond_all_numbers_is_told_by_its_term(schedule):
    assert schedule(400) == math.inf
    criterion = hw.Criterion([hw.Term("x", squared, output="x", target="t", weight=schedule)])
    with pytest.raises(ValueError, match=r"'x'.*(400|inf)"):
        criterion.advance(400)
