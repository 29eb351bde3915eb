"""(b) A training step of two networks in three precisions: by hand, with a criterion, and with its books open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import headwise as hw
from benchmarks.authors.corners import cornernet_loss
from benchmarks.gpu.bench import Bench, Run, Way
from benchmarks.gpu.networks import ManyHeads, head_terms, heads_batch, plain_heads
from benchmarks.gpu.report import Table
from benchmarks.gpu.systems import corner_targets

Total = Callable[[Any], Tensor]
COMPILED: dict[str, Any] = {"ledger": {}, "compile": True}
PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16, "fp16, scaled": torch.float16}
NOTE = (
    "A step: forward, loss, backward, SGD. `again` is the criterion's step once more: how far two equal ways are "
    "apart. float32 with TF32 in convolutions, as torch has it by default."
)


@dataclass(frozen=True)
class Work:
    """A network on one batch, the loss by hand, and the criterion that declares it."""

    network: nn.Module
    image: Tensor
    targets: Any
    plain: Total
    criterion: Callable[..., hw.Criterion]


def run(bench: Bench) -> Iterator[Table]:
    table = Table("eight heads on ResNet-50 and a feature pyramid", "criterion", NOTE)
    first = heads(bench)
    fill(bench, table, first, PRECISIONS)
    if bench.size == "full":  # where the device works, and the host does not keep it waiting
        fill(bench, table, heads(bench, 32), {"float32, 32 images": None})
    yield table
    table = Table("CornerNet-104" if bench.size == "full" else "a tiny CornerNet", "criterion")
    second = corners(bench)
    fill(bench, table, second, bench.pick(PRECISIONS, PRECISIONS, {"float32": None}))
    yield table
    table = Table("in float32, with more", "criterion")
    for case, work, name, more in (
        ("eight heads", first, "ledger of 16 samples", {"ledger": {"samples": 16}}),
        ("eight heads", first, "ledger, equal shares", {"ledger": {"balance": hw.balance.Shares()}}),
        ("eight heads", first, "compiled, ledger", COMPILED),
        ("CornerNet", second, "compiled, ledger", COMPILED),
    ):
        ways: dict[str, Way] = {
            "criterion": partial(stepping, bench, work, None, {}),
            name: partial(stepping, bench, work, None, more),
        }
        if bench.compiles or "compile" not in more:
            table.add(case, bench.compare(ways, seconds=5))
    yield table


def compiled(make: Callable[[Bench], Work], bench: Bench) -> Run:
    """The step here that has something to compile."""
    return stepping(bench, make(bench), None, COMPILED)


def heads(bench: Bench, num_images: int = 8) -> Work:
    torch.manual_seed(0)
    network = ManyHeads(bench.pick(50, 18, 0)).to(bench.device)
    image, targets = heads_batch(bench, *bench.pick((num_images, 512), (2, 64), (1, 32)))
    return Work(network, image, targets, lambda outputs: plain_heads(outputs, targets), head_terms)


def corners(bench: Bench) -> Work:
    torch.manual_seed(0)
    num_images, side, num_classes = bench.pick((4, 511, 80), (1, 127, 8), (1, 127, 3))
    network = hw.networks.cornernet(num_classes, size=bench.pick("full", "tiny")).to(bench.device)
    image = torch.randn(num_images, 3, side, side, device=bench.device)
    with torch.no_grad():
        grid = network(image)["stacks"][0]["top_left_heatmap"].shape[-1]
    targets = corner_targets(bench, num_images, grid, num_classes)

    def plain(outputs: Any) -> Tensor:
        return cornernet_loss(_floats(outputs["stacks"]), targets)

    return Work(network, image, targets, plain, hw.presets.cornernet)


def _floats(stacks: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The authors' loss is float32's: half precision has no 1 - 1e-4."""
    return [{name: each.float() for name, each in stack.items()} for stack in stacks]


def fill(bench: Bench, table: Table, work: Work, precisions: dict[str, torch.dtype | None]) -> None:
    for case, dtype in precisions.items():
        ways: dict[str, Way] = {
            "by hand": partial(stepping, bench, work, dtype, None),
            "criterion": partial(stepping, bench, work, dtype, {}),
            "again": partial(stepping, bench, work, dtype, {}),
            "ledger": partial(stepping, bench, work, dtype, {"ledger": {}}),
        }
        deep = dtype is None or bench.size != "full"  # a profile of so many kernels takes seconds
        table.add(case, bench.compare(ways, seconds=7, deep=deep))
        bench.clear()


def stepping(bench: Bench, work: Work, dtype: torch.dtype | None, options: dict[str, Any] | None) -> Run:
    """The step of one way; `options` None: the loss by hand."""
    total, kept = work.plain, None
    if options is not None:
        criterion = work.criterion(compile=options.get("compile", False))
        kept = opened(criterion, options["ledger"]) if "ledger" in options else None

        def total(outputs: Any) -> Tensor:
            return criterion(outputs, work.targets).total

    optimizer = torch.optim.SGD(work.network.parameters(), lr=0.0, momentum=0.9)
    scaler = torch.amp.GradScaler(bench.device.type, enabled=dtype == torch.float16)

    def run() -> object:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(bench.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            value = total(work.network(work.image))
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        return kept

    return run


def opened(criterion: hw.Criterion, options: dict[str, Any]) -> hw.Ledger:
    """A ledger, kept open as long as the step that holds it."""
    return hw.Ledger(criterion, **options)
