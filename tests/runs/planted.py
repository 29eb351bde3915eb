"""A small run with five terms, and faults to plant in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import headwise as hw
from headwise.runs.alerts import Alert, Watch
from headwise.runs.entries import step_entry

START = 60
"""The step at which a fault begins that is not there from the first."""

Targets = dict[str, Tensor]


def squares(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum()


def magnitudes(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs().sum()


def roots(output: Tensor, target: Tensor) -> Tensor:
    """Whose derivative has no value where the target is met."""
    return (output - target).square().sqrt().sum()


@dataclass
class Plan:
    """What a fault changes; each function has the step first."""

    kind: str = ""
    term: str = ""
    begins: int = START
    weights: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, Any] = field(default_factory=dict)
    shared_target: str = "shared"
    targets: Callable[[int, Targets], object] = lambda step, targets: None
    outputs: Callable[[int, dict[str, Tensor]], object] = lambda step, outputs: None
    total: Callable[[int, Any, nn.Module], Tensor] = lambda step, breakdown, network: breakdown.total
    rate: Callable[[int], float] = lambda step: 0.02
    one_batch: bool = False


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.Tanh())
        self.heads = nn.ModuleDict({name: nn.Linear(16, 1) for name in ("one", "two", "three", "shared")})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        body = self.body(x)
        return {name: head(body) for name, head in self.heads.items()}


def criterion_of(plan: Plan) -> hw.Criterion:
    def term(name: str, loss: Any, output: str, target: str, weight: Any) -> hw.Term:
        return hw.Term(name, plan.losses.get(name, loss), output=output, target=target,
                       normalizer=hw.normalizers.elements, weight=plan.weights.get(name, weight))  # fmt: skip

    return hw.Criterion(
        [
            term("one", squares, "one", "one", 1.0),
            term("two", magnitudes, "two", "two", 1.0),
            term("three", squares, "three", "three", 0.5),
            term("near", squares, "shared", "shared", 1.0),
            term("far", magnitudes, "shared", plan.shared_target, 0.5),
        ],
        unread=[] if plan.shared_target == "opposite" else ["opposite"],
    )


def batch_of(draw: torch.Generator) -> tuple[Tensor, Targets]:
    x = torch.randn(32, 6, generator=draw)
    noise = 0.1 * torch.randn(32, 4, generator=draw)
    targets = {
        "one": x[:, :1] + noise[:, :1],
        "two": (x[:, 1:2] * x[:, 2:3]) + noise[:, 1:2],
        "three": x[:, 3:4].abs() + noise[:, 2:3],
        "shared": x[:, 4:5] + noise[:, 3:],
    }
    return x, targets | {"opposite": -3 * targets["shared"]}


def alerts_of(plan: Plan, steps: int, seed: int = 0) -> dict[int, list[Alert]]:
    """Trains, and judges every step, and every fifth step alone, while it trains: the alerts of both."""
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    network, criterion = Network(), criterion_of(plan)
    optimizer = torch.optim.Adam([*network.parameters(), *criterion.parameters()], lr=0.02)
    watches = {every: Watch() for every in (1, 5)}
    with hw.Ledger(criterion, optimizer=optimizer) as ledger:
        x, targets = batch_of(draw)
        for step in range(1, steps + 1):
            if not plan.one_batch or step < plan.begins:
                x, targets = batch_of(draw)
            given = dict(targets)
            plan.targets(step, given)
            outputs = network(x)
            plan.outputs(step, outputs)
            total = plan.total(step, criterion(outputs, given), network)
            optimizer.zero_grad()
            total.backward()
            for group in optimizer.param_groups:
                group["lr"] = plan.rate(step)
            optimizer.step()
            entry = step_entry(step, ledger.read(), time=0.0)
            for every, watch in watches.items():
                if step == 1 or step % every == 0:
                    watch.see(entry)
    return {every: watch.found for every, watch in watches.items()}


def late(change: Callable[..., object]) -> Callable[..., object]:
    """The change, from START on."""
    return lambda step, *given: change(*given) if step >= START else None


def _scale(name: str, factor: float) -> Callable[..., object]:
    return late(lambda targets: targets.update({name: factor * targets[name]}))


def _detach(outputs: dict[str, Tensor]) -> None:
    outputs["two"] = outputs["two"].detach()


def _nothing(outputs: dict[str, Tensor]) -> None:
    outputs["two"] = 0 * outputs["two"]


def _zero(targets: Targets) -> None:
    targets["two"] = torch.zeros_like(targets["two"])


def _too_fast(step: int) -> float:
    return 1.5 if step >= START else 0.02


def _stopped(step: int) -> float:
    return 0.0 if step >= START else 0.02


def _sums(output: Tensor, target: Tensor) -> Tensor:
    return 3000 * squares(output, target)


def _decayed(breakdown: Any, network: nn.Module) -> Tensor:
    return breakdown.total + 0.5 * network.heads["one"].weight.square().sum()  # type: ignore[no-any-return,index,union-attr]


def _total(change: Callable[[Any, nn.Module], Tensor], begins: int = START) -> Callable[..., Tensor]:
    return lambda step, breakdown, network: (
        change(breakdown, network) if step >= begins else breakdown.total
    )  # fmt: skip


def _without(name: str) -> Callable[[Any, nn.Module], Tensor]:
    return lambda breakdown, network: sum(entry.weighted for key, entry in breakdown.items() if key != name)


def _penalty(breakdown: Any, network: nn.Module) -> Tensor:
    return breakdown.total + 0.05 * sum(p.square().sum() for p in network.parameters())  # type: ignore[no-any-return]


def _growing(step: int, breakdown: Any, network: nn.Module) -> Tensor:
    return breakdown.total + (1.12 ** max(0, step - START) - 1) * breakdown["three"].weighted  # type: ignore[no-any-return]


def _shrinking(step: int, breakdown: Any, network: nn.Module) -> Tensor:
    return breakdown.total + (0.88 ** max(0, step - START) - 1) * breakdown["one"].weighted  # type: ignore[no-any-return]


def _only(row: int, value: float) -> Callable[[Targets], None]:
    def change(targets: Targets) -> None:
        targets["one"] = targets["one"].clone()
        targets["one"][row] = value

    return change


def _spoil(step: int, targets: Targets) -> None:
    if step == START:
        targets["three"] = 60 * targets["three"]


FAULTS = {
    "a target is NaN": Plan("not finite", "one", targets=late(_only(3, float("nan")))),
    "a target overflows": Plan("not finite", "one", targets=late(_only(0, float("inf")))),
    "a derivative without a value": Plan(
        "not finite", "one", 1, losses={"one": roots},
        targets=lambda step, t: t.update(one=torch.zeros_like(t["one"])),
        outputs=lambda step, o: o.update(one=0 * o["one"]),
    ),
    "a penalty overflows": Plan("not finite", "total", total=_total(lambda b, n: b.total + float("inf"))),
    "an output is detached": Plan("dead", "two", outputs=late(_detach)),
    "a term is left out of the total": Plan("dead", "two", total=_total(_without("two"))),
    "a term is left out from the start": Plan("dead", "one", 1, total=_total(_without("one"), 1)),
    "a weight is set to 0": Plan("dead", "three", total=_total(lambda b, n: b.total - b["three"].weighted)),
    "targets follow the output": Plan("dead", "two", outputs=late(_nothing), targets=late(_zero)),
    "nothing is learned, one batch": Plan("dead", "total", rate=_stopped, one_batch=True),
    "targets in another unit": Plan("spiking", "one", targets=_scale("one", 10.0)),
    "one broken batch": Plan("spiking", "three", targets=_spoil),
    "labels are shuffled": Plan("spiking", "near", targets=late(lambda t: t.update(shared=4 * t["shared"].flip(0)))),
    "the learning rate is too high": Plan("spiking", "", rate=_too_fast),
    "a sum in place of a mean": Plan("dominating", "one", 1, losses={"one": _sums}),
    "a weight of 1000": Plan("dominating", "three", 1, weights={"three": 1000.0}),
    "opposite targets": Plan(
        "fighting", "near | far", 1, losses={"far": squares}, weights={"far": 1.0}, shared_target="opposite"
    ),
    "a weight that grows": Plan("drifting weight", "three", total=_growing),
    "a weight that fades": Plan("drifting weight", "one", total=_shrinking),
    "a penalty beside the criterion": Plan("unbooked", "total", total=_total(_penalty)),
    "a head is decayed in the loss": Plan("unbooked", "total", total=_total(_decayed)),
}  # fmt: skip
