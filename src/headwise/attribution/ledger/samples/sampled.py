"""The samples of one call: what the batch calls them, and what comes by sample in its forward and backward passes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from headwise.criterion.binding.layout import Edge
from headwise.criterion.junctions.stats import alike, sum_dtype
from headwise.structure import describe

Measure: TypeAlias = Callable[[int, int], "Tensor | str"]
"""From the number of a term and of samples its values by sample, or why there are none."""

Pieces: TypeAlias = dict[int, list[Tensor]]
"""By term what its readings sent: small gradients as they are, (N, ...), of large ones the norms by sample, (N,)."""

_WAITS = 1 << 12
"""Elements up to which a gradient is reduced together with others: a launch costs more than reading it once more."""

_CALL = 1 << 24
"""Samples without an id are numbered by their call, times this, and their place in it."""


@dataclass
class SampledCall:
    """What one call brings by sample, while its backward passes come.

    Args:
        numbers: Of its N samples: whole numbers, or a tensor of them on the device, whose numbers nobody waits for.
        device: Of the outputs.
        pooled: Whether the denominators were totaled over the step.
        values: Per term its values (N,), where they were measured.
        unsplit: Per term the output that does not hold the samples in dimension 0.
    """

    numbers: list[int] | Tensor
    device: torch.device
    pooled: bool
    values: dict[int, Tensor] = field(default_factory=dict)
    unsplit: dict[int, str] = field(default_factory=dict)

    def sent(self, reading: Edge, grad: Tensor | None, into: Pieces) -> None:
        """Takes what one reading sent.

        Args:
            reading: Who sent it.
            grad: What it sent.
            into: Of one pass.
        """
        term = reading.term
        if grad is None or term in self.unsplit:
            return
        if not grad.dim() or len(grad) != len(self.numbers) or (reading.dim == 0 and not reading.whole):
            into.pop(term, None)
            self.unsplit[term] = reading.path
            return
        if grad.numel() > _WAITS and grad.dim() > 1:  # while it is in the cache
            (grad,) = norms_by_sample([grad])
        into.setdefault(term, []).append(grad.detach() if grad.requires_grad else grad)


@torch.no_grad()
def norms_by_sample(grads: Sequence[Tensor]) -> list[Tensor]:
    """The norms of what lies behind each place of dimension 0, those of one shape by one operation.

    Args:
        grads: Each (N, ...); norms by sample, (N,), stay as they are.

    Returns:
        (N,) each.
    """
    found = list(grads)
    for same in alike([(grad.shape, grad.dtype, grad.device) for grad in grads]):
        # A large one would only be copied.
        rows = torch.stack([grads[n] for n in same]) if len(same) > 1 else grads[same[0]].unsqueeze(0)
        dtype = sum_dtype(rows.dtype)
        dims = list(range(2, rows.dim()))
        norms: Tensor = torch.linalg.vector_norm(rows, dim=dims, dtype=dtype) if dims else rows.abs().to(dtype)
        for number, norm in zip(same, norms.unbind(), strict=True):
            found[number] = norm
    return found


class Names:
    """What batches call their samples, as whole numbers.

    Attributes:
        kind: Of ids: "names" (anything hashable, or numbers on the host), "numbers" (of a tensor on a device) or
            "no ids"; None before the first call.
        held: The names by their numbers.
    """

    def __init__(self) -> None:
        self.kind: str | None = None
        self.held: list[Hashable] = []
        self._number_of: dict[Hashable, int] = {}

    def begin(self, kind: str | None, held: Sequence[Hashable]) -> None:
        """Goes on from names that were held before."""
        self.kind, self.held = kind, list(held)
        self._number_of = {name: number for number, name in enumerate(self.held)}

    def numbered(self, ids: Any, lengths: Sequence[int], call: int, device: torch.device) -> list[int] | Tensor:
        """Whole numbers for a batch's ids: of tensors on a device the ids themselves, which nobody need wait for.

        Args:
            ids: What the batch calls its samples, or None.
            lengths: Of dimension 0 of the outputs: the first is how many samples there are where ids do not say.
            call: Number of the call.
            device: Of the outputs.

        Returns:
            One a sample.

        Raises:
            ValueError: The ids do not fit.
        """
        num = next(iter(lengths), 0) if ids is None else _num_of(ids, lengths)
        kind = "no ids" if ids is None else "numbers" if isinstance(ids, Tensor) and not ids.is_cpu else "names"
        if self.kind not in (None, kind):
            raise ValueError(
                f"ids: {kind} in this call and {self.kind} before, so that samples could not be told apart. Give ids "
                "of one kind in every call, or in none"
            )
        self.kind = kind
        if ids is None:
            return list(range(call * _CALL, call * _CALL + num))
        if isinstance(ids, Tensor):
            if ids.dim() != 1 or ids.dtype.is_floating_point or ids.dtype.is_complex:
                raise ValueError(f"ids: a tensor of ids is (N,), of whole numbers; found {describe(ids)}")
            if kind == "numbers":
                return ids.detach().to(device, torch.int64)
            ids = ids.tolist()
        return [self._serial(each) for each in ids]

    def _serial(self, name: Any) -> int:
        try:
            number = self._number_of.setdefault(name, len(self.held))
        except TypeError:
            raise ValueError(
                f"ids: an id is hashable, such as a file's name or a number; found {describe(name)}"
            ) from None
        if number == len(self.held):
            self.held.append(name)
        return number

    def name(self, number: int) -> Any:
        """What a sample is called."""
        if self.kind == "names":
            return self.held[number]
        return number if self.kind == "numbers" else (number // _CALL - 1, number % _CALL)


def _num_of(ids: Any, lengths: Sequence[int]) -> int:
    """How many samples the ids name: an order of their own, or letters, name none."""
    if isinstance(ids, Mapping | Set | str | bytes) or not hasattr(ids, "__len__") or not getattr(ids, "ndim", 1):
        raise ValueError(
            f"ids: a list with one id a sample, in order, or a tensor (N,); found {describe(ids)}. Give a list"
        )
    if lengths and len(ids) not in lengths:
        sizes = ", ".join(str(each) for each in dict.fromkeys(lengths))
        raise ValueError(
            f"ids: one id a sample; found {len(ids)} ids, and outputs whose dimension 0 holds {sizes}. Give an id to "
            "each sample of this batch, or none"
        )
    return len(ids)
