"""Notes on balance: a loss that drowns the others, and losses that pull against each other."""

from __future__ import annotations

import math
from collections.abc import Iterator

from headwise.attribution.audit.facts import BatchFacts, Facts
from headwise.attribution.audit.find_sum import coefficients
from headwise.attribution.audit.finding import Finding

_DOMINANT = 0.99
_CONFLICT = -0.5


def dominances(facts: Facts) -> Iterator[Finding]:
    """Losses over 99 % of the gradient at a shared output or parameter group, in all batches."""
    for site in _sites(facts):
        shares = [_shares(batch, site) for batch in facts.batches if site in batch.gram]
        shares = [share for share in shares if len(share) > 1]
        for name in facts.names:
            own = [share.get(name, 0.0) for share in shares]
            if own and min(own) > _DOMINANT:
                yield Finding(
                    "dominance",
                    f"{name} at {site}",
                    f"{min(own):.2%} or more of the sum of the gradient norms of {len(shares[0])} losses, in all of "
                    f"{len(own)} batches",
                    "Lower its weight or raise the others', or divide each loss by the number of its elements.",
                    {"smallest_share": min(own), "batches": len(own)},
                )


def conflicts(facts: Facts) -> Iterator[Finding]:
    """Pairs of losses with opposite gradients at what they share, in all batches."""
    names = facts.names
    for site in _sites(facts):
        for index, left in enumerate(names):
            for right in names[index + 1 :]:
                cosines = [c for batch in facts.batches if (c := cosine(batch, site, left, right)) is not None]
                if cosines and max(cosines) < _CONFLICT:
                    yield Finding(
                        "conflict",
                        f"{left} and {right} at {site}",
                        f"cosine {min(cosines):.3f} to {max(cosines):.3f} in all of {len(cosines)} batches",
                        "They undo each other's work there. Give each its own layers, change the weights, or use an "
                        "aggregator of gradients.",
                        {"highest": max(cosines), "lowest": min(cosines), "batches": len(cosines)},
                    )


def cosine(batch: BatchFacts, site: str, left: str, right: str) -> float | None:
    """Cosine between two losses' gradients at a site; None where one has none."""
    if site not in batch.gram or left not in batch.names or right not in batch.names:
        return None
    gram, i, j = batch.gram[site], batch.row(left), batch.row(right)
    scale = math.sqrt(float(gram[i, i])) * math.sqrt(float(gram[j, j]))
    return float(gram[i, j]) / scale if scale > 0 else None


def _sites(facts: Facts) -> list[str]:
    return list(dict.fromkeys(s for b in facts.batches for s in (*b.outputs, *b.groups) if s in b.gram))


def _shares(batch: BatchFacts, site: str) -> dict[str, float]:
    """Each loss's part of the sum of the weighted gradient norms at a site."""
    factors = {} if batch.default_total else coefficients(batch)
    norms = {}
    for name in batch.names:
        if batch.outputs and not batch.wired.get(name):
            continue  # a regulariser of parameters is small by intent
        norm = batch.norm(name, [site]) * abs(factors.get(name, 1.0))
        if norm > 0:
            norms[name] = norm
    total = sum(norms.values())
    return {name: norm / total for name, norm in norms.items()} if total > 0 else {}
