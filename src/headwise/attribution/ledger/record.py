"""One call of a criterion while its backward passes may still come: what they brought, on the device.

A pass of several gradients at once is a look (`graph.is_batched`), of which nothing is kept.

Nothing is computed in a backward pass that can wait: small gradients are kept as they are until the row is written, so
that one launch serves them all; large ones become numbers at once, so that their memory is free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Size, Tensor
from torch.autograd.graph import Node

from headwise.attribution.ledger.backward_pass import BackwardPass, Fields, plus
from headwise.attribution.ledger.passes.clock import CLOCK, Under
from headwise.attribution.ledger.passes.injected import Injection
from headwise.attribution.ledger.passes.leaves import Leaves
from headwise.attribution.ledger.samples.sampled import SampledCall
from headwise.attribution.ledger.schema import Brief, Schema
from headwise.criterion.binding.layout import Served
from headwise.criterion.junctions.recording import Counted
from headwise.criterion.junctions.stats import (
    SMALL,
    Product,
    at_site,
    book_dtype,
    channel_squares,
    inner,
)
from headwise.criterion.sums.vectors import vector
from headwise.graph import Edge, gradient_edge, is_batched

_NOWHERE: Any = (None, 0)


class Owner(Protocol):
    """What a record asks of its ledger."""

    leaves: Leaves

    def given(self, device: torch.device) -> float | Tensor | None:
        """The loop's factor now, where the caller gives one."""
        ...

    def stirred(self, record: CallRecord) -> None:
        """A backward pass came by."""
        ...

    def sampled(self, record: CallRecord, ids: Any, measure: Callable[[int, int], Tensor | str]) -> None:
        """A call has these samples."""
        ...


class BriefNumbers(NamedTuple):
    """What the columns of a brief row are computed from; see `Brief`."""

    values: Tensor
    divisors: Tensor
    common: Tensor
    number: Tensor
    levels: list[Tensor]
    kept: list[Tensor]
    probed: list[tuple[Tensor, Tensor]]
    products: list[Product]
    balance: Tensor | None


class CallRecord:
    """The books of one call; implements `criterion.junctions.recording.Record`.

    Args:
        owner: The ledger.
        schema: The columns.
        roots: The outputs.
        pooled: Whether the denominators were totaled over the step.
    """

    def __init__(self, owner: Owner, schema: Schema, roots: Sequence[Tensor], pooled: bool) -> None:
        self.schema, self.pooled = schema, pooled
        self.place: int | None = None  # its row, once a backward pass has come by
        self.step = 0  # and the number of its step
        self.passes: list[BackwardPass] = []
        self.held = 0  # bytes that wait
        self.num_taken = 0  # passes that a balance has seen
        self._now: BackwardPass | None = None  # the pass that came by last, until it is written
        self.samples: SampledCall | None = None
        self.owner = owner
        self._opened_in = CLOCK.under() if torch._C._current_graph_task_id() != -1 else None
        if self._opened_in is None:
            CLOCK.called()
        self._is_again = False
        self.device = roots[0].device
        self.lengths = tuple(root.shape[0] for root in roots if root.dim())
        self._ids = [id(root) for root in roots]
        for key, root in dict(zip(self._ids, roots, strict=True)).items():
            if root.is_leaf:
                if root.requires_grad:
                    owner.leaves.listen(root)
            else:
                root.register_hook(partial(self.arrived, key))  # type: ignore[no-untyped-call]

    def listen_below(self, roots: Sequence[Tensor], places: Mapping[Edge, Sequence[tuple[Node, int]]]) -> None:
        """Hears what the network sends back to outputs from which it computes others.

        Args:
            roots: The outputs.
            places: From `graph.used_below`.
        """
        for key, root in dict(zip(self._ids, roots, strict=True)).items():
            for node, number in places.get(gradient_edge(root) or _NOWHERE, ()):
                node.register_hook(partial(self._sent_again, key, number))

    def _sent_again(self, key: int, number: int, grads: tuple[Tensor | None, ...], _: Any) -> None:
        grad = grads[number]
        if grad is not None and not is_batched(grad):
            now = self.now()
            now.again[key] = plus(now.again.get(key), grad.detach())

    def summed(
        self,
        values: Tensor,
        weights: Sequence[float | Tensor],
        levels: Sequence[Tensor | None],
        counted: Counted,
        balance: Tensor | None = None,
    ) -> None:
        """Keeps what the call summed; see `Record`."""
        self.values, self.counted, self.balance = values, counted, balance
        self._weights: tuple[float, ...] | None = None
        if any(isinstance(each, Tensor) for each in weights):
            # Now, for an optimizer writes the next step's weights over these.
            self._moving = self.vector([each.detach() if isinstance(each, Tensor) else each for each in weights])
        else:
            self._weights = tuple(weights)  # type: ignore[arg-type]
        self.levels = [(number, each.detach()) for number, each in enumerate(levels) if each is not None]

    def weight(self) -> Tensor:
        """The weights as declared."""
        return self._moving if self._weights is None else self.vector(self._weights)

    def used(self) -> Tensor:
        """The weights as the total used them."""
        return self.weight() if self.balance is None else self.weight() * self.balance.to(self.device)

    def by_sample(self, ids: Any, measure: Callable[[int, int], Tensor | str]) -> None:
        """Tells the ledger of the samples of the call; see `Record`."""
        self.owner.sampled(self, ids, measure)

    @property
    def trained(self) -> list[BackwardPass]:
        """The passes that train, or looks where there are no others."""
        return [each for each in self.passes if each.under.trains] or self.passes

    def watch_value(self, term: int, value: Tensor) -> None:
        """Notes with which factor a pass comes to the value of one term."""
        if value.requires_grad:
            value.register_hook(partial(self._at_value, term))  # type: ignore[no-untyped-call]

    def at_total(self, factor: Tensor) -> None:
        """Notes with which factor a pass comes to the total; see `Record`."""
        if is_batched(factor):
            return
        now = self.now()
        now.common = plus(now.common, factor.detach())

    def _at_value(self, term: int, factor: Tensor) -> None:
        if is_batched(factor):
            return
        now = self.now()
        if not now.own:
            now.given = self.owner.given(self.device)
        now.own[term] = plus(now.own.get(term), factor.detach().sum())

    def now(self) -> BackwardPass:
        """The pass under way."""
        now, under = self._now, CLOCK.under()
        if now is None or now.under is not under:
            now = self._now = BackwardPass(under)
            self.passes.append(now)
            under.records[id(self)] = self
            self.owner.stirred(self)
        return now

    @property
    def is_elsewhere(self) -> bool:
        """Whether another thread's pass is on its way through."""
        return self._now is not None and CLOCK.is_elsewhere(self._now.under)

    def over(self, under: Under) -> None:
        """A pass is over; see `Booking`."""
        for one in self.passes:
            if one.under is under:
                one.take_norms()
                one.sent.clear()
                one.again.clear()

    def sent_alone(self, part: Served, grad: Tensor) -> None:
        """Books what the only reader of an output sent; see `Record`."""
        if is_batched(grad):
            return
        if self.samples is not None:
            self.samples.sent(part.layout.edges[0], grad, self.now().by_sample)
        if not 0 < grad.numel() <= SMALL or self.schema.has_channels:
            with torch.no_grad():
                self._book(part, (grad,), (grad,), (grad.shape,))
            return
        now = self.now()
        now.send(self._ids[part.roots[0]], grad)
        now.kept[part.first_site, part.edges[0]] = grad.detach() if grad.requires_grad else grad
        self.held += grad.untyped_storage().nbytes()

    def sent(
        self, part: Served, grads: Sequence[Tensor | None], sums: Sequence[Tensor | None], shapes: Sequence[Size]
    ) -> None:
        """Books what readers sent; see `Record`."""
        if is_batched(*(grad for grad in grads if grad is not None)):
            return
        if self.samples is not None:
            for edge, grad in zip(part.layout.edges, grads, strict=True):
                self.samples.sent(edge, grad, self.now().by_sample)
        self._book(part, grads, sums, shapes)

    def _book(
        self, part: Served, grads: Sequence[Tensor | None], sums: Sequence[Tensor | None], shapes: Sequence[Size]
    ) -> None:
        now = self.now()
        for number, each in zip(part.roots, sums, strict=True):
            if each is not None:
                now.send(self._ids[number], each)
        for number, site in enumerate(part.layout.sites):
            here = {
                part.edges[edge]: at_site(grad.detach(), part.layout.edges[edge], site, shapes[site.root])
                for edge in site.edges
                if (grad := grads[edge]) is not None
            }
            self._book_site(now, part.first_site + number, here)
        for edge, grad in enumerate(grads):
            if grad is not None and self.schema.readings[part.edges[edge]].num_channels:
                found = channel_squares(grad.detach(), part.layout.edges[edge])
                now.channels[part.edges[edge]] = plus(now.channels.get(part.edges[edge]), found)

    def _book_site(self, now: BackwardPass, site: int, here: dict[int, Tensor]) -> None:
        for reading, grad in here.items():
            if 0 < grad.numel() <= SMALL:
                now.kept[site, reading] = grad
                self.held += grad.untyped_storage().nbytes()
            else:
                now.gather((site, reading), grad)
        readings = list(here)
        for place, left in enumerate(readings):
            for right in readings[place + 1 :]:
                one, other = here[left], here[right]
                small = one.numel() <= SMALL
                now.pairs[site, left, right] = (one, other) if small else inner(one, other)

    def at_features(self, under: Under, columns: Fields) -> None:
        """What a pass brought to features inside the network.

        Args:
            under: The pass.
            columns: By the names of the schema's fields.
        """
        for one in self.passes:
            if one.under is under:
                one.features = columns

    def injected(self, injection: Injection) -> None:
        """What a pass brought to a loss that was booked in the middle of the network; see `Booking`."""
        self.now().injected.append(injection)

    def aggregated(self, names: Sequence[str], matrix: Tensor, answer: Tensor, weights: Tensor) -> None:
        """Books an aggregated step; see `Record`."""
        rows = torch.cat([matrix, answer[None]]).to(book_dtype(matrix.device))
        found = torch.cat([(rows @ rows.T).flatten(), weights.to(rows), rows.new_ones(1)])
        self.now().jacobian = tuple(names), found.to(self.device)

    def arrived(self, key: int, grad: Tensor) -> None:
        """What a pass hands to the network at one output, beside what was sent there; see `Booking`."""
        if (now := self._now) is not None and now.sent.get(key) is grad:
            return
        if is_batched(grad):
            return
        if self._opened_in is not None and now is None and CLOCK.under() is self._opened_in:
            self._is_again = True  # a checkpoint computes the call again, and the pass goes through the first one
        if key in self._ids and not self._is_again:
            now, root = self.now(), self._ids.index(key)
            with torch.no_grad():
                found = now.beyond(key, grad)
            now.strangers[root] = plus(now.strangers.get(root), found)

    def sent_to(self, under: Under, key: int) -> Tensor | None:
        """What its terms sent to an output; see `Booking`."""
        return next((one.sent[key] for one in self.passes if one.under is under and key in one.sent), None)

    def brief(self) -> Brief | None:
        """What of the row is known on the host, in the common case: one pass, from the total; numbers as weights."""
        one = self.passes[0]
        if len(self.passes) > 1 or one.fields is not None or one.common is None or self._weights is None:
            return None
        if (
            one.own
            or one.channels
            or one.strangers
            or one.features
            or one.injected
            or one.jacobian
            or one.under.number_of(self) is None
        ):
            return None
        held, levels = (*one.kept, *one.probed), self.counted.levels
        return Brief(self._weights, held, len(one.probed), tuple(one.pairs), levels, self.balance is not None)

    def numbers(self) -> BriefNumbers:
        """What a brief row is computed from."""
        one = self.passes[0]
        number = one.under.number_of(self)
        assert one.common is not None
        assert number is not None
        levels = [each for _, each in self.levels]
        kept, probed = list(one.kept.values()), list(one.probed.values())
        products = list(one.pairs.values())
        divisors = self.counted.divisors
        return BriefNumbers(self.values, divisors, one.common, number, levels, kept, probed, products, self.balance)

    def written(self) -> None:
        """Its row is in the ring, its samples are ranked; what another pass brings will be written anew."""
        self._now, self.held = None, 0
        for one in self.passes:
            one.by_sample = {}

    def vector(self, numbers: Sequence[float | Tensor]) -> Tensor:
        """Numbers as the books keep them."""
        return vector(numbers, book_dtype(self.device), self.device)

    def wide(self, *scalars: Tensor | None) -> list[Tensor]:
        """The values, and scalars as vectors of one element (0 for none), as the books keep them: one conversion."""
        held = [each for each in scalars if each is not None]
        parts = [each if each.dtype == self.values.dtype else each.to(self.values.dtype) for each in held]
        if any(each.dtype == torch.float64 for each in held) or any(each.device != self.values.device for each in held):
            parts = [each.to(self.values.device, torch.float64) for each in held]
        values = self.values.to(parts[0].dtype) if parts else self.values
        packed = torch.cat([values, *(each.reshape(1) for each in parts)])
        wide = list(torch.split(packed.to(self.device, book_dtype(self.device)), [len(values), *(1,) * len(parts)]))
        rest = iter(wide[1:])
        return [wide[0], *(self.vector((0.0,)) if each is None else next(rest) for each in scalars)]

    def factor(self, one: BackwardPass, weight: Tensor, common: Tensor) -> Tensor:
        """What each value was multiplied by, on its way to the number that backward was called on."""
        factor = weight * common
        if one.own:
            factor = factor + self.vector([one.own.get(number, 0.0) for number in range(len(self.schema.terms))])
        return factor

    def booked(self, under: Under) -> Tensor:
        """What this call's terms add to the number on which a pass began."""
        found = torch.zeros((), dtype=book_dtype(self.device), device=self.device)
        with torch.no_grad():
            for one in self.passes:
                if one.under is under:
                    value, common = self.wide(one.common)
                    factor = self.factor(one, self.used(), common)
                    found = found + torch.where(factor == 0, 0.0, factor * value).sum()
        return found
