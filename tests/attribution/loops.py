"""Random training loops, and what their books must say: every number by an independent `autograd.grad` in float64."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import headwise as hw
from headwise import losses

NAMES = ("a", "b", "c")
WIDE = torch.float64


class Heads(nn.Module):
    """Three heads on a trunk; the last two share an output, of which each reads channels of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.trunk, self.one, self.two = (nn.Linear(3, 4).to(WIDE), nn.Linear(4, 2).to(WIDE), nn.Linear(4, 3).to(WIDE))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=WIDE))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        feature = self.trunk(x).tanh()
        return {"one": self.one(feature), "two": self.two(feature)}


READS = {"a": ("one", slice(None)), "b": ("two", slice(0, 2)), "c": ("two", slice(1, 3))}


def terms(weights: dict[str, float]) -> list[hw.Term]:
    """A loss of ours on a whole output, and two of the user's on overlapping channels."""
    return [
        hw.Term("a", losses.squared_error, output="one", target="one", weight=weights["a"]),
        hw.Term("b", absolute, output="two[:, 0:2]", target="b", weight=weights["b"]),
        hw.Term("c", squared, output="two[:, 1:3]", target="c", weight=weights["c"]),
    ]


def absolute(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs().sum()


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum()


@dataclass
class Program:
    """One random step of a loop.

    Args:
        seed: Draws everything.
        micro_batches: Sizes of the calls of the step.
        weights: As declared.
        form: What the loop makes of a breakdown.
        factors: What the loop multiplies each term by, where it goes on from terms.
        scale: What it multiplies the number by that backward is called on.
        by_size: Whether each micro-batch counts by its size, else equally.
        penalty: What else is in the number: nothing, something at an output, or something at parameters.
        passes: One backward pass, one for each term, or one for each of two halves.
        checkpointed: Whether the network is recomputed.
        look: Whether the loop looks at a gradient by `autograd.grad` before its step.
        pooled: Whether denominators are totalled over the step.
    """

    seed: int
    micro_batches: tuple[int, ...] = (3,)
    weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NAMES, 1.0))
    form: str = "total"
    factors: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NAMES, 1.0))
    scale: float = 1.0
    by_size: bool = False
    penalty: str = "none"
    passes: str = "one"
    checkpointed: bool = False
    look: bool = False
    pooled: bool = False


def draw(seed: int) -> Program:
    """A random program."""
    chance = random.Random(seed)
    form = chance.choice(["total", "total", "weighted", "value", "mixed", "log"])
    return Program(
        seed,
        tuple(chance.randint(1, 4) for _ in range(chance.choice([1, 1, 2, 3]))),
        {name: chance.choice([1.0, 0.5, 2.0, -0.25, 0.0]) for name in NAMES},
        form,
        {name: chance.choice([1.0, 0.3, 2.5, -1.0]) for name in NAMES},
        chance.choice([1.0, 1.0, 1024.0, 1 / 3]),
        chance.random() < 0.3,
        chance.choice(["none", "none", "output", "parameters"]),
        chance.choice(["one", "one", "each"]) if form in ("weighted", "value") else "one",
        chance.random() < 0.2,
        chance.random() < 0.2,
        chance.random() < 0.3,
    )


@dataclass
class Found:
    """What a program was found to do.

    Args:
        books: The books.
        gradients: Of the parameters.
        factors: Per micro-batch, what each term's value was multiplied by on its way to the number.
        totals: Per micro-batch, what all terms have in common; None where the loop went on from terms.
        number: What backward was called on, all passes together.
        batches: Outputs and targets.
        penalties: Per micro-batch, the gradient of the penalty at the outputs.
    """

    books: Any
    gradients: list[Tensor]
    factors: list[dict[str, float]]
    totals: list[float | None]
    number: float
    batches: list[tuple[dict[str, Tensor], dict[str, Tensor]]]


def batch_of(program: Program, number: int) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(program.seed * 31 + number)
    size = program.micro_batches[number]
    x = torch.randn(size, 3, generator=generator, dtype=WIDE)
    targets = {name: torch.randn(size, 2, generator=generator, dtype=WIDE) for name in ("one", "b", "c")}
    return x, targets


def run(program: Program, books: bool) -> Found:
    """Runs a program, with books or without."""
    network = Heads(program.seed)
    criterion = hw.Criterion(terms(program.weights))
    ledger = hw.Ledger(criterion) if books else None
    data = [batch_of(program, number) for number in range(len(program.micro_batches))]
    pooled = hw.pool_denominators(criterion, [targets for _, targets in data]) if program.pooled else None
    found = Found(None, [], [], [], 0.0, [])
    for x, targets in data:
        size = len(x) / sum(program.micro_batches)
        scale = program.scale * (size if program.by_size else 1.0)
        outputs = checkpoint(network, x, use_reentrant=False) if program.checkpointed else network(x)
        breakdown = criterion(outputs, targets, pooled)
        if program.look:
            torch.autograd.grad(breakdown["b"].weighted, network.trunk.weight, retain_graph=True)
        numbers = _numbers(program, breakdown, outputs, network)
        for place, each in enumerate(numbers):
            (each * scale).backward(retain_graph=place < len(numbers) - 1)
            found.number += float((each * scale).detach())
        _note(program, found, breakdown, scale)
        found.batches.append(({name: each.detach() for name, each in outputs.items()}, targets))
    criterion.advance()
    found.gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    if ledger is not None:
        found.books = ledger.read()
        ledger.close()
    return found


def _numbers(program: Program, breakdown: Any, outputs: dict[str, Tensor], network: nn.Module) -> list[Tensor]:
    """What backward is called on."""
    if program.form == "total":
        parts = [breakdown.total]
    elif program.form == "log":
        parts = [torch.stack([breakdown[name].value.abs() + 1 for name in NAMES]).log().sum()]
    else:
        parts = [program.factors[name] * _read(program, breakdown, name) for name in NAMES]
    extra = {
        "none": None,
        "output": lambda: 0.7 * outputs["one"].square().sum(),
        "parameters": lambda: 0.1 * sum(each.square().sum() for each in network.parameters()),
    }[program.penalty]
    numbers = parts if program.passes == "each" else [sum(parts[1:], parts[0])]
    if extra is not None:
        numbers[-1] = numbers[-1] + extra()
    return numbers


def _read(program: Program, breakdown: Any, name: str) -> Tensor:
    kind = "value" if program.form == "value" or (program.form == "mixed" and name == "b") else "weighted"
    found: Tensor = getattr(breakdown[name], kind)
    return found


def _note(program: Program, found: Found, breakdown: Any, scale: float) -> None:
    """The factors that the program used, from its own description."""
    values = {name: float(breakdown[name].value.detach()) for name in NAMES}
    if program.form == "total":
        found.factors.append({name: scale * program.weights[name] for name in NAMES})
        found.totals.append(scale)
        return
    found.totals.append(None)
    if program.form == "log":
        found.factors.append({name: scale * math.copysign(1, values[name]) / (abs(values[name]) + 1) for name in NAMES})
        return
    read = {
        name: "value" if program.form == "value" or (program.form == "mixed" and name == "b") else "" for name in NAMES
    }
    found.factors.append(
        {
            name: scale * program.factors[name] * (1.0 if read[name] == "value" else program.weights[name])
            for name in NAMES
        }
    )


def expected(program: Program, found: Found) -> dict[str, Any]:
    """Every term's numbers in the step, from the program's description alone."""
    sizes = [{"a": 2 * n, "b": 2 * n, "c": 2 * n} for n in program.micro_batches]
    total_size = {name: sum(each[name] for each in sizes) for name in NAMES}
    values, grads = [], []
    for number, (outputs, targets) in enumerate(found.batches):
        own_values, own_grads = {}, {}
        for name in NAMES:
            output, channels = READS[name]
            leaf = outputs[output].clone().requires_grad_()
            loss = absolute if name == "b" else squared
            size = total_size[name] if program.pooled else sizes[number][name]
            each = loss(leaf[:, channels], targets["one" if name == "a" else name]) / size
            own_values[name] = float(each.detach())
            (own_grads[name],) = torch.autograd.grad(each, leaf)
        values.append(own_values)
        grads.append(own_grads)
    calls = len(values)
    divisor = calls if program.pooled else 1
    commons = [total for total in found.totals if total is not None]
    common = sum(commons) / divisor if commons else 1.0
    result: dict[str, Any] = {"common": common}
    for name in NAMES:
        sums = sum(each[name] for each in found.factors)
        mean = (
            sum(f[name] * v[name] for f, v in zip(found.factors, values, strict=True)) / sums * divisor
            if abs(sums) > 1e-12
            else sum(v[name] for v in values) / calls
        )
        squares = [float((f[name] * g[name]).square().sum()) for f, g in zip(found.factors, grads, strict=True)]
        norm = math.sqrt(math.fsum(squares)) / abs(common)
        result[name] = {"value": mean, "weight": sums / divisor / common, "norm": norm}
    return result
