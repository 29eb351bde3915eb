"""The table of terms by parameters that `jacobian` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headwise.attribution.gram import TOTAL, Gram
from headwise.attribution.text import columns, names
from headwise.refusals import wrapped_by_ddp
from headwise.tabular import Tabular


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
class JacobianTable(Tabular):
    """Terms by groups of parameters, exact.

    Attributes:
        gram: The numbers: the K losses that have a graph at the G groups. Squares always; products with the gradient of
            the sum ("total") and of losses with each other if they were asked for.
        groups: Each of the G groups with the parameters in it.
        reach: Whether loss k reaches group g in the graph, shape (K, G), bool.
        gradient: The gradient of the sum by parameter, if asked for.
    """

    gram: Gram
    groups: Mapping[str, tuple[str, ...]]
    reach: Tensor
    gradient: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def losses(self) -> tuple[str, ...]:
        """The losses."""
        return self.gram.terms

    @property
    def scope(self) -> Literal["local", "global"]:
        """Of which samples: "local": this process's (under DistributedDataParallel); else "global"."""
        return self.gram.where.scope

    @property
    def level(self) -> Literal["output", "feature", "parameter"]:
        """Where the gradients are taken."""
        return self.gram.where.level

    def table_rows(self) -> list[dict[str, Any]]:
        """A row per loss and group that it reaches: norm, share of the norms there, cosine with the sum."""
        return [asdict(row) for row in self.rows]

    def table_title(self) -> str:
        """Level and scope."""
        return f"Gradients at parameters ({self.scope}, exact)"

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
        return self.gram.norm(self._loss(loss), self._sites(group))

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
        return self.gram.norm_share(self._loss(loss), self._sites(group))

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
        if not self.gram.knows_total:
            raise ValueError("cosine: the table has none. Ask for them: jacobian(..., cosine=True).")
        return self.gram.cosine(self._loss(loss), TOTAL, self._sites(group))

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
        if not self.gram.knows_pairs:
            raise ValueError("conflict: the table has no Gramian. Ask for it: jacobian(..., gramian=True).")
        return self.gram.cosine(self._loss(first), self._loss(second), self._sites(group))

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
                "would stay unsynchronized. Call total.backward()."
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
        return self.cosine(loss, group) if self.gram.knows_total else None

    def _loss(self, loss: str) -> str:
        if loss not in self.losses:
            raise ValueError(f"jacobian: no loss {loss!r}. There are: {names(self.losses)}.")
        return loss

    def _sites(self, group: str | None) -> list[str] | None:
        if group is not None and group not in self.groups:
            raise ValueError(f"jacobian: no group {group!r}. There are: {names(list(self.groups))}.")
        return None if group is None else [group]

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
