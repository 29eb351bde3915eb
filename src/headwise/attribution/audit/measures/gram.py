"""Inner products of gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_CHUNK = 1 << 16


def gram_of(grads: Sequence[Tensor | None]) -> Tensor:
    """All inner products, in pieces: each in the gradients' own precision at least, their sum in float64."""
    gram = torch.zeros(len(grads), len(grads), dtype=torch.float64)
    known = [(i, grad.detach().reshape(-1)) for i, grad in enumerate(grads) if grad is not None]
    if not known:
        return gram
    # Where there are few elements exactness costs nothing, and factors are told from them.
    kind = torch.float64 if known[0][1].numel() <= _CHUNK else torch.promote_types(known[0][1].dtype, torch.float32)
    places = torch.tensor([i for i, _ in known])
    for begin in range(0, known[0][1].numel(), _CHUNK):
        piece = torch.stack([grad[begin : begin + _CHUNK].to(kind) for _, grad in known])
        gram[places[:, None], places[None]] += (piece @ piece.T).cpu().double()
    return gram
