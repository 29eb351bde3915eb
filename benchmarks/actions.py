"""What samples and balance cost: launches of small steps, and the time of a step of about 30 ms.

    python -m benchmarks.actions [--repeats 16] [--threads 1] [--clock wall|cpu] [--write FILE]

Ways: a ledger alone, with 16 samples a term (values by sample in every twentieth call), and with `Shares`. Launches are
the operators that make no view, the mean over 160 steps of K squared errors of 8 x 4 numbers. The large step is five
dense terms behind a small network of convolutions. Blocks of forty steps are interleaved, for what is done for many
steps at once and in every twentieth; a ratio of times is the median of those of neighboring blocks.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

import headwise as hw
from benchmarks.gpu.bench import Operators
from benchmarks.measure import Options, markdown, times_faster
from headwise import losses

BLOCK = 40

WAYS: dict[str, Callable[[], dict[str, object]]] = {
    "ledger": dict,
    "samples": lambda: {"samples": 16},
    "balance": lambda: {"balance": hw.balance.Shares()},
}


class Network(nn.Module):
    def __init__(self, num: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()
        )
        self.heads = nn.ModuleList([nn.Conv2d(32, 2, 1) for _ in range(num)])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.trunk(image)
        return {f"head{n}": head(features) for n, head in enumerate(self.heads)}


def terms_of(num: int) -> hw.Criterion:
    return hw.Criterion(
        [hw.Term(f"head{n}", losses.squared_error, output=f"head{n}", target=f"head{n}") for n in range(num)]
    )


def small(num: int, way: str, steps: int = 160) -> float:
    """Launches a step."""
    draw = torch.Generator().manual_seed(0)
    outputs = {f"head{n}": torch.randn(8, 4, generator=draw).requires_grad_() for n in range(num)}
    targets = {name: torch.randn(8, 4, generator=draw) for name in outputs}
    criterion = terms_of(num)
    with hw.Ledger(criterion, **WAYS[way]()):  # type: ignore[arg-type]
        for _ in range(20):  # sixteen calls are booked at once
            criterion(outputs, targets).total.backward()
            criterion.advance()
        with Operators() as seen:
            for _ in range(steps):
                criterion(outputs, targets).total.backward()
                criterion.advance()
    return float(seen.launches) / steps


def large(way: str | None) -> Callable[[], object]:
    """A block of forty steps of five dense terms; None: without a ledger."""
    torch.manual_seed(0)
    network, criterion, image = Network(5), terms_of(5), torch.randn(8, 3, 64, 64)
    targets = {f"head{n}": torch.randn(8, 2, 64, 64) for n in range(5)}
    ledger = None if way is None else hw.Ledger(criterion, **WAYS[way]())  # type: ignore[arg-type]

    def block() -> object:
        for _ in range(BLOCK):
            network.zero_grad(set_to_none=True)
            criterion(network(image), targets).total.backward()
            criterion.advance()
        return ledger

    return block


def main() -> None:
    options = Options.read(__doc__, repeats=16, threads=1)
    rows = []
    for num in (3, 8, 16):
        plain = small(num, "ledger")
        for way in ("samples", "balance"):
            more = small(num, way) - plain
            rows.append([f"{num} small terms", way, f"{plain:.1f}", f"{more:+.1f}", f"{more / num:.2f}"])
    text = markdown(("step", "way", "launches with a ledger", "more", "more a term"), rows)
    found = options.seconds({"none": large(None), **{way: large(way) for way in WAYS}})
    found = {way: each[1:] for way, each in found.items()}
    times = [
        [
            way,
            f"{1e3 * statistics.median(each) / BLOCK:.1f}",
            f"{times_faster(each, found['none']):.3f}",
            f"{times_faster(each, found['ledger']):.3f}",
        ]
        for way, each in found.items()
    ]
    text += "\n\n" + markdown(("step of five dense terms", "ms", "to no ledger", "to a ledger"), times)
    options.publish("What samples and balance cost", text)


if __name__ == "__main__":
    main()
