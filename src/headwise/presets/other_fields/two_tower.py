"""Two towers whose embeddings meet (CLIP, dual encoders): each finds its partner among all of the batch.

Outputs ``{"image_embedding": (N, D), "text_embedding": (N, D), "log_scale": () or (1,)}``: embeddings that the network
has normalized, and the logarithm of the inverse temperature, which it learns (CLIP's ``logit_scale``: it begins at
log(1 / 0.07), and whoever trains it keeps it from passing log(100)). Targets ``{"pair": (N,)}``, any number a pair:
they are counted.

==============  ============  ==========  ======  =============================================
term            loss          normalizer  weight  source
==============  ============  ==========  ======  =============================================
image_to_text   contrastive   pairs       0.5     Radford et al., figure 3, loss_i
text_to_image   contrastive   pairs       0.5     Radford et al., figure 3, loss_t
==============  ============  ==========  ======  =============================================

Depends on the split: the negatives of a pair are the other pairs of its micro-batch, so that a batch in parts is
another loss, denominators totaled or not. On several ranks gather the embeddings first
(`torch.distributed.nn.all_gather`).

Sources: Radford et al., Learning transferable visual models from natural language supervision, ICML 2021; transformers
5.24, models/clip/modeling_clip.py, image_text_contrastive_loss.

No ``as_published``: values and gradients are the authors'.
"""

from __future__ import annotations

from headwise import losses
from headwise.criterion import Criterion, Term


def two_tower(
    towers: tuple[str, str] = ("image", "text"), *, mask: str | None = None, compile: bool = False
) -> Criterion:
    """The criterion of two towers; the card is at the top of this module.

    Args:
        towers: What the two embed; their outputs are named ``{tower}_embedding``.
        mask: Expression over targets, (N,): the pairs that there are; None: all.
        compile: As in `Criterion`.

    Returns:
        The criterion, with the terms image_to_text, text_to_image, or of the towers that are named.
    """
    terms = [
        Term(
            f"{query}_to_{key}",
            losses.contrastive,
            output=(f"{query}_embedding", f"{key}_embedding", "log_scale"),
            target="pair",
            mask=mask,
            weight=0.5,
        )
        for query, key in (towers, towers[::-1])
    ]
    return Criterion(terms, compile=compile)
