"""Deep supervision: one loss on several outputs of a network, each with its own weight.

Outputs ``{"levels": [logits, ...]}``, finest first; targets ``{"label": ...}`` at the finest size, which each level
reads at its own (picked, never mixed, so that labels stay labels).

==============  ==========================  ======================  ==================================================
term            loss                        normalizer              source
==============  ==========================  ======================  ==================================================
levels          yours                       the loss's own          ``sum_l w_l * loss_l / count_l``
==============  ==========================  ======================  ==================================================

* nnU-Net: ``weights=[1, 1/2, 1/4, ...], normalize=True`` (the coarsest may be 0), ``strides=[1, 2, 4, ...]``.
* DCAN, CUMedVision: auxiliary weights that are divided by ten every 10,000 steps until negligible,
  ``weights=[1.0, StepDecay(1.0, 0.1, 10_000, negligible=1e-3), ...]``; call ``criterion.advance()`` after each step.
* Stacked hourglass: ``losses.squared_error`` on every stack, no weights, no strides.
* Torch7's ParallelCriterion with one shared target and its MultiCriterion: one `Term` a criterion, its weight in the
  term; this preset where the criterion is the same.

A level of weight 0 keeps a zero gradient, so that all parameters take part under DDP.

Sources: Lee et al., Deeply-supervised nets, AISTATS 2015; Chen et al., DCAN, CVPR 2016; Newell et al., Stacked
hourglass networks, ECCV 2016; Isensee et al., nnU-Net, Nature Methods 2021.

No ``as_published``: a scheme without code of its own has nothing to bring back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from headwise import losses
from headwise.criterion import Criterion, Levels, Term

LevelWeight = float | Callable[[int], float]


def deep_supervision(
    loss: Callable[..., Any] = losses.cross_entropy,
    normalizer: Callable[..., Any] | float | None = None,
    *,
    weights: Sequence[LevelWeight] | None = None,
    strides: Sequence[int] | None = None,
    normalize: bool = False,
    pool: Literal["each", "all"] = "each",
    num_spatial: int = 2,
    target: str | tuple[str, ...] = "label",
    mask: str | None = None,
    compile: bool = False,
) -> Criterion:
    """The criterion of a deeply supervised network; the card is at the top of this module.

    Args:
        loss: Function ``(output, target, mask) -> sum``.
        normalizer: What divides each level's sum, from its targets; by default what the loss declares.
        weights: One weight a level, finest first: floats or functions of the step; None for 1 each.
        strides: Fine pixels a cell, per level; None where all outputs have the targets' size.
        normalize: Divide the weights by their sum.
        pool: Whether each level is divided by its own count or all by their sum.
        num_spatial: How many last dimensions of a target are spatial (3 for volumes).
        target: Path or paths of the targets.
        mask: Expression over targets; None: everything counts.
        compile: As in `Criterion`.

    Returns:
        The criterion, with the term levels.

    Raises:
        ValueError: An argument is not of these forms.
    """
    levels = Levels(weights, pool=pool, normalize=normalize, strides=strides, num_spatial=num_spatial)
    term = Term("levels", loss, normalizer, output="levels[*]", target=target, mask=mask, levels=levels)
    return Criterion([term], compile=compile)
