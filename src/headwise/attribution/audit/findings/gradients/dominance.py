"""A loss over 99 % of the gradient at a shared output or group of parameters, in all batches."""

from __future__ import annotations

from collections.abc import Iterator

from headwise.attribution.audit.findings.finding import Check, Finding, Seen, counted, in_all
from headwise.attribution.audit.measures.rows import Rows

_DOMINANT = 0.99


def _judge(seen: Seen) -> Iterator[Finding]:
    for site in sites_of(seen):
        shares = [_shares(batch, site) for batch in seen.batches if site in batch.gram]
        shares = [share for share in shares if len(share) > 1]
        for name in seen.names:
            own = [share.get(name, 0.0) for share in shares]
            if own and min(own) > _DOMINANT:
                yield Finding(
                    f"{name} at {site}",
                    f"{min(own):.2%} or more of the sum of the weighted gradient norms of "
                    f"{counted(len(shares[0]), 'loss', 'losses')}, in {in_all(len(own))}",
                    "Lower its weight or raise the others', or divide each loss by the number of its elements.",
                    {"smallest_share": min(own), "batches": len(own)},
                )


def sites_of(seen: Seen) -> list[str]:
    """The outputs and groups of parameters of all batches."""
    return list(dict.fromkeys(s for b in seen.batches for s in (*b.outputs, *b.groups) if s in b.gram))


def single_losses(batch: Rows) -> list[str]:
    """The losses that the total holds and that are no sums of others."""
    return [name for name, found in batch.standings.items() if not found.parts and batch.is_in(name)]


def _shares(batch: Rows, site: str) -> dict[str, float]:
    """Each loss's part of the sum of the weighted gradient norms at a site."""
    norms = {}
    for name in single_losses(batch):
        if batch.outputs and not batch.read[name]:
            continue  # a regularizer of parameters is small by intent
        factor = batch.factor(name)
        norm = batch.norm(name, [site]) * abs(1.0 if factor is None else factor)
        if norm > 0:
            norms[name] = norm
    total = sum(norms.values())
    return {name: norm / total for name, norm in norms.items()} if total > 0 else {}


CHECK = Check("dominance", _judge, is_note=True)
