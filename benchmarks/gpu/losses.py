"""(a) Each loss forward and backward, beside the authors' formulation and the memory floor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

import headwise as hw
from benchmarks.gpu.bench import Bench, Measured, Way
from benchmarks.gpu.cases import CASES, Case, Draw
from benchmarks.gpu.passes import alone, ours, plain, step
from benchmarks.gpu.report import Table
from benchmarks.gpu.systems import SYSTEMS, System, differentiable, num_bytes
from benchmarks.gpu.warm import compile_ahead

FLOOR = ("/ floor", "/ two passes")
NOTE = (
    "`/ floor`: the time over that of reading outputs and targets once and writing the gradient once, at a copy's "
    "speed; `/ two passes`: over that of reading them in the forward and again in the backward pass. Times of the "
    "device's kernels where there are any, else of the wall."
)


def run(bench: Bench) -> Iterator[Table]:
    ahead = compile_ahead(bench)
    for number, make in enumerate(SYSTEMS):
        table = system_table(bench, make(bench))
        table.note = "" if number else f"{NOTE} {ahead}".strip()
        yield table
    yield single_table(bench)


def system_table(bench: Bench, system: System) -> Table:
    """A preset, eager and compiled, with and without books, beside the authors' formulation."""
    inputs = differentiable(system.outputs)
    ways: dict[str, Way] = {name: lambda peer=peer: step(peer, inputs) for name, peer in system.peers.items()}
    for compiled in (False, True) if bench.compiles else (False,):
        for booked in (False, True):
            name = f"{'compiled' if compiled else 'eager'}{', ledger' if booked else ''}"
            ways[name] = partial(ours, system, inputs, compiled, booked)
    table = Table(f"`presets.{system.name}`", "authors", extra=FLOOR)
    found = bench.compare(ways)
    table.add(
        f"{num_bytes(system.outputs) / 2**20:.0f} MiB", found, floors(bench, found, system.outputs, system.targets)
    )
    bench.clear()
    return table


def single_table(bench: Bench) -> Table:
    """Each loss alone, in a criterion of one term."""
    table = Table("each loss alone", "plain torch", extra=FLOOR)
    draw = Draw(bench)
    for number, make in enumerate(CASES):
        case = make(draw)
        ways: dict[str, Way] = {"plain torch": partial(plain, case), "eager": partial(alone, case, False)}
        if bench.compiles and (bench.size == "full" or number == 0):
            ways["compiled"] = partial(alone, case, True)
        found = bench.compare(ways, seconds=0.5)
        found["eager"].remark = ", ".join(filter(None, (found["eager"].remark, apart(case))))
        table.add(case.name, found, floors(bench, found, case.outputs, case.targets))
        del case, ways
        bench.clear()
    return table


def apart(case: Case) -> str:
    """Whether both gradients have one direction; the counts that divide them may differ."""
    inputs = list(case.outputs.values())
    totals = (
        hw.Criterion([case.term])(case.outputs, case.targets).total,
        case.peer(*inputs, *case.targets.values()),
    )
    units = []
    for total in totals:
        gradient = torch.cat([each.flatten() for each in torch.autograd.grad(total, inputs)]).double()
        units.append(gradient / gradient.norm())
    distance = float((units[0] - units[1]).norm())
    return "" if distance < 1e-3 else f"its gradient is {distance:.2g} apart from plain torch's"


def floors(bench: Bench, found: Mapping[str, Measured], outputs: Any, targets: Any) -> dict[str, dict[str, str]]:
    """Each way's time over that of the bytes that must move."""
    written = sum(each.nbytes for each in differentiable(outputs))
    read = num_bytes(outputs) + num_bytes(targets)
    floor = 1e3 * (read + written) / bench.bandwidth()
    two_passes = 1e3 * (2 * read + written) / bench.bandwidth()
    cells = {}
    for name, each in found.items():
        taken = each.device_ms if each.device_ms is not None else each.wall_ms
        if taken is not None:
            cells[name] = {FLOOR[0]: f"{taken / floor:.2f}", FLOOR[1]: f"{taken / two_passes:.2f}"}
    return cells
