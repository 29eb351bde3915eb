"""(a) Each loss forward and backward, beside the authors' formulation and the memory floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

import headwise as hw
from benchmarks.gpu.bench import Bench, Measured, Way
from benchmarks.gpu.cases import CASES, Case, Draw
from benchmarks.gpu.passes import alone, ours, plain, step
from benchmarks.gpu.report import Kernels, Table
from benchmarks.gpu.systems import SYSTEMS, System, differentiable, num_bytes

FLOOR = ("/ floor", "/ two passes")
NOTE = (
    "`/ floor`: the time over that of reading outputs and targets once and writing the gradient once, at a copy's "
    "speed; `/ two passes`: over that of reading them in the forward and again in the backward pass. Times of the "
    "device's kernels where there are any, else of the wall."
)


def run(bench: Bench) -> Iterator[Table | Kernels]:
    """Eager first: what compiling costs must not leave the rest without a figure."""
    systems = [make(bench) for make in SYSTEMS]
    note = NOTE
    if "eager" in bench.kinds:
        for system in systems:
            table, _ = system_table(bench, system, compiled=False)
            table.note, note = note, ""
            yield table
        yield single_table(bench, CASES, compiled=False)[0]
    if "compiled" in bench.kinds and bench.compiles:
        spent = Kernels()
        for system in bench.pick(systems, systems[-1:]):
            table, found = system_table(bench, system, compiled=True)
            table.note, note = note, ""
            yield table
            spent.add(table.title, found)
        table, found = single_table(bench, bench.pick(CASES, CASES[:1]), compiled=True)
        yield table
        spent.add("", found)
        yield spent


def system_table(bench: Bench, system: System, compiled: bool) -> tuple[Table, dict[str, Measured]]:
    """A preset, with and without books, beside the authors' formulation."""
    inputs = differentiable(system.outputs)
    peers = list(system.peers)[: 1 if compiled else None]
    ways: dict[str, Way] = {name: partial(step, system.peers[name], inputs) for name in peers}
    kind = "compiled" if compiled else "eager"
    for name, booked in {kind: False, f"{kind}, ledger": True}.items():
        ways[name] = partial(ours, system, inputs, compiled, booked)
    table = Table(f"`presets.{system.name}`, {kind}", "authors", extra=FLOOR)
    found = bench.compare(ways, seconds=3)
    table.add(
        f"{num_bytes(system.outputs) / 2**20:.0f} MiB", found, floors(bench, found, system.outputs, system.targets)
    )
    bench.clear()
    return table, found


def single_table(
    bench: Bench, cases: Sequence[Callable[[Draw], Case]], compiled: bool
) -> tuple[Table, dict[str, Measured]]:
    """Each loss alone, in a criterion of one term; where the seconds end, the lines do."""
    kind = "compiled" if compiled else "eager"
    table = Table(f"each loss alone, {kind}", "plain torch", extra=FLOOR)
    draw, measured = Draw(bench), {}
    for number, make in enumerate(cases):
        if bench.over:
            table.note = (
                f"Not measured, the part's seconds are over: {', '.join(each.__name__ for each in cases[number:])}."
            )
            break
        case = make(draw)
        ways: dict[str, Way] = {"plain torch": partial(plain, case), kind: partial(alone, case, compiled)}
        found = bench.compare(ways, seconds=0.4)
        if not compiled:
            found[kind].remark = ", ".join(filter(None, (found[kind].remark, apart(case))))
        table.add(case.name, found, floors(bench, found, case.outputs, case.targets))
        measured[case.name] = found[kind]
        del case, ways
        bench.clear()
    return table, measured


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
