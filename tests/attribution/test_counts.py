"""What divided each term, in the books: as the breakdown has it, over levels, passes and micro-batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import headwise as hw
from headwise import losses


def declared() -> hw.Criterion:
    return hw.Criterion(
        [
            hw.Term("plain", losses.squared_error, output="y", target="t"),
            hw.Term("masked", losses.absolute_error, output="y", target="t", mask="m"),
            hw.Term("levels", losses.squared_error, output="maps[*]", target="t", levels=hw.Levels([1.0, 0.5])),
        ]
    )


def sample(num: int, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    draw = torch.Generator().manual_seed(seed)
    names = ["y", "a", "b"]
    y, a, b = (torch.randn(num, 3, generator=draw).requires_grad_() for _ in names)
    targets = {"t": torch.randn(num, 3, generator=draw), "m": torch.rand(num, 3, generator=draw) > 0.5}
    return {"y": y, "maps": [a, b]}, targets


def counts(books: hw.attribution.Books) -> dict[str, float | None]:
    return {name: term.count for name, term in books.items()}


@pytest.mark.parametrize("way", ["total", "entries"])
def test_counts_are_those_of_the_breakdown(way: str) -> None:
    criterion = declared()
    outputs, targets = sample(4)
    with hw.Ledger(criterion) as ledger:
        breakdown = criterion(outputs, targets)
        if way == "total":
            breakdown.total.backward()
        for entry in breakdown.values() if way == "entries" else ():
            entry.weighted.backward(retain_graph=True)
        wanted = {name: float(entry.ratio.denominator.sum()) for name, entry in breakdown.items()}
        assert counts(ledger.read()) == wanted
    assert wanted == {"plain": 12, "masked": float(targets["m"].sum()), "levels": 24}


def test_an_empty_mask_counts_nothing() -> None:
    criterion = declared()
    outputs, targets = sample(4)
    targets["m"] = torch.zeros_like(targets["m"])
    with hw.Ledger(criterion) as ledger:
        criterion(outputs, targets).total.backward()
        assert ledger.read()["masked"].count == 0


@pytest.mark.parametrize("pooled", [False, True])
def test_counts_of_micro_batches_add_up(pooled: bool) -> None:
    criterion = declared()
    parts = [sample(4), sample(2, seed=1)]
    denominators = hw.pool_denominators(criterion, [targets for _, targets in parts]) if pooled else None
    with hw.Ledger(criterion, micro_batches=2) as ledger:
        for outputs, targets in parts:
            criterion(outputs, targets, denominators).total.backward()
        found = counts(ledger.read())
    masked = float(sum(targets["m"].sum() for _, targets in parts))
    assert found == pytest.approx({"plain": 18, "masked": masked, "levels": 36})
