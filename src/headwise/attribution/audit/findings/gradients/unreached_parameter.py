"""Trainable parameters that the total does not reach in any batch, by module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headwise.attribution.audit.findings.finding import Check, Finding, Open, Seen
from headwise.attribution.audit.measures.rows import TOTAL
from headwise.attribution.text import names as listed


def _judge(seen: Seen) -> Iterator[Finding | Open]:
    if not any(batch.live and batch.total is not None for batch in seen.batches):
        return
    reached = set().union(*(batch.reached[TOTAL] for batch in seen.batches))
    stepped = set().union(*(batch.stepped for batch in seen.batches))
    sizes = {**seen.declared.parameters, **seen.declared.criterion_parameters}
    missing = [name for name in sizes if name not in reached]
    for module, members in by_module(missing, list(sizes)).items():
        numel = sum(sizes[name] for name in members)
        graph = "" if stepped.isdisjoint(members) else ", but for a rounding or a sign, whose derivative is 0,"
        yield Finding(
            ", ".join(members) if len(members) <= 4 else f"{module}.* ({listed(members, 3)})",
            f"{len(members)} of {len(sizes)} trainable parameters ({numel} numbers) are not in the graph of the total"
            f"{graph} in any of {seen.num}",
            "Pass the gradient on around what rounds: `x + (x.round() - x).detach()`."
            if graph
            else "Use them, remove them, or set requires_grad_(False) and name them in `frozen`. As they are, "
            'DistributedDataParallel raises at the second step ("Expected to have finished reduction"), or with '
            "find_unused_parameters=True searches for them at every step; weight decay still shrinks them where their "
            "gradient is zero instead of None.",
            {"parameters": len(members), "of": len(sizes), "numel": numel, "batches": len(seen.batches)},
        )
    still = frozenset.intersection(*(batch.still for batch in seen.batches if batch.total is not None))
    muted = [name for name in seen.names if seen.is_meant_zero(name)]
    still -= frozenset().union(*(batch.reached.get(name, frozenset()) for batch in seen.batches for name in muted))
    for module, members in by_module([name for name in sizes if name in still], list(sizes)).items():
        text = ", ".join(members) if len(members) <= 4 else f"{module}.*"
        why = "what they multiply, or what is behind them, may be 0 at the start"
        yield Open(f"unreached-parameter: {text}", f"in the graph, but with a gradient of 0 in {seen.num}: {why}")


def by_module(chosen: Sequence[str], known: Sequence[str]) -> dict[str, list[str]]:
    """Group by the highest module that is chosen as a whole, else by the module that holds the parameter."""
    gone = set(chosen)
    groups: dict[str, list[str]] = {}
    for name in chosen:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            prefix = ".".join(parts[:depth])
            if all(other in gone for other in known if other.startswith(f"{prefix}.")):
                groups.setdefault(prefix, []).append(name)
                break
        else:
            groups.setdefault(name, []).append(name)
    return groups


CHECK = Check("unreached-parameter", _judge)
