"""Random totals from a small grammar, taken apart and compared with autograd in float64."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headwise.attribution import take_apart

PROGRAMS = 2000


def losses_of(draw: random.Random, weight: Tensor) -> dict[str, Tensor]:
    """Losses of one output each, some in float32."""
    y = weight @ torch.randn(3, 5, dtype=torch.float64)
    made = {
        "square": lambda: y[0].square().mean(),
        "abs": lambda: y[1].abs().sum(),
        "exp": lambda: y[2].exp().mean(),
        "entropy": lambda: F.cross_entropy(y.T, torch.arange(5) % 4),
        "mse": lambda: F.mse_loss(y[3], y.new_ones(5)),
        "single": lambda: y[0].float().tanh().square().mean(),
    }
    return {name: made[name]() for name in draw.sample(list(made), draw.randint(2, 5))}


class Program:
    """A total, step by step, and the constants that it adds."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        torch.manual_seed(seed)
        self.leaf = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        self.learned = torch.randn(3, dtype=torch.float64, requires_grad=True)
        self.losses = losses_of(self.draw, self.leaf)
        self.text: list[str] = []
        live = [(loss, 0.0) for loss in self.losses.values()]
        for _ in range(self.draw.randint(0, 9)):
            live = self.step(live)
        total, constant = live[0]
        for other, more in live[1:]:
            total, constant = total + other.sum(), constant + more
        self.total, self.constant = total, constant

    def step(self, live: list[tuple[Tensor, float]]) -> list[tuple[Tensor, float]]:
        name = self.draw.choice(["one", "one", "scale", "scale", "two", "pick", "drop"])
        self.text.append(name)
        number = self.draw.randrange(len(live))
        if name == "one":
            live[number] = self.one(*live[number])
        elif name == "scale":
            live[number] = self.scale(*live[number])
        elif name == "two":
            other = self.draw.randrange(len(live))
            live[number] = self.two(live[number], live[other])
            if other != number and self.draw.random() < 0.8:
                del live[other]
        elif name == "pick" and len(live) > 1:
            live[number] = self.several(live)
        elif len(live) > 2 and self.draw.random() < 0.3:
            del live[number]
        return live

    def one(self, x: Tensor, constant: float) -> tuple[Tensor, float]:
        how = self.draw.choice(["clone", "unsqueeze", "view", "to", "neg", "rsub", "alone", "repeat"])
        self.text.append(how)
        if how == "neg":
            return -x, -constant
        if how == "rsub":
            return 3 - x, 3 - constant
        if how == "repeat":
            return x.reshape(()).expand(4).mean(), constant
        made = {
            "clone": lambda: x.clone(), "unsqueeze": lambda: x.unsqueeze(0), "view": lambda: x.reshape(1, 1),
            "to": lambda: x.to(torch.float64), "alone": lambda: torch.stack([x]).sum(),
        }  # fmt: skip
        return made[how](), constant

    def scale(self, x: Tensor, constant: float) -> tuple[Tensor, float]:
        s, k = self.learned, self.draw.choice([2.0, 0.5, -1.5, 1024.0])
        how = self.draw.choice(["times", "over", "tensor", "exp", "softmax", "precision", "sigmoid"])
        self.text.append(how)
        factor: Any = {
            "times": lambda: k, "over": lambda: 1 / k, "tensor": lambda: torch.tensor(k, dtype=torch.float64),
            "exp": lambda: (-s[0]).exp(), "softmax": lambda: s.softmax(0)[1], "precision": lambda: 1 / (2 * s[2] ** 2),
            "sigmoid": lambda: torch.sigmoid(s[1]),
        }[how]()  # fmt: skip
        scaled = x / k if how == "over" else x / (2 * s[2] ** 2) if how == "precision" else x * factor
        return scaled, constant * float(torch.as_tensor(factor).detach())

    def two(self, left: tuple[Tensor, float], right: tuple[Tensor, float]) -> tuple[Tensor, float]:
        (x, a), (y, b) = left, right
        how = self.draw.choice(["add", "sub", "where", "lerp"])
        self.text.append(how)
        if how == "add":
            return x.sum() + y.sum(), a + b
        if how == "sub":
            return x.sum() - y.sum(), a - b
        if how == "where":
            first = self.draw.random() < 0.5
            return torch.where(torch.tensor(first), x.double().sum(), y.double().sum()), a if first else b
        return torch.lerp(x.double().sum(), y.double().sum(), 0.25), 0.75 * a + 0.25 * b

    def several(self, live: list[tuple[Tensor, float]]) -> tuple[Tensor, float]:
        stacked = torch.stack([x.double().sum() for x, _ in live])
        constants = [constant for _, constant in live]
        how = self.draw.choice(["mean", "sum", "dot", "cat", "select", "unbind"])
        self.text.append(how)
        weights = torch.arange(1, len(live) + 1, dtype=torch.float64)
        if how == "dot":
            return weights @ stacked, sum(w * c for w, c in zip(weights.tolist(), constants, strict=True))
        if how == "select":
            return stacked[1], constants[1]
        if how == "unbind":
            return stacked.unbind()[0] * 2, constants[0] * 2
        if how == "cat":
            return torch.cat([stacked[:1], stacked[1:]]).sum(), sum(constants)
        return (stacked.mean(), sum(constants) / len(live)) if how == "mean" else (stacked.sum(), sum(constants))


def check(program: Program, names: dict[str, Tensor]) -> None:
    total = program.total.sum()
    found = take_apart(total, names)
    derivatives = torch.autograd.grad(
        total, list(program.losses.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    for (name, loss), derivative in zip(program.losses.items(), derivatives, strict=True):
        scale, value = float(names[name].detach()) / float(loss.detach()), float(loss.detach())
        exact = 1e-9 if loss.dtype == torch.float64 else 1e-6  # copies of a float32 loss are rounded
        if name not in found:
            assert float(derivative) == 0, (name, program.text)
            continue
        assert found[name].factor * scale == pytest.approx(float(derivative), rel=exact, abs=1e-12), program.text
        assert found[name].weighted == pytest.approx(float(derivative) * value, rel=1e-6, abs=1e-9), program.text
    assert set(found) <= set(names), program.text
    assert found.rest == pytest.approx(program.constant, rel=1e-5, abs=1e-4), program.text


def test_factors_and_values_are_those_of_autograd():
    for seed in range(PROGRAMS):
        program = Program(seed)
        check(program, program.losses)


def test_copies_for_the_log_are_recognized():
    """What is returned was divided, stacked or scaled after it went into the total."""
    for seed in range(PROGRAMS // 4):
        program = Program(seed)
        copies = {
            name: torch.stack([loss * 0.5]).mean() if number % 2 else (loss / 3).unsqueeze(0)
            for number, (name, loss) in enumerate(program.losses.items())
        }
        check(program, copies)


def test_the_check_can_fail():
    program = Program(3)
    name = next(iter(program.losses))
    wrong = {**program.losses, name: program.losses[name] * 1.0 + 1.0}
    found = take_apart(program.total.sum() + program.losses[name], wrong)
    assert found[name].factor != pytest.approx(take_apart(program.total.sum(), wrong)[name].factor)
