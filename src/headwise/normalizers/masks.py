"""What every normalizer does with a mask."""

from __future__ import annotations

import torch
from torch import Tensor


def as_mask(mask: Tensor) -> Tensor:
    """Return a mask of any dtype as bool: what is above 0 counts."""
    return mask if mask.dtype == torch.bool else mask > 0
