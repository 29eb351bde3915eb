"""One backward pass beside one call: what each loss sends, what is left over, and what arrives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from headwise.attribution.apart.sums.dissect import Anatomy, Candidate, Direct
from headwise.attribution.apart.words import without_number
from headwise.attribution.foreign.calls import (
    REST,
    Arrivals,
    ForeignCall,
    ForeignPass,
    GraphEnds,
    Key,
    Unit,
    gradients,
    mean_of,
    mixed,
    wide,
    within,
)
from headwise.attribution.foreign.summands import NamedSummand, summands
from headwise.attribution.ledger.passes.injected import BOOKED, LISTENERS, Injection, by_name
from headwise.attribution.passes import inputs_of_pass
from headwise.graph import Edge, used_below


class Taking:
    """Takes a pass down while it runs.

    Args:
        call: The call.
        anatomy: What the number that backward was called on holds of it.
        number: That number, if it is of this call alone.
        keeps_rest: Whether what belongs to no loss is booked in this call, with losses inside of the network.
        compares: Whether losses that are not in the number may be summands of it that were computed twice.
    """

    def __init__(
        self, call: ForeignCall, anatomy: Anatomy, number: Tensor | None, keeps_rest: bool, compares: bool = False
    ) -> None:
        self.call = call
        self._values: dict[Key, Tensor] = {}
        self._injected: list[Injection] = []
        self._listen = self._injected.append
        rest = dict(anatomy.rest) if keeps_rest else {}
        units = [self._direct(each) for each in anatomy.direct] if not call.names_rest else []
        if call.names_rest or (rest and not (units or anatomy.copies or len(rest) == 1)):
            direct = anatomy.direct if call.names_rest else ()
            # The sum of a list is called as its elements are together.
            own = {name for name, parts in anatomy.groups.items() if {without_number(each) for each in parts} == {name}}
            taken = {each.name for each in call.losses} - own
            units += [self._summed(each) for each in summands(direct, rest, call.outputs, taken)]
            units += [self._compared(each) for each in anatomy.absent if compares and each.tensor.numel() == 1]
            rest = {}
        units += self._copies(anatomy)
        if rest:
            units.append(Unit(REST, tuple(rest.items())))
            units += [self._compared(each) for each in anatomy.absent if each.tensor.numel() == 1]
        for each in anatomy.absent:
            # Variables of a script may be left over from the step before: they are no terms of this one.
            if each.tensor.numel() == 1 and not call.names_rest:
                self._values["absent", each.name] = mean_of(each.tensor)
        if number is not None:
            self._values["number",] = number
        self._total(anatomy)
        places = call.outputs([edge for unit in units for edge, _ in unit.edges])
        self._units, self._paths = units, tuple(places)
        self._names = tuple(each.name for each in units)
        self._copied = tuple(tuple(loss.name for loss in each.losses) for each in anatomy.copies)
        with GraphEnds(places) as outputs:
            booked = self._book(units, places)
        below = used_below(list(places.values())) if outputs.nested else {}
        together = mixed(units, places, below) if below else {}
        if together:
            booked |= _whole(units, together)
        # A pass that is limited to some leaves comes by no other outputs than theirs, and nothing is missing there.
        heard, sent = (places, booked) if inputs_of_pass() is None else ({}, {})
        self._arrivals = Arrivals(heard, sent, below, together, self._values)
        if keeps_rest:
            LISTENERS.append(self._listen)

    def over(self) -> ForeignPass:
        """Ends the taking.

        Returns:
            The numbers.
        """
        self._arrivals.close()
        if self._listen in LISTENERS:
            LISTENERS.remove(self._listen)
        for name, columns in by_name(self._injected).items():
            self._values |= {("booked", name, what): each for what, each in zip(BOOKED, columns, strict=True)}
        scaled = frozenset(each.name for each in self._units if each.factor is not None or not each.trains)
        self._units = []
        device = next(iter(self._values.values())).device
        numbers = torch.stack([wide(each.to(device)) for each in self._values.values()])
        return ForeignPass(self._names, scaled, self._copied, self._paths, tuple(self._values), numbers)

    def _direct(self, part: Direct) -> Unit:
        loss, derivative = part.loss, part.derivative
        tensor = loss.tensor.detach()
        self._values["value", loss.name] = mean_of(tensor)
        self._values["weighted", loss.name] = (wide(derivative) * wide(tensor)).sum()
        self._values["factor", loss.name] = wide(derivative).sum()
        if tensor.numel() == 1:
            return Unit(loss.name, ((loss.edge, torch.ones_like(derivative)),), derivative)
        return Unit(loss.name, ((loss.edge, derivative),))

    def _summed(self, summand: NamedSummand) -> Unit:
        """A summand of code that named what it liked."""
        name, pieces = summand.name, summand.pieces
        self._values["factor", name] = torch.stack([_weight(wide(each.derivative)) for each in pieces]).mean()
        if all(each.value is not None for each in pieces):
            values = [(each.derivative, each.value) for each in pieces if each.value is not None]
            self._values["value", name] = torch.stack([mean_of(value) for _, value in values]).sum()
            products = [(wide(slope) * wide(value)).sum() for slope, value in values]
            self._values["weighted", name] = torch.stack(products).sum()
        if len(pieces) == 1 and pieces[0].derivative.numel() == 1:
            (one,) = pieces
            return Unit(name, ((one.edge, torch.ones_like(one.derivative)),), one.derivative)
        return Unit(name, tuple((each.edge, each.derivative) for each in pieces))

    def _copies(self, anatomy: Anatomy) -> list[Unit]:
        for group, each in enumerate(anatomy.copies):
            self._values["square", group] = each.square
            for row in range(len(each.losses)):
                self._values["arriving", group, row] = each.arriving[row]
                for column in range(len(each.losses)):
                    self._values["product", group, row, column] = each.products[row, column]
        return [self._compared(loss) for each in anatomy.copies for loss in each.losses]

    def _compared(self, loss: Candidate) -> Unit:
        """A loss that is not added as it stands: its own gradient, for a weight that is worked out on the host."""
        self._values["value", loss.name] = mean_of(loss.tensor)
        return Unit(loss.name, ((loss.edge, loss.seed),), trains=False)

    def _total(self, anatomy: Anatomy) -> None:
        """How the loop multiplied the total that the call returned, where it returned one."""
        parts = {each.loss.name for each in anatomy.direct} | {
            loss.name for each in anatomy.copies for loss in each.losses
        }
        for name, derivative in anatomy.totals.items():
            # Of losses in one tensor nobody can tell whether the loop means their sum or their mean.
            if derivative.numel() == 1 and (name in anatomy.whole or parts <= set(anatomy.groups.get(name, ()))):
                self._values["common",] = wide(derivative).sum()
                return
        if self.call.scale is not None:
            self._values["common",] = wide(self.call.scale)

    def _book(self, units: Sequence[Unit], places: Mapping[str, Edge]) -> dict[str, Tensor]:
        """Books squares and products at the outputs; returns what all units together send there."""
        sent = [gradients(unit, places) for unit in units]
        booked = [within(grads, self.call.slices.get(unit.name)) for unit, grads in zip(units, sent, strict=True)]
        unread = [unit.name for unit, grads in zip(units, booked, strict=True) if unit.trains and not grads]
        if unread and self.call.unread is not None:
            self.call.unread(unread)
        together: dict[str, Tensor] = {}
        for path in places:
            rows = [number for number, each in enumerate(booked) if path in each]
            if rows:
                flat = torch.stack([wide(booked[number][path]).flatten() for number in rows])
                products = flat @ flat.T
            for a, b in combinations_with_replacement(range(len(rows)), 2):
                self._values["gram", path, units[rows[a]].name, units[rows[b]].name] = products[a, b]
            for unit, grads in zip(units, sent, strict=True):
                if unit.trains and path in grads:
                    part = grads[path] if unit.factor is None else grads[path] * unit.factor
                    together[path] = together[path] + part if path in together else part
        return together


def _weight(derivative: Tensor) -> Tensor:
    """What a summand is multiplied by; 1 where its elements get factors of both signs, so that they have no mean."""
    is_mixed = (derivative > 0).any() & (derivative < 0).any()
    return torch.where(is_mixed, torch.ones_like(derivative.sum()), derivative.sum())


def _whole(units: Sequence[Unit], places: Mapping[str, Edge]) -> dict[str, Tensor]:
    """What all units send to some outputs, by way of other outputs too."""
    edges = [
        (edge, derivative if unit.factor is None else derivative * unit.factor)
        for unit in units
        for edge, derivative in (unit.edges if unit.trains else ())
    ]
    return gradients(Unit(REST, tuple(edges)), places)
