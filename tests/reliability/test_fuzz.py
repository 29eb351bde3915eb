"""Random declarations, 500 of each kind; HEADWISE_FUZZ=50000 draws as many, and HEADWISE_FUZZ_SEED others."""

from __future__ import annotations

import os
import warnings

import pytest

from tests.reliability import fuzz

CASES, FIRST, PARTS = int(os.environ.get("HEADWISE_FUZZ", "500")), int(os.environ.get("HEADWISE_FUZZ_SEED", "0")), 4


@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("check", [fuzz.check_valid, fuzz.check_invalid], ids=["valid", "invalid"])
def test_random_declarations(check, part):
    """Valid ones are right to the tolerance of their dtype, books included; of the others none passes in silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {seed: told for seed in range(FIRST + part, FIRST + CASES, PARTS) if (told := check(seed)) is not None}
    assert not found, f"{len(found)} of {CASES // PARTS} cases; by seed: {dict(list(found.items())[:5])}"


def test_a_wrong_oracle_is_seen(monkeypatch):
    """The comparison can fail: a count that is off by a millionth."""
    right = fuzz.differ
    monkeypatch.setattr(fuzz, "differ", lambda found, wanted, *rest: right(found, wanted * (1 + 1e-6), *rest))
    found = [fuzz.check_valid(seed) for seed in range(20)]
    assert sum(each is not None for each in found) > 10
