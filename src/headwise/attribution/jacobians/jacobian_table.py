"""The table of terms by parameters that `jacobian` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from headwise.attribution.tracing.text import columns, names
from headwise.refusals import wrapped_by_ddp


@dataclass(frozen=True)
class JacobianRow:
    """One loss at one group of parameters.

    Attributes:
        loss: The name of the loss.
        group: The name of the group.
        norm: Euclidean norm of the loss's gradient.
        share: Its part of the sum of all losses' norms here, 0 to 1.
        cosine: With the gradient of the sum, -1 to 1; None where either is 0 or not finite.
    """

    loss: str
    group: str
    norm: float
    share: float
    cosine: float | None


@dataclass(frozen=True, eq=False)
class JacobianTable:
    """Terms by groups of parameters, exact.

    Attributes:
        losses: The K losses that have a graph.
        groups: Each of the G groups with the parameters in it.
        squares: |g_k|^2, shape (K, G), float64 on the CPU.
        inner: <g_k, g> with g the gradient of the sum, shape (K, G), if asked for.
        total: |g|^2, shape (G,); zeros without `inner`.
        reach: Whether loss k reaches group g in the graph, shape (K, G), bool.
        gramian: <g_j, g_k>, shape (G, K, K), if asked for.
        gradient: The gradient of the sum by parameter, if asked for.
        scope: "local": of this process's samples (under DistributedDataParallel); else "global".
        level: Where the gradients are taken.
    """

    losses: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    squares: Tensor
    inner: Tensor | None
    total: Tensor
    reach: Tensor
    gramian: Tensor | None = None
    gradient: Mapping[str, Tensor] = field(default_factory=dict)
    scope: Literal["local", "global"] = "global"
    level: Literal["parameter"] = "parameter"

    def norm(self, loss: str, group: str | None = None) -> float:
        """The norm of a loss's gradient.

        Args:
            loss: Its name.
            group: A group, or None for all of them together.

        Returns:
            |g_k|.

        Raises:
            ValueError: If there is no such loss or group.
        """
        return float(self.squares[self._loss(loss), self._columns(group)].sum().sqrt())

    def share(self, loss: str, group: str | None = None) -> float:
        """A loss's part of the sum of all losses' norms.

        Args:
            loss: Its name.
            group: A group, or None for all of them together.

        Returns:
            |g_k| / sum_j |g_j|, and 0 where that is 0 / 0.

        Raises:
            ValueError: If there is no such loss or group.
        """
        norms = self.squares[:, self._columns(group)].sum(1).sqrt()
        return float(norms[self._loss(loss)] / norms.sum()) if norms.sum() > 0 else 0.0

    def cosine(self, loss: str, group: str | None = None) -> float | None:
        """The cosine of a loss's gradient with the gradient of the sum.

        Args:
            loss: Its name.
            group: A group, or None for all of them together.

        Returns:
            -1 to 1, or None where either gradient is 0 or not finite.

        Raises:
            ValueError: If the table has no cosines, or there is no such loss or group.
        """
        if self.inner is None:
            raise ValueError("cosine: the table has none. Ask for them: jacobian(..., cosine=True).")
        chosen, k = self._columns(group), self._loss(loss)
        return _quotient(self.inner[k, chosen].sum(), self.squares[k, chosen].sum(), self.total[chosen].sum())

    def conflict(self, first: str, second: str, group: str | None = None) -> float | None:
        """The cosine between the gradients of two losses; negative where they pull apart.

        Args:
            first: A loss.
            second: Another.
            group: A group, or None for all of them together.

        Returns:
            -1 to 1, or None where either gradient is 0 or not finite.

        Raises:
            ValueError: If the table has no Gramian, or there is no such loss or group.
        """
        if self.gramian is None:
            raise ValueError("conflict: the table has no Gramian. Ask for it: jacobian(..., gramian=True).")
        gramian = self.gramian[self._columns(group)].sum(0)
        j, k = self._loss(first), self._loss(second)
        return _quotient(gramian[j, k], gramian[j, j], gramian[k, k])

    @property
    def rows(self) -> tuple[JacobianRow, ...]:
        """Every loss at every group it reaches."""
        return tuple(
            JacobianRow(loss, group, self.norm(loss, group), self.share(loss, group), self._cosine(loss, group))
            for g, group in enumerate(self.groups)
            for k, loss in enumerate(self.losses)
            if self.reach[k, g]
        )

    @property
    def shared(self) -> tuple[str, ...]:
        """The groups that more than one loss reaches."""
        return tuple(group for g, group in enumerate(self.groups) if self.reach[:, g].sum() > 1)

    def assign_gradient(self, model: nn.Module) -> None:
        """Put the gradient of the sum into `.grad`, in place of a backward pass of its own.

        Needs `jacobian(..., keep_gradient=True)`. A parameter with a gradient gets it added, as `backward` would do.

        Args:
            model: The model that the table was made for.

        Raises:
            ValueError: If the table kept no gradient, or the model is distributed: its reducer would not run.
        """
        if not self.gradient:
            raise ValueError("assign_gradient: it kept none. Ask for it: jacobian(..., keep_gradient=True).")
        if self.scope == "local" or wrapped_by_ddp(model):
            raise ValueError(
                "assign_gradient: under DistributedDataParallel these gradients are of this process only and "
                "would stay unsynchronised. Call total.backward()."
            )
        taken: set[int] = set()
        for name, parameter in model.named_parameters():
            gradient = self.gradient.get(name)
            if gradient is None:
                continue
            # Autograd may hand two parameters one tensor, or an expanded one; `.grad` must bear writing to.
            memory = gradient.untyped_storage()
            if memory.data_ptr() in taken or memory.nbytes() != gradient.numel() * gradient.element_size():
                gradient = gradient.clone(memory_format=torch.contiguous_format)
            taken.add(memory.data_ptr())
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def _cosine(self, loss: str, group: str | None) -> float | None:
        return None if self.inner is None else self.cosine(loss, group)

    def _loss(self, loss: str) -> int:
        if loss not in self.losses:
            raise ValueError(f"jacobian: no loss {loss!r}. There are: {names(self.losses)}.")
        return self.losses.index(loss)

    def _columns(self, group: str | None) -> list[int]:
        known = list(self.groups)
        if group is None:
            return list(range(len(known)))
        if group not in self.groups:
            raise ValueError(f"jacobian: no group {group!r}. There are: {names(known)}.")
        return [known.index(group)]

    def __str__(self) -> str:
        header = ["parameters", *(f"{loss} {what}" for loss in self.losses for what in ("norm", "cos"))]
        rows = [[group, *self._cells(group, g)] for g, group in enumerate(self.groups)]
        if len(self.groups) > 1:
            rows.append(["(all)", *self._cells(None, None)])
        return columns(header, rows)

    def _cells(self, group: str | None, g: int | None) -> list[str]:
        cells = []
        for k, loss in enumerate(self.losses):
            reached = bool(self.reach[k].any() if g is None else self.reach[k, g])
            cosine = self._cosine(loss, group)
            cells += (
                [f"{self.norm(loss, group):.3g}", "" if cosine is None else f"{cosine:+.2f}"] if reached else ["-", ""]
            )
        return cells


def _quotient(inner: Tensor, first: Tensor, second: Tensor) -> float | None:
    """Inner / sqrt(first * second), without the overshoot of rounding."""
    scale = torch.sqrt(first) * torch.sqrt(second)
    return float((inner / scale).clamp(-1, 1)) if scale > 0 else None
