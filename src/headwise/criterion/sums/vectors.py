"""Numbers as vectors: a vector costs one launch where its elements cost one each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

Number = float | Tensor
"""What is known without the data, or a 0-d tensor."""


def widest(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype that holds all of some floating point tensors; at least float32."""
    return torch.float64 if any(each.dtype == torch.float64 for each in tensors) else torch.float32


def gathered(numbers: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    """0-d tensors as one vector."""
    same = [each if each.dtype == dtype and each.device == device else each.to(device, dtype) for each in numbers]
    return torch.stack(same)


def vector(numbers: Sequence[Number], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers and 0-d tensors as one vector; made once where all are numbers.

    Args:
        numbers: The numbers.
        dtype: Of the vector.
        device: Of the vector.

    Returns:
        The vector; a constant one is not to be changed.
    """
    if any(isinstance(each, Tensor) for each in numbers):
        return gathered(
            [each if isinstance(each, Tensor) else vector([each], dtype, device)[0] for each in numbers], dtype, device
        )
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        # What is made inside of a transform of `torch.func` is of no use outside.
        return torch.tensor([float(each) for each in numbers], dtype=dtype, device=device)
    return _constant(tuple(map(float, numbers)), dtype, device)


@lru_cache(maxsize=512)
def _constant(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return torch.tensor(numbers, dtype=dtype).to(device, non_blocking=True)
