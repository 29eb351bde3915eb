"""GradNorm: terms that learn slowly are turned up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from headwise.attribution.ledger.weighing.rule import OUTPUTS, StepGram, finite


class GradNorm:
    """Moves weights towards gradient norms that grow with how slowly each term learns.

    With u_t the gradient norm at the declared weight, f_t the factor, L_t the value and L_t(0) the first one::

        G_t = f_t u_t        r_t = (L_t / L_t(0)) / mean_s (L_s / L_s(0))
        f_t <- f_t - rate * sign(G_t - mean(G) r_t^alpha) * u_t / mean(u)
        f   <- T * f / sum f

    Chen et al., GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks, ICML 2018,
    algorithm 1. Differs: the step on f is relative to the mean norm, so that the rate has no unit, factors stay above
    0.001, and norms are those of the step before, at outputs or at a shared feature, not at the last shared layer's
    weight. Means are over the terms that send something in the step and have a positive value; the others do not move.

    It misleads where values do not say how much is left to learn: a term that starts near its floor (label noise) looks
    slow for ever, one that starts at an accident of initialization looks fast.

    Args:
        alpha: How strongly slow terms are turned up; 0: equal norms. The paper uses 0.12 to 1.5.
        rate: Of a step on the factors.
        at: "outputs", or the name of a `Junction`.

    Raises:
        ValueError: The rate is no positive number, or alpha no number.
    """

    LEAST = 1e-3

    def __init__(self, alpha: float = 1.5, *, rate: float = 0.025, at: str = OUTPUTS) -> None:
        self.alpha = finite(alpha, "balance.GradNorm: alpha")
        self.rate, self.at = finite(rate, "balance.GradNorm: rate", positive=True), at
        self._factor: Tensor | None = None
        self._first: Tensor | None = None

    def check(self, terms: Sequence[str]) -> None:
        """Fits any terms."""

    def weights(self, step: int, gram: StepGram) -> Tensor:
        """What the declared weights are multiplied by; see `Rule`."""
        norms, values = gram.norms, gram.values.to(gram.norms)
        factor = torch.ones_like(norms) if self._factor is None else self._factor.to(norms)
        # What sends nothing in this step, or something that is not finite, or has no positive value, teaches nothing.
        heard = (values > 0) & values.isfinite() & (norms > 0) & norms.isfinite()
        first = torch.zeros_like(norms) if self._first is None else self._first.to(norms)
        self._first = torch.where((first > 0) | ~heard, first, values)
        left = values / self._first
        sent = factor * norms
        wanted = _mean(sent, heard) * (left / _mean(left, heard)) ** self.alpha
        step_size = self.rate * gram.since * norms / _mean(norms, heard)
        moved = (factor - step_size * torch.sign(sent - wanted)).clamp(min=self.LEAST)
        moved = torch.where(heard, moved, factor)
        self._factor = moved * (len(moved) / moved.sum())
        return self._factor

    def state_dict(self) -> dict[str, Any]:
        """The factors, and the values of the first step."""
        kept = {"factor": self._factor, "first": self._first}
        return {name: None if each is None else each.cpu() for name, each in kept.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        self._factor, self._first = (
            None if state[name] is None else state[name].clone() for name in ("factor", "first")
        )


def _mean(numbers: Tensor, among: Tensor) -> Tensor:
    """Of those among them."""
    return torch.where(among, numbers, 0).sum() / among.sum()
