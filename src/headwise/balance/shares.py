"""Shares of the gradient that terms are to have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from headwise.attribution.ledger.weighing.rule import OUTPUTS, StepGram, finite
from headwise.criterion.sums.vectors import vector


class Shares:
    """Weighs terms so that each has its share of the gradient norm at a place.

    With u_t the norm of term t's gradient at its declared weight, and mean its bias-corrected exponential average::

        f_t = share_t / sum share * sum_s mean(u_s) / mean(u_t)

    so that ``f_t u_t`` is proportional to the share, and the sum of the norms is that of the declared weights. Sums are
    over the terms with a share that have sent something yet; the others keep their weight. This is the balancer of
    EnCodec (Défossez et al., High Fidelity Neural Audio Compression, 2022, section 3.4, equation 6), whose gradient at
    one shared output has the same direction; it takes the norms of the step before instead of a further pass, and
    keeps the size of the gradient instead of setting it to 1.

    It misleads where a norm is not a wish. Norms fall as a term is learned: a term that is done is turned up until its
    noise pulls as hard as the others. At outputs, norms grow with the number of elements and say nothing of what
    reaches the parameters (see "Energy and forces" in docs/books.md); balance at a shared feature there. Terms of one
    share may still cancel each other.

    Args:
        shares: By term, any positive numbers; of terms that are not named the weight stays. None: equal shares for all.
        at: "outputs", or the name of a `Junction` whose heads are named after the terms or their outputs.
        decay: Of the average, a step, in [0, 1). Steps in which a term sends nothing, or something that is not finite,
            do not count for it.

    Raises:
        ValueError: A share is not positive, or the decay is not in [0, 1).
    """

    def __init__(self, shares: Mapping[str, float] | None = None, *, at: str = OUTPUTS, decay: float = 0.9) -> None:
        if shares is not None and not (isinstance(shares, Mapping) and shares):
            raise ValueError(f"balance.Shares: a dict of shares by term, of at least one; found {shares!r}")
        given = None
        if shares is not None:
            told = "balance.Shares: the share of"
            given = {name: float(finite(share, f"{told} {name!r}", positive=True)) for name, share in shares.items()}
        if not 0 <= finite(decay, "balance.Shares: decay") < 1:
            raise ValueError(f"balance.Shares: decay is in [0, 1); found {decay}")
        self.shares, self.at, self.decay = given, at, decay
        self._sums: Tensor | None = None  # (2, T): of norms, and of what each counted; the newest counts 1

    def check(self, terms: Sequence[str]) -> None:
        """Raises a ValueError where a share names no term."""
        unknown = [name for name in self.shares or () if name not in terms]
        if unknown:
            raise ValueError(f"balance.Shares: no term {unknown[0]!r}. The terms are: {', '.join(terms)}")

    def weights(self, step: int, gram: StepGram) -> Tensor:
        """What the declared weights are multiplied by; see `Rule`."""
        valid = gram.norms.nan_to_num(nan=0.0, posinf=0.0)
        sums = valid.new_zeros(2, len(valid)) if self._sums is None else self._sums.to(valid)
        # The norm, and whether there is one: v^1, and v^0 with 0^0 = 0.
        new = valid ** vector((1.0, _NEXT_TO_0), valid.dtype, valid.device).unsqueeze(1)
        # Each term counts the steps in which it was heard: its first one whole, whenever that comes.
        self._sums = sums.lerp(new.add(sums, alpha=self.decay**gram.since), new[1])
        return self._factors(gram.terms, self._sums)

    def _factors(self, terms: tuple[str, ...], sums: Tensor) -> Tensor:
        """NaN, which leaves a weight as it is, for a term that was never heard, and for one without a share."""
        found = sums / sums[1]  # the mean, and 1
        given = dict.fromkeys(terms, 1.0) if self.shares is None else self.shares
        if set(given.values()) != {1.0} or len(given) < len(terms):
            share = [given.get(name, math.nan) for name in terms]
            there = [1.0 if name in given else math.nan for name in terms]
            found = found * vector([*there, *share], sums.dtype, sums.device).view(2, -1)
        found = found / found.nansum(1, keepdim=True)
        return found[1] / found[0]

    def state_dict(self) -> dict[str, Any]:
        """The averages."""
        return {"sums": None if self._sums is None else self._sums.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        self._sums = None if state["sums"] is None else state["sums"].clone()


_NEXT_TO_0 = 1e-30
