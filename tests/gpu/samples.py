"""Presets on a device: recorded cases and drawn ones, and a step of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import headwise as hw
from headwise.structure import leaves, mapped
from tests.criterion.test_junction import NoSync
from tests.presets.detectors import test_anchor_family as pyramids
from tests.presets.detectors import test_corner_family as corners
from tests.presets.pixels import test_textsnake as text
from tests.presets.samples import PRESETS, sample


@dataclass(frozen=True)
class Golden:
    """A recorded case: the criterion, its inputs, and the recorded total."""

    criterion: hw.Criterion
    outputs: Any
    targets: Any
    total: float


def _corner(recorded: corners.Recorded) -> Golden:
    outputs, targets, _ = recorded.read(torch.float64)
    criterion = recorded.criterion(outputs, as_published=True)
    return Golden(criterion, outputs, targets, float(recorded.arrays["out/total"]))


def _text(case: str) -> Golden:
    maps, targets = text.load(case, torch.float64)
    total = float(text.GOLDEN[f"{case}/out/total"])
    return Golden(hw.presets.textsnake(as_published=True), {"maps": maps}, targets, total)


def _retinanet(case: str) -> Golden:
    _, outputs, targets = pyramids.pyramid(pyramids.RETINANET, case, torch.float64, cuts=(3, 17, 18, 30))
    return Golden(
        hw.presets.retinanet(as_published=True), outputs, targets, float(pyramids.RETINANET[f"{case}/out/total"])
    )


def _ssd(case: str) -> Golden:
    _, outputs, targets = pyramids.pyramid(pyramids.EXTRA, case, torch.float64, deltas="loc_encoded", cuts=(7, 31))
    total = sum(float(pyramids.EXTRA[f"{case}/out/{name}"]) for name in ("loc", "cls"))
    return Golden(hw.presets.ssd(num_levels=3, as_published=True), outputs, targets, total)


GOLDEN: dict[str, Callable[[], Golden]] = {
    **{f"{each.system}-{each.case}": partial(_corner, each) for each in corners.CASES},
    **{f"textsnake-{case}": partial(_text, case) for case in text.CASES},
    **{f"retinanet-{case}": partial(_retinanet, case) for case in pyramids.RETINANET_CASES},
    **{f"ssd-{case}": partial(_ssd, case) for case in pyramids.SSD_CASES},
}


def moved(nested: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """On the device, floating tensors in the dtype."""
    return mapped(nested, lambda each: each.detach().to(device, dtype if each.is_floating_point() else None))


def inputs(nested: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The same as leaves that take gradients."""
    return mapped(moved(nested, device, dtype), lambda each: each.requires_grad_())


def step(criterion: hw.Criterion, outputs: Any, targets: Any) -> tuple[Tensor, list[Tensor]]:
    """The total and the gradients at all outputs; one that is not read has none and counts as zeros."""
    held = [each for _, each in leaves(outputs)]
    for each in held:
        each.grad = None
    total = criterion(outputs, targets).total
    total.backward()
    return total.detach(), [torch.zeros_like(each) if each.grad is None else each.grad for each in held]


def drawn(name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[hw.Criterion, Any, Any]:
    """Criterion, outputs and targets of a preset on the device."""
    criterion, outputs, targets = sample(name, 4, empty=3, dtype=torch.float32)
    return criterion, inputs(outputs, device, dtype), moved(targets, device, torch.float32)


@contextmanager
def no_sync(device: torch.device) -> Iterator[None]:
    """Within, any wait for the device is an error, a GPU's own mode or the operators that would wait for one."""
    if device.type != "cuda":
        with NoSync():
            yield
        return
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def deterministic() -> Iterator[None]:
    """Sums of one order, so that two equal steps are equal to the bit."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


__all__ = ["GOLDEN", "PRESETS", "Golden", "deterministic", "drawn", "inputs", "moved", "no_sync", "step"]
