"""What declaring terms costs the host: launches and time of losses so small that nothing else counts.

    python -m benchmarks.overhead [--repeats 20] [--threads 1] [--clock wall|cpu] [--write FILE]

K = 3, 8 and 16 terms of 8 x 4 numbers, weighed and added up by hand, with a criterion, with its books open, and
compiled; and CornerNet's losses of two stacks on maps of 8 x 8 beside the authors' formulation. Forward and backward.
Launches are the operators that make no view. A run is sixteen steps, since the rows of so many calls are written
together; times are those of one. Runs are interleaved; a ratio of times is that of the least of each way, which other
work on the machine disturbs least.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import headwise as hw
from benchmarks.gpu.bench import Bench, Operators
from benchmarks.gpu.systems import cornernet
from benchmarks.measure import Options, markdown
from headwise import losses

Run = Callable[[], object]
COLUMNS = ("losses", "way", "launches", "ratio", "least ms", "ratio", "median ratio")
STEPS = 16
COMPILED = ("criterion(compile=True)", "criterion(compile=True), ledger")


def small_terms(num: int) -> dict[str, Run]:
    """K squared errors on K outputs, each weighed by a half."""
    draw = torch.Generator().manual_seed(0)
    names = [f"head{i}" for i in range(num)]
    outputs = {name: torch.randn(8, 4, generator=draw).requires_grad_() for name in names}
    targets = {name: torch.randn(8, 4, generator=draw) for name in names}

    def by_hand() -> Tensor:
        return torch.stack([0.5 * F.mse_loss(outputs[name], targets[name]) for name in names]).sum()

    def criterion(**options: bool) -> hw.Criterion:
        terms = [hw.Term(name, losses.squared_error, output=name, target=name, weight=0.5) for name in names]
        return hw.Criterion(terms, **options)

    return ways(by_hand, criterion, outputs, targets)


def small_corners() -> dict[str, Run]:
    """CornerNet's terms on maps on which arithmetic costs nothing."""
    system = cornernet(Bench(torch.device("cpu"), "smoke"), grid=8)
    return ways(system.peers["authors"], system.preset, system.outputs, system.targets)


def ways(
    by_hand: Callable[[], Tensor], make: Callable[..., hw.Criterion], outputs: object, targets: object
) -> dict[str, Run]:
    """The same total by hand and declared; each ledger lives as long as its way."""
    found: dict[str, Run] = {"by hand": lambda: by_hand().backward()}
    for compiled in (False, True):
        for booked in (False, True):
            criterion = make(compile=compiled)
            ledger = hw.Ledger(criterion) if booked else None
            name = f"criterion{'(compile=True)' if compiled else ''}{', ledger' if booked else ''}"
            found[name] = partial(_step, criterion, outputs, targets, ledger)
    return found


def _step(criterion: hw.Criterion, outputs: object, targets: object, kept: hw.Ledger | None) -> object:
    criterion(outputs, targets).total.backward()
    return kept


def _several(run: Run) -> None:
    for _ in range(STEPS):
        run()


def launches(run: Run) -> float:
    """Of one step."""
    with Operators() as seen:
        _several(run)
    return seen.launches / STEPS


def rows(losses_: str, found: dict[str, Run], options: Options) -> list[list[str]]:
    for run in found.values():
        for _ in range(10):
            run()
    runs = {name: partial(_several, run) for name, run in found.items()}
    # A mode that looks at operators would compile anew: what is compiled has no launches here.
    counts = {name: launches(run) for name, run in found.items() if name not in COMPILED}
    seconds = {name: [each / STEPS for each in taken] for name, taken in options.seconds(runs).items()}
    base = seconds["by hand"]
    lines = []
    for name, taken in seconds.items():
        paired = sorted(a / b for a, b in zip(taken, base, strict=True))[len(base) // 2]
        count = counts.get(name)
        shown = ("", "") if count is None else (f"{count:.1f}", f"{count / counts['by hand']:.2f}")
        lines.append(
            [losses_, name, *shown, f"{1e3 * min(taken):.3f}", f"{min(taken) / min(base):.2f}", f"{paired:.2f}"]
        )
    return lines


def main() -> None:
    options = Options.read(__doc__, repeats=20, threads=1)
    found = [row for num in (3, 8, 16) for row in rows(f"{num} small terms", small_terms(num), options)]
    found += rows("CornerNet, two stacks, 8 x 8", small_corners(), options)
    options.publish("What declaring terms costs the host", markdown(COLUMNS, found))


if __name__ == "__main__":
    main()
