"""Weighted U-Net: one cross entropy with a weight a pixel.

Outputs ``{"logits": (N, C, H, W)}``, targets ``{"label": (N, H, W) int64, "weight_map": (N, H, W) float}``
(`coders.borders.encode_border_weights`), volumes alike; the weight is 1.

==============  ==========================  ======================  ==================================================
term            loss                        normalizer              source
==============  ==========================  ======================  ==================================================
segmentation    weighted_cross_entropy      count ("mean")          element-wise NLL: the sum over all N pixels, over N
                (the same)                  weight_sum              weighted mean, torch.nn.CrossEntropyLoss
                (the same)                  one ("sum")             paper eq. 1, ``as_published=True``
==============  ==========================  ======================  ==================================================

Source: Ronneberger et al., U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015.

Differs from the paper (``as_published=True`` brings it back): the default divides by the number of pixels, so that the
loss does not grow with picture and batch. Differs from the element-wise NLL in circulation:

* It runs: no Boolean selection by bytes, any number of classes, on any device (N1).
* Weights and labels of (N, 1) are one an element; theirs broadcasts weights to N x N (N2) and selects 3 N values (N3).
* What divides is chosen by name; theirs always divides by N (N4).
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from headwise import losses, normalizers
from headwise.criterion import Criterion, Term


def weighted_unet(
    *,
    normalizer: Literal["mean", "weight_sum", "sum"] | None = None,
    as_published: bool = False,
    ignore_index: int | None = None,
    compile: bool = False,
) -> Criterion:
    """The criterion of the weighted U-Net; the card is at the top of this module.

    Args:
        normalizer: What divides the weighted sum: "mean" the number of labeled pixels, "weight_sum" their weights,
            "sum" nothing; None is "sum" as published, else "mean".
        as_published: The paper's plain sum.
        ignore_index: Label that does not count.
        compile: As in `Criterion`.

    Returns:
        The criterion, with the term segmentation.

    Raises:
        ValueError: `normalizer` is unknown, or another than "sum" is asked for as published.
    """
    if normalizer not in (None, "mean", "weight_sum", "sum") or (as_published and normalizer not in (None, "sum")):
        raise ValueError(
            "presets.weighted_unet: normalizer is 'mean', 'weight_sum' or 'sum', and 'sum' as published; "
            f"found {normalizer!r}"
        )
    chosen = normalizer or ("sum" if as_published else "mean")
    mean = normalizers.count if ignore_index is None else normalizers.labeled(ignore_index=ignore_index)
    divide = {"mean": mean, "weight_sum": normalizers.weight_sum(ignore_index=ignore_index), "sum": normalizers.one}
    segmentation = Term(
        "segmentation",
        partial(losses.weighted_cross_entropy, ignore_index=ignore_index),
        divide[chosen],
        output="logits",
        target=("label", "weight_map"),
    )
    return Criterion([segmentation], compile=compile)
