"""(c) CUDA graphs: `torch.compile(mode="reduce-overhead")` and a captured step, with the books open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import headwise as hw
from benchmarks.gpu.bench import Bench, Missing, Run, Way
from benchmarks.gpu.networks import ManyHeads, head_terms, heads_batch, plain_heads
from benchmarks.gpu.report import Table

NOTE = (
    'The network under `torch.compile(mode="reduce-overhead")`, which captures CUDA graphs on a GPU; the criterion '
    "outside it, or inside one compiled function with it. A captured step is one `torch.cuda.graph` of everything."
)


COMPILED = ("network compiled", "network and criterion compiled", "one compiled function")


def run(bench: Bench) -> Iterator[Table]:
    table = Table("eight heads on ResNet-18 and a feature pyramid", "criterion", NOTE)
    # Case by case, so that what one of them takes to compile leaves the earlier ones with a figure.
    for case, ways in cases(bench).items():
        table.add(case, bench.compare(ways))
    yield table


def cases(bench: Bench) -> dict[str, dict[str, Way]]:
    """By how the step is compiled: the criterion, and its books."""
    torch.manual_seed(0)
    network = ManyHeads(bench.pick(18, 18, 0)).to(bench.device)
    image, targets = heads_batch(bench, *bench.pick((8, 512), (1, 64), (1, 32)))
    compiled = compile_of(bench, network)
    outer = partial(outside, network, compiled, image, targets)
    eager = partial(outside, network, network, image, targets)
    inner = partial(inside, bench, network, image, targets)
    whole = partial(captured, bench, network, image, targets)
    found: dict[str, dict[str, Way]] = {
        "eager": pair(eager),
        "network compiled": {
            "by hand": lambda: stepping(network, lambda: plain_heads(compiled(image), targets)),
            **pair(outer),
            "again": partial(outer, None),
        },
        "network and criterion compiled": pair(partial(outer, compile=True)),
        "one captured graph": pair(whole),
        "one compiled function": pair(inner),
    }
    if not bench.compiles:
        del found["network and criterion compiled"], found["eager"]
    return found


def pair(make: Callable[..., Run]) -> dict[str, Way]:
    """Without and with a ledger."""
    return {"criterion": partial(make, None), "ledger": partial(make, {})}


def compile_of(bench: Bench, function: Any) -> Any:
    """In its smallest form nothing becomes machine code."""
    return (
        torch.compile(function, mode="reduce-overhead") if bench.compiles else torch.compile(function, backend="eager")
    )


def outside(
    network: nn.Module,
    forward: Callable[[Tensor], Any],
    image: Tensor,
    targets: Any,
    options: dict[str, Any] | None,
    *,
    compile: bool = False,
) -> Run:
    """The criterion after the network."""
    criterion = head_terms(compile)
    ledger = None if options is None else hw.Ledger(criterion, **options)
    return stepping(network, lambda: criterion(forward(image), targets).total, ledger)


def inside(bench: Bench, network: nn.Module, image: Tensor, targets: Any, options: dict[str, Any] | None) -> Run:
    """The network and the criterion as one compiled function."""
    criterion = head_terms()
    ledger = None if options is None else hw.Ledger(criterion, **options)
    total = compile_of(bench, lambda given: criterion(network(given), targets).total)
    return stepping(network, lambda: total(image), ledger)


def stepping(network: nn.Module, total: Callable[[], Tensor], kept: object = None) -> Run:
    """Forward and backward, marked for CUDA graphs as one step."""

    def run() -> object:
        torch.compiler.cudagraph_mark_step_begin()
        network.zero_grad(set_to_none=True)
        total().backward()
        return kept

    return run


def captured(bench: Bench, network: nn.Module, image: Tensor, targets: Any, options: dict[str, Any] | None) -> Run:
    """Forward and backward in one graph that is replayed."""
    if bench.device.type != "cuda":
        raise Missing("a captured step needs a GPU")
    if options is not None:
        raise Missing("a ledger books nothing of a captured step, and warns of it")
    criterion = head_terms()
    run = stepping(network, lambda: criterion(network(image), targets).total)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    network.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        criterion(network(image), targets).total.backward()

    def replay() -> object:
        graph.replay()
        return network, criterion

    return replay
