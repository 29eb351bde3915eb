"""Samples side by side: what calls brought by sample, as columns of tensors on the device."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from headwise.attribution.ledger.samples.sampled import Pieces, SampledCall, norms_by_sample
from headwise.criterion.junctions.stats import book_dtype


@dataclass(frozen=True)
class Brought:
    """What a call brought, once its backward passes are over.

    Args:
        call: The call.
        pieces: What its terms sent.
        factor: The factor at the total, which is divided out; None: 1.
        step: Number of the ledger's step.
    """

    call: SampledCall
    pieces: Pieces
    factor: Tensor | None
    step: int

    @property
    def key(self) -> Hashable:
        """Calls of one key are ranked together."""
        counts = tuple(sorted((term, len(found)) for term, found in self.pieces.items()))
        return counts, self.call.device, self.factor is None


class Columns(NamedTuple):
    """Samples side by side.

    Args:
        norms: (T, M), -inf where there is none.
        values: (T, M), -inf where they were not measured.
        marks: (M, 2), their numbers and steps.
    """

    norms: Tensor
    values: Tensor
    marks: Tensor

    def split(self, sizes: list[int]) -> list[Columns]:
        """Parts of these sizes."""
        parts = ((self.norms, 1), (self.values, 1), (self.marks, 0))
        return [Columns(*each) for each in zip(*(torch.split(one, sizes, dim) for one, dim in parts), strict=True)]

    @staticmethod
    def joined(parts: Sequence[Columns]) -> Columns:
        """The parts side by side."""
        norms, values, marks = zip(*parts, strict=True)
        return parts[0] if len(parts) == 1 else Columns(torch.cat(norms, 1), torch.cat(values, 1), torch.cat(marks))


def joined(passes: Sequence[tuple[Pieces, Tensor | None]]) -> tuple[Pieces, Tensor | None]:
    """What several backward passes over one call sent, as one: norms add up, each by its own factor.

    Args:
        passes: Of each what it sent, and the factor at the total.

    Returns:
        Both of all.
    """
    sent = [each for each in passes if each[0]]
    if len(sent) <= 1:
        return sent[0] if sent else ({}, None)
    total: Pieces = {}
    for pieces, factor in sent:
        for term, found in pieces.items():
            norm = hypot(norms_by_sample(found))
            norm = norm if factor is None else norm / factor.abs().to(norm.device)
            total[term] = [norm if term not in total else total[term][0] + norm]
    return total, None


def hypot(norms: Sequence[Tensor]) -> Tensor:
    """The norm of several parts whose norms these are."""
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(list(norms)), dim=0)


def wide(found: Sequence[Tensor], device: torch.device) -> Tensor:
    """One after another on one device, as the books keep numbers."""
    if any(each.device != device for each in found):
        found = [each.to(device) for each in found]
    return torch.cat(list(found)).to(book_dtype(device))


def superseded(numbers: Tensor, calls: Sequence[SampledCall]) -> Tensor | None:
    """Whether each sample comes once more, later.

    Args:
        numbers: (M,), of all calls.
        calls: In their order.

    Returns:
        (M,), bool; None where none does, as far as the host knows: nobody waits for the device.
    """
    held = [call.numbers for call in calls]
    if not any(isinstance(each, Tensor) for each in held):
        flat = [number for each in held for number in each]
        last = {number: place for place, number in enumerate(flat)}
        if len(last) == len(flat):
            return None
        again = [last[number] != place for place, number in enumerate(flat)]
        return torch.tensor(again).to(numbers.device, non_blocking=True)
    in_order, place = numbers.sort(stable=True)
    again_next = torch.cat([in_order[1:] == in_order[:-1], torch.zeros_like(in_order[:1], dtype=torch.bool)])
    return torch.empty_like(again_next).scatter_(0, place, again_next)
