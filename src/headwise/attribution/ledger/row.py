"""The row of a call in full: the numbers of its passes, and several passes over one call added up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headwise.attribution.ledger.backward_pass import BackwardPass, Fields
from headwise.attribution.ledger.passes.injected import by_name, merged
from headwise.attribution.ledger.record import CallRecord
from headwise.attribution.ledger.schema import Schema
from headwise.criterion.junctions.stats import products_of, squares


@torch.no_grad()
def row_of(record: CallRecord) -> Tensor:
    """The row of a call: of the passes that train, or of looks where there are no others.

    Args:
        record: The call; its schema learns which columns the passes brought.

    Returns:
        (width,).
    """
    for each in record.passes:
        if each.fields is None:
            each.fields = _fields(record, each)
    found = [each.fields for each in record.trained if each.fields is not None]
    _widen(record)
    return record.schema.write(found[0] if len(found) == 1 else _merged(record.schema, found))


def _widen(record: CallRecord) -> None:
    """Finds out which columns the passes brought beyond those of the criterion."""
    booked = dict.fromkeys(each.name for one in record.trained for each in one.injected)
    jacobians = [one.jacobian[0] for one in record.trained if one.jacobian is not None]
    record.schema = record.schema.wider(booked, jacobians[-1] if jacobians else ())


def _fields(record: CallRecord, one: BackwardPass) -> Fields:
    """The numbers of one pass."""
    number = one.under.number_of(record)
    weight = record.used()
    value, common, begun = record.wide(one.common, number)
    factor = record.factor(one, weight, common)
    through = [1.0 if one.common is not None or n in one.own else 0.0 for n in range(len(record.schema.terms))]
    fields = {
        "weight": weight,
        "value": value,
        "count": record.counted.by_term().to(value),
        "factor": factor,
        "factored": factor * value,
        "trained": record.vector(through),
        "common": common,
        "exact": record.vector((float(one.common is not None and not one.own),)),
        "calls": record.vector((1.0,)),
        "number": begun,
        "numbers": record.vector((float(number is not None),)),
        **_at_levels(record, factor),
        **_at_sites(record, one),
        **_rare(record, one, value),
    }
    one.kept, one.norms, one.pairs = {}, {}, {}
    return fields


def _at_levels(record: CallRecord, factor: Tensor) -> Fields:
    if not record.levels:
        return {}
    found = [(number, each.to(factor)) for number, each in record.levels]
    return {
        "levels": torch.cat([each * factor[number] for number, each in found]),
        "level values": torch.cat([each for _, each in found]),
    }


def _rare(record: CallRecord, one: BackwardPass, like: Tensor) -> Fields:
    """What most passes do not bring."""
    fields = {name: each.to(like) for name, each in one.features.items()}
    fields |= {f"booked {name}": columns.to(like) for name, columns in by_name(one.injected).items()}
    if one.given is not None:
        fields |= {"given": record.vector((one.given,)), "givens": record.vector((1.0,))}
    if one.jacobian is not None:
        fields["jacobian"] = one.jacobian[1].to(like)
    if one.strangers:
        fields["unbooked"] = record.vector([one.strangers.get(root, 0.0) for root in range(len(record.schema.roots))])
    if one.channels:
        squares_of = [
            one.channels[number].to(like) if number in one.channels else like.new_zeros(each.num_channels)
            for number, each in enumerate(record.schema.readings)
        ]
        fields["channels"] = torch.cat(squares_of)
    return fields


def _at_sites(record: CallRecord, one: BackwardPass) -> Fields:
    found: Fields = {}
    schema = record.schema
    if one.kept or one.probed:
        square_of, finite = squares(list(one.kept.values()), list(one.probed.values()))
        held = (*one.kept, *one.probed)
        if held == schema.covered:
            found["squares"] = square_of
            found |= {} if finite is None else {"finite": finite}
        else:
            place = {key: number for number, key in enumerate(held)}
            found["squares"] = record.vector([square_of[place[k]] if k in place else 0.0 for k in schema.covered])
            if finite is not None:
                found["finite"] = record.vector([finite[place[k]] if k in place else 0.0 for k in schema.covered])
    if one.pairs:
        known = dict(zip(one.pairs, products_of(list(one.pairs.values())).unbind(), strict=True))
        found["products"] = record.vector([known.get(pair, 0.0) for pair in schema.compared])
        found["known"] = record.vector([float(p in one.pairs) for p in schema.compared])
    return found


def _merged(schema: Schema, found: Sequence[Fields]) -> Fields:
    """Several passes over one call: gradients add up, so that norms grow with the sum of factors."""
    names = {name for each in found for name in each}
    total = {name: torch.stack([each[name] for each in found if name in each]).sum(0) for name in names}
    for name in {"weight", "value", "count", "level values"} & names:
        total[name] = found[0][name]
    for name in names:
        if name.startswith("booked "):
            total[name] = merged([each[name] for each in found if name in each])
    for name in ("trained", "known", "calls"):
        if name in total:
            total[name] = total[name].clamp(max=1)
    total["exact"] = torch.stack([each["exact"] for each in found]).amin(0)
    total["numbers"] = torch.stack([each["numbers"] for each in found]).amin(0)
    squared = torch.stack([each["factor"].square() for each in found]).sum(0)
    grown = torch.where(squared > 0, total["factor"].square() / torch.where(squared > 0, squared, 1.0), 1.0)
    term = [reading.term for reading in schema.readings]
    if "squares" in total:
        total["squares"] = total["squares"] * grown[[term[reading] for _, reading in schema.covered]]
    if "products" in total:
        left, right = ([term[pair[side]] for pair in schema.compared] for side in (1, 2))
        total["products"] = total["products"] * (grown[left] * grown[right]).sqrt()
    return total
