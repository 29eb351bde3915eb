"""TorchJD's scalarizers as rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attribution.ledger.weighing.rule import OUTPUTS, StepGram, finite


class Scalarizer:
    """A function of the terms' values, such as those of `torchjd.scalarization`, as a rule.

    The terms are multiplied by the derivative of the scalar in each of them, taken at the values of the step before::

        f_t = d scalarizer(w L) / d (w_t L_t)

    For a scalarizer that is no sum (a geometric mean, a smooth maximum) this is its gradient at the last step's values,
    not at this one's; call it on ``breakdown[name].value`` yourself where that matters. Parameters of a scalarizer
    (`UW`, `IMTLL`) are learned here, by gradient descent of `rate`; `DWA` wants its own ``step()`` an epoch, and `FAMO`
    its own ``update()``: call them on the object. Each has its paper in TorchJD's documentation.

    It misleads as values do: they have units, and gradients of equal values may differ by any factor.

    Args:
        function: From (T,) values to a 0-d tensor; on the values' device.
        rate: Of a step on the function's parameters.

    Raises:
        ValueError: It is no function, or the rate no positive number.
    """

    at = OUTPUTS

    def __init__(self, function: Callable[[Tensor], Tensor], *, rate: float = 0.01) -> None:
        if not callable(function) or isinstance(function, type):
            found = function.__name__ if isinstance(function, type) else repr(function)
            raise ValueError(f"balance.Scalarizer: a function from (T,) values to a 0-d tensor; found {found}")
        self.function, self.rate = function, finite(rate, "balance.Scalarizer: rate", positive=True)

    def check(self, terms: Sequence[str]) -> None:
        """Fits any terms; the function refuses a number of them that it does not know."""

    def weights(self, step: int, gram: StepGram) -> Tensor:
        """What the declared weights are multiplied by; see `Rule`."""
        learned = list(self.function.parameters()) if isinstance(self.function, nn.Module) else []
        with torch.enable_grad():
            values = (gram.values * gram.weights.to(gram.values)).to(torch.float32).requires_grad_()
            found = self.function(values)
            if not isinstance(found, Tensor) or found.numel() != 1 or not found.requires_grad:
                raise ValueError(
                    "balance.Scalarizer: the function returns a 0-d tensor that was computed from the values; found "
                    f"{str(found)[:60]}"
                )
            slope, *slopes = torch.autograd.grad(found, [values, *learned], materialize_grads=True)
        with torch.no_grad():
            for parameter, each in zip(learned, slopes, strict=True):
                parameter.sub_(each.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0), alpha=self.rate * gram.since)
        return slope

    def state_dict(self) -> dict[str, Any]:
        """That of the function, if it has one; what it keeps elsewhere (the averages of `DWA`) is not in it."""
        state = self.function.state_dict() if isinstance(self.function, nn.Module) else {}
        return {name: each.cpu().clone() for name, each in state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        if isinstance(self.function, nn.Module):
            self.function.load_state_dict(dict(state))
