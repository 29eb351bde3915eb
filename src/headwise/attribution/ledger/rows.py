"""The rows of calls whose backward passes are over: brief ones together, so that few launches serve them all."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headwise.attribution.ledger.record import BriefNumbers, CallRecord
from headwise.attribution.ledger.row import row_of
from headwise.attribution.ledger.schema import Brief, Schema
from headwise.criterion.junctions.stats import book_dtype, products_of, squares


@dataclass(frozen=True)
class RowBatch:
    """Rows that were computed together.

    Args:
        schema: What their columns mean.
        places: Their places in the ring.
        columns: (rows, width), on the device; less wide for brief rows.
        briefs: Per row what belongs to a brief one, or None.
    """

    schema: Schema
    places: tuple[int, ...]
    columns: Tensor
    briefs: tuple[Brief | None, ...]


@torch.no_grad()
def rows_of(records: Iterable[CallRecord]) -> list[RowBatch]:
    """Computes the rows of calls.

    Args:
        records: The calls, each with a place.

    Returns:
        Their rows, each call in one of them.
    """
    found: list[RowBatch] = []
    together: dict[Hashable, list[tuple[CallRecord, Brief, BriefNumbers]]] = {}
    for record in records:
        assert record.place is not None
        brief = record.brief()
        if brief is None:
            row = row_of(record)  # from here on it is known which columns it has
            found.append(RowBatch(record.schema, (record.place,), row[None], (None,)))
        else:
            numbers = record.numbers()
            sizes = len(brief.covered), brief.num_probed, len(brief.compared), brief.counted, brief.balanced
            key = record.schema, numbers.values.device, sizes
            together.setdefault(key, []).append((record, brief, numbers))
    for same in together.values():
        places = tuple(record.place for record, _, _ in same if record.place is not None)
        schema, columns = same[0][0].schema, _columns([numbers for _, _, numbers in same])
        in_order = [columns[name] for name, size in same[0][1].sizes(schema).items() if size]
        found.append(RowBatch(schema, places, torch.cat(in_order, dim=1), tuple(brief for _, brief, _ in same)))
    return found


def _columns(rows: Sequence[BriefNumbers]) -> dict[str, Tensor]:
    """The columns of brief rows by what they hold, (rows, size) each; see `Brief.sizes`.

    Args:
        rows: Of one schema, as many gradients of each kind in each.

    Returns:
        Those that there are.
    """
    device = rows[0].values.device
    dtype, num = book_dtype(device), len(rows)

    def wide(numbers: Sequence[Tensor]) -> Tensor:
        alike = len({(each.dtype, each.device) for each in numbers}) == 1
        parts = numbers if alike else [each.to(device, dtype) for each in numbers]
        return torch.stack(list(parts)).to(device, dtype).view(num, -1)

    found = {name: wide([getattr(each, name) for each in rows]) for name in ("values", "divisors", "common", "number")}
    if rows[0].levels:
        levels = torch.cat([level for each in rows for level in each.levels])
        found["levels"] = levels.to(device, dtype).view(num, -1)
    kept, probed = [grad for each in rows for grad in each.kept], [probe for each in rows for probe in each.probed]
    if kept or probed:
        square, finite = squares(kept, probed)
        small, large = torch.split(square, [len(kept), len(probed)])
        found |= {"small": small.view(num, len(kept) // num), "large": large.view(num, len(probed) // num)}
        found |= {} if finite is None else {"finite": finite[len(kept) :].view(num, -1)}
    if rows[0].products:
        products = products_of([product for each in rows for product in each.products])
        found["products"] = products.to(device, dtype).view(num, -1)
    if rows[0].balance is not None:
        found["balance"] = wide([each.balance for each in rows if each.balance is not None])
    return found
