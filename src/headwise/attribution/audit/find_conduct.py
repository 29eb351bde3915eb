"""Findings on conduct: what the loss writes into, grad mode, draws, host syncs, and splitting the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from headwise.attribution.audit.facts import Facts
from headwise.attribution.audit.finding import Finding

_SPLIT = 0.01


def mutated_inputs(facts: Facts) -> Iterator[Finding]:
    """Outputs and targets that the criterion wrote into."""
    found: dict[str, list[str]] = {}
    for batch in facts.batches:
        for path, told in batch.mutated.items():
            found.setdefault(path, []).append(told)
    for path, each in found.items():
        yield Finding(
            "mutated-input",
            path,
            f"the criterion wrote into it: {each[0]}, in {len(each)} of {len(facts.batches)} batches",
            "Work out of place (x.sigmoid() for x.sigmoid_(), x = x * y for x *= y), or clone first: whatever reads it "
            "afterwards (a second loss, a metric, the next epoch) sees other numbers.",
            {"batches": len(each)},
        )


def grad_modes(facts: Facts) -> Iterator[Finding]:
    """Calls after which gradients are on or off where they were not."""
    found: dict[str, list[str]] = {}
    for batch in facts.batches:
        for who, told in batch.grad_mode.items():
            found.setdefault(who, []).append(told)
    for who, each in found.items():
        yield Finding(
            "grad-mode",
            who,
            f"{each[0]}, in {len(each)} of {len(facts.batches)} batches",
            "Use `with torch.no_grad():` or `with torch.enable_grad():` around the lines that need it instead of "
            "torch.set_grad_enabled(...), which stays: left off, later losses train nothing; left on, validation keeps "
            "graphs.",
            {"batches": len(each)},
        )


def random_draws(facts: Facts) -> Iterator[Finding]:
    """Losses that two identical calls do not give the same value."""
    found: dict[str, tuple[float, float, str]] = {}
    for batch in facts.batches:
        for name, (first, second) in batch.unrepeatable.items():
            found[name] = (first, second, "from the same state of the global random generators")
        for name, (first, second) in batch.random.items():
            found.setdefault(name, (first, second, "on the same outputs, with other draws"))
    for name, (first, second, how) in found.items():
        yield Finding(
            "random-draw",
            name,
            f"two identical calls give {first:.6g} and {second:.6g} ({how})",
            "Draw with a generator of its own that is seeded and checkpointed, or select by a fixed rule, if runs "
            "are to be repeatable.",
            {"first": first, "second": second},
        )


def host_syncs(facts: Facts) -> Iterator[Finding]:
    """Lines at which a step waits for the device."""
    places: Counter[str] = Counter()
    for batch in facts.batches:
        for place, count in batch.syncs.items():
            places[place] = max(places[place], count)
    if not places:
        return
    most = places.most_common()
    lines = "; ".join(f"{place} x{count}" for place, count in most[:8])
    more = f"; and {len(most) - 8} more lines" if len(most) > 8 else ""
    yield Finding(
        "host-sync",
        ", ".join(dict.fromkeys(place.split(" ")[0] for place, _ in most[:3])),
        f"{sum(places.values())} per step: {lines}{more}",
        "On a GPU each waits until all queued work is done. Keep numbers as 0-d tensors, log them once in a while, and "
        "use torch.where or a product with the mask instead of indexing by it.",
        {"per_step": sum(places.values()), "lines": len(most)},
    )


def split_variants(facts: Facts) -> Iterator[Finding]:
    """Losses whose gradient is neither the mean nor the sum over parts of the batch."""
    drawn = {name for batch in facts.batches for name in (*batch.random, *batch.unrepeatable)}
    for name in facts.names:
        found = [batch.split[name] for batch in facts.batches if name in batch.split]
        if not found or max(found) <= _SPLIT or name in drawn:
            continue
        yield Finding(
            "split-variant",
            name,
            f"its gradient changes by up to {max(found):.1%} when the batch is split in two (the better of mean and "
            f"sum of the halves, {len(found)} batches)",
            "A mean over what a mask or a selection leaves is a mean of means once the batch is split over "
            "micro-batches or ranks. Total numerators and denominators over the step, then divide.",
            {"largest": max(found), "batches": len(found)},
        )
