"""A language model with a mixture of experts: the tokens, and two losses of each router.

Outputs ``{"logits": (N, L, V), "router_logits": [(N, L, E) or (N * L, E), ...]}``, one a router, as Hugging Face's
models return them; targets ``{"label": (N, L): -100 ignored, 0..V-1}``, read position by position. Where each is to
tell the next token, the shift is the caller's: ``label = F.pad(tokens[:, 1:], (0, 1), value=-100)``, which is what
Hugging Face's models do inside; the routers then see all L tokens.

============  =========================  ======================  =========  =================================
term          loss                       normalizer              weight     source
============  =========================  ======================  =========  =================================
tokens        token_cross_entropy        labels but -100         1
balance       load_balance, a router     tokens                  0.01       Fedus et al., equations 4 to 6
z             router_z, a router         tokens                  0.001      Zoph et al., equation 5
============  =========================  ======================  =========  =================================

The values of balance and z are sums over the routers. Where experts are used alike, balance is 1 a router.

Depends on the split: balance, whose shares of tokens are those of the micro-batch; ``per_sequence=True`` is exact
(DeepSeek-V3's equations 17 to 20; transformers' Switch takes its groups so).

Sources: Fedus, Zoph and Shazeer, Switch transformers, JMLR 2022; Zoph et al., ST-MoE, 2022; DeepSeek-AI, DeepSeek-V3,
2024; transformers 5.24, models/mixtral/modeling_mixtral.py (load_balancing_loss_func) and configuration_mixtral.py.

Differs from transformers' Mixtral (``as_published=True`` brings it back, with its weights 0.001 and 0 and its k = 2):

* It takes one share of tokens over all routers, so that routers make up for each other (M1).
* Its shares add up to k, so that used alike a token costs k, and the weight means another thing for every k (M2).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from headwise import losses
from headwise.criterion import Criterion, Term
from headwise.criterion.terms.weights import Weight
from headwise.whole import is_whole


def mixture_of_experts(
    *,
    top_k: int | None = None,
    balance_weight: Weight | None = None,
    z_weight: Weight | None = None,
    per_sequence: bool = False,
    mask: str | None = None,
    num_routers: int | None = None,
    as_published: bool = False,
    compile: bool = False,
) -> Criterion:
    """The criterion of a mixture of experts; the card is at the top of this module.

    Args:
        top_k: How many experts a token chooses; by default 1, as published 2.
        balance_weight: By default 0.01, as published 0.001.
        z_weight: By default 0.001, as published 0.
        per_sequence: Take shares of tokens within each sequence, which is exact over any split.
        mask: Expression over targets, (N, L): the tokens that there are; None: all.
        num_routers: How many routers there are; needed as published, where they are read together.
        as_published: Reproduce the values and gradients of transformers' Mixtral.
        compile: As in `Criterion`.

    Returns:
        The criterion, with the terms tokens, balance, z.

    Raises:
        ValueError: As published, `num_routers` is missing or `per_sequence` is asked for.
    """
    chosen = (2 if as_published else 1) if top_k is None else top_k
    read: dict[str, Any] = {"output": "router_logits[*]", "target": "label", "mask": mask}
    if as_published:
        balance = partial(losses.published_load_balance, top_k=chosen)
        together = {**read, "output": _routers(num_routers, per_sequence), "target": {"target": "label"}}
    else:
        balance, together = partial(losses.load_balance, top_k=chosen, per_sequence=per_sequence), read
    standard = (0.001, 0.0) if as_published else (0.01, 0.001)
    weights = [
        usual if given is None else given for given, usual in zip((balance_weight, z_weight), standard, strict=True)
    ]
    terms = [
        Term("tokens", losses.token_cross_entropy, output="logits", target="label", mask=mask),
        Term("balance", balance, weight=weights[0], **together),
        Term("z", losses.router_z, weight=weights[1], **read),
    ]
    return Criterion(terms, compile=compile)


def _routers(num: int | None, per_sequence: bool) -> tuple[str, ...]:
    """The outputs of all routers, which the published loss reads together."""
    if not is_whole(num, 1) or per_sequence:
        raise ValueError(
            "presets.mixture_of_experts: as published, num_routers is at least 1 and per_sequence is False; found "
            f"{num!r} and {per_sequence}. All routers are read together; say how many there are."
        )
    return tuple(f"router_logits[{router}]" for router in range(num))
