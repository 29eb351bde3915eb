"""Exact rows of the table now and then, inside a training loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from headwise.attribution.gram import TOTAL, Gram, Where
from headwise.attribution.jacobians.grouping import Group, Patterns, chosen_parameters, group_names
from headwise.attribution.jacobians.held import kept_buffers, same_draw
from headwise.attribution.jacobians.jacobian import jacobian, reach_bits, sum_cells, walk_losses
from headwise.attribution.jacobians.jacobian_table import JacobianTable
from headwise.attribution.jacobians.streaming import inner_product, on_gradient, square_norm, stream
from headwise.attribution.tracing.named import Losses, weighted_values
from headwise.closing import Closing
from headwise.refusals import refuse_no_model, refuse_unsafe, wrapped_by_ddp
from headwise.whole import check_whole


@dataclass(frozen=True, eq=False)
class SampledRow:
    """One loss's row, measured at one step.

    Attributes:
        loss: Its name.
        step: The step (call of `step`, from 0) at which it was measured.
        groups: The groups, with their parameters.
        gram: The numbers: the loss and the gradient of the sum at the groups.
    """

    loss: str
    step: int
    groups: Mapping[str, tuple[str, ...]]
    gram: Gram

    @property
    def norm(self) -> Mapping[str, float]:
        """|g_k| by group; NaN where it takes a backward pass that did not follow."""
        return {group: self.gram.norm(self.loss, [group]) for group in self.groups}

    @property
    def cosine(self) -> Mapping[str, float | None]:
        """With the gradient of the sum, by group; None where either is 0, or no backward pass followed."""
        return {group: self.gram.cosine(self.loss, TOTAL, [group]) for group in self.groups}

    @property
    def scope(self) -> Literal["local", "global"]:
        """Of which samples: "local" under DistributedDataParallel, else "global"."""
        return self.gram.where.scope


class JacobianSampler(Closing):
    """Measures rows of the table every few steps, in a loop that stays as it is.

    Call `step(losses)` between the forward pass and `backward`. Mode "rotating" measures one loss per sampled step with
    one extra backward pass through what it shares with others, and keeps that gradient until your own `backward` brings
    the gradient of the sum by, which gives the cosine and the rest of the row; a loss scale is divided out. Such a step
    takes about one and a half plain ones, the less the more of the network is the losses' own; those between take none.
    Mode "full" makes the whole table (see `jacobian`).

    Args:
        model: The network, wrapped or not.
        every: Sample at steps 0, every, 2 * every, ...
        mode: "rotating" or "full".
        parameters: As in `jacobian`.
        group: As in `jacobian`.

    Raises:
        ValueError: If `every` is below 1 or the mode is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 100,
        mode: Literal["rotating", "full"] = "rotating",
        *,
        parameters: Patterns | None = None,
        group: Group = "module",
    ) -> None:
        refuse_no_model("JacobianSampler", model)
        check_whole("JacobianSampler", every=every)
        if mode not in ("rotating", "full"):
            raise ValueError(f"mode: expected 'rotating' or 'full', found {mode!r}.")
        self.model, self.every, self.mode = model, every, mode
        self._parameters, self._group = parameters, group
        self._count = self._turn = 0
        self._pending: _Unfinished | None = None
        self._rows: dict[str, SampledRow] = {}
        self._table: JacobianTable | None = None

    def step(self, losses: Losses) -> bool:
        """Measure, if it is time to.

        Args:
            losses: The losses of this step, before `backward`.

        Returns:
            Whether this step was sampled.

        Raises:
            ValueError: As `jacobian`.
        """
        self._finish()
        count, self._count = self._count, self._count + 1
        if count % self.every:
            return False
        if self.mode == "full":
            self._table = jacobian(losses, self.model, parameters=self._parameters, group=self._group)
            return True
        values = weighted_values(losses)
        if not values:
            raise ValueError(
                "JacobianSampler: no loss has a graph. Call step() after the forward pass, before backward."
            )
        name = list(values)[self._turn % len(values)]
        self._turn += 1
        self._pending = _Unfinished(self.model, values, name, count, self._parameters, self._group)
        return True

    @property
    def rows(self) -> Mapping[str, SampledRow]:
        """The newest row of every loss measured so far, in mode "rotating"; call it after `backward`."""
        self._finish()
        return dict(self._rows)

    @property
    def table(self) -> JacobianTable | None:
        """The newest table, in mode "full"."""
        return self._table

    def log(self, prefix: str = "headwise") -> dict[str, float]:
        """The newest norms and cosines over all parameters, under stable keys.

        Args:
            prefix: What the keys begin with.

        Returns:
            `<prefix>/<loss>/<group>/parameter_norm` and `.../parameter_cosine`.
        """
        found: dict[str, float] = {}
        if self._table is not None:
            cells = [(row.loss, row.group, row.norm, row.cosine) for row in self._table.rows]
        else:
            cells = [(row.loss, g, row.norm[g], row.cosine[g]) for row in self.rows.values() for g in row.groups]
        for loss, group, norm, cosine in cells:
            found[f"{prefix}/{loss}/{group}/parameter_norm"] = norm
            if cosine is not None:
                found[f"{prefix}/{loss}/{group}/parameter_cosine"] = cosine
        return found

    def close(self) -> None:
        """Take the hooks off the parameters."""
        self._finish()

    def _finish(self) -> None:
        if self._pending is not None:
            row = self._pending.finished()
            self._rows[row.loss] = row
            self._pending = None


class _Unfinished:
    """One row on its way: what the loss shares is measured at once, the rest when the gradient of the sum comes by."""

    def __init__(
        self,
        model: nn.Module,
        values: dict[str, Tensor],
        loss: str,
        step: int,
        patterns: Patterns | None,
        group: Group,
    ) -> None:
        chosen = chosen_parameters("JacobianSampler", model, patterns)
        self.loss, self.step, self.groups = loss, step, group_names(list(chosen), group)
        self.parameters = {name: chosen[name] for members in self.groups.values() for name in members}
        traced = walk_losses(list(values.values()))
        refuse_unsafe("JacobianSampler", model, self.parameters, traced.nodes)
        self.scope: Literal["local", "global"] = "local" if wrapped_by_ddp(model, traced.nodes) else "global"
        bits = reach_bits(self.parameters, traced)
        bit = 1 << list(values).index(loss)
        shared = [name for name, mask in bits.items() if mask & bit and mask != bit]
        self._own = [name for name, mask in bits.items() if mask == bit]
        self._factor: Tensor | None = None
        self._value = float(values[loss].detach())
        self.square: dict[str, Tensor] = {}
        self.inner: dict[str, Tensor] = {}
        self.total: dict[str, Tensor] = {}
        self._gradient: dict[str, Tensor] = {}
        with same_draw(model), kept_buffers(model):
            stream([values[loss]], [self.parameters[name] for name in shared], lambda i, g: self._keep(shared[i], g))
        self._handles: dict[str, RemovableHandle] = {
            name: on_gradient(self.parameters[name], partial(self._meet, name)) for name, mask in bits.items() if mask
        }
        self._handles[""] = on_gradient(values[loss], self._meet_factor)

    def _keep(self, name: str, gradient: Tensor) -> None:
        self.square[name] = square_norm(gradient)
        self._gradient[name] = gradient

    def _meet(self, name: str, total: Tensor) -> None:
        """The gradient of the sum comes by, once."""
        self._handles.pop(name).remove()
        total = total.detach()
        self.total[name] = square_norm(total)
        if name in self._gradient:
            self.inner[name] = inner_product(self._gradient.pop(name), total)

    def _meet_factor(self, factor: Tensor) -> None:
        """What the loop multiplied the loss by: a loss scale, or a share of an accumulated step."""
        self._handles.pop("").remove()
        self._factor = factor.detach().double().reshape(())

    def _solve_own(self) -> None:
        """At parameters of the loss's own, the gradient of the sum is its row times the factor."""
        for name in self._own:
            total = self.total.get(name)
            if total is not None and self._factor is not None:
                self.square[name] = total / self._factor.square()
                self.inner[name] = total / self._factor
            else:
                self.square[name] = torch.full((), torch.nan, dtype=torch.float64)

    def finished(self) -> SampledRow:
        """Take the hooks off, and read the numbers."""
        for handle in self._handles.values():
            handle.remove()
        self._gradient.clear()
        self._solve_own()
        column = {name: g for g, members in enumerate(self.groups.values()) for name in members}

        def sums(measured: Mapping[str, Tensor]) -> Tensor:
            return sum_cells([(column[name],) for name in measured], list(measured.values()), (len(self.groups),))

        square, inner, total = sums(self.square), sums(self.inner), sums(self.total)
        products = torch.stack([torch.stack([square, inner], 1), torch.stack([inner, total], 1)], 2)
        value, one = torch.tensor([self._value], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        where = Where("parameter", self.scope, self.step)
        gram = Gram((self.loss,), tuple(self.groups), products, square.isfinite()[:, None], value, one, where)
        return SampledRow(self.loss, self.step, self.groups, gram)
