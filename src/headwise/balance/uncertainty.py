"""Weights from how uncertain each term is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from headwise.attribution.ledger.weighing.rule import OUTPUTS, StepGram, finite


class Uncertainty:
    """Learns a log-variance s_t for each term: ``total = sum_t exp(-s_t) w_t L_t + s_t``.

    Each step goes down that sum's gradient in s, ``s_t <- s_t - rate * (1 - exp(-s_t) w_t L_t)``, and the terms are
    multiplied by ``exp(-s_t)``; where it settles, that is ``1 / (w_t L_t)``. The paper's factor of 1/2 is in the rate.

    Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics,
    CVPR 2018, equation 10. Differs: s moves by its own rate and not by the optimizer, so that it has no weight decay,
    no momentum, and does not join the total; a step on s is at most 0.1, and a term that sends nothing in a step (no
    objects) learns nothing in it. A learned weight in a term's declaration
    (``weight=lambda: torch.exp(-s)``) is the other way, where s is a parameter like all others.

    It misleads where a value can reach 0 or below: the weight grows without bound as the term is learned, and then
    noise trains. It looks at values alone; gradients may still differ by any factor.

    Args:
        rate: Of a step on s.

    Raises:
        ValueError: The rate is no positive number.
    """

    MOST = 0.1
    at = OUTPUTS

    def __init__(self, *, rate: float = 0.01) -> None:
        self.rate = finite(rate, "balance.Uncertainty: rate", positive=True)
        self._log_variance: Tensor | None = None

    def check(self, terms: Sequence[str]) -> None:
        """Fits any terms."""

    def weights(self, step: int, gram: StepGram) -> Tensor:
        """What the declared weights are multiplied by; see `Rule`."""
        parts = gram.values * gram.weights.to(gram.values)
        s = torch.zeros_like(parts) if self._log_variance is None else self._log_variance.to(parts)
        slope = (1 - torch.exp(-s) * parts).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        heard = gram.norms > 0  # a batch without objects says nothing of how uncertain they are
        self._log_variance = s - gram.since * (self.rate * slope).clamp(-self.MOST, self.MOST) * heard
        return torch.exp(-self._log_variance)

    def state_dict(self) -> dict[str, Any]:
        """The log-variances."""
        return {"log_variance": None if self._log_variance is None else self._log_variance.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        found = state["log_variance"]
        self._log_variance = None if found is None else found.clone()
