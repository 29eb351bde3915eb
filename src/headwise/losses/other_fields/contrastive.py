"""The contrastive loss of two towers."""

from __future__ import annotations

import torch
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.parts.checks import check_output, select, working_dtype
from headwise.masks import as_mask


@declared(
    count=normalizers.count,
    split_variant="the negatives of a pair are the other pairs of its micro-batch; gather all embeddings first",
)
def contrastive(query: Tensor, key: Tensor, log_scale: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of cross entropies of finding each query's own key among all keys of the micro-batch.

    ``sum over i of (logsumexp_j s_ij - s_ii)`` with ``s_ij = exp(log_scale) * query_i . key_j``.

    Args:
        query: Embeddings, (N, D), any floating dtype; normalized by the network, if they are to be.
        key: Embeddings of the other tower, (N, D), in the same order.
        log_scale: Logarithm of the inverse temperature, of one element, any floating dtype.
        target: Any tensor (N,), such as the pairs' numbers: it is counted, not looked at.
        mask: Which pairs there are, (N,), any dtype (positive counts); one that is not is nobody's negative either.

    Returns:
        The sum, 0-d, float32 (float64 for float64 queries).

    Raises:
        ValueError: If a dtype or a shape does not fit.

    Reference:
        Radford et al., Learning transferable visual models from natural language supervision, ICML 2021, figure 3
        (one of its two directions).
    """
    for each in (query, key, log_scale):
        check_output("contrastive", each, target, mask)
    _check_pairs(query, key, log_scale, target, mask)
    keep = torch.ones_like(target, dtype=torch.bool) if mask is None else as_mask(mask)
    dtype = working_dtype(query)
    left, right = (select(keep.unsqueeze(1), each.to(dtype), 0.0) for each in (query, key))
    with torch.autocast(query.device.type, enabled=False):
        similarity = (left @ right.T) * log_scale.to(dtype).reshape(()).exp()
    same = torch.eye(len(target), dtype=torch.bool, device=target.device)
    # A query that is none keeps its own key, so that no row is without any.
    log_probability = torch.where(keep | same, similarity, -torch.inf).log_softmax(1)
    return -select(keep, log_probability.diagonal(), 0.0).sum()


def _check_pairs(query: Tensor, key: Tensor, log_scale: Tensor, target: Tensor, mask: Tensor | None) -> None:
    shapes = {each.shape for each in (target, *(() if mask is None else (mask,)))}
    if query.ndim != 2 or key.shape != query.shape or shapes != {query.shape[:1]} or log_scale.numel() != 1:
        found = None if mask is None else tuple(mask.shape)
        raise ValueError(
            "contrastive: embeddings (N, D) need keys (N, D), a scale of one element, and a target and a mask (N,), "
            f"found queries {tuple(query.shape)}, keys {tuple(key.shape)}, scale {tuple(log_scale.shape)}, target "
            f"{tuple(target.shape)}, mask {found}. Give one row a pair."
        )
