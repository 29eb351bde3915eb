"""Findings on reach: losses that train nothing, outputs and parameters that nothing trains."""

from __future__ import annotations

from collections.abc import Iterator

from headwise.attribution.audit.facts import TOTAL, BatchFacts, Facts
from headwise.attribution.audit.finding import Finding
from headwise.attribution.audit.losses import is_metric_name
from headwise.attribution.tracing.channels import ranges
from headwise.attribution.tracing.text import names as listed

_RELATIVE = 1e-5
_ELASTICITY = 1e-6
_CHANNEL = 1e-20


def detached_losses(facts: Facts) -> Iterator[Finding]:
    """Losses that reach no parameter in any batch."""
    for name in facts.names:
        batches = facts.holding(name)
        values = [batch.values[name] for batch in batches]
        model = set(facts.parameters) | set(facts.frozen)
        if any(batch.reached[name] & model for batch in batches) or _has_outputs(facts, name):
            continue
        live = [batch for batch in batches if name in batch.live]
        if live and _only_own_parameters(facts, name, values):
            continue
        if not live and _reported_only(facts, name):
            continue
        why = "its graph ends before the network" if live else "it has no graph"
        evidence = (
            f"reaches 0 of {len(model)} parameters in {len(batches)} of {len(batches)} batches: {why}; its value "
            f"{_values(values)}, so it shows in the total and trains nothing"
        )
        yield Finding(
            "detached-loss",
            name,
            evidence,
            "Compute it with tensors all the way from the outputs: without .item(), .data, .detach(), NumPy, "
            "torch.no_grad(), or a new torch.tensor(...) around it.",
            {"parameters_reached": 0, "batches": len(batches), "value": values[0]},
        )


def lost_totals(facts: Facts) -> Iterator[Finding]:
    """A total from which no gradient can flow, although losses have graphs."""
    lost = [batch for batch in facts.batches if batch.live and batch.total is None]
    if lost:
        yield Finding(
            "detached-loss",
            TOTAL,
            f"0 of {len(facts.parameters)} parameters are reached by what the total returns, in {len(lost)} of "
            f"{len(facts.batches)} batches, while {len(lost[0].live)} losses have graphs",
            "Add up the loss tensors, not their .item() or detached values.",
            {"parameters_reached": 0, "batches": len(lost)},
        )


def _has_outputs(facts: Facts, name: str) -> bool:
    """Whether it reaches an output that is itself trained by no parameter the audit knows (all frozen)."""
    return not facts.parameters and any(batch.norm(name, batch.outputs) > 0 for batch in facts.holding(name))


def _only_own_parameters(facts: Facts, name: str, values: list[float]) -> bool:
    """A regulariser of the criterion's own parameters does not depend on the batch."""
    own = any(batch.reached[name] & set(facts.criterion_parameters) for batch in facts.holding(name))
    return own and max(values) - min(values) <= 1e-6 * max(map(abs, values)) and len(values) > 1


def _reported_only(facts: Facts, name: str) -> bool:
    """A number that the total does not use, and that is not called a loss, is a metric."""
    if all(name in batch.numbers and batch.values[name] == 0 for batch in facts.holding(name)):
        return True  # switched off, or a loss of objects where there are none
    unused = any(not batch.default_total and not _in_value(batch, name) for batch in facts.holding(name))
    return (unused and "loss" not in name.lower() and name not in facts.regions) or is_metric_name(name)


def _in_value(batch: BatchFacts, name: str) -> bool:
    """Whether the total's value needs this loss to add up."""
    if batch.total is None:
        return True
    rest = sum(value for other, value in batch.values.items() if other in batch.live)
    both, scale = rest + batch.values[name], max(abs(batch.total), 1e-12)
    return abs(both - batch.total) < abs(rest - batch.total) - 1e-6 * scale


def _values(values: list[float]) -> str:
    if max(values) - min(values) <= 1e-7 * max(map(abs, values)):
        return f"is {values[0]:.6g}"
    return f"moves between {min(values):.6g} and {max(values):.6g}"


def dead_losses(facts: Facts) -> Iterator[Finding]:
    """Losses with a graph and no gradient, in all batches."""
    for name in facts.names:
        batches = [batch for batch in facts.holding(name) if name in batch.live]
        model = set(facts.parameters) | set(facts.frozen)
        if not batches or facts.declared_zero(name) or facts.only_reported(name):
            continue
        if any(each.loss == name for batch in batches for each in batch.nonfinite):
            continue
        if not any(batch.reached[name] & model or batch.norm(name, batch.outputs) > 0 for batch in batches):
            continue  # detached
        norms = [batch.norm(name, _sites(batch)) for batch in batches]
        strongest = [max((batch.norm(other, _sites(batch)) for other in batch.names if other != name), default=0.0)
                     for batch in batches]  # fmt: skip
        faint = all(
            norm <= _RELATIVE * strong and 0 < batch.elasticity.get(name, 1.0) < _ELASTICITY
            if len(batch.names) > 1
            else 0 < batch.elasticity.get(name, 1.0) < _ELASTICITY
            for norm, strong, batch in zip(norms, strongest, batches, strict=True)
        )
        if any(norms) and not faint:
            continue
        values = [batch.values[name] for batch in facts.holding(name)]
        yield Finding(
            "dead-loss",
            name,
            f"its gradient has norm {max(norms):.3g} over {len(batches)} batches (the strongest other loss: "
            f"{max(strongest):.3g}), at every output, while its value {_values(values)}",
            "Look for a mask or index that selects nothing (`.eq(2)` of a bool mask, a float or uint8 mask), a clamp "
            "or ReLU that is saturated, a rounding or argmax, or a softmax over one channel.",
            {"gradient_norm": max(norms), "strongest_other": max(strongest), "batches": len(batches)},
        )


def _sites(batch: BatchFacts) -> list[str]:
    return [*batch.outputs, *(group for group in batch.groups if group != "parameters of criterion")]


def untrained_outputs(facts: Facts) -> Iterator[Finding]:
    """Outputs, and channels of the others, that no loss trains in any batch."""
    if not any(batch.live for batch in facts.batches):
        return
    for path in facts.outputs:
        found = facts.channel_energy(path)
        if found is None or any(path in batch.derived for batch in facts.batches) or _is_muted(facts, path):
            continue
        energy, same = found
        shape = next(batch.shapes[path] for batch in facts.batches if path in batch.shapes)
        peak = float(energy.max())
        dead = [index for index, value in enumerate(energy.tolist()) if value <= _CHANNEL * peak and not _tiny(value)]
        if any(each.where == path for batch in facts.batches for each in batch.nonfinite) or not dead:
            continue
        whole = len(dead) == len(energy)
        if not whole and not same:
            # Which channels are reached depends on the data (a channel per class): only what no graph reads is told.
            dead = [index for index in dead if all(index in batch.unwired.get(path, ()) for batch in facts.batches)]
            if not dead:
                continue
        subject = path if whole else f"{path}[{':, ' if len(shape) > 1 else ''}{ranges(dead, -1)}]"
        sent = "no gradient at all" if whole else f"no gradient at {len(dead)} of {len(energy)} channels"
        yield Finding(
            "untrained-output",
            subject,
            f"{sent} from any of {len(facts.names)} losses in {len(facts.batches)} batches (shape {shape}, "
            f"largest channel norm {peak**0.5:.3g})",
            "Give it a loss, or take it out of the network. If a loss should read it, look at the slice or key by "
            "which the criterion takes it.",
            {"channels": len(dead), "of": len(energy), "batches": len(facts.batches)},
        )


def _is_muted(facts: Facts, path: str) -> bool:
    """Whether a loss whose weight is meant to be zero, by more than its graph, reads the output."""
    muted = [name for name in facts.names if facts.declared_zero(name)]
    return any(
        path in batch.wired.get(name, ()) and name not in batch.silenced for batch in facts.batches for name in muted
    )


def _tiny(value: float) -> bool:
    """What a loss of weight zero leaves as a mark of having read a channel."""
    return 0 < value < 1e-290


def unreached_parameters(facts: Facts) -> Iterator[Finding]:
    """Trainable parameters that the total does not reach in any batch, by module."""
    if not any(batch.live and batch.total is not None for batch in facts.batches):
        return
    reached = set().union(*(batch.reached.get(TOTAL, frozenset()) for batch in facts.batches))
    wanted = [*facts.parameters, *facts.criterion_parameters]
    missing = [name for name in wanted if name not in reached]
    for module, members in _by_module(missing, wanted).items():
        numel = sum({**facts.parameters, **facts.criterion_parameters}[name] for name in members)
        subject = ", ".join(members) if len(members) <= 4 else f"{module}.* ({listed(members, 3)})"
        yield Finding(
            "unreached-parameter",
            subject,
            f"{len(members)} of {len(wanted)} trainable parameters ({numel} numbers) are not in the graph of the total "
            f"in any of {len(facts.batches)} batches",
            "Use them, remove them, or set requires_grad_(False) and name them in `frozen`. As they are, "
            'DistributedDataParallel raises at the second step ("Expected to have finished reduction"), or with '
            "find_unused_parameters=True searches for them at every step; weight decay still shrinks them where their "
            "gradient is zero instead of None.",
            {"parameters": len(members), "of": len(wanted), "numel": numel, "batches": len(facts.batches)},
        )


def _by_module(missing: list[str], wanted: list[str]) -> dict[str, list[str]]:
    """Group by the highest module that is missing as a whole, else by the module that holds the parameter."""
    gone = set(missing)
    groups: dict[str, list[str]] = {}
    for name in missing:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            prefix = ".".join(parts[:depth])
            if all(other in gone for other in wanted if other.startswith(f"{prefix}.")):
                groups.setdefault(prefix, []).append(name)
                break
        else:
            groups.setdefault(name, []).append(name)
    return groups
