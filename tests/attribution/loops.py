"""Random training loops, and what their books must say: every number by an independent `autograd.grad` in float64."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch
from torch.amp import GradScaler
from torch.utils.checkpoint import checkpoint

import headwise as hw
from headwise import losses

NAMES = ("a", "b", "c")
WIDE = torch.float64


class Heads(nn.Module):
    """Three heads on a trunk; the last two share an output, of which each reads channels of its own."""

    def __init__(self, seed: int, quiet: float | None = None) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.trunk, self.one, self.two = (
            nn.Linear(3, 4, dtype=WIDE),
            nn.Linear(4, 2, dtype=WIDE),
            nn.Linear(4, 3, dtype=WIDE),
        )
        self.quiet = quiet
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=draw)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        feature = self.trunk(x).tanh()
        if self.quiet is not None:
            feature = hw.book(feature, name="quiet", loss=stillness, weight=self.quiet)
        return {"one": self.one(feature), "two": self.two(feature)}

    def weights(self) -> list[Tensor]:
        """What `functional_heads` takes."""
        return [each for layer in (self.trunk, self.one, self.two) for each in (layer.weight, layer.bias)]


def functional_heads(
    trunk: Tensor, trunk_bias: Tensor, one: Tensor, one_bias: Tensor, two: Tensor, two_bias: Tensor, x: Tensor
) -> dict[str, Tensor]:
    """The same heads as a function, so that one compiled graph serves all sessions."""
    feature = nn.functional.linear(x, trunk, trunk_bias).tanh()
    return {"one": nn.functional.linear(feature, one, one_bias), "two": nn.functional.linear(feature, two, two_bias)}


@cache
def compiled(function: Any) -> Any:
    """The function, compiled once for all sessions."""
    return torch.compile(function, backend="aot_eager", dynamic=True)


def stillness(feature: Tensor) -> Tensor:
    return feature.square().mean()


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


TOTAL = ("total", "total twice")
"""Forms that begin at the criterion's own total."""

SMOOTH = {
    "logarithms": lambda values: (values + 1).log().sum(),
    "geometric mean": lambda values: (values + 0.1).log().mean().exp(),
    "soft maximum": lambda values: values.logsumexp(0),
    "squares": lambda values: values.square().sum(),
}
"""What scalarizers make of the values."""


@dataclass
class Program:
    """One random step of a loop.

    Args:
        seed: Draws the data.
        micro_batches: Sizes of the calls of the step.
        form: What the loop makes of a breakdown.
        factors: What the loop multiplies each term by, where it goes on from terms.
        scale: What it multiplies the number by that backward is called on.
        by_size: Whether each micro-batch counts by its size, else equally.
        penalty: What else is in the number: nothing, something at an output, or something at parameters.
        each: Whether there is one backward pass for each term.
        checkpointed: Whether the network is recomputed, and how.
        look: Whether the loop looks at a gradient by `autograd.grad` before its step.
        pooled: Whether denominators are totaled over the step.
        second: What the total of another criterion on the same outputs is multiplied by, and added; 0: there is none.
        compiled: Whether the network, and what the loop makes of a breakdown, are compiled.
    """

    seed: int
    micro_batches: tuple[int, ...] = (3,)
    form: str = "total"
    factors: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NAMES, 1.0))
    scale: float = 1.0
    by_size: bool = False
    penalty: str = "none"
    each: bool = False
    checkpointed: bool = False
    look: bool = False
    pooled: bool = False
    second: float = 0.0
    compiled: bool = False


@dataclass
class Session:
    """Several steps of one loop: one network, criterion and ledger.

    Args:
        seed: Draws everything.
        programs: The steps.
        weights: As declared.
        learned: Whether the weights are parameters.
        given: The factor that the ledger is given, where it cannot be seen; None: none.
        quiet: The weight of a loss in the middle of the network; None: there is none.
        second_booked: Whether the other criterion has a ledger too.
        scaled: Whether a GradScaler scales every loss, skips what overflows, and moves its scale.
    """

    seed: int
    programs: list[Program]
    weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NAMES, 1.0))
    learned: bool = False
    given: float | None = None
    quiet: float | None = None
    second_booked: bool = True
    scaled: bool = False


def draw(seed: int, steps: int = 8) -> Session:
    """A random session."""
    chance = random.Random(seed)
    quiet = chance.choice([None, None, None, 0.3])
    forms = TOTAL if quiet is not None else (*TOTAL, "total", "weighted", "value", "mixed", *SMOOTH)
    session = Session(
        seed,
        [],
        {name: chance.choice([1.0, 0.5, 2.0, -0.25, 0.0]) for name in NAMES},
        chance.random() < 0.2,
        chance.choice([None, None, 2.0]),
        quiet,
        chance.random() < 0.5,
    )
    more = random.Random(f"{seed} more")  # what is drawn later leaves the programs of earlier findings as they were
    session.scaled = more.random() < 0.25
    for number in range(steps):
        form = chance.choice(forms)
        session.programs.append(
            Program(
                seed * 101 + number,
                tuple(chance.randint(1, 4) for _ in range(chance.choice([1, 1, 2, 3]))),
                form,
                {name: chance.choice([1.0, 0.3, 2.5, -1.0]) for name in NAMES},
                chance.choice([1.0, 1.0, 1024.0, 1 / 3]),
                chance.random() < 0.3,
                chance.choice(["none", "none", "output", "parameters"]),
                form in ("weighted", "value") and chance.random() < 0.5,
                chance.random() < 0.05,
                chance.random() < 0.2,
                quiet is None and chance.random() < 0.3,
                chance.choice([0.0, 0.0, 0.5]),
                quiet is None and more.random() < 0.1,
            )
        )
    return session


@dataclass
class Found:
    """What a step was found to do.

    Args:
        books: The books.
        gradients: Of the parameters.
        factors: Per micro-batch, what each term's value was multiplied by on its way to the number.
        totals: Per micro-batch, what all terms have in common; None where the loop went on from terms.
        number: What backward was called on, all passes together, without another criterion that has books.
        given: The factor that the ledger was given.
        batches: Outputs and targets.
        inputs: Per micro-batch.
    """

    books: Any = None
    gradients: list[Tensor] = field(default_factory=list)
    factors: list[dict[str, float]] = field(default_factory=list)
    totals: list[float | None] = field(default_factory=list)
    number: float = 0.0
    given: float = 1.0
    batches: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)


class Loop:
    """The network, criteria and ledgers of a session."""

    def __init__(self, session: Session, books: bool) -> None:
        self.session = session
        self.network = Heads(session.seed, session.quiet)
        weights: dict[str, Any] = session.weights
        if session.learned:
            weights = {name: nn.Parameter(torch.tensor(each, dtype=WIDE)) for name, each in weights.items()}
        self.criterion = hw.Criterion(terms(weights))
        self.other = hw.Criterion([hw.Term("o", squared, output="one", target="one")], unread=["two", "b", "c"])
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.0)
        self.scaler = GradScaler("cpu", init_scale=64.0, growth_interval=2, enabled=session.scaled)
        scaler = self.scaler if session.scaled else session.given
        self.ledgers = [hw.Ledger(self.criterion, scaler=scaler)] if books else []
        if books and session.second_booked:
            self.ledgers.append(hw.Ledger(self.other))

    def step(self, program: Program) -> Found:
        """Runs one step."""
        found = Found()
        data = [batch_of(program, number) for number in range(len(program.micro_batches))]
        pooled = hw.pool_denominators(self.criterion, [targets for _, targets in data]) if program.pooled else None
        self.network.zero_grad()
        for x, targets in data:
            size = len(x) / sum(program.micro_batches)
            scale = program.scale * (size if program.by_size else 1.0)
            self._micro_batch(program, found, x, targets, pooled, scale)
        found.gradients = [each.grad.clone() for each in self.network.parameters() if each.grad is not None]
        found.given = self.scaler.get_scale() if self.session.scaled else self.session.given or 1.0
        if self.session.scaled:
            if program.seed % 7 == 0:  # the step is skipped, and the scale falls
                self.network.trunk.weight.grad = torch.full_like(self.network.trunk.weight, math.inf)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.criterion.advance()
        return found

    def _micro_batch(
        self, program: Program, found: Found, x: Tensor, targets: dict[str, Tensor], pooled: Any, scale: float
    ) -> None:
        forward = partial(compiled(functional_heads), *self.network.weights()) if program.compiled else self.network
        outputs = checkpoint(forward, x, use_reentrant=False) if program.checkpointed else forward(x)
        breakdown = self.criterion(outputs, targets, pooled)
        if program.look:
            torch.autograd.grad(breakdown["b"].weighted, self.network.trunk.weight, retain_graph=True)
        numbers = self._numbers(program, breakdown, outputs)
        factor = self.scaler.scale(torch.ones(())).item()
        other = None
        if program.second:
            other = program.second * self.other(outputs, targets).total
        for place, each in enumerate(numbers):
            last = place == len(numbers) - 1
            whole = each if other is None or not last else each + other
            self.scaler.scale(whole * scale).backward(retain_graph=not last)
            booked = last and self.session.second_booked
            found.number += float(((each if booked else whole) * scale).detach()) * factor
        _note(program, self.session, found, breakdown, scale * factor)
        found.batches.append(({name: each.detach() for name, each in outputs.items()}, targets))
        found.inputs.append(x)

    def _numbers(self, program: Program, breakdown: Any, outputs: dict[str, Tensor]) -> list[Tensor]:
        """What backward is called on."""
        if program.form == "total":
            parts = [breakdown.total]
        elif program.form == "total twice":
            numbers = [0.25 * breakdown.total, 0.75 * breakdown.total]
            return [numbers[0], self._penalized(program, numbers[1], outputs)]
        elif program.form in SMOOTH:
            smooth = compiled(SMOOTH[program.form]) if program.compiled else SMOOTH[program.form]
            parts = [smooth(torch.stack([breakdown[name].value for name in NAMES]))]
        else:
            parts = [program.factors[name] * _read(program, breakdown, name) for name in NAMES]
        numbers = parts if program.each else [sum(parts[1:], parts[0])]
        return [*numbers[:-1], self._penalized(program, numbers[-1], outputs)]

    def _penalized(self, program: Program, number: Tensor, outputs: dict[str, Tensor]) -> Tensor:
        if program.penalty == "output":
            return number + 0.7 * outputs["one"].square().sum()
        if program.penalty == "parameters":
            return number + 0.1 * sum(each.square().sum() for each in self.network.parameters())
        return number

    def close(self) -> None:
        """Closes the books."""
        for each in self.ledgers:
            each.close()


def run(session: Session, books: bool) -> list[Found]:
    """Runs a session, with books or without."""
    with functorch.patch(donated_buffer=False):  # torch refuses a second pass over buffers that were given away
        return _run(session, books)


def _run(session: Session, books: bool) -> list[Found]:
    loop = Loop(session, books)
    found = [loop.step(program) for program in session.programs]
    if books:
        history = loop.ledgers[0].history()
        assert len(history) == len(found), f"{len(history)} steps booked of {len(found)}: {session}"
        for each, step in zip(found, history, strict=True):
            each.books = step
    loop.close()
    return found


def batch_of(program: Program, number: int) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(program.seed * 31 + number)
    size = program.micro_batches[number]
    x = torch.randn(size, 3, generator=generator, dtype=WIDE)
    return x, {name: torch.randn(size, 2, generator=generator, dtype=WIDE) for name in ("one", "b", "c")}


def _kind(program: Program, name: str) -> str:
    return "value" if program.form == "value" or (program.form == "mixed" and name == "b") else "weighted"


def _read(program: Program, breakdown: Any, name: str) -> Tensor:
    found: Tensor = getattr(breakdown[name], _kind(program, name))
    return found


def _note(program: Program, session: Session, found: Found, breakdown: Any, scale: float) -> None:
    """The factors that the program used, from its own description."""
    if program.form in TOTAL:
        found.factors.append({name: scale * session.weights[name] for name in NAMES})
        found.totals.append(scale)
        return
    found.totals.append(None)
    if program.form in SMOOTH:
        values = torch.stack([breakdown[name].value.detach() for name in NAMES]).requires_grad_()
        (slopes,) = torch.autograd.grad(SMOOTH[program.form](values), values)
        found.factors.append({name: scale * float(each) for name, each in zip(NAMES, slopes, strict=True)})
        return
    declared = {name: 1.0 if _kind(program, name) == "value" else session.weights[name] for name in NAMES}
    found.factors.append({name: scale * program.factors[name] * declared[name] for name in NAMES})


def expected(program: Program, session: Session, found: Found) -> dict[str, Any]:
    """Every term's numbers in the step, from the descriptions alone."""
    sizes = [2 * num for num in program.micro_batches]
    values, grads = [], []
    for number, (outputs, targets) in enumerate(found.batches):
        size = sum(sizes) if program.pooled else sizes[number]
        leaves = [outputs[READS[name][0]].clone().requires_grad_() for name in NAMES]
        losses_of = [
            (absolute if name == "b" else squared)(leaf[:, READS[name][1]], targets["one" if name == "a" else name])
            / size
            for name, leaf in zip(NAMES, leaves, strict=True)
        ]
        values.append({name: float(each.detach()) for name, each in zip(NAMES, losses_of, strict=True)})
        found_grads = torch.autograd.grad(losses_of, leaves)
        grads.append({name: float(each.square().sum()) for name, each in zip(NAMES, found_grads, strict=True)})
    divisor = len(values) if program.pooled else 1
    commons = [total for total in found.totals if total is not None]
    common = sum(commons) / divisor if commons else found.given
    result: dict[str, Any] = {"common": common}
    for name in NAMES:
        result[name] = _folded(
            [each[name] for each in found.factors], [v[name] for v in values], [g[name] for g in grads], divisor, common
        )
    if session.quiet is not None:
        result["quiet"] = _quiet(session, found, divisor, common)
    return result


def _folded(
    factors: list[float], values: list[float], squares: list[float], divisor: float, common: float
) -> dict[str, float]:
    """What a step's calls make together, of each call's factor, value and squared norm of d(value)."""
    sums = math.fsum(factors)
    mean = (
        math.fsum(factor * value for factor, value in zip(factors, values, strict=True)) / sums * divisor
        if abs(sums) > 1e-12
        else math.fsum(values) / len(values)
    )
    norm = math.sqrt(math.fsum(f * f * s for f, s in zip(factors, squares, strict=True))) / abs(common)
    return {"value": mean, "weight": sums / divisor / common, "norm": norm}


def _quiet(session: Session, found: Found, divisor: float, common: float) -> dict[str, float]:
    """The loss in the middle of the network."""
    network = Heads(session.seed)
    values, squares = [], []
    for x in found.inputs:
        feature = network.trunk(x).tanh().detach().requires_grad_()
        loss = stillness(feature)
        (grad,) = torch.autograd.grad(loss, feature)
        values.append(float(loss.detach()))
        squares.append(float(grad.square().sum()))
    assert session.quiet is not None
    return _folded([session.quiet * (each or 0.0) for each in found.totals], values, squares, divisor, common)
