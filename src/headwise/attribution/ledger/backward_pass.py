"""What one backward pass brought to one call, until its row is written."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from headwise.attribution.ledger.passes.clock import Under
from headwise.attribution.ledger.passes.injected import Injection
from headwise.attribution.ledger.samples.sampled import Pieces
from headwise.criterion.junctions.stats import Product, book_dtype, probe, probes, square, wait

Fields = dict[str, Tensor]
_MOST_GATHERED = 1 << 24


@dataclass(slots=True)
class BackwardPass:
    """What one backward pass brought.

    Args:
        under: Which pass.
        common: The factor at the total.
        own: Factors at the values of single terms.
        given: The loop's factor, as its caller gave it when the pass came to a term.
        kept: Small gradients at sites, by (site, reading).
        pairs: Inner products, by (site, reading, reading).
        channels: Squares of channels, by reading.
        strangers: Per output the square of what arrived beyond what was sent.
        features: Columns of the features.
        sent: What was sent to outputs, by their identity, while the pass is under way.
        again: What the network itself sends back to outputs from which it computes others, in the same way.
        by_sample: What is ranked by sample, by term.
        injected: Losses that were booked in the middle of the network.
        jacobian: The names of rows that were aggregated, and what was made of them; see `CallRecord.aggregated`.
        fields: The columns of its row, once they are made.
        norms: What `probe` found of large gradients; read `probed`.
        gathered: Large gradients on a GPU, until some are there; see `gather`.
        num_gathered: Their elements.
    """

    under: Under
    common: Tensor | None = None
    own: dict[int, Tensor] = field(default_factory=dict)
    given: float | Tensor | None = None
    kept: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    pairs: dict[tuple[int, int, int], Product] = field(default_factory=dict)
    channels: dict[int, Tensor] = field(default_factory=dict)
    strangers: dict[int, Tensor] = field(default_factory=dict)
    features: Fields = field(default_factory=dict)
    sent: dict[int, Tensor] = field(default_factory=dict)
    again: dict[int, Tensor] = field(default_factory=dict)
    by_sample: Pieces = field(default_factory=dict)
    injected: list[Injection] = field(default_factory=list)
    jacobian: tuple[tuple[str, ...], Tensor] | None = None
    fields: Fields | None = None
    norms: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    gathered: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    num_gathered: int = 0

    def gather(self, key: tuple[int, int], grad: Tensor) -> None:
        """Takes a large gradient, of which its norm is wanted.

        Where it may `wait`, those of a pass wait for each other, up to `_MOST_GATHERED` elements.

        Args:
            key: Site and reading.
            grad: The gradient there.
        """
        if not wait(grad):
            self.norms[key] = probe(grad)
            return
        self.gathered[key] = grad
        self.num_gathered += grad.numel()
        if self.num_gathered >= _MOST_GATHERED:
            self.take_norms()

    def take_norms(self) -> None:
        """Makes numbers of what was gathered, so that its memory is free."""
        if self.gathered:
            self.norms |= dict(zip(self.gathered, probes(list(self.gathered.values())), strict=True))
            self.gathered, self.num_gathered = {}, 0

    @property
    def probed(self) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        """Norms and sums of large gradients, by (site, reading)."""
        self.take_norms()
        return self.norms

    def send(self, key: int, grad: Tensor) -> None:
        """Notes what is sent to an output, which may stand under several paths."""
        self.sent[key] = plus(self.sent.get(key), grad)

    def beyond(self, key: int, grad: Tensor) -> Tensor:
        """What arrived at an output beyond what any criterion, and the network itself, sent there.

        Args:
            key: The identity of the output.
            grad: What arrived.

        Returns:
            The square of its norm.
        """
        rest, again = grad.detach(), self.again.get(key)
        for record in self.under.records.values():
            if (sent := record.sent_to(self.under, key)) is not None:
                rest = rest.to(book_dtype(grad.device)) - sent
        if again is None:
            return square(rest)
        # The engine has added the two up in the dtype of the output.
        found, noise = square(rest.to(book_dtype(grad.device)) - again), 4 * torch.finfo(grad.dtype).eps
        return torch.where(found <= noise**2 * square(grad.detach()), 0.0, found)


def plus(before: Tensor | None, found: Tensor) -> Tensor:
    """The sum, where there was something before."""
    return found if before is None else before + found
