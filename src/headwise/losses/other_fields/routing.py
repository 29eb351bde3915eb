"""Losses of a mixture of experts' routers: that the experts are used alike, and that the logits stay small."""

from __future__ import annotations

import torch
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.parts.checks import check_output, select, working_dtype
from headwise.masks import as_mask
from headwise.whole import is_whole

_SHARES = "the share of tokens of each expert is that of the micro-batch"


@declared(count=normalizers.count, split_variant=f"{_SHARES}; per_sequence is exact", unless="per_sequence")
def load_balance(
    output: Tensor, target: Tensor, mask: Tensor | None = None, *, top_k: int = 1, per_sequence: bool = False
) -> Tensor:
    """Sum over tokens of how unevenly a router uses its experts: 1 a token where it uses all alike.

    ``E * sum_e f_e * sum_t p_te``: p the router's probabilities, ``f_e`` the share of the tokens' top k choices that
    fall on expert e, which has no gradient. Divided by the number of tokens, that is ``E * sum_e f_e * P_e``.

    Args:
        output: The router's logits, (N, L, E), or (N * L, E) as Hugging Face's models return them; any floating dtype.
        target: Any tensor of a shape (N, L), such as the tokens: it is counted, not looked at.
        mask: Which tokens are routed, (N, L), any dtype (positive counts); None: all.
        top_k: How many experts a token chooses.
        per_sequence: Take shares within each sequence, not over the micro-batch.

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits); divide it by the number of tokens, `normalizers.count`.

    Raises:
        ValueError: If a dtype, a shape or ``top_k`` does not fit.

    Reference:
        Fedus et al., Switch transformers, JMLR 2022, equations 4 to 6 (top_k = 1); DeepSeek-AI, DeepSeek-V3, 2024,
        equations 17 to 20 (per_sequence, there with sigmoids; a share of k choices is divided by k).
    """
    logits, keep = _tokens("load_balance", output, target, mask, top_k)
    if not per_sequence:
        logits, keep = logits.flatten(0, 1).unsqueeze(0), keep.reshape(1, -1)
    chosen, probability = _choices(logits, keep, top_k)
    shares = chosen.sum(1) / (top_k * keep.sum(1, keepdim=True)).clamp(min=1)
    return logits.shape[-1] * (shares * probability.sum(1)).sum()


@declared(count=normalizers.count, split_variant=f"{_SHARES}; as_published=False with per_sequence is exact")
def published_load_balance(*output: Tensor, target: Tensor, mask: Tensor | None = None, top_k: int = 2) -> Tensor:
    """`load_balance` over the tokens of all routers together, with shares that add up to k.

    One share is taken over all routers, so that one that prefers an expert makes up for another that avoids it; and
    where all experts are used alike, a token costs k, not 1.

    Args:
        output: The logits of each router, as in `load_balance`.
        target: As in `load_balance`.
        mask: As in `load_balance`.
        top_k: How many experts a token chooses.

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits); divide it by the number of tokens of one router.

    Raises:
        ValueError: If there is no router, or a dtype, a shape or ``top_k`` does not fit.

    Reference:
        Hugging Face transformers 5.24, models/mixtral/modeling_mixtral.py, load_balancing_loss_func.
    """
    if not output:
        raise ValueError("published_load_balance: takes the logits of each router, found none. Name the outputs.")
    read = [_tokens("published_load_balance", each, target, mask, top_k) for each in output]
    chosen, probability = _choices(torch.cat([each for each, _ in read], 1), torch.cat([k for _, k in read], 1), top_k)
    num_tokens = len(read) * read[0][1].sum()
    shares = chosen.sum((0, 1)) / num_tokens.clamp(min=1)
    return output[0].shape[-1] * (shares * probability.sum((0, 1))).sum() / len(read)


@declared(count=normalizers.count)
def router_z(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum over tokens of the squared logsumexp of a router's logits, which keeps them small.

    ``sum over t of mask_t * (log sum_e exp output_te)^2``

    Args:
        output: As in `load_balance`.
        target: As in `load_balance`.
        mask: As in `load_balance`.

    Returns:
        The sum, 0-d, float32 (float64 for float64 logits); divide it by the number of tokens, `normalizers.count`.

    Raises:
        ValueError: If a dtype or a shape does not fit.

    Reference:
        Zoph et al., ST-MoE: designing stable and transferable sparse expert models, 2022, equation 5.
    """
    logits, keep = _tokens("router_z", output, target, mask, 1)
    return select(keep, logits.logsumexp(-1).square(), 0.0).sum()


def _tokens(loss: str, output: Tensor, target: Tensor, mask: Tensor | None, top_k: int) -> tuple[Tensor, Tensor]:
    """Logits (N, L, E), 0 where no token is routed, and where one is, (N, L)."""
    check_output(loss, output, target, mask)
    flat = output.ndim == 2 and output.shape[0] == target.numel()
    if target.ndim != 2 or not (flat or output.shape[:-1] == target.shape):
        raise ValueError(
            f"{loss}: a router's logits are (N, L, E) or (N * L, E) for a target (N, L), found logits "
            f"{tuple(output.shape)} and target {tuple(target.shape)}. Give the tokens as target."
        )
    if mask is not None and mask.shape != target.shape:
        raise ValueError(
            f"{loss}: the mask must have the target's shape {tuple(target.shape)}, found {tuple(mask.shape)}. "
            "Reshape it."
        )
    if not (is_whole(top_k, 1) and top_k <= output.shape[-1]):
        raise ValueError(f"{loss}: top_k is from 1 to the number of experts {output.shape[-1]}, found {top_k!r}.")
    keep = torch.ones_like(target, dtype=torch.bool) if mask is None else as_mask(mask)
    logits = output.to(working_dtype(output)).reshape(*target.shape, output.shape[-1])
    return select(keep.unsqueeze(-1), logits, 0.0), keep


def _choices(logits: Tensor, keep: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """1 at the chosen experts and the probabilities of all, both 0 where no token is routed, (N, L, E)."""
    chosen = torch.zeros_like(logits).scatter(-1, logits.topk(top_k, dim=-1).indices, 1.0)
    return select(keep.unsqueeze(-1), chosen, 0.0), select(keep.unsqueeze(-1), logits.softmax(-1), 0.0)
