"""Findings on places: gradients outside of masks, at another output than the name says, or not finite."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from headwise.attribution.audit.facts import TOTAL, Facts, MaskFact, NonFinite
from headwise.attribution.audit.finding import Finding
from headwise.attribution.audit.losses import plain_name
from headwise.attribution.tracing.text import names as listed

Region = tuple[str, tuple[int, ...] | None]
_FAINT = 1e-6


def outside_masks(facts: Facts) -> Iterator[Finding]:
    """Losses that send a gradient where a mask says none."""
    found: dict[tuple[str, str], list[MaskFact]] = defaultdict(list)
    for batch in facts.batches:
        for fact in batch.masks:
            if fact.outside and fact.outside_norm > _FAINT * fact.norm:
                found[fact.loss, fact.output].append(fact)
    for (loss, output), leaks in found.items():
        count, positions = sum(fact.outside for fact in leaks), sum(fact.positions for fact in leaks)
        share = max(fact.outside_norm / fact.norm for fact in leaks)
        yield Finding(
            "outside-mask",
            f"{loss} at {output}",
            f"{count} of {positions} elements have a gradient where mask {leaks[0].mask!r} says none, with up to "
            f"{share:.1%} of the gradient's norm, in {len(leaks)} of {len(facts.batches)} batches",
            "Select by the mask before any arithmetic and divide by the number of selected elements; a mask multiplied "
            "after the mean, or applied to the target alone, lets the gradient through.",
            {"elements": count, "of": positions, "share": share, "batches": len(leaks)},
        )


def nonfinite_gradients(facts: Facts) -> Iterator[Finding]:
    """Losses whose gradient is not finite, at the outputs or, where those are finite, at parameters."""
    for name in (*facts.names, TOTAL):
        hits = [each for batch in facts.batches for each in batch.nonfinite if each.loss == name]
        at_outputs = [each for each in hits if each.where in facts.outputs]
        chosen = at_outputs or hits
        if not chosen:
            yield from _nonfinite_value(facts, name)
            continue
        if name == TOTAL and any(b.nonfinite and b.nonfinite[0].loss != TOTAL for b in facts.batches):
            continue
        places = list(dict.fromkeys(each.where for each in chosen))
        first = chosen[0]
        yield Finding(
            "nonfinite-gradient",
            f"{name} at {listed(places)}",
            f"{first.count} of {first.numel} elements of its gradient at {first.where} are NaN or infinite, in "
            f"{_num_batches(facts, name, chosen)} of {len(facts.batches)} batches; {_loss_value(first)}",
            "Keep the bad elements out of the arithmetic, not only out of the result: 0 * inf is NaN. Clamp inside "
            "sqrt, log and division (sqrt(x.clamp(min=eps))), or index by the mask before them.",
            {"elements": first.count, "of": first.numel, "value": first.value},
        )


def _nonfinite_value(facts: Facts, name: str) -> Iterator[Finding]:
    """A loss that is not finite although its gradient is."""
    values = [batch.values[name] for batch in facts.holding(name)] if name != TOTAL else []
    bad = [value for value in values if not math.isfinite(value)]
    if bad:
        yield Finding(
            "nonfinite-gradient",
            name,
            f"the loss itself is {bad[0]} in {len(bad)} of {len(values)} batches, with a gradient that is finite",
            "Look for log(0) or a division by 0 whose gradient a clamp hides, and for overflow in half precision.",
            {"batches": len(bad)},
        )


def _num_batches(facts: Facts, name: str, chosen: Sequence[NonFinite]) -> int:
    return sum(any(each.loss == name for each in batch.nonfinite) for batch in facts.batches) if chosen else 0


def _loss_value(hit: NonFinite) -> str:
    return f"the loss itself is {hit.value:.6g}" + (", so nothing shows" if math.isfinite(hit.value) else "")


def rotated_names(facts: Facts) -> Iterator[Finding]:
    """Losses whose gradient arrives at what another loss is named for."""
    regions = dict(facts.regions) or _by_name(facts)
    for name, own in regions.items():
        if name not in facts.names:
            continue
        arrived = _energy(facts, name)
        whole = sum(arrived.values())
        here = _within(arrived, own)
        if whole <= 0 or here > _FAINT**2 * whole:
            continue
        places = _places(arrived, facts)
        others = [other for other, region in regions.items() if other != name and _within(arrived, region) > 0]
        if not others and not facts.regions:
            continue
        theirs = f", which {listed(others)} should read" if others else ""
        yield Finding(
            "rotated-names",
            name,
            f"0 of its gradient (norm {whole**0.5:.4g}) arrives at {_told(own)} over {len(facts.batches)} batches; "
            f"all of it arrives at {places}{theirs}",
            "Return the losses as a dict, or unpack them in the order in which they are returned; log lines and "
            "weights by these names belong to other losses.",
            {"norm_at_declared": here**0.5, "norm": whole**0.5, "batches": len(facts.batches)},
        )


def _energy(facts: Facts, name: str) -> dict[tuple[str, int], float]:
    """Squared gradient norm of a loss per output and channel, over all batches."""
    found: dict[tuple[str, int], float] = defaultdict(float)
    for batch in facts.holding(name):
        for path, rows in batch.channels.items():
            for channel, value in enumerate(rows[batch.row(name)].tolist()):
                found[path, channel] += value if value > 1e-290 else 0.0
    return found


def _within(energy: dict[tuple[str, int], float], region: Sequence[Region]) -> float:
    return sum(
        value
        for (path, channel), value in energy.items()
        if any(path == own and (channels is None or channel in channels) for own, channels in region)
    )


def _places(energy: dict[tuple[str, int], float], facts: Facts) -> str:
    found: dict[str, list[int]] = defaultdict(list)
    for (path, channel), value in energy.items():
        if value > 0:
            found[path].append(channel)
    sizes = {path: sum(1 for other, _ in energy if other == path) for path in found}
    return listed(_text(path, None if len(c) == sizes[path] else tuple(c)) for path, c in found.items())


def _told(region: Sequence[Region]) -> str:
    return listed(_text(path, channels) for path, channels in region)


def _text(path: str, channels: tuple[int, ...] | None) -> str:
    from headwise.attribution.tracing.channels import ranges

    return path if channels is None else f"{path}[:, {ranges(channels, -1)}]"


def _by_name(facts: Facts) -> dict[str, list[Region]]:
    """Losses and outputs of the same name, where at least two losses match."""
    exact: dict[str, list[str]] = defaultdict(list)
    folded: dict[str, list[str]] = defaultdict(list)  # the levels of a pyramid are one output
    for path in facts.outputs:
        exact[plain_name(path.replace("]", "").replace("[", "_"))].append(path)
        folded[plain_name(re.sub(r"\[\d+\]", "", path))].append(path)
    regions: dict[str, list[Region]] = {}
    for name in facts.names:
        plain = plain_name(name)
        # The place in a tuple is not a name: losses and outputs may come in different orders.
        if plain.isdecimal():
            continue
        found = exact[plain] if len(exact[plain]) == 1 else folded[plain]
        if found:
            regions[name] = [(path, None) for path in found]
    unique = len({plain_name(name) for name in facts.names}) == len(facts.names)
    return regions if unique and len(regions) > 1 else {}
