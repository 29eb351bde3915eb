"""Two losses with opposite gradients at what they share, in all batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

from headwise.attribution.audit.findings.finding import Check, Finding, Seen, in_all
from headwise.attribution.audit.findings.gradients.dominance import single_losses, sites_of
from headwise.attribution.audit.measures.rows import Rows

_CONFLICT = -0.5


def _judge(seen: Seen) -> Iterator[Finding]:
    for site in sites_of(seen):
        for left, right in combinations(seen.names, 2):
            cosines = [c for batch in seen.batches if (c := cosine(batch, site, left, right)) is not None]
            if cosines and max(cosines) < _CONFLICT:
                yield Finding(
                    f"{left} and {right} at {site}",
                    f"cosine {min(cosines):.3f} to {max(cosines):.3f} in {in_all(len(cosines))}",
                    "They undo each other's work there. Give each its own layers, change the weights, or use an "
                    "aggregator of gradients.",
                    {"highest": max(cosines), "lowest": min(cosines), "batches": len(cosines)},
                )


def cosine(batch: Rows, site: str, left: str, right: str) -> float | None:
    """Cosine between two losses' gradients at a site; None where one has none, or is no single loss of the total."""
    known = single_losses(batch)
    if site not in batch.gram or left not in known or right not in known:
        return None
    gram, i, j = batch.gram[site], batch.row(left), batch.row(right)
    scale = math.sqrt(float(gram[i, i])) * math.sqrt(float(gram[j, j]))
    return float(gram[i, j]) / scale if scale > 0 else None


CHECK = Check("conflict", _judge, is_note=True)
