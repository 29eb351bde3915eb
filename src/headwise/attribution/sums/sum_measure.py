"""The passes behind `check_sum`: fresh forward passes from one state and one draw, in either precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attribution.gram import Gram, Where
from headwise.attribution.jacobians.grouping import chosen_parameters
from headwise.attribution.jacobians.held import call_with, same_draw, without_reducer
from headwise.attribution.sums.precision import in_float64, widened_state
from headwise.attribution.sums.suspects import Suspects, Watch, captured_tensors
from headwise.attribution.tracing.named import Losses, NamedLoss, named_losses

LIMITS: Mapping[str, float] = {"float64": 1e-10, "float32": 1e-5, "narrow": 3e-2}
"""What the statistic may reach, by precision."""

# At the limit of 1e-5 for float32, differences below 1e-6 of the norm over all parameters count as rounding.
FLOOR = 0.1

Gradients = dict[str, Tensor]
Total = Callable[[Any], Tensor]


@dataclass(frozen=True)
class FirstPass:
    """What one watched forward pass showed.

    Attributes:
        losses: The losses, with their graphs.
        suspects: What was called where.
        left_off: Whether the closure left gradients switched off.
        edited: The captured tensors that were written to.
    """

    losses: tuple[NamedLoss, ...]
    suspects: Suspects
    left_off: bool
    edited: tuple[str, ...]


@dataclass
class Passes:
    """Gradients of fresh forward passes; see the module.

    Attributes:
        closure: Makes the forward pass and returns the losses.
        model: The network.
        total: From what the closure returned to the scalar trained on, or None for the sum.
        names: Names of the losses of a tuple or list.
        wide: Compute in float64.
        values: The losses' values in every pass so far.
    """

    closure: Callable[[], Losses]
    model: nn.Module
    total: Total | None
    names: Sequence[str] | None
    wide: bool = False
    values: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Prepare the leaves."""
        chosen = chosen_parameters(self.model, None)
        self.state: Mapping[str, Tensor] = widened_state(self.model) if self.wide else {}
        self.leaves = {name: self.state.get(name, parameter) for name, parameter in chosen.items()}

    @contextmanager
    def _held(self) -> Iterator[None]:
        precision = in_float64() if self.wide else nullcontext()
        with same_draw(self.model), without_reducer(self.model), torch.enable_grad(), precision:
            yield

    def _losses(self) -> tuple[Any, tuple[NamedLoss, ...]]:
        raw = self.closure()
        named = named_losses(raw, self.names)
        self.values.append({loss.name: float(loss.value.detach()) for loss in named if loss.value is not None})
        return raw, named

    def first(self) -> FirstPass:
        """One forward pass, watched."""
        captured = captured_tensors(self.closure, self.model)
        versions = {name: tensor._version for name, tensor in captured.items()}
        watch = Watch()
        with self._held():
            with watch:
                _, named = call_with(self.model, self._losses, self.state)
            left_off = not torch.is_grad_enabled()
        edited = tuple(name for name, tensor in captured.items() if tensor._version != versions[name])
        return FirstPass(named, watch.suspects, left_off, edited)

    def of_sum(self) -> Gradients:
        """The gradient of the sum of the losses."""
        return self._gradient(lambda _, named: [loss.value for loss in named if loss.has_graph])

    def of_total(self) -> Gradients:
        """The gradient of what the training code calls `backward` on."""
        total = self.total
        return self.of_sum() if total is None else self._gradient(lambda raw, _: [total(raw)])

    def of_loss(self, name: str) -> Gradients:
        """The gradient of one loss."""
        return self._gradient(lambda _, named: [loss.value for loss in named if loss.name == name])

    def _gradient(self, pick: Callable[[Any, tuple[NamedLoss, ...]], list[Any]]) -> Gradients:
        """The gradient of what is picked from a fresh pass; a checkpoint runs again under the same replacements."""

        def both_passes() -> tuple[Tensor | None, ...]:
            values = [value for value in pick(*self._losses()) if isinstance(value, Tensor) and value.requires_grad]
            leaves = list(self.leaves.values())
            return torch.autograd.grad(values, leaves, allow_unused=True) if values else (None,) * len(leaves)

        with self._held():
            grads = call_with(self.model, both_passes, self.state)
        return {name: grad for name, grad in zip(self.leaves, grads, strict=True) if grad is not None}

    def drift(self) -> dict[str, tuple[float, float]]:
        """The losses whose value was not the same in every pass, with two of their values."""
        found = {}
        for name, value in self.values[0].items():
            for other in self.values[1:]:
                if abs(other.get(name, value) - value) > 1e-6 * max(abs(value), 1e-30):
                    found[name] = (value, other[name])
        return found


def statistics(total: Gradients, rows: Sequence[Gradients]) -> dict[str, float]:
    """|sum_k g_k - g| / max(sum_k |g_k|, a tenth of its norm over all parameters), by parameter.

    Without the floor, a parameter whose gradient is rounding noise (a bias before BatchNorm) would always fail. The
    difference is that of tensors: inner products would tell it to half the digits only.

    Args:
        total: g.
        rows: The g_k.

    Returns:
        One number per parameter that has a gradient.
    """
    names = {name: None for gradients in (total, *rows) for name in gradients}
    scale, difference = {}, {}
    for name in names:
        parts = [row[name].double() for row in rows if name in row]
        scale[name] = sum(float(part.norm()) for part in parts)
        residual = -total[name].double() if name in total else torch.zeros_like(parts[0])
        for part in parts:
            residual = residual + part
        difference[name] = float(residual.norm())
    overall = max(sum(each**2 for each in scale.values()) ** 0.5, sum(each**2 for each in difference.values()) ** 0.5)
    least = max(FLOOR * overall, 1e-300)
    return {name: difference[name] / max(scale[name], least) for name in names}


def gram_of(total: Gradients, rows: Mapping[str, Gradients]) -> Gram:
    """The table of losses at parameters, and of the total as it arrived.

    Args:
        total: The gradient of the total.
        rows: The gradients of the losses.

    Returns:
        The table, without the losses' values.
    """
    sites = tuple({name: None for gradients in (total, *rows.values()) for name in gradients})
    products = torch.zeros(len(sites), len(rows) + 1, len(rows) + 1, dtype=torch.float64)
    for site, name in enumerate(sites):
        here = [(k, row[name].double()) for k, row in enumerate((*rows.values(), total)) if name in row]
        for j, one in here:
            for k, other in here:
                products[site, j, k] = (one * other).sum() if j <= k else products[site, k, j]
    unknown, finite = torch.full((len(rows),), math.nan, dtype=torch.float64), products.diagonal(dim1=1, dim2=2)
    return Gram(tuple(rows), sites, products, finite[:, :-1].isfinite(), unknown, unknown, Where("parameter"))
