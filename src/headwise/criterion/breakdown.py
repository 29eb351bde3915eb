"""What a criterion returns: the total, and what it is the sum of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from headwise.ratio import Ratio


@dataclass(frozen=True, eq=False)
class Entry:
    """One term's part of the total.

    Args:
        value: The term's value, a 0-d tensor with its graph.
        weight: The weight of this step: a float, or the user's 0-d tensor.
        weighted: ``weight * value``, with its graph.
        ratio: The sums that the value is the quotient of; for a term over levels, one element a level.
        levels: The value of each level, its level weight included, or None for a term without levels.
        split_variant: Why the term's gradient depends on how the batch is split, totalled denominators or not; None if
            it does not.
    """

    value: Tensor
    weight: float | Tensor
    weighted: Tensor
    ratio: Ratio
    levels: Tensor | None = None
    split_variant: str | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Breakdown(Mapping[str, Entry]):
    """An immutable mapping from the terms' names to their entries; `total` is the sum of their ``weighted``.

    Args:
        entries: The entries, in the order of the terms.
        total: What ``backward`` is called on.
    """

    entries: dict[str, Entry]
    total: Tensor

    def __getitem__(self, name: str) -> Entry:
        """One term's entry.

        Raises:
            KeyError: There is no such term; the message lists the terms.
        """
        try:
            return self.entries[name]
        except KeyError:
            raise KeyError(f"no term {name!r}. The terms are: {', '.join(self.entries)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def log(self, prefix: str = "") -> dict[str, Tensor]:
        """A flat dict for any logger.

        Args:
            prefix: Put before each key, with a slash between.

        Returns:
            Detached 0-d tensors under ``<prefix>/<term>/raw``, ``.../weighted``, ``.../share`` (of the total; 0 where
            the total is 0) and ``<prefix>/total``. Nothing is copied to the host.
        """
        head = f"{prefix.rstrip('/')}/" if prefix else ""
        total = self.total.detach()
        safe = torch.where(total == 0, torch.ones_like(total), total)
        found = {}
        for name, entry in self.items():
            weighted = entry.weighted.detach()
            found[f"{head}{name}/raw"] = entry.value.detach()
            found[f"{head}{name}/weighted"] = weighted
            found[f"{head}{name}/share"] = weighted / safe
        found[f"{head}total"] = total
        return found

    def __repr__(self) -> str:
        rows = ", ".join(f"{name}={entry.weighted.detach():.6g}" for name, entry in self.items())
        return f"Breakdown(total={self.total.detach():.6g}: {rows})"
